"""The pass of LESS: influence of every row on every task of a target pool, over the checkpoints of a warm-up."""

from __future__ import annotations

import functools
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.checkpoints import Checkpoint
from tamis.errors import DataError
from tamis.influence import PROFILES, EpsMode, Formula, Loss, Moments, Momentum, Objective, Profile, SubtaskAgg
from tamis.models import ModelRef
from tamis.pool import Pool
from tamis.values import Machine, Reason

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.influence import Direction, Example, Opened, Tokens
    from tamis.pool import Shard
    from tamis.values import Arrays, Need, Row
    from tamis.views import ShardSignals

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Influence:
    """Influence of every row on the tasks of a target (LESS), exact, without projection or gradient store.

    score(z, k) = Σ_i w_i cos(Γ_i(z), V_ik) over `checkpoints`, w the mean learning rates of their epochs, scaled to sum
    to 1. `target`: the few-shot rows; `by` groups them into tasks (`source`, or `meta.FIELD`). `profile` fixes the
    formula (see `tamis.influence.Formula`): `recommended` corrects Adam's bias, drops the momentum that all rows share
    and takes the mean gradient of a task; `less-official` is the released code to the letter. The other settings
    override single points of the profile.

    `loss: dpo` is LESS on preference pairs: the gradients are those of DPO's loss where every checkpoint is its own
    reference, -(`beta` / 2) (∇log π(chosen) - ∇log π(rejected)), in sums over answer tokens; pool and target are pairs.
    """

    revision: ClassVar[int] = 1

    checkpoints: tuple[Checkpoint, ...]
    target: Pool
    profile: Profile = "recommended"
    by: str = "source"
    moments: Moments | None = None
    eps_mode: EpsMode | None = None
    bias_correction: bool | None = None
    momentum: Momentum | None = None
    subtask_agg: SubtaskAgg | None = None
    loss: Loss = "sft"
    beta: float = 0.1

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    @property
    def formula(self) -> Formula:
        """The profile with its overrides."""
        return PROFILES[self.profile].but(
            moments=self.moments,
            eps_mode=self.eps_mode,
            bias_correction=self.bias_correction,
            momentum=self.momentum,
            subtask_agg=self.subtask_agg,
        )

    @property
    def objective(self) -> Objective:
        """What is differentiated."""
        return Objective(self.loss, self.beta)

    def tasks(self) -> list[str]:
        """Names of the target's tasks, sorted: the columns of `scores`."""
        return sorted(set(self._groups()))

    def facts(self) -> dict[str, Any]:
        """Say what a report wants to know: task names, their rows, and the weights of the checkpoints."""
        groups = self._groups()
        tasks = self.tasks()
        return {"tasks": tasks, "rows": [groups.count(name) for name in tasks], "weights": self.weights()}

    def weights(self) -> list[float]:
        """Weight of every checkpoint: the mean learning rate of its epoch, scaled to sum to 1."""
        rates = [checkpoint.learning_rate for checkpoint in self.checkpoints]
        return [rate / sum(rates) for rate in rates]

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """`scores` (n, tasks) float32, `norms` (n, checkpoints) float32 of Γ, `reason` (n,), `tasks` (JSON as uint8).

        Rows without a label, or with values that are not finite, have NaN scores and a reason. Errors: DataError on a
        target without a usable row in some task, or checkpoints of different models.
        """
        import numpy as np

        from tamis.influence import cosines

        rows, reason = _examples(shard.read(), self.base(), self.loss)
        names = self.tasks()
        scores = np.full((shard.rows, len(names)), np.nan)
        norms = np.full((shard.rows, len(self.checkpoints)), np.nan)
        usable = np.flatnonzero(reason == 0)
        if len(usable):
            scores[usable] = 0
            chosen = [rows[place] for place in usable]
            identity = self._identity()
            for number, weight in enumerate(self.weights()):
                ready = _prepare(_Job(identity, number, on.device, self, on))
                found, norms[usable, number] = cosines(
                    ready.opened, chosen, ready.direction, ready.vectors, on, self.objective
                )
                scores[usable] += weight * found
        broken = (reason == 0) & ~(np.isfinite(scores).all(1) & np.isfinite(norms).all(1))
        reason[broken] = Reason.NOT_FINITE
        scores[broken] = np.nan
        return {
            "scores": scores.astype(np.float32),
            "norms": norms.astype(np.float32),
            "reason": reason,
            "tasks": np.frombuffer(json.dumps(names).encode(), np.uint8),
        }

    def base(self) -> ModelRef:
        """Return the model that all checkpoints were trained from."""
        if not self.checkpoints:
            raise DataError("influence needs at least one checkpoint: name a warm-up that keeps every epoch")
        bases = [ModelRef(**checkpoint.facts["base"]) for checkpoint in self.checkpoints]
        if any(base != bases[0] for base in bases):
            raise DataError("the checkpoints were not all trained from one model; influence cannot add them up")
        return bases[0]

    def _groups(self) -> list[str]:
        from tamis.views import PoolView

        return [str(name) for name in PoolView(self.target).groups(self.by)]

    def _identity(self) -> str:
        from tamis import digests

        return digests.of_component(self)


@dataclass(frozen=True)
class _Job:
    """Key of what a process prepares once: a pass (by identity), one of its checkpoints, a device."""

    identity: str
    number: int
    device: str
    influence: Influence = field(compare=False)
    on: Machine = field(compare=False)


@dataclass(frozen=True)
class _Ready:
    opened: Opened
    direction: Direction
    vectors: dict[str, torch.Tensor]


@functools.lru_cache(maxsize=4)
def _prepare(job: _Job) -> _Ready:
    """Open a checkpoint and measure the target's vectors on it."""
    import numpy as np

    from tamis.influence import Direction, open_checkpoint, task_vectors

    influence = job.influence
    checkpoint = influence.checkpoints[job.number]
    names = influence.tasks()
    task = np.array([names.index(name) for name in influence._groups()], np.int64)
    rows, reason = _examples(list(influence.target), influence.base(), influence.loss)
    usable = np.flatnonzero(reason == 0)
    _check_tasks(names, task[usable], f"of {len(rows)} target rows {len(usable)} can be used")
    opened = open_checkpoint(checkpoint, job.device)
    formula = influence.formula
    vectors, dropped = task_vectors(
        opened, [rows[place] for place in usable], task[usable], formula.subtask_agg, job.on, influence.objective
    )
    kept = np.delete(usable, dropped)
    _check_tasks(names, task[kept], f"{len(dropped)} target rows give values that are not finite")
    if len(kept) < len(rows):
        log.warning(
            "%d of %d target rows cannot be used for influence and are left out", len(rows) - len(kept), len(rows)
        )
    return _Ready(opened, Direction(formula, checkpoint, job.device), vectors)


def _check_tasks(names: list[str], task: NDArray[np.int64], found: str) -> None:
    empty = [name for number, name in enumerate(names) if number not in set(task.tolist())]
    if not names or empty:
        raise DataError(
            f"{found}: no row is left for {', '.join(map(repr, empty)) or 'the target'}. Target rows need a non-empty "
            "answer that is not cut off by the model's max_tokens"
        )


def _examples(rows: list[Row], ref: ModelRef, loss: Loss) -> tuple[list[Example], NDArray[np.uint8]]:
    """(ids, labels) of every row, of both sides where the loss is DPO's, and why a row has no label."""
    import numpy as np

    from tamis.rendering import render_all

    def tokens(side: Literal["chosen", "rejected"]) -> tuple[list[Tokens], NDArray[np.uint8]]:
        rendered = render_all(rows, ref, side=side)
        return [(one.ids, one.turn >= 0) for one in rendered], np.array([int(one.reason) for one in rendered], np.uint8)

    chosen, reason = tokens("chosen")
    if loss == "sft":
        return list(chosen), reason
    rejected, other = tokens("rejected")
    reason = np.where(reason > 0, reason, other)
    reason[[row.kind != "pair" for row in rows]] = Reason.WRONG_KIND
    return list(zip(chosen, rejected, strict=True)), reason
