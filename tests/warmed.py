"""A tiny model with a warm-up of two epochs, a pool and a target, and the plain gradients that are their oracle."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from tamis.models import ModelRef
from tamis.pool import Pool
from tamis.rendering import render_all, render_rows
from tamis.scorers.passes.influence import Influence
from tamis.trainers.lora import Lora
from tamis.training.checkpoints import Checkpoint
from tamis.values import Machine, Row, Seeds
from tamis.views import ShardSignals
from tiny import chat, make_model, make_pool, make_row, make_rows

ON = Machine(tokens_per_batch=256)
UNUSABLE = (3, 8)  # rows of the pool without an answer


@dataclasses.dataclass
class Warmed:
    """A base model, warm-up checkpoints of two epochs, a pool and a target."""

    base: ModelRef
    lora: tuple[Checkpoint, ...]
    pool: Pool
    target: Pool
    rows: list[Row]
    target_rows: list[Row]

    @classmethod
    def make(cls, root: Path, layers: int = 2) -> Warmed:
        """Build it under `root`."""
        base = ModelRef(name=str(make_model(root / "base", layers=layers)), max_tokens=64)
        rows = make_rows(14, seed=1)
        rows[3] = make_row(chat("no answer follows"), kind="prompt")
        rows[8] = make_row(chat("word " * 100, "cut off"))
        target = make_rows(7, seed=2)
        trainer = Lora(rank=3, alpha=6, epochs=2, batch_rows=4, keep="every-epoch", learning_rate=5e-3)
        lora = trainer.train(base, render_rows(make_rows(12, seed=3), base), Seeds(), [], root / "lora", Machine())
        return cls(base, tuple(lora), make_pool(root / "pool", rows), make_pool(root / "target", target), rows, target)

    @property
    def usable(self) -> list[int]:
        """Places of the rows that have an answer."""
        return [place for place in range(len(self.rows)) if place not in UNUSABLE]

    def influence(self, **settings: Any) -> Influence:
        """The pass over this world."""
        return Influence(**{"checkpoints": self.lora, "target": self.target, **settings})


def measure(world: Warmed, on: Machine = ON, **settings: Any) -> dict[str, Any]:
    """Arrays of the pass over the pool."""
    shard = world.pool.shards[0]
    return dict(world.influence(**settings).measure(shard, ShardSignals(shard, {}), on))


def gradient(model: Any, names: Sequence[str], row: Row, ref: ModelRef) -> torch.Tensor:
    """Oracle: the flat gradient of the mean loss of one row, batch 1, full logits, autograd."""
    one = render_all([row], ref)[0]
    ids = torch.tensor(one.ids.astype(np.int64))[None]
    labels = torch.where(torch.tensor(one.turn >= 0)[None], ids, -100)
    loss = functional.cross_entropy(model(input_ids=ids).logits[0, :-1], labels[0, 1:], ignore_index=-100)
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(loss, [parameters[name] for name in names])
    return torch.cat([part.flatten() for part in found])


def flat(checkpoint: Checkpoint, names: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    moments = checkpoint.moments()
    return tuple(torch.cat([moments[name][k].flatten().double() for name in names]) for k in (0, 1))  # type: ignore[return-value]
