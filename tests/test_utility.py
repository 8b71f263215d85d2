"""Law: utilities of pairs are those of a plain loop, one pair at a time, for any batches and layouts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import tiny
from tamis import store
from tamis.demonstrations import utility
from tamis.demonstrations.asked import Asked
from tamis.demonstrations.pairing import Side, choose_pairs, copying_pairs, copying_queries, shared_out, short_keys
from tamis.demonstrations.prompting import Layout, prompts_of
from tamis.errors import DataError, RecipeError
from tamis.models import ModelRef, cached_model
from tamis.pool import Pool
from tamis.ragged import Ragged
from tamis.scorers.passes.tokens import Tokens
from tamis.scorers.passes.utility import Utility
from tamis.text.copying import Copies
from tamis.values import Machine, Reason, Row
from tamis.views import PoolView, ShardSignals

Signal = Mapping[str, NDArray[Any]]
ROWS = [row for row in tiny.make_rows(24, seed=3) if len(row.messages) <= 3][:9]
OTHERS = [row for row in tiny.make_rows(12, seed=4) if len(row.messages) <= 3][:3]


@pytest.fixture(scope="module")
def ref(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return ModelRef(name=str(tiny.make_model(tmp_path_factory.mktemp("utility") / "model")), dtype="float32")


def measured(
    component: Utility, rows: list[Row], folder: Path, on: Machine | None = None, shard_rows: int = 5
) -> Signal:
    """The signal over a pool of `rows`, shards joined; offsets run on."""
    pool = tiny.make_pool(folder / "pool", rows, shard_rows=shard_rows)
    return over(component, pool, folder, on or Machine())


def over(component: Utility, pool: Pool, folder: Path, on: Machine) -> Signal:
    read: dict[str, list[Path]] = {}
    if component.needs:
        pooled = Tokens(model=component.model, loss="none", pooled=True)
        read["tokens"] = [
            saved(folder / f"t{at}", pooled.measure(one, ShardSignals(one, {}), on))
            for at, one in enumerate(pool.shards)
        ]
    fitted = saved(folder / "fit", component.fit(PoolView(pool, read), on)[0])
    parts = [component.measure(one, ShardSignals(one, {"fit": fitted}), on) for one in pool.shards]
    joined = {}
    for name in parts[0]:
        if name.endswith("_offsets"):
            joined[name] = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part[name]) for part in parts]))])
        elif name.startswith("target_") and f"{name}_offsets" not in parts[0]:
            joined[name] = parts[0][name]
        else:
            joined[name] = np.concatenate([part[name] for part in parts])
    return joined


def saved(folder: Path, arrays: Signal) -> Path:
    folder.mkdir(parents=True)
    store.save_arrays(folder, arrays)
    return folder


def pairs_of(signal: Signal, prefix: str = "") -> list[tuple[int, int, float, float]]:
    """(row, key of the other, distance, nll) of every pair."""
    lists = [
        Ragged(signal[f"{prefix}{name}"], signal[f"{prefix}{name}_offsets"]) for name in ("pair", "distance", "nll")
    ]
    return [
        (row, int(key), float(distance), float(nll))
        for row, parts in enumerate(zip(*lists, strict=True))
        for key, distance, nll in zip(*parts, strict=True)
    ]


class Plain:
    """The plain loop: one sequence at a time, logits of every token."""

    def __init__(self, ref: ModelRef, rows: list[Row], layout: Layout) -> None:
        self.model, self.prompts = cached_model(ref, "cpu"), prompts_of(rows, ref, layout)
        self.places = {int(key): place for place, key in enumerate(short_keys([row.key for row in rows]))}

    def __call__(self, query: int, demonstration: int | None = None) -> tuple[float, float]:
        import torch

        before = self.prompts.bare if demonstration is None else self.prompts.demonstrations[demonstration]
        ids = torch.from_numpy(np.concatenate([before, self.prompts.queries[query]]).astype(np.int64))
        at = np.flatnonzero(self.prompts.scored[query]) + len(before)
        with torch.inference_mode():
            model: Any = self.model
            gold = model(ids[None], use_cache=False).logits[0].float().softmax(-1)[at - 1, ids[at]].double()
        return float(torch.linalg.norm(1 - gold) / len(at) ** 0.5), float(-gold.log().sum())


@pytest.mark.parametrize("layout", ["chat", "instruction", "released"])
def test_all_pairs_are_those_of_the_plain_loop_and_no_row_is_its_own_example(
    ref: ModelRef, layout: Layout, tmp_path: Path
) -> None:
    found = measured(Utility(model=ref, candidates="all", layout=layout), ROWS, tmp_path)
    plain = Plain(ref, ROWS, layout)
    pairs = pairs_of(found)
    assert {(row, plain.places[key]) for row, key, _, _ in pairs} == {
        (row, other) for row in range(len(ROWS)) for other in range(len(ROWS)) if row != other
    }
    for row, key, distance, nll in pairs:
        assert (distance, nll) == pytest.approx(plain(plain.places[key], row), rel=2e-5)
    for place in range(len(ROWS)):
        bare = float(found["bare_distance"][place]), float(found["bare_nll"][place])
        assert bare == pytest.approx(plain(place), rel=2e-5)


def test_neither_batches_nor_shards_nor_the_cache_change_a_pair(
    ref: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    component = Utility(model=ref, candidates="all")
    one = measured(component, ROWS, tmp_path / "one")
    ways = [measured(component, ROWS, tmp_path / "two", Machine(tokens_per_batch=1), shard_rows=99)]
    monkeypatch.setattr(utility, "_keeps_plainly", lambda forward: False)
    ways.append(measured(component, ROWS, tmp_path / "three"))
    for other in ways:
        assert one["pair"].tolist() == other["pair"].tolist()
        assert np.allclose(one["distance"], other["distance"], rtol=1e-5) and np.allclose(
            one["nll"], other["nll"], rtol=1e-5
        )


def test_a_demonstration_is_read_once_for_all_its_queries(
    ref: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    whole = utility._Prefixes.read.__func__  # type: ignore[attr-defined]

    def counting(cls: Any, forward: Any, what: Any, keeps: Any, on: Any, numbers: Any) -> Any:
        read.extend(numbers.tolist())
        return whole(cls, forward, what, keeps, on, numbers)

    monkeypatch.setattr(utility._Prefixes, "read", classmethod(counting))
    measured(Utility(model=ref, candidates="all"), ROWS, tmp_path, shard_rows=99)
    assert sorted(read) == sorted([0, *range(len(ROWS))])  # the first is what stands before a query without an example


def test_the_diagonal_is_kept_where_it_is_asked_for(ref: ModelRef, tmp_path: Path) -> None:
    found = measured(Utility(model=ref, candidates="all", diagonal=True), ROWS, tmp_path)
    plain = Plain(ref, ROWS, "chat")
    own = {row: distance for row, key, distance, _ in pairs_of(found) if plain.places[key] == row}
    assert sorted(own) == list(range(len(ROWS))) and own[2] == pytest.approx(plain(2, 2)[0], rel=2e-5)


def test_the_target_asks_and_existing_data_is_shown(ref: ModelRef, tmp_path: Path) -> None:
    other = tiny.make_pool(tmp_path / "other", OTHERS)
    both = Plain(ref, [*ROWS, *OTHERS], "chat")
    asked = measured(Utility(model=ref, stage="task", target=other, candidates="all"), ROWS, tmp_path / "task")
    assert len(pairs_of(asked, "target_")) == len(ROWS) * len(OTHERS) and len(asked["target_key"]) == len(OTHERS)
    for row, key, distance, nll in pairs_of(asked, "target_"):
        assert (distance, nll) == pytest.approx(both(both.places[key], row), rel=2e-5)
    assert asked["target_bare_distance"][1] == pytest.approx(both(len(ROWS) + 1)[0], rel=2e-5)
    shown = measured(Utility(model=ref, stage="continual", existing=other, candidates="all"), ROWS, tmp_path / "known")
    turned = Utility(model=ref, stage="task", target=other, candidates="all", target_as="demonstrations")
    for found in (shown, measured(turned, ROWS, tmp_path / "turned")):
        assert len(pairs_of(found, "shown_")) == len(ROWS) * len(OTHERS)
        for row, key, distance, nll in pairs_of(found, "shown_"):
            assert (distance, nll) == pytest.approx(both(row, both.places[key]), rel=2e-5)


def test_rows_that_do_not_fit_have_a_reason_and_no_pair(ref: ModelRef, tmp_path: Path) -> None:
    rows = [*ROWS[:5], tiny.make_row(tiny.chat("add seven", "eleven " * 100)), tiny.make_row(())]
    rows[6] = dataclasses.replace(rows[6], kind="prompt", messages=tiny.chat("which river?"))
    found = measured(Utility(model=dataclasses.replace(ref, max_tokens=90), candidates="all"), rows, tmp_path)
    assert found["reason"].tolist() == [0, 0, 0, 0, 0, Reason.CUT, Reason.NEEDS_ANSWER]
    keys = short_keys([row.key for row in rows]).tolist()
    pairs = {(row, keys.index(key)) for row, key, _, _ in pairs_of(found)}
    assert pairs and all(max(pair) < 5 for pair in pairs)
    assert np.isnan(found["bare_distance"][5:]).all() and np.isfinite(found["bare_distance"][:5]).all()


def test_a_stage_names_its_other_side(ref: ModelRef, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs existing data"):
        measured(Utility(model=ref, stage="continual", candidates="all"), ROWS, tmp_path)
    found = measured(Utility(model=ref, candidates="all"), ROWS, tmp_path / "one")
    other = tiny.make_pool(tmp_path / "other", OTHERS).shards[0]
    fitted = saved(
        tmp_path / "again",
        Utility(model=ref, candidates="all").fit(PoolView(tiny.make_pool(tmp_path / "p", ROWS)), Machine())[0],
    )
    with pytest.raises(DataError, match="not of the pool"):
        Utility(model=ref, candidates="all").measure(other, ShardSignals(other, {"fit": fitted}), Machine())
    assert len(found["pair"]) == len(ROWS) * (len(ROWS) - 1)


# which pairs


def side(count: int, seed: int = 0) -> Side:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 4)).astype(np.float32)
    keys = [f"row {place}" for place in range(count)]
    return Side(np.arange(count) + 10, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), short_keys(keys, seed))


def test_neighbours_are_the_nearest_but_for_the_row_itself() -> None:
    one = side(12)
    pairs = choose_pairs("neighbours", 3, one, one)
    cosines = one.vectors @ one.vectors.T
    np.fill_diagonal(cosines, -9)
    for row in range(12):
        mine = pairs[pairs[:, 0] == row + 10, 1] - 10
        assert sorted(mine.tolist()) == sorted(np.argsort(-cosines[row])[:3].tolist())
    assert choose_pairs("neighbours", 99, one, one).tolist() == sorted(
        choose_pairs("neighbours", 99, one, one).tolist(), key=lambda pair: pair[0]
    )
    assert len(choose_pairs("neighbours", 99, one, one)) == 12 * 11 == len(choose_pairs("all", 1, one, one))


def test_drawn_rows_are_keyed_by_row_and_seed_and_shared_by_all() -> None:
    one, two = side(12), side(5, seed=2)
    drawn = choose_pairs("sampled", 3, one, one)
    assert len(set(drawn[:, 1].tolist())) == 3 and len(drawn) == 3 * 11
    order = np.random.default_rng(1).permutation(12)
    moved = Side(one.places[order], one.vectors[order], one.draws[order])
    assert sorted(choose_pairs("sampled", 3, moved, moved).tolist()) == sorted(drawn.tolist())
    assert len(choose_pairs("sampled", 3, one, two)) == 36 and len(choose_pairs("all", 3, one, two)) == 60


def asked_of(queries: list[list[int]], scored: list[list[int]], shown: list[list[int]]) -> Asked:
    marks = [np.isin(np.arange(len(ids)), places) for ids, places in zip(queries, scored, strict=True)]
    return Asked(
        len(queries),
        np.arange(len(queries)).astype(np.uint64),
        np.zeros(len(queries), np.uint8),
        Ragged.of([np.array(ids, np.int32) for ids in queries], np.int32),
        Ragged.of(marks, np.bool_),
        Ragged.of([np.array(ids, np.int32) for ids in shown], np.int32),
        np.zeros(0, np.int32),
    )


def share_by_hand(asked: Asked, query: int, shown: int, others: list[int]) -> float:
    """Weights ln(m / holders), a tenth for a token alone, of what of the response one demonstration holds."""

    def held(by: int) -> set[Any]:
        ids = asked.shown[by].tolist()
        return {*ids, *itertools.pairwise(ids)}

    ids = asked.queries[query].tolist()
    wanted: list[Any] = []
    for place in np.flatnonzero(asked.scored[query]).tolist():
        wanted += [ids[place], (ids[place - 1], ids[place])]
    total = mine = 0.0
    for one in wanted:
        holders = sum(one in held(other) for other in others)
        weight = np.log(len(others) / holders) * (1 if isinstance(one, tuple) else 0.1) if holders else 0.0
        total += weight
        mine += weight * (one in held(shown))
    return mine / total if total else 0.0


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_copies_are_counted_as_by_hand(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = [draw.integers(0, 6, int(draw.integers(2, 9))).tolist() for _ in range(6)]
    scored = [sorted({int(draw.integers(1, len(ids))) for _ in range(3)}) for ids in rows]
    asked = asked_of(rows, scored, [[9, *ids] for ids in rows])
    places = np.arange(6)
    found = list(Copies.of(asked.shown, places).shares(asked.queries, asked.scored, places))
    for query, shares in enumerate(found):
        expected = [share_by_hand(asked, query, other, list(range(6))) for other in range(6)]
        assert shares.tolist() == pytest.approx(expected, abs=1e-12)


def test_a_response_is_paired_with_those_that_hold_it_and_short_ones_with_more() -> None:
    rows = [[1, 2, 3], [1, 2, 3], [1, 7, 7, 7, 7, 7, 8, 8, 8, 9], [4, 5, 6], [1, 2, 9], [4, 5, 9]]
    asked = asked_of(rows, [list(range(1, len(ids))) for ids in rows], rows)
    every = np.arange(6)
    pairs = copying_pairs(asked, every, every, 4)
    assert len(pairs) == 24 and not (pairs[:, 0] == pairs[:, 1]).any()
    best = {int(query): int(pairs[pairs[:, 0] == query, 1][0]) for query in every}
    assert best[0] == 1 and best[1] == 0 and best[3] == 5
    counts = np.bincount(pairs[:, 0])
    assert counts[2] == counts.min() < counts[0]
    assert len(copying_pairs(asked, every, every, 99)) == 30  # never more than there are
    turned = copying_queries(asked, every[:3], every, 2)
    assert np.bincount(turned[:, 0]).tolist() == [2] * 6 and set(turned[:, 1].tolist()) <= {0, 1, 2}


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(1, 30), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_pairs_are_shared_out_in_full_and_none_gets_more_than_there_are(
    scored: list[int], per_row: int, most: int
) -> None:
    counts = shared_out(per_row, np.array(scored), most)
    assert counts.max() <= most and counts.min() >= (min(per_row, most) + 1) // 2
    assert abs(int(counts.sum()) - min(per_row, most) * len(scored)) <= 1
    order = np.argsort(scored, kind="stable")
    assert (np.diff(counts[order]) <= 1).all()  # shorter responses get as many or more, but for rounding


# real rows


@pytest.mark.real
def test_the_kernel_of_forty_real_rows_is_that_of_the_plain_loop(
    real_data: Path, real_models: Path, tmp_path: Path
) -> None:
    import tamis

    model = real_models / "base-4m"
    work = tamis.workspace(tmp_path / "work", str(model), max_tokens=1024, device="cpu", workers=1)
    files = [str(real_data / "pool" / f"{name}.jsonl.gz") for name in ("flan_cot_gsm8k", "flan_cot_creak", "lima_1k")]
    rows = [
        row for row in tamis.open_pool(files, work, sample={"rows": 40, "seed": 1}) if len(str(row.messages)) < 900
    ][:40]
    assert len(rows) == 40
    found = measured(Utility(model=work.model, candidates="all"), rows, tmp_path, Machine(tokens_per_batch=2048))
    plain = Plain(work.model, rows, "chat")
    bare = [plain(place)[0] for place in range(40)]
    pairs = pairs_of(found)
    assert len(pairs) == 40 * 39
    for row, key, distance, _ in pairs:
        query = plain.places[key]
        ours = float(found["bare_distance"][query]) - distance
        assert ours == pytest.approx(bare[query] - plain(query, row)[0], abs=1e-3)


def test_signals_read_lists_lazily() -> None:
    packed = Ragged.of([np.array([1, 2]), np.array([], int), np.array([3])], np.int32)
    assert [part.tolist() for part in packed] == [[1, 2], [], [3]] and packed.lengths.tolist() == [2, 0, 1]
    rows, values = packed.some(np.array([2, 0]))
    assert rows.tolist() == [0, 1, 1] and values.tolist() == [3, 1, 2]
    assert cast(list[int], Ragged.joined([packed, packed], np.int32)[3].tolist()) == [1, 2]
