"""Golden scores are those of pairs asked one at a time, and rows that stay in the race have them to the end."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import tiny
from tamis import catalogue, store
from tamis.demonstrations import utility
from tamis.demonstrations.anchors import Race, spread
from tamis.demonstrations.pairing import short_keys
from tamis.demonstrations.prompting import Layout, prompts_of
from tamis.demonstrations.utility import Measured
from tamis.errors import DataError, RecipeError
from tamis.models import ModelRef, open_model
from tamis.pool import Pool
from tamis.scorers.passes.in_context import InContext
from tamis.scorers.passes.lengths import Lengths
from tamis.values import Column, Machine, Reason, Row
from tamis.views import PoolView, ShardSignals

ROWS = tiny.make_rows(9, seed=6)
TARGET = tiny.make_rows(3, seed=7)
ON = Machine(tokens_per_batch=400)


@pytest.fixture(scope="module")
def ref(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return ModelRef(name=str(tiny.make_model(tmp_path_factory.mktemp("model"))), max_tokens=600, dtype="float32")


def saved(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
    folder.mkdir(parents=True)
    store.save_arrays(folder, arrays)
    return folder


def viewed(pool: Pool, ref: ModelRef, folder: Path) -> PoolView:
    """The view of a pool with its lengths, and mean hidden states that are far apart in two heaps."""
    lengths = [Lengths(model=ref).measure(shard, ShardSignals(shard, {}), ON) for shard in pool.shards]
    pooled = np.random.default_rng(0).normal(size=(len(pool), 3)).astype(np.float32)
    pooled[::2] += 50
    starts = np.cumsum([0, *(shard.rows for shard in pool.shards)])
    signals = {
        "lengths": [saved(folder / f"lengths-{number}", arrays) for number, arrays in enumerate(lengths)],
        "tokens": [
            saved(folder / f"tokens-{number}", {"pooled_mean": pooled[start:stop]})
            for number, (start, stop) in enumerate(itertools.pairwise(starts))
        ],
    }
    return PoolView(pool, signals)


def measured(
    component: InContext, folder: Path, rows: list[Row] = ROWS, shard_rows: int = 4, on: Machine = ON
) -> dict[str, Any]:
    pool = tiny.make_pool(folder / "pool", rows, shard_rows=shard_rows)
    arrays, _ = component.fit(viewed(pool, component.model, folder), on)
    fitted = saved(folder / "fit", arrays)
    parts = [component.measure(shard, ShardSignals(shard, {"fit": fitted}), on) for shard in pool.shards]
    done: dict[str, Any] = {"fit": arrays, "possible": np.concatenate([part["possible"] for part in parts])}
    done["reason"] = np.concatenate([part["reason"] for part in parts])
    for name in ("nll", "bare_nll"):
        done[name] = np.concatenate([part[name] for part in parts])
        counts = np.concatenate([np.diff(part[f"{name}_offsets"]) for part in parts])
        done[f"{name}_offsets"] = np.concatenate([[0], np.cumsum(counts)])
    return done


def scored(found: Mapping[str, Any]) -> dict[str, Column]:
    columns: dict[str, Column] = catalogue.build("scorers", "nuggets", {}).score({"in-context": found})
    return columns


def plain(ref: ModelRef, rows: list[Row], others: list[Row], layout: Layout) -> NDArray[np.float64]:
    """Oracle: (rows, others) nats that each other row gains behind each row, asked one at a time with full logits."""
    model: Any = open_model(ref, "cpu")
    shown, asked = prompts_of(rows, ref, layout).demonstrations, prompts_of(others, ref, layout)

    def loss(before: NDArray[np.int32], number: int) -> float:
        ids = torch.from_numpy(np.concatenate([before, asked.queries[number]]).astype(np.int64))[None]
        with torch.no_grad():
            log_p = model(input_ids=ids).logits[0].double().log_softmax(-1)
        places = np.flatnonzero(asked.scored[number]) + len(before)
        return -sum(float(log_p[place - 1, ids[0, place]]) for place in places)

    bare = [loss(asked.bare, number) for number in range(len(others))]
    return np.array([[bare[number] - loss(one, number) for number in range(len(others))] for one in shown])


@pytest.mark.parametrize("layout", ["chat", "nuggets", "nuggets-released"])
def test_scores_are_those_of_pairs_asked_one_at_a_time(ref: ModelRef, layout: Layout, tmp_path: Path) -> None:
    target = tiny.make_pool(tmp_path / "target", TARGET)
    found = measured(InContext(model=ref, anchors="target", target=target, layout=layout), tmp_path)
    gains = plain(ref, ROWS, TARGET, layout)
    columns = scored(found)
    assert columns["score"].values.tolist() == pytest.approx((gains > 0).mean(axis=1).tolist())
    assert columns["gain"].values.tolist() == pytest.approx(gains.mean(axis=1).tolist(), abs=1e-3)
    assert columns["asked"].values.tolist() == [1.0] * len(ROWS)
    assert len(np.unique(columns["score"].values)) > 1, "a test in which every row scores alike tells nothing"


def test_a_row_is_not_tried_on_its_own_text(ref: ModelRef, tmp_path: Path) -> None:
    rows = [*ROWS, tiny.make_row(ROWS[0].messages, key="again"), tiny.make_row((), kind="prompt")]
    rows[0] = tiny.make_row(ROWS[0].messages, key="once", content=rows[9].content)
    found = measured(InContext(model=ref, anchors="drawn"), tmp_path, rows)
    assert found["possible"].tolist() == [8, 9, 9, 9, 9, 9, 9, 9, 9, 8, 0]
    assert found["reason"][10] and not found["reason"][:10].any() and np.isnan(scored(found)["score"].values[10])


def test_neither_batches_nor_shards_change_a_score(ref: ModelRef, tmp_path: Path) -> None:
    component = InContext(model=ref, anchors="drawn", count=4)
    one = measured(component, tmp_path / "one")
    two = measured(component, tmp_path / "two", shard_rows=99, on=Machine(tokens_per_batch=1))
    assert np.allclose(one["nll"], two["nll"], rtol=1e-5) and one["possible"].tolist() == two["possible"].tolist()


@pytest.mark.parametrize("stop", ["certain", "hoeffding"])
def test_rows_that_stay_in_the_race_have_the_whole_outcome(ref: ModelRef, stop: Any, tmp_path: Path) -> None:
    whole = measured(InContext(model=ref, anchors="drawn"), tmp_path / "whole")
    fields: dict[str, Any] = {"stop": stop, "threshold": 0.5, "delta": 0.5, "block": 1}
    component = InContext(model=ref, anchors="drawn", **fields)
    early = measured(component, tmp_path / "early")
    wanted, found = scored(whole), scored(early)
    stayed = found["asked"].values == 1
    assert 0 < stayed.sum() < len(ROWS)
    assert np.allclose(found["score"].values[stayed], wanted["score"].values[stayed])
    assert np.allclose(found["gain"].values[stayed], wanted["gain"].values[stayed], atol=1e-3)
    assert (found["score"].values[~stayed] < 0.5).all()
    if stop == "certain":
        assert (wanted["score"].values[~stayed] < 0.5).all(), "no row that belongs above the threshold is stopped"
    assert len(early["nll"]) < len(whole["nll"])
    assert "were not tried on every anchor" in component.notes()[0] and not InContext(model=ref).notes()


def test_a_demonstration_is_read_once_for_all_its_anchors(
    ref: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    whole = utility._Prefixes.read.__func__  # type: ignore[attr-defined]

    def counting(cls: Any, forward: Any, what: Any, keeps: Any, on: Any, numbers: Any) -> Any:
        read.extend(numbers.tolist())
        return whole(cls, forward, what, keeps, on, numbers)

    monkeypatch.setattr(utility._Prefixes, "read", classmethod(counting))
    measured(InContext(model=ref, anchors="drawn", stop="certain", block=1, threshold=0.2), tmp_path, shard_rows=99)
    assert sorted(read) == sorted([0, *range(len(ROWS))])  # the first is what stands before an anchor alone


def test_bounds_of_a_race_by_hand() -> None:
    """Four anchors, two rows: the first loses twice and cannot reach 3 of 4 any more, the second wins all."""
    race = Race(np.repeat([0, 1], 4), np.ones(8, np.float32), "certain", 0.75, 0.05, 1)
    losses = np.array([2, 2, 0, 0, 0, 0, 0, 0], np.float32)
    found = Measured(np.full(8, np.nan, np.float32), np.full(8, np.nan, np.float32))
    asked = []
    for places in race.rounds(np.arange(8), found):
        found.nll[places] = losses[places]
        asked.append(places.tolist())
    assert asked == [[0, 4], [1, 5], [6], [7]]
    near = Race(np.zeros(4, np.int64), np.ones(4, np.float32), "hoeffding", 0.9, 0.5, 2)
    bound = near._bound(np.array([1.0]), np.array([2.0]), np.array([4]), 2)
    assert bound.tolist() == pytest.approx([min(3 / 4, 0.5 + np.sqrt(np.log(2 / 0.5) / 4))])


def test_anchors_are_spread_over_the_clusters_whatever_the_order(ref: ModelRef, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    heaps = np.repeat(rng.normal(size=(4, 5)) * 40, [9, 3, 5, 8], axis=0)
    vectors = (heaps + rng.normal(size=(25, 5))).astype(np.float32)
    draws = rng.permutation(25).astype(np.uint64)
    picked = spread(vectors, draws, 4)
    assert np.searchsorted([9, 12, 17], picked, side="right").tolist() == [0, 1, 2, 3]
    order = rng.permutation(25)
    assert sorted(order[spread(vectors[order], draws[order], 4)].tolist()) == picked.tolist()
    assert spread(vectors[:3], draws[:3], 4).tolist() == [0, 1, 2]
    component = InContext(model=ref, count=2)
    assert {need.name for need in component.needs} == {"lengths", "tokens"}
    keys = component.fit(viewed(tiny.make_pool(tmp_path / "pool", ROWS), ref, tmp_path), ON)[0]["anchor_key"]
    known = short_keys([row.key for row in ROWS]).tolist()
    assert sorted(known.index(key) % 2 for key in keys.tolist()) == [0, 1], "one anchor of either heap"


def test_settings_and_missing_anchors_are_said(ref: ModelRef, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        InContext(model=ref, count=0, threshold=2, delta=0)
    assert len(caught.value.faults) == 3
    pool = tiny.make_pool(tmp_path / "pool", ROWS)
    view = viewed(pool, ref, tmp_path)
    with pytest.raises(DataError, match="no row of the pool can be an anchor"):
        InContext(model=ref, anchors="drawn", anchor_tokens=1).fit(view, ON)
    with pytest.raises(RecipeError, match="needs a target"):
        InContext(model=ref, anchors="target").fit(view, ON)
    assert InContext(model=ref, target=pool) == InContext(model=ref), "a target that is not read is no setting"
    small = dataclasses.replace(ref, max_tokens=60)
    assert Reason.CUT in measured(InContext(model=small, anchors="drawn"), tmp_path / "cut")["reason"]
