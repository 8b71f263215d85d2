"""Law: TracIn and DataInf are their dense formulas, on a model of two layers, in float64."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tamis import digests
from tamis.errors import DataError, RecipeError
from tamis.gradient.curvature import inverse_products, sample_rows
from tamis.gradient.formula import PROFILES, Formula
from tamis.gradient.influence import inner_products, task_vectors
from tamis.gradient.objective import SFT, Opened
from tamis.gradient.source import open_checkpoint
from tamis.scorers.gradients import GradientSimilarity
from tamis.store import save_arrays
from tamis.values import Row
from tamis.views import ShardSignals
from tiny import make_pool, make_rows
from warmed import ON, UNUSABLE, Warmed, gradient, measure

TASKS = ["sums", "talk", "words"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Warmed:
    return Warmed.make(tmp_path_factory.mktemp("profiles"))


class Dense:
    """Oracle: every gradient of one checkpoint as a float64 vector, and where its layers lie."""

    def __init__(self, world: Warmed, number: int) -> None:
        self.world = world
        opened = open_checkpoint(world.lora[number], "cpu")
        self.opened = Opened(opened.model.double(), opened.layers, "cpu")
        self.names = list(opened.layers)
        ends = np.cumsum([0, *(layer.weight.numel() for layer in opened.layers.values())]).tolist()
        self.layers = [slice(start, stop) for start, stop in itertools.pairwise(ends)]
        self.rate = world.lora[number].learning_rate

    def of(self, rows: list[Row]) -> torch.Tensor:
        self.opened.model.requires_grad_(True)
        found = torch.stack([gradient(self.opened.model, self.names, row, self.world.base) for row in rows])
        self.opened.model.requires_grad_(False)
        return found

    @property
    def targets(self) -> torch.Tensor:
        """(K, p) mean gradients of the tasks."""
        every = self.of(self.world.target_rows)
        own = [[row.source == task for row in self.world.target_rows] for task in TASKS]
        return torch.stack([every[torch.tensor(mask)].mean(0) for mask in own])

    def inverse(self, rows: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """1/n Σ_i (g_i g_iᵀ + λ I)⁻¹ V, layer by layer, by inverting every matrix."""
        found = torch.zeros_like(vectors)
        for layer in self.layers:
            own = rows[:, layer]
            damping = 0.1 * own.square().mean()
            eye = torch.eye(own.shape[1], dtype=torch.float64)
            mean = torch.stack([torch.linalg.inv(torch.outer(g, g) + damping * eye) for g in own]).mean(0)
            found[:, layer] = vectors[:, layer] @ mean
        return found


def joined(vectors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(vectors.values()), dim=1)


def test_tracin_is_the_sum_of_inner_products_of_raw_gradients_times_learning_rates(world: Warmed) -> None:
    found = measure(world, profile="tracin")
    wanted = np.full((len(world.rows), len(TASKS)), np.nan)
    wanted[world.usable] = 0
    for number in range(len(world.lora)):
        dense = Dense(world, number)
        rows = dense.of([world.rows[place] for place in world.usable])
        wanted[world.usable] += dense.rate * (rows @ dense.targets.T).numpy()
    np.testing.assert_allclose(found["scores"], wanted, rtol=2e-3, atol=1e-4 * float(np.nanstd(wanted)))
    assert np.flatnonzero(found["reason"]).tolist() == list(UNUSABLE)


def test_products_and_mean_vectors_are_exact_in_float64(world: Warmed) -> None:
    dense = Dense(world, 1)
    targets, _ = SFT.examples(world.target_rows, world.base)
    task = np.array([TASKS.index(row.source) for row in world.target_rows])
    vectors, dropped = task_vectors(dense.opened, targets, task, "mean", ON)
    assert not len(dropped)
    torch.testing.assert_close(joined(vectors), dense.targets, rtol=1e-9, atol=1e-12)
    rows = [world.rows[place] for place in world.usable]
    found, norms = inner_products(dense.opened, SFT.examples(rows, world.base)[0], None, vectors, ON)
    own = dense.of(rows)
    np.testing.assert_allclose(found, (own @ dense.targets.T).numpy(), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(norms, own.norm(dim=1).numpy(), rtol=1e-9)


def test_datainf_is_the_mean_of_dense_inverses_in_float64(world: Warmed) -> None:
    dense = Dense(world, 1)
    rows = [world.rows[place] for place in world.usable]
    examples, _ = SFT.examples(rows, world.base)
    targets = dense.targets
    by_layer = {name: targets[:, layer].clone() for name, layer in zip(dense.names, dense.layers, strict=True)}
    found = inverse_products(dense.opened, examples, by_layer, ON)
    wanted = dense.inverse(dense.of(rows), targets)
    torch.testing.assert_close(joined(found), wanted, rtol=1e-8, atol=1e-10 * float(wanted.abs().max()))
    assert float((wanted - 10 * targets).norm() / wanted.norm()) > 0.1  # more than a factor


def test_the_pass_takes_datainf_at_the_last_checkpoint_over_rows_drawn_by_key(world: Warmed, tmp_path: Path) -> None:
    found = measure(world, profile="datainf", pool=world.pool, curvature_rows=6)
    dense = Dense(world, 1)
    lowest = sorted(world.rows, key=lambda row: digests.of_json(["curvature", row.key]))[:6]
    drawn = [row for row in lowest if world.rows.index(row) not in UNUSABLE]
    through = dense.inverse(dense.of(drawn), dense.targets)
    wanted = (dense.of([world.rows[place] for place in world.usable]) @ through.T).numpy()
    np.testing.assert_allclose(found["scores"][world.usable], wanted, rtol=5e-3, atol=1e-3 * float(wanted.std()))
    assert found["norms"].shape == (len(world.rows), 1)
    cut = make_pool(tmp_path / "cut", world.rows, shard_rows=4)
    assert [row.key for row in sample_rows(cut, 6)] == [row.key for row in lowest]
    assert len(sample_rows(cut, 99)) == len(world.rows)


def test_a_longer_pool_is_another_datainf_and_the_same_less(world: Warmed, tmp_path: Path) -> None:
    longer = make_pool(tmp_path, [*world.rows, *make_rows(3, seed=9)])

    def identities(profile: str) -> set[str]:
        return {digests.of_component(world.influence(profile=profile, pool=pool)) for pool in (world.pool, longer)}

    assert len(identities("datainf")) == 2
    assert len(identities("recommended")) == len(identities("tracin")) == 1


def test_curvature_needs_a_pool_with_answers_and_raw_gradients(world: Warmed, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs the pool"):
        measure(world, profile="datainf")
    unanswered = make_pool(tmp_path, [world.rows[3]])
    with pytest.raises(DataError, match="no row of the sample"):
        measure(world, profile="datainf", pool=unanswered)
    with pytest.raises(RecipeError, match="raw"):
        world.influence(profile="datainf", pool=world.pool, moments="less")


def test_the_profiles_are_what_they_say(world: Warmed) -> None:
    product = Formula(moments="raw", subtask_agg="mean", similarity="dot")
    assert PROFILES["tracin"] == dataclasses.replace(product, weights="rate")
    assert PROFILES["datainf"] == dataclasses.replace(product, curvature="datainf")
    assert world.influence(profile="tracin").source.weights == [one.learning_rate for one in world.lora]
    assert world.influence(profile="datainf", pool=world.pool).source.used == world.lora[-1:]


def test_scores_that_are_no_cosines_say_their_unit(world: Warmed, tmp_path: Path) -> None:
    def units(name: str, **settings: Any) -> set[str]:
        (tmp_path / name).mkdir()
        save_arrays(tmp_path / name, measure(world, **settings))
        columns = GradientSimilarity().score(ShardSignals(world.pool.shards[0], {"influence": tmp_path / name}))
        return {column.unit for column in columns.values()}

    assert units("tracin", profile="tracin") == {"gradient product"}
    assert units("cosine", profile="tracin", similarity="cosine") == {"cosine"}
