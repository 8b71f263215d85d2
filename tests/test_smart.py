"""SMART: shares that add up and do not depend on the order of tasks, and facility location inside every task."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import synthetic
from tamis import catalogue, mixes
from tamis.budgets import BudgetTooSmall
from tamis.pool import Pool
from tamis.selectors import smart
from tamis.values import Budget, Machine, Subset
from tamis.vectors import embeddings, tasks
from tamis.views import PoolView

SIZES = (3, 14, 30, 45, 60)


def made(folder: Path, order: NDArray[np.int64] | None = None, names: str = "abcde", shard_rows: int = 64) -> PoolView:
    """Make a view of five tasks of 3 to 60 rows; `names` are what the tasks are called, `order` shuffles the rows."""
    count = sum(SIZES)
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(len(SIZES)), SIZES)
    vectors = (rng.normal(size=(len(SIZES), 12))[task] + rng.normal(size=(count, 12)) + 1).astype(np.float32)
    lengths: dict[str, NDArray[Any]] = {
        "tokens": rng.integers(5, 40, count).astype(np.int32),
        "response_tokens": np.full(count, 3, np.int32),
        "reason": np.where(rng.random(count) < 0.1, 2, 0).astype(np.uint8),
    }
    places = np.arange(count) if order is None else order
    rows = [dataclasses.replace(row, source=names[task[place]]) for place, row in enumerate(synthetic.rows(count))]
    signals: dict[str, Any] = {
        "lengths": {name: array[places] for name, array in lengths.items()},
        "tokens": {"pooled": vectors[places], "reason": lengths["reason"][places]},
    }
    return synthetic.view(folder, [rows[place] for place in places], signals, shard_rows=shard_rows)


def select(view: PoolView, budget: int | str, on: Machine | None = None, **own: Any) -> Subset:
    subset: Subset = catalogue.build("selectors", "smart", own).select(view, Budget.parse(budget), on or Machine())
    return subset


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> PoolView:
    return made(tmp_path_factory.mktemp("view"))


def slow_facility_location(vectors: NDArray[Any], count: int) -> list[int]:
    """The plain greedy: every value of f anew at every step; two rows that only stand for each other tie."""
    kernel = np.maximum(vectors.astype(np.float64) @ vectors.astype(np.float64).T, 0)
    chosen: list[int] = []
    for _ in range(count):
        left = [place for place in range(len(kernel)) if place not in chosen]
        chosen.append(max(left, key=lambda place: round(kernel[[*chosen, place]].max(axis=0).sum(), 5)))
    return chosen


@pytest.mark.parametrize("own", [{}, {"tasks": 2}, {"normalise": True}, {"temperature": 20.0}])
def test_every_task_gets_its_share_by_a_slow_facility_location(view: PoolView, own: dict[str, Any]) -> None:
    subset = select(view, 40, **own)
    found = embeddings.of_pool(view, "test")
    shares = catalogue.build("mixers", "smart", own).share(view, Budget(rows=40))
    groups = view.groups()
    parts = tasks.tasks_of(view, found, "source")
    weighted = tasks.weigh(
        parts,
        **{"keep": own.get("tasks"), "lam": 0.4, "temperature": own.get("temperature", 1.0)},
        normalise=own.get("normalise", False),
    )
    expected: list[int] = []
    for name in [*weighted.names, *sorted(set(parts.names) - set(weighted.names))]:
        places = found.places[groups[found.places] == name]
        inside = found.vectors[groups[found.places] == name]
        expected += places[slow_facility_location(inside, shares[name].rows or 0)].tolist()
    assert len(subset.positions) == 40 and subset.positions.tolist() == expected


def test_shares_do_not_depend_on_the_order_of_rows_or_names_of_tasks(view: PoolView, tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(sum(SIZES))
    renamed = made(tmp_path / "renamed", order, names="zxwvu", shard_rows=40)
    back = dict(zip("zxwvu", "abcde", strict=True))
    for own in ({}, {"tasks": 3}, {"lam": 1.2}):
        mixer = catalogue.build("mixers", "smart", own)
        one, two = mixer.share(view, Budget(rows=53)), mixer.share(renamed, Budget(rows=53))
        assert one == {back[name]: part for name, part in two.items()}
        here, there = select(view, 53, **own), select(renamed, 53, **own)
        # which of two rows that only stand for each other is taken goes by their places
        assert len(here.positions) == len(there.positions) == 53
        assert here.gains.sum() == pytest.approx(there.gains.sum(), rel=1e-5)


@pytest.mark.parametrize("kept", [None, 2])
def test_budgets_add_up_and_a_full_task_hands_on_what_it_cannot_use(view: PoolView, kept: int | None) -> None:
    held = mixes.holdings(view, "source", Budget(rows=1))
    for rows in (1, 5, 40, 100, 137, 10_000):
        subset = select(view, rows, tasks=kept)
        assert len(set(subset.positions.tolist())) == len(subset.positions) == min(rows, sum(held.values()))
        counts = {name: int((view.groups()[subset.positions] == name).sum()) for name in held}
        assert all(counts[name] <= held[name] for name in held)
        by_mixer = catalogue.build("mixers", "smart", {"tasks": kept}).share(view, Budget(rows=rows))
        assert counts == {name: part.rows for name, part in by_mixer.items()}
        if kept is not None:
            used = [name for name in held if counts[name]]
            assert len(used) <= kept or sum(counts[name] == held[name] for name in held) >= kept


@pytest.mark.parametrize("tokens", [40, 150, 700, 1500, 10_000])
def test_tokens_are_never_exceeded_and_too_few_are_left_for_any_row(view: PoolView, tokens: int) -> None:
    for kept in (None, 1):
        taken = select(view, f"{tokens} tokens", tasks=kept).positions
        left = tokens - int(view.cost[taken].sum())
        rest = np.setdiff1d(np.flatnonzero(view.usable), taken)
        assert left >= 0 and len(set(taken.tolist())) == len(taken)
        assert not len(rest) or left < view.cost[rest].min()
    with pytest.raises(BudgetTooSmall, match="raise it"):
        select(view, "2 tokens")


def test_workers_change_nothing(view: PoolView) -> None:
    for budget in (40, "600 tokens"):
        one, two = select(view, budget), select(view, budget, Machine(workers=3))
        assert one.positions.tolist() == two.positions.tolist() and one.gains.tolist() == two.gains.tolist()


def test_a_large_task_through_a_graph_of_all_its_rows_gets_the_same_rows(
    view: PoolView, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = select(view, 40)
    monkeypatch.setattr(smart, "DENSE", 10)
    graph = select(view, 40, neighbours=sum(SIZES))
    same = set(dense.positions.tolist()) & set(graph.positions.tolist())
    assert len(graph.positions) == 40 and len(same) >= 38  # cosines of graphs are on a coarser grid


def test_copies_are_taken_once_where_asked(view: PoolView, tmp_path: Path) -> None:
    rows = synthetic.rows(8)
    twins = [rows[place // 2] for place in range(8)]
    vectors = np.random.default_rng(0).normal(size=(8, 3))[np.arange(8) // 2]
    lengths = {"tokens": np.full(8, 9, np.int32), "reason": np.zeros(8, np.uint8)}
    signals: dict[str, Any] = {"lengths": lengths, "tokens": {"pooled": vectors, "reason": np.zeros(8, np.uint8)}}
    both = synthetic.view(tmp_path, twins, signals)
    assert sorted(select(both, 8, by="kind", duplicates="once").positions.tolist()) == [0, 2, 4, 6]


FILES = (
    *("flan_cot_qasc", "flan_cot_strategyqa", "flan_cot_aqua", "code_alpaca_2k", "banking77_train", "lima_1k"),
    *("evol_instruct_1k_score", "gpteacher_roleplay", "oasst1_valid_953", "self_instruct_seed_tasks"),
    *("instructionwild_user_1", "alpaca_longest_1k", "glaive_toolcall_en_demo"),
)


@pytest.fixture(scope="module")
def real_view(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> PoolView:
    """More than 20,000 usable rows of twelve sources; hidden states of their first 32 tokens by the shipped model."""
    from tamis import store
    from tamis.ingest import ingest
    from tamis.models import ModelRef
    from tamis.stages.measure import measure
    from tamis.stages.workspace import Workspace

    folder = tmp_path_factory.mktemp("work")
    ref = ModelRef(name="tamis:tiny-lm", dtype="float32", max_tokens=512)
    work = Workspace(folder, Machine(), ref)
    pool: Pool = ingest([str(real_data / "pool" / f"{name}.jsonl.gz") for name in FILES], work.store)
    first = dataclasses.replace(ref, max_tokens=32)
    tokens = catalogue.build("passes", "tokens", {"model": first, "loss": "none", "pooled": True})
    lengths = measure(pool, "lengths", catalogue.build("passes", "lengths", {"model": ref}), work)
    short = measure(pool, "tokens", tokens, work)
    folders = []
    for number, (cut, whole) in enumerate(zip(short.folders, lengths.folders, strict=True)):
        part = folder / "tokens" / str(number)
        part.mkdir(parents=True)
        reason = store.load_arrays(whole)["reason"]  # not that of rows cut before their answer
        store.save_arrays(part, {"pooled": store.load_arrays(cut)["pooled"], "reason": reason})
        folders.append(part)
    return PoolView(pool, {"lengths": lengths.folders, "tokens": folders})


@pytest.mark.real
def test_on_a_real_pool_budgets_add_up_respect_caps_and_ignore_the_order_of_tasks(real_view: PoolView) -> None:
    view = real_view
    assert view.usable.sum() > 20_000
    held = mixes.holdings(view, "source", Budget(rows=1))
    assert len(held) >= 12
    parts = tasks.tasks_of(view, embeddings.of_pool(view, "test"), "source")
    weighted = tasks.weigh(parts, keep=None, lam=0.4, temperature=1.0, normalise=False)
    kernel = parts.vectors.astype(np.float64) @ parts.vectors.astype(np.float64).T
    chosen: list[int] = []
    for name, gain in zip(weighted.names, weighted.gains, strict=True):
        gains = kernel.sum(axis=0) - 0.8 * kernel[chosen].sum(axis=0) - 0.4 * np.diag(kernel)
        gains[chosen] = -np.inf
        chosen.append(int(gains.argmax()))
        assert parts.names[chosen[-1]] == name and gains.max() == pytest.approx(gain, abs=1e-5)
    grown = 1 + weighted.gains + weighted.gains**2 / 2
    np.testing.assert_allclose(weighted.weights, grown / grown.sum(), rtol=1e-9)
    shuffled = np.random.default_rng(0).permutation(len(parts.names))
    other = tasks.Tasks(
        tuple(parts.names[place] for place in shuffled),
        parts.vectors[shuffled],
        tuple(parts.members[place] for place in shuffled),
    )
    again = tasks.weigh(other, keep=None, lam=0.4, temperature=1.0, normalise=False)
    assert again.names == weighted.names and again.weights == pytest.approx(weighted.weights, rel=1e-12)
    for budget in ("1%", "10%", "60%"):
        mixer = catalogue.build("mixers", "smart", {})
        shares = {name: part.rows or 0 for name, part in mixer.share(view, Budget.parse(budget)).items()}
        rows, _ = Budget.parse(budget).limits(int(view.usable.sum()))
        assert sum(shares.values()) == rows and all(shares[name] <= held[name] for name in held)
        print(budget, shares)


@pytest.mark.real
def test_on_a_real_pool_facility_location_inside_tasks_keeps_the_shares(real_view: PoolView) -> None:
    subset = select(real_view, "5%", Machine(workers=2))
    shares = catalogue.build("mixers", "smart", {}).share(real_view, Budget.parse("5%"))
    groups = real_view.groups()[subset.positions]
    assert {name: int((groups == name).sum()) for name in shares} == {n: part.rows for n, part in shares.items()}
