"""A query of the gradient store: influence on a new target without a pass over the pool."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.checkpoints import Checkpoint
from tamis.gradient.formula import Similarity, SubtaskAgg
from tamis.gradient.prepared import Job
from tamis.gradient.store import Contents
from tamis.gradient.targets import Tasks
from tamis.pool import Pool
from tamis.values import Need, Reason

if TYPE_CHECKING:
    import torch

    from tamis.pool import Shard
    from tamis.values import Arrays, Machine
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class GradientQuery:
    """Influence on a target from stored gradients: the target's gradients, projected alike, and one blocked product.

    Makes the signal `influence` with the same arrays as the pass of that name, so that everything that reads it works.
    Formula, layers, loss, projection and encoding are those of the store; `checkpoints` must hold the ones that it was
    made with. `by` groups the target into tasks as in `influence`; `subtask_agg` and `similarity` override the
    formula's, since they change nothing that is stored.
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
        reason = np.array(stored["reason"])
        reason[(reason == 0) & ~np.isfinite(scores).all(1)] = Reason.NOT_FINITE
        scores[reason > 0] = np.nan
        arrays = {
            "scores": scores.astype(np.float32),
            "norms": np.array(stored["norms"]),
            "reason": reason,
            "tasks": np.frombuffer(json.dumps(list(tasks.names)).encode(), np.uint8),
        }
        return arrays if cosine else {**arrays, "unit": np.frombuffer(b"gradient product", np.uint8)}

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
            pool=None,
            curvature_rows=0,
            on=on,
        )


@functools.lru_cache(maxsize=2)
def _queries(job: Job, contents: Contents) -> tuple[Tasks, torch.Tensor]:
    """The target's tasks, and their vectors projected as the store's rows are: (checkpoints, tasks, dim) float32.

    The models are closed again: shards of the pool need the projected vectors alone.
    """
    import torch

    from tamis.gradient.prepared import Prepared
    from tamis.gradient.store import balances_of, project_vectors

    ready = Prepared(job)
    every, dim = len(ready.tasks.names), contents.projection.dim
    queries = torch.zeros(len(job.source.used), every, dim, device=job.device)
    for number in range(len(job.source.used)):
        opened, direction = ready.model(number)
        balances = balances_of(direction, opened, contents.balanced)
        sketch = contents.projection.sketch(number, job.device, opened.shapes)
        for group in ready.groups(number):
            queries[number, group.start : group.stop] = project_vectors(sketch, ready.vectors(number, group), balances)
    return ready.tasks, queries
