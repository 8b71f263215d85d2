"""The pass of LESS: influence of every row on every task of a target pool, over the checkpoints of a warm-up."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.checkpoints import Checkpoint
from tamis.influence import EpsMode, Formula, Loss, Moments, Momentum, Objective, Profile, SubtaskAgg
from tamis.pool import Pool
from tamis.values import Machine, Reason
from tamis.warmup import base_of, examples, formula_of, groups_of, target_vectors, weights_of

if TYPE_CHECKING:
    import torch

    from tamis.influence import Direction, Opened
    from tamis.pool import Shard
    from tamis.values import Arrays, Need
    from tamis.views import ShardSignals


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
        return formula_of(self)

    @property
    def objective(self) -> Objective:
        """What is differentiated."""
        return Objective(self.loss, self.beta)

    def tasks(self) -> list[str]:
        """Names of the target's tasks, sorted: the columns of `scores`."""
        return sorted(set(groups_of(self.target, self.by)))

    def facts(self) -> dict[str, Any]:
        """Say what a report wants to know: task names, their rows, and the weights of the checkpoints."""
        groups = groups_of(self.target, self.by)
        tasks = self.tasks()
        return {"tasks": tasks, "rows": [groups.count(name) for name in tasks], "weights": self.weights()}

    def weights(self) -> list[float]:
        """Weight of every checkpoint: the mean learning rate of its epoch, scaled to sum to 1."""
        return weights_of(self.checkpoints)

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """`scores` (n, tasks) float32, `norms` (n, checkpoints) float32 of Γ, `reason` (n,), `tasks` (JSON as uint8).

        Rows without a label, or with values that are not finite, have NaN scores and a reason. Errors: DataError on a
        target without a usable row in some task, or checkpoints of different models.
        """
        import numpy as np

        from tamis.influence import cosines

        rows, reason = examples(shard.read(), base_of(self.checkpoints), self.loss)
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
    from tamis.influence import Direction, open_checkpoint

    influence = job.influence
    checkpoint = influence.checkpoints[job.number]
    opened = open_checkpoint(checkpoint, job.device)
    vectors = target_vectors(
        opened,
        base_of(influence.checkpoints),
        influence.target,
        influence.by,
        influence.formula,
        influence.objective,
        job.on,
    )
    return _Ready(opened, Direction(influence.formula, checkpoint, job.device), vectors)
