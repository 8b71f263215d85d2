"""The norm of every row's gradient: GraNd, exact."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.gradient.layers import ALL, check_layers
from tamis.gradient.objective import Loss, Objective
from tamis.models import ModelRef
from tamis.training.checkpoints import Checkpoint
from tamis.values import Need, Reason

if TYPE_CHECKING:
    from tamis.gradient.objective import Opened
    from tamis.pool import Shard
    from tamis.values import Arrays, Machine
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class GradientNorms:
    """Norm of every row's gradient, exact, under the model or under each checkpoint of a training.

    The gradient of the mean loss per response token (`loss: dpo` that of preference pairs), by all linear layers but
    the head (embeddings, norms and biases are left out), or by the LoRA matrices where the model or the checkpoint has
    some. `layers`: all, `last 25%`, or a regular expression on names of weights. Only norms are kept: where a layer's
    gradient is larger than the two t by t products of its tokens, it is never formed. One forward and one backward pass
    over every row for each model.
    """

    revision: ClassVar[int] = 1

    model: ModelRef
    checkpoints: tuple[Checkpoint, ...] = ()
    layers: str = ALL
    loss: Loss = "sft"
    beta: float = 0.1

    def __post_init__(self) -> None:
        check_layers(self.layers)

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def notes(self) -> tuple[str, ...]:
        """What a reader must know: which parameters are left out."""
        return () if self.layers == ALL else (f"approximation: only layers {self.layers!r} count",)

    @property
    def forwards(self) -> float:
        """Forward passes over the pool that its own forward and backward passes cost, with all layers."""
        return 3.0 * max(1, len(self.checkpoints))

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """`norms` (n, C) float32, one column a checkpoint, or one for the model; `reason` (n,).

        `count` (n,) int64: response tokens of the mean. ModelError where `layers` fits no weight, or the model has no
        linear layer.
        """
        import numpy as np

        from tamis.engine import set_threads
        from tamis.gradient.norms import gradient_norms

        set_threads(on.threads)
        objective = Objective(self.loss, self.beta)
        rows, reason = objective.examples(shard.read(), self._rendered_for())
        usable = np.flatnonzero(reason == 0)
        models = max(1, len(self.checkpoints))
        norms = np.full((shard.rows, models), np.nan, np.float32)
        if len(usable):
            chosen = [rows[place] for place in usable]
            for number in range(models):
                opened = _opened(_Job((self._digest(number), self.layers), on.device, self, number))
                norms[usable, number] = gradient_norms(opened, chosen, on, objective)
        broken = (reason == 0) & ~np.isfinite(norms).all(axis=1)
        reason[broken] = Reason.NOT_FINITE
        norms[reason != 0] = np.nan
        counts = np.array([_labels(row) for row in rows], np.int64)
        return {"norms": norms, "count": np.where(reason == 0, counts, 0), "reason": reason}

    def open(self, number: int, device: str) -> Opened:
        """The model of one column, frozen, with the layers that count."""
        from tamis.gradient.layers import choose_layers
        from tamis.gradient.objective import Opened
        from tamis.gradient.per_example import linear_layers, lora_layers
        from tamis.gradient.source import open_checkpoint
        from tamis.models import open_model

        if self.checkpoints:
            return open_checkpoint(self.checkpoints[number], device, self.layers)
        model: Any = open_model(self.model, device)
        model.requires_grad_(False)
        found = lora_layers(model) if self.model.adapter is not None else linear_layers(model)
        return Opened(model, choose_layers(found, self.layers), device)

    def _digest(self, number: int) -> str:
        return self.checkpoints[number].digest if self.checkpoints else self.model.digest

    def _rendered_for(self) -> ModelRef:
        """The model by whose template and length rows are rendered: that which the checkpoints were trained from."""
        return ModelRef(**self.checkpoints[0].facts["base"]) if self.checkpoints else self.model


def _labels(row: Any) -> int:
    """Labels of a row, or of both sides of a pair; the first token of a sequence is never one."""
    if isinstance(row[0], tuple):
        return sum(_labels(side) for side in row)
    return int(row[1][1:].sum())


@dataclass(frozen=True)
class _Job:
    """Key of a model that the process keeps open: its content and the layers that count, on a device."""

    identity: tuple[str, str]
    device: str
    component: GradientNorms = field(compare=False)
    number: int = field(compare=False)


@functools.lru_cache(maxsize=4)
def _opened(job: _Job) -> Opened:
    return job.component.open(job.number, job.device)
