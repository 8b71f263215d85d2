"""Laws of TRL's trainers: the loss is over the tokens of tamis, nothing leaks out, nothing pickled is left."""

from __future__ import annotations

import dataclasses
import importlib.util
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

import tiny
from cheap import pair_rows
from tamis.errors import TrainError
from tamis.evaluators.margin import PreferenceMargin
from tamis.models import ModelRef, open_model
from tamis.rendering import render, render_pairs, render_rows
from tamis.trainers import dpo, hugging_face
from tamis.trainers.dpo import TrlDpo
from tamis.trainers.sft import TrlSft
from tamis.values import Machine, Row, Seeds

SMALL: dict[str, Any] = {"rank": 2, "alpha": 4, "epochs": 1, "batch_rows": 6, "warmup": 0.0, "max_grad_norm": None}
ON = Machine(tokens_per_batch=200)  # micro batches, so that accumulation is in play


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    folder = tiny.make_model(tmp_path_factory.mktemp("trl") / "base")
    return ModelRef(name=str(folder), max_tokens=64, dtype="float32")


class Log:
    """Takes down what every step says."""

    def __init__(self) -> None:
        self.steps: list[Mapping[str, Any]] = []

    def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
        self.steps.append(log)


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


LEFT = {"adapter_config.json", "adapter_model.safetensors", "moments.safetensors", "tamis_checkpoint.json"}


def nll(model: Any, row: Row, ref: ModelRef, side: Any = "chosen") -> tuple[torch.Tensor, int]:
    """Oracle: summed loss of the scored tokens of a row, and their number."""
    one = render(row, ref, side=side)
    ids = torch.tensor(one.ids.astype(np.int64))
    scored = torch.tensor(one.turn[1:] >= 0)
    logits = model(input_ids=ids[None]).logits[0, :-1]
    return functional.cross_entropy(logits[scored], ids[1:][scored], reduction="sum"), int(scored.sum())


def test_the_loss_of_sft_is_the_mean_over_the_tokens_that_tamis_trains(base: ModelRef, tmp_path: Path) -> None:
    rows, log = tiny.make_rows(6, seed=2), Log()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    trainer = TrlSft(**{**SMALL, "dropout": 0.0, "epochs": 2, "learning_rate": 1e-3, "keep": "every-epoch"})
    made = trainer.train(base, render_rows(rows, base), Seeds(), [log], tmp_path, ON)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    assert states == after
    model = open_model(base, "cpu")
    with torch.no_grad():
        parts = [nll(model, row, base) for row in rows]
    expected = float(sum(part[0] for part in parts)) / sum(part[1] for part in parts)
    assert log.steps[0]["loss"] == pytest.approx(expected, rel=1e-4)  # the adapter starts as nothing
    assert log.steps[1]["loss"] < log.steps[0]["loss"]
    assert files_of(tmp_path) == {f"epoch-{epoch}/{name}" for epoch in (1, 2) for name in LEFT}
    assert [one.step for one in made] == [1, 2] and made[0].learning_rate == pytest.approx(1e-3)
    assert set(made[-1].moments()) and made[-1].model().adapter == str(tmp_path / "epoch-2")


def test_dpo_takes_the_gradient_of_its_loss_on_the_tokens_of_tamis(base: ModelRef, tmp_path: Path) -> None:
    rows, log = pair_rows(6), Log()
    trainer = TrlDpo(**SMALL, learning_rate=1e-12, beta=0.3)
    made = trainer.train(base, render_pairs(rows, base), Seeds(adapter=3, order=4), [log], tmp_path, ON)
    assert log.steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    model: Any = open_model(made[-1].model(), "cpu", trainable=True)  # as good as before training
    loss = torch.zeros(())
    for row in rows:
        chosen, rejected = (-nll(model, row, base, side)[0] for side in ("chosen", "rejected"))
        margin = (chosen - chosen.detach()) - (rejected - rejected.detach())
        loss = loss - functional.logsigmoid(0.3 * margin) / len(rows)
    loss.backward()
    squares = [float(one.grad.square().sum()) for one in model.parameters() if one.grad is not None]
    assert log.steps[0]["gradient_norm"] == pytest.approx(sum(squares) ** 0.5, rel=1e-3)
    assert files_of(tmp_path) == {f"final/{name}" for name in LEFT}


def test_dpo_moves_margins_up_on_what_it_trains(base: ModelRef, tmp_path: Path) -> None:
    rows = pair_rows(6)
    trainer = TrlDpo(**{**SMALL, "epochs": 4}, learning_rate=1e-2)
    made = trainer.train(base, render_pairs(rows, base), Seeds(), [], tmp_path / "out", Machine())
    pool = tiny.make_pool(tmp_path / "pool", rows)
    items = PreferenceMargin().evaluate(made[-1].model(), pool, Machine())
    assert items.values.mean() > 0.5 and (items.values > 0).mean() > 0.5


def test_a_batch_of_pairs_marks_the_answers_of_both_sides(base: ModelRef) -> None:
    pairs = render_pairs(pair_rows(2), base)
    columns = [dpo._sides(side) for side in (pairs.chosen, pairs.rejected)]
    batch = dpo._collate([{"chosen": columns[0][place], "rejected": columns[1][place]} for place in (0, 1)])
    for line, (side, place) in enumerate((side, place) for side in (pairs.chosen, pairs.rejected) for place in (0, 1)):
        span = slice(side.offsets[place], side.offsets[place + 1])
        length = span.stop - span.start
        assert batch["input_ids"][line, :length].tolist() == side.ids[span].tolist()
        assert batch["completion_mask"][line, :length].tolist() == side.trained[span].astype(int).tolist()
        assert batch["attention_mask"][line].sum() == length


def test_without_trl_the_line_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainError, match=r"trl-dpo needs TRL.*pip install 'tamis\[trl\]'"):
        hugging_face.require_trl("trl-dpo")


def test_weights_that_trl_has_no_place_for_are_refused(base: ModelRef, tmp_path: Path) -> None:
    rows = render_rows(tiny.make_rows(2), base, row_weights=np.array([1, 2], np.float32))
    with pytest.raises(TrainError, match="cannot weigh"):
        TrlSft(**SMALL).train(base, rows, Seeds(), [], tmp_path, ON)
    hugging_face.check_weights("trl-sft", dataclasses.replace(rows, row_weights=np.ones(2, np.float32)))


def test_micro_batches_divide_the_batch() -> None:
    assert [hugging_face.micro_rows(12, 100, Machine(tokens_per_batch=bound)) for bound in (1, 350, 500, 9999)] == [
        *(1, 3, 4, 12),
    ]
