"""Law: the gradient store gives the influence of the exact pass up to the projection's noise, for targets to come."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cheap import pair_rows
from tamis import digests, store
from tamis.errors import DataError, RecipeError
from tamis.gradient import objective, per_example
from tamis.gradient.encodings import Encoding
from tamis.gradient.objective import Loss
from tamis.gradient.projections import Kind, Projection
from tamis.gradient.store import Contents
from tamis.models import ModelRef
from tamis.pool import Pool
from tamis.rendering import render_rows
from tamis.scorers.passes import gradient_query, gradients
from tamis.scorers.passes.gradient_query import GradientQuery
from tamis.scorers.passes.gradients import Gradients
from tamis.scorers.passes.influence import Influence
from tamis.stages.measure import measure
from tamis.stages.signals import Signal
from tamis.stages.workspace import Work, Workspace
from tamis.trainers.lora import Lora
from tamis.training.checkpoints import Checkpoint
from tamis.values import Machine, Reason, Row, Seeds
from tamis.views import ShardSignals
from tiny import chat, make_model, make_pool, make_row, make_rows

ON = Machine(tokens_per_batch=256)
DIM = 4096
Arrays = Mapping[str, NDArray[Any]]


@dataclasses.dataclass
class World:
    """A base model, warm-up checkpoints of two epochs, rows of a pool, and two targets."""

    base: ModelRef
    warm_up: tuple[Checkpoint, ...]
    rows: list[Row]
    pool: Pool
    target: Pool
    later: Pool


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("store")
    base = ModelRef(name=str(make_model(root / "base")), max_tokens=64)
    rows = make_rows(24, seed=1)
    rows[3] = make_row(chat("no answer follows"), kind="prompt")
    rows[8] = make_row(chat("word " * 100, "cut off"))
    trainer = Lora(rank=3, alpha=6, epochs=2, batch_rows=4, keep="every-epoch", learning_rate=5e-3)
    warm_up = trainer.train(base, render_rows(make_rows(12, seed=3), base), Seeds(), [], root / "lora", Machine())
    pool = make_pool(root / "pool", rows, shard_rows=24)
    return World(
        base,
        tuple(warm_up),
        rows,
        pool,
        make_pool(root / "target", make_rows(7, seed=2)),
        make_pool(root / "later", make_rows(5, seed=4)),
    )


def stored(world: World, on: Machine = ON, **settings: Any) -> Arrays:
    component = Gradients(**{"checkpoints": world.warm_up, "dim": DIM, **settings})
    shard = world.pool.shards[0]
    return component.measure(shard, ShardSignals(shard, {}), on)


def query(world: World, arrays: Arrays, folder: Path, **settings: Any) -> Arrays:
    folder.mkdir(exist_ok=True)
    store.save_arrays(folder, arrays)
    component = GradientQuery(**{"checkpoints": world.warm_up, "target": world.target, **settings})
    shard = world.pool.shards[0]
    return component.measure(shard, ShardSignals(shard, {"gradients": folder}), ON)


def exact(world: World, **settings: Any) -> Arrays:
    shard = world.pool.shards[0]
    component = Influence(**{"checkpoints": world.warm_up, "target": world.target, **settings})
    return component.measure(shard, ShardSignals(shard, {}), ON)


@pytest.mark.parametrize("kind", ["sjlt", "rotation", "srht", "rademacher"])
def test_a_query_is_exact_influence_up_to_the_noise_of_the_projection(world: World, kind: Kind, tmp_path: Path) -> None:
    arrays = stored(world, projection=kind)
    found, wanted = query(world, arrays, tmp_path), exact(world)
    assert set(found) == set(wanted) and bytes(found["tasks"]) == bytes(wanted["tasks"])
    np.testing.assert_array_equal(found["reason"], wanted["reason"])
    np.testing.assert_allclose(found["norms"], wanted["norms"], rtol=1e-5)
    good = wanted["reason"] == 0
    off = (found["scores"] - wanted["scores"])[good]
    assert np.abs(off).max() < 4.5 / DIM**0.5 and off.std() < 1.2 / DIM**0.5  # less still, for two checkpoints
    assert np.isnan(found["scores"][~good]).all() and Reason.NEEDS_ANSWER in found["reason"]


@pytest.mark.parametrize("settings", [{}, {"profile": "less-official"}, {"profile": "tracin"}, {"use": "last"}])
def test_settings_travel_with_the_store(world: World, settings: dict[str, Any], tmp_path: Path) -> None:
    found = query(world, stored(world, dim=16384, projection="rotation", **settings), tmp_path)
    wanted = exact(world, **settings)
    assert set(found) == set(wanted) and bytes(found.get("unit", b"")) == bytes(wanted.get("unit", b""))
    good = wanted["reason"] == 0
    size = wanted["scores"][good]
    np.testing.assert_allclose(found["scores"][good], size, atol=0.04 * max(1.0, float(np.abs(size).max())))
    assert np.corrcoef(found["scores"][good].ravel(), size.ravel())[0, 1] > 0.98


def test_features_are_projected_unit_gradients_of_batch_one(world: World) -> None:
    arrays = stored(world, projection="rademacher", dim=512, balanced=False)
    source = Gradients(checkpoints=world.warm_up).source
    for number in range(2):
        opened = source.open(number, "cpu")
        direction = source.direction(number, opened)
        examples, _ = source.objective.examples(world.rows, world.base)
        for place in (0, 5, 23):
            parts: dict[str, torch.Tensor] = {}

            def keep(name: str, gradient: torch.Tensor) -> None:
                parts[name] = direction(name, gradient.flatten(1).clone())  # noqa: B023

            source.objective.gradients(opened, [examples[place]], keep)
            gamma = torch.cat([parts[name] for name in sorted(parts)], 1)
            sketch: Any = Projection(kind="rademacher", dim=512).sketch(number, "cpu", opened.shapes)
            matrix = torch.cat([sketch.matrix(name, 0, parts[name].shape[1]) for name in sorted(parts)])
            wanted = (gamma @ matrix / 512**0.5 / gamma.norm()).numpy()[0]
            found = arrays["features"][place, number * 512 : (number + 1) * 512] * arrays["scales"][place, number]
            np.testing.assert_allclose(found, wanted, atol=2e-4)
            assert arrays["norms"][place, number] == pytest.approx(float(gamma.norm()), rel=1e-4)


@pytest.mark.parametrize(("encoding", "slack"), [("float16", 1e-4), ("int8", 3e-3), ("bit", 0.06)])
def test_encodings_keep_the_scores(world: World, encoding: Encoding, slack: float, tmp_path: Path) -> None:
    arrays = stored(world, encoding=encoding)
    plain = query(world, stored(world), tmp_path / "plain")
    found = query(world, arrays, tmp_path / "coded")
    good = found["reason"] == 0
    assert np.abs(found["scores"] - plain["scores"])[good].max() < slack
    items = {"float16": 2 * DIM, "int8": DIM, "bit": DIM // 8}[encoding]
    assert arrays["features"].nbytes == 24 * 2 * items


def test_the_store_does_not_depend_on_batches_and_holds_nothing_for_rows_without_a_label(world: World) -> None:
    one, many = stored(world, Machine(tokens_per_batch=1)), stored(world, Machine(tokens_per_batch=4096))
    numbers = [arrays["features"].astype(np.float32) * np.repeat(arrays["scales"], DIM, 1) for arrays in (one, many)]
    good = one["reason"] == 0
    assert np.abs(numbers[0] - numbers[1])[good].max() < 2e-3 * numbers[0][good].std()
    assert not one["features"][~good].any() and np.isnan(one["scales"][~good]).all()
    assert np.flatnonzero(~good).tolist() == [3, 8]


def test_a_store_of_other_checkpoints_is_refused(world: World, tmp_path: Path) -> None:
    arrays = stored(world)
    with pytest.raises(DataError, match="stored with other checkpoints"):
        query(world, arrays, tmp_path, checkpoints=world.warm_up[:1])
    contents = Contents.read(arrays["contents"])
    assert contents == Contents.of(
        Gradients(checkpoints=world.warm_up).source, Projection(dim=DIM), "float16", balanced=True
    )
    assert json.loads(bytes(arrays["contents"]))["projection"]["dim"] == DIM


@pytest.mark.parametrize("loss", ["sft", "dpo"])
def test_logra_without_forming_a_gradient_is_logra(
    world: World, loss: Loss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = world.pool if loss == "sft" else make_pool(tmp_path / "pairs", pair_rows(6))
    shard, found, multiplied = pool.shards[0], [], []
    component = Gradients(
        checkpoints=world.warm_up, moments="raw", projection="logra", dim=512, loss=loss, encoding="float32"
    )
    form = per_example.formed

    def counted(consume: per_example.Consume) -> per_example.Hand:
        hand = form(consume)

        def counting(name: str, delta: torch.Tensor, seen: torch.Tensor) -> None:
            multiplied.append(name)
            hand(name, delta, seen)

        return counting

    monkeypatch.setattr(per_example, "formed", counted)
    for factored in (True, False):
        multiplied.clear()
        monkeypatch.setattr("tamis.gradient.store._factored", lambda delta, seen, way=factored: way)
        found.append(component.measure(shard, ShardSignals(shard, {}), ON))
        assert bool(multiplied) is not factored
    for name in ("features", "norms", "scales"):
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-4, atol=1e-6)


def test_settings_that_cannot_be_stored_are_refused(world: World) -> None:
    with pytest.raises(RecipeError, match="needs its target before the pool"):
        Gradients(checkpoints=world.warm_up, profile="datainf")
    with pytest.raises(RecipeError, match="no multiple of nonzeros"):
        Gradients(checkpoints=world.warm_up, nonzeros=3)


@pytest.mark.parametrize(
    ("of_store", "asked"),
    [
        ({}, [{}, {"subtask_agg": "mean_cos"}, {"by": "row"}]),
        ({"encoding": "float16", "use": "last"}, [{}]),
        ({"profile": "tracin", "use": "last"}, [{}]),
    ],
    ids=str,
)
def test_a_span_is_exact_for_the_target_that_it_was_made_with(
    world: World, of_store: dict[str, Any], asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    arrays = stored(world, **{"projection": "span", "target": world.target, "encoding": "float32", **of_store})
    checkpoints = 1 if "use" in of_store else 2
    assert arrays["features"].shape == (24, 7 * checkpoints)  # seven rows in the target
    slack = 1e-4 if "encoding" in of_store else 1e-5
    for number, settings in enumerate(asked):
        found = query(world, arrays, tmp_path / str(number), **settings)
        wanted = exact(world, **{key: value for key, value in of_store.items() if key != "encoding"}, **settings)
        good = wanted["reason"] == 0
        size = max(1.0, float(np.abs(wanted["scores"][good]).max()))
        np.testing.assert_array_equal(found["reason"], wanted["reason"])
        np.testing.assert_allclose(found["norms"], wanted["norms"], rtol=1e-5)  # of Γ, not of its part in the span
        assert np.abs(found["scores"] - wanted["scores"])[good].max() < slack * size


def dense_gradients(world: World, number: int, rows: list[Row]) -> NDArray[np.float64]:
    """Oracle: raw gradients one row at a time, whole, (n, p), of rows that have a label."""
    source = Gradients(checkpoints=world.warm_up).source
    opened = source.open(number, "cpu")
    examples, reason = source.objective.examples(rows, world.base)
    lines = []
    for example in [one for one, why in zip(examples, reason, strict=True) if not why]:
        parts: dict[str, torch.Tensor] = {}

        def keep(name: str, gradient: torch.Tensor) -> None:
            parts[name] = gradient.flatten(1).clone()  # noqa: B023

        source.objective.gradients(opened, [example], keep)
        lines.append(torch.cat([parts[name] for name in sorted(parts)], 1)[0].double().numpy())
    return np.stack(lines)


@pytest.mark.parametrize(("normalise", "dim"), [("whole", 4096), ("span", 3)])
def test_another_target_is_projected_on_the_span(
    world: World, normalise: Literal["whole", "span"], dim: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made: dict[str, Any] = {"projection": "span", "target": world.target, "moments": "raw", "encoding": "float32"}
    arrays = stored(world, ON, **made, dim=dim, normalise=normalise)
    gradient_query._queries.cache_clear()  # it warns when the target's gradients are taken
    found = query(world, arrays, tmp_path, target=world.later, by="kind")
    weights = Gradients(checkpoints=world.warm_up).source.weights
    wanted, shares = np.zeros(22), []
    for number, weight in enumerate(weights):
        rows, target, later = (
            dense_gradients(world, number, list(some)) for some in (world.rows, world.target, world.later)
        )
        units = target / np.linalg.norm(target, axis=1, keepdims=True)
        basis = np.linalg.svd(units, full_matrices=False)[2][:dim]
        vector = later.mean(0) / np.linalg.norm(later.mean(0))
        shares.append(float(np.sum((basis @ vector) ** 2)))
        inside = rows @ basis.T
        lengths = np.linalg.norm(inside if normalise == "span" else rows, axis=1)
        wanted += weight * (inside @ (basis @ vector)) / lengths
    good = found["reason"] == 0
    np.testing.assert_allclose(found["scores"][good, 0], wanted, atol=1e-5)
    assert 0.01 < min(shares) < 0.99
    assert f"holds {100 * min(shares):.1f} % at least" in caplog.text


def test_another_target_inside_the_span_is_exact(world: World, tmp_path: Path) -> None:
    repeated = make_pool(tmp_path / "repeated", [*world.target, *list(world.target)[:2]])  # rank 7 of 9 rows
    inside = make_pool(tmp_path / "inside", list(world.target)[2:6])
    found = query(
        world, stored(world, projection="span", target=repeated, encoding="float32"), tmp_path / "out", target=inside
    )
    wanted = exact(world, target=inside)
    np.testing.assert_allclose(found["scores"], wanted["scores"], atol=1e-5)


def test_a_span_does_not_depend_on_batches_or_memory(world: World, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"projection": "span", "target": world.target, "encoding": "float32", "use": "last"}
    exact_fit = 4 * 2 * 2 * Gradients(checkpoints=world.warm_up).source.open(0, "cpu").parameters
    found = []
    for size, limit in ((1, 1 << 31), (4096, exact_fit)):  # all layers at once, and in groups
        gradients._ready.cache_clear()
        arrays = stored(world, Machine(tokens_per_batch=size), **settings, dim=2, vector_bytes=limit)
        found.append(query(world, arrays, tmp_path / str(size))["scores"])
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_a_span_needs_a_target_and_room_and_nothing_else_does(world: World) -> None:
    exact_fit = 4 * 2 * 2 * Gradients(checkpoints=world.warm_up).source.open(0, "cpu").parameters
    with pytest.raises(RecipeError, match="needs a target"):
        Gradients(checkpoints=world.warm_up, projection="span")
    with pytest.raises(RecipeError, match="goes with `projection: span` alone"):
        Gradients(checkpoints=world.warm_up, normalise="span")
    gradients._ready.cache_clear()
    with pytest.raises(DataError, match="more than vector_bytes"):
        stored(world, projection="span", target=world.target, vector_bytes=exact_fit - 1, dim=2, use="last")
    with_target, without = Gradients(checkpoints=(), target=world.target), Gradients(checkpoints=())
    assert digests.of_component(with_target) == digests.of_component(without)
    spans = [Gradients(checkpoints=(), projection="span", target=pool) for pool in (world.target, world.later)]
    assert digests.of_component(spans[0]) != digests.of_component(spans[1])


@pytest.fixture
def work(world: World, tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, Machine(), world.base, Work())


def test_appended_rows_are_new_shards_and_a_new_target_makes_no_pool_pass(
    world: World, work: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = objective.Objective.factors

    def counted(self: Any, opened: Any, examples: Any, hand: Any) -> torch.Tensor:
        seen.append(len(examples))
        return plain(self, opened, examples, hand)

    monkeypatch.setattr(objective.Objective, "factors", counted)
    component = Gradients(checkpoints=world.warm_up, dim=256)

    def scores(pool: Pool, signal: Signal, target: Pool) -> tuple[int, Signal]:
        seen.clear()
        ask = GradientQuery(checkpoints=world.warm_up, target=target)
        return sum(seen), measure(pool, "gradient-query", ask, work, {"gradients": signal})

    short = make_pool(tmp_path / "short", world.rows[:16], shard_rows=8)
    first = measure(short, "gradients", component, work)
    assert first.made == 2 and sum(seen) == 2 * 14  # two rows have no label; two checkpoints
    longer = make_pool(tmp_path / "longer", world.rows, shard_rows=8)
    assert [shard.digest for shard in longer.shards[:2]] == [shard.digest for shard in short.shards]
    seen.clear()
    second = measure(longer, "gradients", component, work)
    assert second.made == 1 and sum(seen) == 2 * 8 and second.folders[:2] == first.folders
    for target in (world.target, world.later):
        seen.clear()
        gradient_query._queries.cache_clear()
        ask = GradientQuery(checkpoints=world.warm_up, target=target)
        asked = measure(longer, "gradient-query", ask, work, {"gradients": second})
        assert asked.name == "influence" and asked.made == 3
        assert sum(seen) == 2 * 2 * len(
            target
        )  # two checkpoints; norms first, then the vectors: the target's rows alone
    seen.clear()
    assert measure(longer, "gradient-query", ask, work, {"gradients": second}).made == 0 and not seen
