"""What all shards of an influence pass share: models of the checkpoints, and vectors of the tasks, whole or in groups.

A process keeps them for the pass that it works on. Vectors that do not fit are measured group by group, for every shard
anew: a pass over rows and target for each group, and never more than one group in memory.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tamis.errors import DataError
from tamis.gradient.source import GradientSource, Models
from tamis.gradient.targets import Tasks, read_tasks
from tamis.pool import Pool
from tamis.values import Machine

if TYPE_CHECKING:
    import torch

    from tamis.gradient.objective import Opened

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a preparation depends on; two are equal where `identity` (of the pass) and `device` are.

    `vector_bytes` bounds the vectors of one process. Curvature, where it counts, is that of rows of `pool`.
    """

    identity: str
    device: str
    source: GradientSource = field(compare=False)
    target: Pool = field(compare=False)
    by: str = field(compare=False)
    vector_bytes: int = field(compare=False)
    on: Machine = field(compare=False)
    pool: Pool | None = field(default=None, compare=False)
    curvature_rows: int = field(default=0, compare=False)


@functools.lru_cache(maxsize=1)
def prepare(job: Job) -> Prepared:
    """What every shard of one pass shares, kept by the process until it works on another pass."""
    return Prepared(job)


class Prepared:
    """The target's `tasks` and their vectors, and `model(number)`, the model of a checkpoint with Γ on it."""

    def __init__(self, job: Job) -> None:
        self.job, self.source = job, job.source
        for note in job.source.notes():
            log.warning("%s", note)
        self.tasks: Tasks = read_tasks(job.target, job.by, job.source)
        self.model = Models(job.source, job.device)
        self._kept: dict[int, dict[str, torch.Tensor]] = {}

    def groups(self, number: int) -> list[range]:
        """Tasks whose vectors are in memory together: all, where those of every checkpoint fit."""
        every = len(self.tasks.names)
        at_once = self._tasks_at_once(number)
        if self._all_fit(number):
            return [range(every)]
        return [range(start, min(start + at_once, every)) for start in range(0, every, at_once)]

    def vectors(self, number: int, group: range) -> dict[str, torch.Tensor]:
        """V by layer, (tasks of the group, p), on a checkpoint; kept for the next shard where all fit."""
        if not self._all_fit(number):
            return self._measure(number, group)
        if number not in self._kept:
            self._kept[number] = self._measure(number, group)
        return self._kept[number]

    def _all_fit(self, number: int) -> bool:
        return len(self.tasks.names) * len(self.source.used) <= self._tasks_at_once(number)

    def _tasks_at_once(self, number: int) -> int:
        """How many vectors fit. A vector is there twice while it is made, three times with curvature."""
        copies = 2 if self.source.formula.curvature == "none" else 3
        return max(1, self.job.vector_bytes // (4 * copies * self.model(number)[0].parameters))

    def _measure(self, number: int, group: range) -> dict[str, torch.Tensor]:
        import numpy as np

        from tamis.gradient.influence import task_vectors

        opened, _ = self.model(number)
        formula, tasks = self.source.formula, self.tasks
        own = np.flatnonzero((tasks.task >= group.start) & (tasks.task < group.stop))
        rows, task = [tasks.examples[place] for place in own], tasks.task[own] - group.start
        vectors, dropped = task_vectors(opened, rows, task, formula.subtask_agg, self.job.on, self.source.objective)
        if len(dropped):
            tasks.check(without=own[dropped].tolist(), among=group)
            log.warning("%d target rows give values that are not finite and are left out", len(dropped))
        return vectors if formula.curvature == "none" else self._through_curvature(opened, vectors)

    def _through_curvature(self, opened: Opened, vectors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        import numpy as np

        from tamis.gradient.curvature import inverse_products, sample_rows

        if self.job.pool is None:
            raise DataError("influence with curvature (datainf) needs the pool, of which it draws rows")
        sample = sample_rows(self.job.pool, self.job.curvature_rows)
        rows, reason = self.source.objective.examples(sample, self.source.base())
        usable = [rows[place] for place in np.flatnonzero(reason == 0)]
        return inverse_products(opened, usable, vectors, self.job.on, self.source.objective)
