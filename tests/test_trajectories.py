"""Losses over a warm-up equal those of the token pass, and S2L shares the budget among their clusters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import synthetic
from tamis import catalogue
from tamis.errors import DataError, RecipeError
from tamis.models import ModelRef
from tamis.scorers.passes.tokens import Tokens
from tamis.scorers.passes.trajectories import Trajectories
from tamis.values import Budget, Machine, Reason, Subset
from tamis.views import PoolView, ShardSignals
from warmed import UNUSABLE, Warmed

ON = Machine(tokens_per_batch=128)
ONE = Machine(tokens_per_batch=1)


@pytest.fixture(scope="module")
def warmed(tmp_path_factory: pytest.TempPathFactory) -> Warmed:
    return Warmed.make(tmp_path_factory.mktemp("trajectories"))


def test_losses_are_those_of_the_token_pass_under_every_checkpoint(warmed: Warmed) -> None:
    shard = warmed.pool.shards[0]
    have = ShardSignals(shard, {})
    found = Trajectories(checkpoints=warmed.lora, start=True).measure(shard, have, ON)
    models: list[ModelRef] = [warmed.base.resolved("cpu"), *(one.model() for one in warmed.lora)]
    assert found["losses"].shape == (len(warmed.rows), 3) and found["losses"].dtype == np.float32
    for number, model in enumerate(models):
        tokens = Tokens(model=model).measure(shard, have, ONE)
        counts = np.maximum(1, tokens["response_count"])
        wanted = np.where(tokens["reason"] == 0, tokens["response_nll_sum"] / counts, np.nan)
        assert np.allclose(found["losses"][:, number], wanted, atol=1e-5, equal_nan=True)
    assert np.flatnonzero(found["reason"]).tolist() == list(UNUSABLE)
    assert np.isnan(found["losses"][list(UNUSABLE)]).all()
    last = Trajectories(checkpoints=warmed.lora[-1:]).measure(shard, have, ON)
    assert np.array_equal(last["losses"], found["losses"][:, 2:], equal_nan=True)
    usable = warmed.usable
    assert not np.allclose(found["losses"][usable, 0], found["losses"][usable, 2]), "training moves the losses"


def test_a_trajectory_needs_checkpoints_of_one_model(warmed: Warmed, tmp_path: Path) -> None:
    shard = warmed.pool.shards[0]
    with pytest.raises(DataError, match="at least one checkpoint"):
        Trajectories(checkpoints=()).measure(shard, ShardSignals(shard, {}), ON)
    other = dataclasses.replace(warmed.lora[0], path=tmp_path)
    facts = {**warmed.lora[0].facts, "base": {**warmed.lora[0].facts["base"], "max_tokens": 32}}
    other.__dict__["facts"] = facts
    with pytest.raises(DataError, match="not all trained from one model"):
        Trajectories(checkpoints=(warmed.lora[0], other)).measure(shard, ShardSignals(shard, {}), ON)


# S2L


def view_of(folder: Path, losses: NDArray[Any], sources: list[str] | None = None) -> PoolView:
    count = len(losses)
    lengths = synthetic.lengths(count, refused=0)
    rows = synthetic.rows(count, sources=1)
    if sources is not None:
        rows = [dataclasses.replace(row, source=name) for row, name in zip(rows, sources, strict=True)]
    reason = np.where(np.isfinite(losses).all(axis=1), 0, int(Reason.NOT_FINITE)).astype(np.uint8)
    return synthetic.view(folder, rows, {"lengths": lengths, "trajectories": {"losses": losses, "reason": reason}})


def select(view: PoolView, rows: int, **fields: Any) -> Subset:
    subset: Subset = catalogue.build("selectors", "s2l", fields).select(view, Budget(rows=rows), Machine())
    return subset


def learnt(sizes: list[int], noise: float = 0.01) -> NDArray[np.float32]:
    """Trajectories of as many kinds, far apart: learnt early, late, never, forgotten …"""
    rng = np.random.default_rng(0)
    kinds = rng.uniform(0, 40, (len(sizes), 3))
    made = np.repeat(kinds, sizes, axis=0)
    return (made + rng.normal(size=made.shape) * noise).astype(np.float32)


def smallest_first(sizes: list[int], budget: int) -> list[int]:
    """The released code: the smallest clusters first, each at most an equal part of what is left."""
    parts = [0] * len(sizes)
    for done, place in enumerate(np.argsort(sizes, kind="stable").tolist()):
        parts[place] = min(sizes[place], budget // (len(sizes) - done))
        budget -= parts[place]
    return parts


@pytest.mark.parametrize(("sizes", "budget"), [([2, 50, 5, 10], 30), ([1, 4, 9, 2], 6), ([6, 7, 8], 11), ([3, 20], 23)])
def test_clusters_share_as_the_released_code_fills_them(sizes: list[int], budget: int, tmp_path: Path) -> None:
    subset = select(view_of(tmp_path, learnt(sizes)), budget, clusters=len(sizes), by=None)
    kinds = np.repeat(np.arange(len(sizes)), sizes)
    assert np.bincount(kinds[subset.positions], minlength=len(sizes)).tolist() == smallest_first(sizes, budget)
    assert subset.notes == (f"{len(sizes)} clusters of trajectories in 1 groups share the budget",)
    assert subset.values is not None and subset.values.max() < 0.1


def test_sources_share_first_then_their_clusters(tmp_path: Path) -> None:
    losses = learnt([30, 10, 10, 10])
    sources = ["big"] * 40 + ["small"] * 20  # two kinds each
    subset = select(view_of(tmp_path, losses, sources), 20, clusters=2)
    assert np.bincount(np.repeat(np.arange(4), [30, 10, 10, 10])[subset.positions]).tolist() == [5, 5, 5, 5]
    one = select(view_of(tmp_path / "one", losses, sources), 20, clusters=2, by=None)
    assert one.positions.tolist() != subset.positions.tolist()
    assert select(view_of(tmp_path / "again", losses, sources), 20, clusters=2, seed=1).positions.tolist() != (
        subset.positions.tolist()
    )


def test_rows_without_a_trajectory_are_not_drawn(tmp_path: Path) -> None:
    losses = learnt([5, 5])
    losses[3] = np.nan
    subset = select(view_of(tmp_path, losses), 10, clusters=2)
    assert len(subset.positions) == 9 and 3 not in subset.positions
    assert subset.reasons is not None and subset.reasons[3] == Reason.NOT_FINITE
    with pytest.raises(DataError, match="no usable row of the pool has a loss"):
        select(view_of(tmp_path / "none", np.full((4, 2), np.nan, np.float32)), 2)
    with pytest.raises(RecipeError, match="clusters must be at least 1"):
        catalogue.build("selectors", "s2l", {"clusters": 0})
