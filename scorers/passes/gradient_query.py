"""A query of the gradient store: influence on a new target without a pass over the pool."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.gradient.formula import Similarity, SubtaskAgg
from tamis.gradient.prepared import Job
from tamis.gradient.store import Contents
from tamis.gradient.targets import Tasks, as_signal
from tamis.pool import Pool
from tamis.training.checkpoints import Checkpoint
from tamis.values import Need

if TYPE_CHECKING:
    import torch

    from tamis.pool import Shard
    from tamis.values import Arrays, Machine
    from tamis.views import ShardSignals


log = logging.getLogger(__name__)
SAID_BELOW = 0.999  # share of a task's squared norm in the span of a store, below which the query says so


@dataclass(frozen=True, kw_only=True)
class GradientQuery:
    """Influence on a target from stored gradients: its own, projected alike, in one blocked product.

    Makes the signal `influence` with the same arrays as the pass of that name, so that everything that reads it works.
    Formula, layers, loss, projection and encoding are those of the store; `checkpoints` must hold the ones that it was
    made with. `by` groups the target into tasks as in `influence`; `subtask_agg` and `similarity` override the
    formula's, since they change nothing that is stored.

    A store of `projection: span` is exact for the rows that it was made with, however they are grouped. Of another
    target's V it sees the part in their span, <Γ, P V>: a warning gives the least share ‖P V‖² / ‖V‖² over tasks and
    checkpoints. Where that is small, measure a store for the new target.
    """

    revision: ClassVar[int] = 1
    makes: ClassVar[str] = "influence"
    in_process: ClassVar[bool] = True

    checkpoints: tuple[Checkpoint, ...]
    target: Pool
    by: str = "source"
    subtask_agg: SubtaskAgg | None = None
    similarity: Similarity | None = None
    vector_bytes: int = field(default=1 << 31, metadata={"science": False})

    @property
    def needs(self) -> frozenset[Need]:
        """The stored gradients."""
        return frozenset({Need(kind="signal", name="gradients")})

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """`scores` (n, tasks) float32, `norms` (n, checkpoints) float32 of Γ, `reason` (n,), `tasks` (JSON as uint8).

        Scores that are no cosines have their `unit` (text as uint8) beside them. Errors: DataError where the store was
        made with other checkpoints, or the target has no usable row in some task.
        """
        import numpy as np

        from tamis.gradient.encodings import products

        stored = have["gradients"]
        contents = Contents.read(stored["contents"])
        job = self._job(contents, on)
        tasks, queries = _queries(job, contents)
        found = products(stored["features"], contents.encoding, queries, stored["scales"])
        cosine = job.source.formula.similarity == "cosine"
        if not cosine:
            found *= stored["norms"][:, :, None]
        scores = np.einsum("nck,c->nk", found, np.array(job.source.weights))
        return as_signal(scores, stored["norms"], np.array(stored["reason"]), tasks.names, cosine)

    def _job(self, contents: Contents, on: Machine) -> Job:
        from tamis import digests

        own: dict[str, Any] = {"subtask_agg": self.subtask_agg, "similarity": self.similarity}
        return Job(
            identity=digests.of_component(self, {"contents": contents}),
            device=on.device,
            source=contents.source(self.checkpoints, **own),
            target=self.target,
            by=self.by,
            vector_bytes=self.vector_bytes,
            on=on,
        )


@functools.lru_cache(maxsize=2)
def _queries(job: Job, contents: Contents) -> tuple[Tasks, torch.Tensor]:
    """The target's tasks, and their vectors projected as the store's rows are: (checkpoints, tasks, dim) float32.

    The models are closed again: shards of the pool need the projected vectors alone.
    """
    import torch

    from tamis.gradient.prepared import Prepared
    from tamis.gradient.store import balances_of, project_vectors, shares_kept

    shares: list[float] = []
    ready = Prepared(job)
    every, dim = len(ready.tasks.names), contents.projection.dim
    queries = torch.zeros(len(job.source.used), every, dim, device=job.device)
    for number in range(len(job.source.used)):
        opened, direction = ready.model(number)
        balances = balances_of(direction, opened, contents.balanced)
        sketch = contents.sketch(number, opened, job.on, job.vector_bytes)
        for group in ready.groups(number):
            vectors = ready.vectors(number, group)
            found = queries[number, group.start : group.stop] = project_vectors(sketch, vectors, balances)
            if contents.span is not None:
                shares.append(float(shares_kept(found, vectors).min()))
    if shares and min(shares) < SAID_BELOW:
        log.warning(
            "the store keeps the span of another target's gradients: of the squared norm of these tasks' vectors it "
            "holds %.1f %% at least, and the rest counts as 0",
            100 * min(shares),
        )
    return ready.tasks, queries
