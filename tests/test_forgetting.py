"""Forgetting events by hand, and losses recorded in a training: those of rows just before they are trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from tamis import catalogue
from tamis.errors import RecipeError, TrainError
from tamis.models import ModelRef
from tamis.rendering import render_rows
from tamis.scorers.passes.recorded import Recorded
from tamis.scorers.passes.trajectories import Trajectories
from tamis.trainers.lora import Lora
from tamis.trainers.recording import RecordLosses
from tamis.training.checkpoints import Checkpoint
from tamis.values import Column, Machine, Reason, Seeds
from tamis.views import ShardSignals

ON = Machine()


def score(signal: dict[str, Any], **fields: Any) -> dict[str, Column]:
    columns: dict[str, Column] = catalogue.build("scorers", "forgetting", fields).score({"trajectories": signal})
    return columns


def test_events_by_hand() -> None:
    """Known, forgotten, known, forgotten; learnt and kept; never known; known from the first, lost at the last."""
    accuracies = [[0.6, 0.4, 0.5, 0.1], [0.1, 0.5, 0.9, 0.9], [0.1, 0.2, 0.3, 0.4], [0.9, 0.9, 0.9, 0.3], [np.nan] * 4]
    signal = {
        "accuracies": np.array(accuracies, np.float32),
        "losses": 1 - np.array(accuracies, np.float32),
        "reason": np.array([0, 0, 0, 0, Reason.NEEDS_ANSWER], np.uint8),
    }
    found = score(signal)
    assert found["score"].values[:4].tolist() == [2, 0, 4, 1] and np.isnan(found["score"].values[4])
    assert found["first"].values[[0, 1, 3]].tolist() == [1, 2, 1]
    assert found["first"].reasons.tolist() == [0, 0, Reason.NEVER_LEARNED, 0, Reason.NEEDS_ANSWER]
    unscored = score(signal, never="unscored")["score"]
    assert unscored.reasons.tolist() == [0, 0, Reason.NEVER_LEARNED, 0, Reason.NEEDS_ANSWER]
    assert unscored.values[[0, 1, 3]].tolist() == [2, 0, 1]
    by_loss = score(signal, by="loss", threshold=0.55)["score"].values[:4]  # accuracy of at least 0.45
    assert by_loss.tolist() == [2, 0, 4, 1]
    strict = score(signal, threshold=0.55)["score"].values[:4]
    assert strict.tolist() == [1, 0, 4, 1]
    with pytest.raises(RecipeError, match="at least 0"):
        catalogue.build("scorers", "forgetting", {"threshold": -1})


class Trained:
    """Six rows trained on for two epochs without dropout, one optimiser step an epoch, with their losses recorded."""

    def __init__(self, folder: Path) -> None:
        self.ref = ModelRef(name=str(tiny.make_model(folder / "model")), max_tokens=64, dtype="float32")
        self.rows = [*tiny.make_rows(6, seed=4), tiny.make_row(tiny.chat("which?"), kind="prompt"), *tiny.make_rows(2)]
        self.pool = tiny.make_pool(folder / "pool", self.rows, shard_rows=5)
        self.trainer = Lora(rank=2, alpha=4, dropout=0.0, epochs=2, batch_rows=6, keep="every-epoch", learning_rate=0.1)
        self.checkpoints = self.train(folder / "out", (RecordLosses(),))

    def train(self, out: Path, hooks: tuple[Any, ...], trained: int = 6) -> tuple[Checkpoint, ...]:
        rows = render_rows(self.rows[:trained], self.ref)
        return tuple(self.trainer.train(self.ref, rows, Seeds(), hooks, out, Machine(tokens_per_batch=64)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


def test_recorded_losses_are_those_of_the_model_before_each_step(trained: Trained) -> None:
    """With one step an epoch, an epoch sees the model that the checkpoint before it, or the start, holds."""
    parts = [
        Recorded(checkpoints=trained.checkpoints).measure(shard, ShardSignals(shard, {}), ON)
        for shard in trained.pool.shards
    ]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert found["reason"].tolist() == [0] * 6 + [Reason.NEEDS_ANSWER] + [Reason.NOT_MEASURED] * 2
    measured = [
        Trajectories(checkpoints=trained.checkpoints[:1], start=True).measure(shard, ShardSignals(shard, {}), ON)
        for shard in trained.pool.shards
    ]
    for name in ("losses", "accuracies"):
        wanted = np.concatenate([part[name] for part in measured])
        assert found[name].shape == (9, 2) and found[name].dtype == np.float32
        assert np.allclose(found[name][:6], wanted[:6], rtol=1e-4, atol=1e-5), name
        assert np.isnan(found[name][6:]).all()
    assert (found["losses"][:6, 0] != found["losses"][:6, 1]).all()
    assert np.isfinite(score(found, by="loss", threshold=5.0)["score"].values[:6]).all()


def test_recording_changes_nothing_and_without_it_the_pass_says_what_to_do(trained: Trained, tmp_path: Path) -> None:
    without = trained.train(tmp_path / "out", ())
    assert [one.digest for one in without] == [one.digest for one in trained.checkpoints]
    shard = trained.pool.shards[0]
    with pytest.raises(TrainError, match=r"hooks: \[record-losses\]"):
        Recorded(checkpoints=without).measure(shard, ShardSignals(shard, {}), ON)
    with pytest.raises(TrainError, match="needs the checkpoints"):
        Recorded(checkpoints=()).measure(shard, ShardSignals(shard, {}), ON)
    assert Recorded(checkpoints=without).makes == "trajectories"


def test_rows_of_equal_tokens_are_known_by_the_first(trained: Trained, tmp_path: Path) -> None:
    twin = [trained.rows[0], *trained.rows[:6]]
    rows = render_rows(twin, trained.ref)
    kept = tuple(trained.trainer.train(trained.ref, rows, Seeds(), (RecordLosses(),), tmp_path, ON))
    shard = trained.pool.shards[0]
    found = Recorded(checkpoints=kept).measure(shard, ShardSignals(shard, {}), ON)
    assert found["reason"].tolist() == [0] * 5
