"""Law: the influence pass equals the plain double loop over rows, checkpoints and target rows, for every formula."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from tamis.errors import DataError, TrainError
from tamis.gradient.directions import Direction
from tamis.gradient.formula import PROFILES, Formula
from tamis.gradient.prepared import prepare
from tamis.models import open_model
from tamis.rendering import render_rows
from tamis.scorers.gradients import GradientSimilarity, view_names
from tamis.scorers.passes.influence import Influence
from tamis.trainers.full import Full
from tamis.training.checkpoints import Checkpoint
from tamis.values import Machine, Reason, Seeds
from tamis.views import ShardSignals
from tiny import chat, make_pool, make_row, make_rows
from warmed import Warmed, flat, gradient, measure


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Warmed:
    return Warmed.make(tmp_path_factory.mktemp("influence"))


def gamma(g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, step: int, formula: Formula) -> torch.Tensor:
    """Oracle: Γ, literally."""
    if formula.moments == "raw":
        return g
    if formula.moments == "sign":
        return torch.sign(g)
    t = step + 1
    m = (0.9 * m if formula.momentum == "keep" else 0 * m) + 0.1 * g
    if formula.moments == "less":
        v = 0.999 * v + 0.001 * g * g
    if formula.bias_correction:
        m = m / (1 - 0.9**t)
        v = v / (1 - 0.999 ** (t if formula.moments == "less" else step))
    return m / torch.sqrt(v + 1e-8) if formula.eps_mode == "inside" else m / (torch.sqrt(v) + 1e-8)


def oracle(world: Warmed, checkpoints: tuple[Checkpoint, ...], formula: Formula) -> tuple[Any, Any]:
    tasks = sorted({row.source for row in world.target_rows})
    rates = [checkpoint.facts["learning_rate"] for checkpoint in checkpoints]
    scores = np.zeros((len(world.rows), len(tasks)))
    norms = np.zeros((len(world.rows), len(checkpoints)))
    for i, checkpoint in enumerate(checkpoints):
        model: Any = open_model(checkpoint.model(), "cpu").double()
        model.requires_grad_(True)
        names = list(checkpoint.moments())
        m, v = flat(checkpoint, names)
        targets = [gradient(model, names, row, world.base) for row in world.target_rows]
        for z, row in enumerate(world.rows):
            if row.kind == "prompt" or z == 8:
                scores[z] = norms[z] = np.nan
                continue
            direction = gamma(gradient(model, names, row, world.base), m, v, checkpoint.step, formula)
            norms[z, i] = direction.norm()
            for k, task in enumerate(tasks):
                own = [g for g, other in zip(targets, world.target_rows, strict=True) if other.source == task]
                if formula.subtask_agg == "mean_cos":
                    cosine = float(np.mean([float(functional.cosine_similarity(direction, g, dim=0)) for g in own]))
                else:
                    cosine = float(functional.cosine_similarity(direction, torch.stack(own).mean(0), dim=0))
                scores[z, k] += rates[i] / sum(rates) * cosine
    return scores, norms


FORMULAS: dict[str, dict[str, Any]] = {
    "recommended": {},
    "less-official": {"profile": "less-official"},
    "fixed": {"moments": "adam", "momentum": "keep"},
    "raw": {"moments": "raw"},
    "sign": {"moments": "sign", "subtask_agg": "mean_cos"},
    "mixed": {"profile": "less-official", "eps_mode": "outside", "bias_correction": True},
}


@pytest.mark.parametrize("name", FORMULAS)
def test_scores_are_the_plain_double_loop(world: Warmed, name: str) -> None:
    found = measure(world, **FORMULAS[name])
    formula = Influence(checkpoints=world.lora, target=world.target, **FORMULAS[name]).source.formula
    scores, norms = oracle(world, world.lora, formula)
    np.testing.assert_allclose(found["scores"], scores, rtol=2e-3, atol=2e-5)
    np.testing.assert_allclose(found["norms"], norms, rtol=1e-3)


def test_profiles_are_what_they_say() -> None:
    released = PROFILES["less-official"]
    assert released == Formula(
        moments="less", eps_mode="inside", bias_correction=False, momentum="keep", subtask_agg="mean_cos"
    )
    assert PROFILES["recommended"] == Formula(
        moments="less", eps_mode="outside", bias_correction=True, momentum="drop", subtask_agg="cos_mean"
    )


def test_full_checkpoints_count_their_linear_layers(world: Warmed, tmp_path: Path) -> None:
    trainer = Full(epochs=1, batch_rows=4, keep="every-epoch", learning_rate=1e-3)
    rows = render_rows(make_rows(8, seed=3), world.base)
    checkpoints = tuple(trainer.train(world.base, rows, Seeds(), [], tmp_path, Machine()))
    found = measure(world, checkpoints=checkpoints, moments="raw")
    model: Any = open_model(checkpoints[0].model(), "cpu").double()
    names = [name for name, _ in model.named_parameters() if "proj" in name]
    model.requires_grad_(True)
    targets = [gradient(model, names, row, world.base) for row in world.target_rows if row.source == "sums"]
    g = gradient(model, names, world.rows[0], world.base)
    wanted = float(functional.cosine_similarity(g, torch.stack(targets).mean(0), dim=0))
    place = json.loads(bytes(found["tasks"])).index("sums")
    assert found["scores"][0, place] == pytest.approx(wanted, abs=1e-4)


def test_rows_without_labels_have_a_reason_and_never_a_score(world: Warmed) -> None:
    found = measure(world)
    assert found["reason"][3] == Reason.NEEDS_ANSWER and found["reason"][8] == Reason.ALL_MASKED
    missing = np.isnan(found["scores"]).any(1)
    assert np.flatnonzero(missing).tolist() == [3, 8] == np.flatnonzero(found["reason"]).tolist()


def test_scores_do_not_depend_on_the_batch_size(world: Warmed) -> None:
    one = measure(world, Machine(tokens_per_batch=1))["scores"]
    many = measure(world, Machine(tokens_per_batch=4096))["scores"]
    assert np.nanmax(np.abs(one - many)) <= 1e-4 * np.nanstd(one)


def test_a_second_measurement_is_the_same_to_the_bit(world: Warmed) -> None:
    first = measure(world)
    prepare.cache_clear()
    second = measure(world)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def test_weights_are_the_learning_rates_of_the_epochs(world: Warmed) -> None:
    influence = Influence(checkpoints=world.lora, target=world.target)
    rates = [checkpoint.learning_rate for checkpoint in world.lora]
    assert influence.source.weights == pytest.approx([rate / sum(rates) for rate in rates])
    single = measure(world, checkpoints=world.lora[:1])["scores"], measure(world, checkpoints=world.lora[1:])["scores"]
    mixed = sum(
        weight * scores.astype(np.float64) for weight, scores in zip(influence.source.weights, single, strict=True)
    )
    np.testing.assert_allclose(measure(world)["scores"], mixed, atol=1e-6)


def test_target_rows_without_labels_are_left_out_and_a_task_without_rows_is_an_error(
    world: Warmed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = make_row(chat("word " * 100, "cut off"), source="sums")
    target = make_pool(tmp_path / "a", [*world.target_rows, broken])
    np.testing.assert_array_equal(measure(world, target=target)["scores"], measure(world)["scores"])
    assert "1 of 8 target rows cannot be used" in caplog.text
    alone = make_pool(tmp_path / "b", [*world.target_rows, dataclasses.replace(broken, source="alone")])
    with pytest.raises(DataError, match="no row is left for 'alone'"):
        measure(world, target=alone)
    with pytest.raises(DataError, match="at least one checkpoint"):
        measure(world, checkpoints=())


def checkpoint_of(folder: Path, parameter: torch.Tensor, optimizer: torch.optim.Adam, step: int) -> Checkpoint:
    from safetensors.torch import save_file

    state = optimizer.state[parameter]
    folder.mkdir()
    facts = {"kind": "lora", "base": {}, "step": step, "learning_rate": 1.0, "betas": [0.9, 0.999], "eps": 1e-8}
    (folder / "tamis_checkpoint.json").write_text(json.dumps(facts))
    save_file({"exp_avg.w": state["exp_avg"], "exp_avg_sq.w": state["exp_avg_sq"]}, str(folder / "moments.safetensors"))
    return Checkpoint(folder)


def test_directions_are_one_step_of_torch_adam_and_the_released_formula(tmp_path: Path) -> None:
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(40, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    for _ in range(5):
        parameter.grad = torch.randn(40, dtype=torch.float64) * 1e-4
        optimizer.step()
    checkpoint = checkpoint_of(tmp_path / "c", parameter, optimizer, 5)
    m, v = (optimizer.state[parameter][name].clone() for name in ("exp_avg", "exp_avg_sq"))
    g = torch.randn(40, dtype=torch.float64) * 1e-4
    before = parameter.detach().clone()
    parameter.grad = g.clone()
    optimizer.step()
    step_of_adam = before - parameter.detach()

    def direction(formula: Formula) -> torch.Tensor:
        return Direction(formula, checkpoint, "cpu")("w", g[None].clone())[0]

    whole = Formula(eps_mode="outside", bias_correction=True, momentum="keep")
    torch.testing.assert_close(direction(whole), step_of_adam, rtol=1e-9, atol=0)
    released = (0.9 * m + 0.1 * g) / torch.sqrt(0.999 * v + 0.001 * g * g + 1e-8)
    torch.testing.assert_close(direction(PROFILES["less-official"]), released, rtol=1e-9, atol=0)
    recommended = 0.1 / (1 - 0.9**6) * g / (torch.sqrt((0.999 * v + 0.001 * g * g) / (1 - 0.999**6)) + 1e-8)
    torch.testing.assert_close(direction(PROFILES["recommended"]), recommended, rtol=1e-9, atol=0)
    # ε inside the root is a floor of 1e-4 on the denominator: with gradients of 1e-4 it all but undoes Adam
    inside = direction(Formula(eps_mode="inside"))
    assert math.isclose(float(functional.cosine_similarity(inside, g, dim=0)), 1, abs_tol=0.02)
    assert float(functional.cosine_similarity(direction(PROFILES["recommended"]), g, dim=0)) < 0.98


def test_without_moments_gradients_are_raw_and_said_to_be_unless_moments_were_asked_for(
    world: Warmed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    folder = tmp_path / "bare"
    shutil.copytree(world.lora[0].path, folder)
    (folder / "moments.safetensors").unlink()
    bare = (Checkpoint(folder), world.lora[1])
    raw = measure(world, checkpoints=bare, moments="raw")
    assert not caplog.text
    fallen = measure(world, checkpoints=bare)
    for name, array in raw.items():
        np.testing.assert_array_equal(array, fallen[name])
    assert "no optimiser moments: gradients are raw" in caplog.text
    (sentence,) = Influence(checkpoints=bare, target=world.target).notes()
    assert "gradients are raw" in sentence
    assert not Influence(checkpoints=world.lora, target=world.target).notes()
    asked: list[dict[str, Any]] = [{"moments": "less"}, {"moments": "adam"}, {"profile": "less-official"}]
    for settings in asked:
        with pytest.raises(TrainError, match=r"holds no moments\.safetensors"):
            measure(world, checkpoints=bare, **settings)


def test_columns_are_the_tasks(world: Warmed, tmp_path: Path) -> None:
    from tamis.store import save_arrays

    found = measure(world)
    save_arrays(tmp_path, found)
    columns = GradientSimilarity().score(ShardSignals(world.pool.shards[0], {"influence": tmp_path}))
    assert list(columns) == ["sums", "talk", "words"]
    np.testing.assert_array_equal(columns["talk"].values, found["scores"][:, 1])
    assert columns["talk"].unit == "cosine" and columns["talk"].reasons[3] == Reason.NEEDS_ANSWER
    assert view_names(["GSM 8k/Test", "gsm-8k-test", "數"]) == ["gsm-8k-test", "gsm-8k-test-2", "task"]
