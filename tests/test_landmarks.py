"""Law: landmarks keep their exact influence, and all other rows get the kernel ridge regression of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import synthetic
from tamis.errors import DataError, RecipeError
from tamis.models import ModelRef
from tamis.scorers.passes.landmarks import Landmarks
from tamis.stages.measure import measure
from tamis.stages.signals import Signal
from tamis.stages.workspace import Workspace
from tamis.values import Machine, Reason
from tamis.vectors.interpolation import Interpolation, fit
from tamis.views import PoolView

ON = Machine()
COUNT, WIDTH, MARKS = 220, 6, 120
TASKS = np.frombuffer(json.dumps(["sums", "words"]).encode(), np.uint8)


def embeddings(count: int = COUNT, seed: int = 0) -> NDArray[np.float32]:
    points = np.random.default_rng(seed).normal(size=(count, WIDTH))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), np.float32)


def truth(points: NDArray[np.float32], kind: str) -> NDArray[np.float64]:
    """Scores on two tasks that are exactly linear in the embeddings, or exactly sums of a kernel around landmarks."""
    rng = np.random.default_rng(1)
    if kind == "linear":
        return np.asarray(points @ rng.normal(size=(WIDTH, 2)) + rng.normal(size=2), np.float64)
    factors = rng.normal(size=(4, 2))
    squares = np.square(points[:, None] - points[None, :4]).sum(2)
    return np.asarray(np.exp(-squares) @ factors, np.float64)


def view_of(folder: Path, scores: NDArray[Any], measured: NDArray[np.bool_], shard_rows: int = 50) -> PoolView:
    reason = np.where(measured, 0, Reason.NOT_MEASURED).astype(np.uint8)
    known = np.where(measured[:, None], scores, np.nan).astype(np.float32)
    tokens: dict[str, NDArray[Any]] = {"pooled": embeddings(), "reason": np.zeros(COUNT, np.uint8)}
    tokens["reason"][[7, 130]] = Reason.NEEDS_ANSWER, Reason.ALL_MASKED
    signals: dict[str, dict[str, NDArray[Any]]] = {"influence": {"scores": known, "reason": reason}, "tokens": tokens}
    made = synthetic.view(folder, synthetic.rows(COUNT), signals, shard_rows)
    for part in made.signal_folders["influence"]:
        np.save(part / "tasks.npy", TASKS)
    return made


def run(view: PoolView, work: Workspace, **settings: Any) -> tuple[Signal, dict[str, NDArray[Any]]]:
    have = {
        name: Signal(name, tuple(folders), 0, 0.0, tuple(f"{name}-{folder}" for folder in folders))
        for name, folders in view.signal_folders.items()
    }
    signal = measure(view.pool, "landmarks", Landmarks(**settings), work, have)
    made = PoolView(view.pool, {"influence": signal.folders})
    return signal, {name: made.signal("influence", name) for name in ("scores", "reason", "exact")}


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work", ON, ModelRef(name="tamis:tiny-lm"))


def measured_rows() -> NDArray[np.bool_]:
    measured = np.zeros(COUNT, np.bool_)
    measured[np.random.default_rng(2).permutation(COUNT)[:MARKS]] = True
    measured[[7, 130]] = False
    return measured


@pytest.mark.parametrize(("kind", "kernel", "slack"), [("linear", "linear", 1e-4), ("kernel", "rbf", 5e-2)])
def test_what_the_embeddings_determine_is_interpolated_exactly(
    tmp_path: Path, work: Workspace, kind: str, kernel: Any, slack: float
) -> None:
    scores, measured = truth(embeddings(), kind), measured_rows()
    signal, found = run(view_of(tmp_path, scores, measured), work, kernel=kernel)
    assert signal.name == "influence" and "landmarks" in signal.notes[0]
    assert all(share > 0.98 for share in next(work.store.entries("fit")).facts["r2"].values())
    good = found["reason"] == 0
    assert found["exact"].tolist() == measured.astype(int).tolist()
    assert (found["scores"][measured] == scores[measured].astype(np.float32)).all(), "landmarks keep what was measured"
    error = np.sqrt(np.square(found["scores"] - scores)[good & ~measured].mean(0))
    assert (error <= slack * scores.std(0)).all(), error / scores.std(0)
    assert found["reason"][[7, 130]].tolist() == [Reason.NEEDS_ANSWER, Reason.ALL_MASKED]
    assert np.isnan(found["scores"][~good]).all() and good.sum() == COUNT - 2


def test_noise_has_no_r2_and_is_said_to_have_none(tmp_path: Path, work: Workspace) -> None:
    noise = np.random.default_rng(3).normal(size=(COUNT, 2))
    signal, _ = run(view_of(tmp_path, noise, measured_rows()), work)
    facts = next(work.store.entries("fit")).facts
    assert facts["landmarks"] + 0 == measured_rows().sum() and facts["held_out"] == round(facts["landmarks"] / 5)
    assert all(share < 0.3 for share in facts["r2"].values()) and set(facts["r2"]) == {"sums", "words"}
    assert f"on {facts['held_out']} landmarks held out" in signal.notes[0]


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_the_regression_is_the_formula_and_leaving_one_out_is_leaving_one_out(kernel: Any) -> None:
    points, values = embeddings(40), np.random.default_rng(4).normal(size=(40, 2))
    found, share = fit(points, values, kernel, 10)
    centred = points - points.mean(0, dtype=np.float64)
    matrix = np.empty((40, 40))
    for one in range(40):
        for two in range(40):
            if kernel == "linear":
                matrix[one, two] = centred[one] @ centred[two] / found.scale**2
            else:
                matrix[one, two] = np.exp(-np.square(centred[one] - centred[two]).sum() / (2 * found.scale**2))
    factors = np.linalg.inv(matrix + found.ridge * np.eye(40)) @ (values - values.mean(0))
    assert np.allclose(found(points), values.mean(0) + matrix @ factors, atol=1e-6)
    back = Interpolation.of(found.arrays())
    assert (back(points) == found(points)).all() and back.kernel == kernel
    known, _ = fit(points[:30], values[:30], kernel, 0)
    error, spread = np.square(values[30:] - known(points[30:])).sum(0), np.square(values[30:] - values[30:].mean(0))
    assert np.allclose(share, 1 - error / spread.sum(0))


def test_width_and_ridge_have_the_least_error_of_leaving_every_point_out_once() -> None:
    points, clean = embeddings(30), truth(embeddings(30), "kernel")
    values = clean + np.random.default_rng(5).normal(size=clean.shape) * 0.2
    from tamis.vectors import interpolation

    chosen = interpolation._tuned(points, values, "rbf")

    def error(scale: float, ridge: float) -> float:
        """Oracle: every point really left out; the mean and the centre stay those of all, as in the closed form."""
        centred = points - points.mean(0, dtype=np.float64)
        targets = (values - values.mean(0)) / values.std(0)
        total = 0.0
        for out in range(30):
            rest = np.arange(30) != out
            known = interpolation._kernel("rbf", centred[rest], centred[rest], scale) + ridge * np.eye(29)
            row = interpolation._kernel("rbf", centred[[out]], centred[rest], scale)
            total += float(np.square(targets[out] - row @ np.linalg.solve(known, targets[rest])).mean())
        return total

    grid = {
        (scale, ridge): error(scale, ridge)
        for scale in interpolation._scales(points - points.mean(0, dtype=np.float64), "rbf")
        for ridge in interpolation.RIDGES
        if ridge >= 1e-5
    }
    assert chosen == min(grid, key=lambda pair: grid[pair])


def test_a_longer_pool_with_the_same_landmarks_leaves_finished_shards_alone(tmp_path: Path, work: Workspace) -> None:
    scores, measured = truth(embeddings(), "linear"), measured_rows()
    measured[150:] = False
    view = view_of(tmp_path, scores, measured)
    first = {name: list(folders) for name, folders in view.signal_folders.items()}
    from tamis.pool import Pool

    shorter = PoolView(Pool(view.pool.shards[:3]), {name: folders[:3] for name, folders in first.items()})
    one, _ = run(shorter, work)
    two, _ = run(view, work)
    assert one.made == 3 and two.made == 2 and two.identities[:3] == one.identities
    assert len(list(work.store.entries("fit"))) == 2


def test_the_fit_depends_neither_on_shards_nor_on_the_number_of_rows_measured_beyond_most(
    tmp_path: Path, work: Workspace
) -> None:
    scores, measured = truth(embeddings(), "kernel"), measured_rows()
    _, one = run(view_of(tmp_path / "a", scores, measured), work, most=60)
    _, two = run(view_of(tmp_path / "b", scores, measured, shard_rows=33), work, most=60)
    assert np.allclose(one["scores"], two["scores"], atol=1e-6, equal_nan=True)
    assert {facts.facts["landmarks"] for facts in work.store.entries("fit")} == {60}


def test_too_few_landmarks_and_wrong_settings_are_refused(tmp_path: Path, work: Workspace) -> None:
    measured = np.arange(COUNT) < 5
    with pytest.raises(DataError, match="influence was measured on 5 rows"):
        run(view_of(tmp_path, truth(embeddings(), "linear"), measured), work)
    for wrong in ({"held_out": 0.0}, {"held_out": 1.0}, {"most": 3}):
        with pytest.raises(RecipeError, match="held_out must lie between"):
            Landmarks(**wrong)


def test_a_recipe_with_landmarks_scores_every_row(tmp_path: Path) -> None:
    import dataclasses

    import small

    world = small.make_world(tmp_path / "world")
    text = world.recipe.read_text(encoding="utf-8").partition("final:")[0]
    text = text.replace("score: [perplexity, ifd, length]", "score: [length]").replace("influence: {", "exact: {")
    text = text.replace('target: "@target"}\nsim', 'only: "@marks"}\ninfluence: {pass: landmarks, from: "@exact"}\nsim')
    text = text.replace("warmup:", "marks: {select: random, budget: 40, seed: 3}\nwarmup:")
    recipe = tmp_path / "landmarks.yaml"
    recipe.write_text(text, encoding="utf-8")
    run = small.conduct(dataclasses.replace(world, recipe=recipe), tmp_path / "work")
    import pyarrow.parquet as pq

    columns = pq.read_table(run.folder / "columns.parquet").to_pylist()
    scored = sum(any(row[name] == row[name] for name in row if name.startswith("gradient-")) for row in columns)
    assert scored == 64, "every usable row"
    assert len(pq.read_table(run.folder / "subset.parquet")) == 16
    notes = run.manifest["notes"]
    assert any(note.startswith("influence: approximation: influence is measured on 40 landmarks") for note in notes)
    assert not any(note.startswith("influence: approximation: influence was measured on") for note in notes)
    assert "on 40 landmarks and interpolated" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_the_shipped_recipes_of_both_approximations_are_good() -> None:
    from tamis import recipe

    assert [stage.name for stage in recipe.load("less-landmarks").stages][:4] == [
        "warmup",
        "marks",
        "measured",
        "influence",
    ]
    assert recipe.load("less-prefilter").main_subset() == recipe.load("less-landmarks").main_subset() == "subset"
