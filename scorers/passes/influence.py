"""The pass of LESS: influence of every row on every task of a target pool, over the checkpoints of a warm-up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import RecipeError
from tamis.gradient.formula import EpsMode, Moments, Momentum, Profile, Similarity, SubtaskAgg
from tamis.gradient.layers import ALL
from tamis.gradient.objective import Loss
from tamis.gradient.prepared import Job, prepare
from tamis.gradient.source import GradientSource, Use, source_of
from tamis.gradient.targets import as_signal
from tamis.pool import Pool
from tamis.training.checkpoints import Checkpoint

if TYPE_CHECKING:
    from tamis.pool import Shard
    from tamis.values import Arrays, Machine, Need
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Influence:
    """Influence of every row on the tasks of a target, exact, nothing stored (LESS, TracIn, DataInf).

    score(z, k) = Σ_i w_i cos(Γ_i(z), V_ik) over `checkpoints`, w the mean learning rates of their epochs, scaled to sum
    to 1. `target`: the few-shot rows; `by` groups them into tasks (`source`, or `meta.FIELD`; `row`: every row is a
    query of its own). `profile` fixes the formula (`tamis.gradient.formula`): `recommended` corrects Adam's bias,
    drops the momentum that all rows share and takes the mean gradient of a task; `less-official` is the released code
    to the letter; `tracin` is TracInCP: inner products of raw gradients, weighted by the learning rates as they are;
    `datainf` is DataInf: <g, H⁻¹V> at the last checkpoint, H over `curvature_rows` rows of the `pool`, drawn by their
    keys. So rows appended to the pool change H: under `datainf`, and under it alone, all rows are measured anew. The
    other settings override single points of the profile.

    Without an optimiser's state in the checkpoints `recommended` takes raw gradients, and says so; `moments: less` and
    `less-official` insist on it. `layers` that count: `all`, `last 25%` (of the blocks; the backward pass ends there)
    or a regular expression on names of weights. `use: last`: the last checkpoint alone. Both are approximations.

    `loss: dpo` is LESS on preference pairs: the gradients are those of DPO's loss where every checkpoint is its own
    reference, -(`beta` / 2) (∇log π(chosen) - ∇log π(rejected)), in sums over answer tokens; pool and target are pairs.

    `vector_bytes` bounds the memory that the vectors of tasks take up in one worker. Where they take more, tasks are
    measured in groups, which costs a pass over rows and target for each; the scores are the same.
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
    similarity: Similarity | None = None
    layers: str = ALL
    use: Use | None = None
    loss: Loss = "sft"
    beta: float = 0.1
    pool: Pool | None = None
    curvature_rows: int = 256
    vector_bytes: int = field(default=1 << 31, metadata={"science": False})

    def __post_init__(self) -> None:
        formula = self.source.asked
        if formula.curvature == "none":
            object.__setattr__(self, "pool", None)  # so that a longer pool leaves the identity of other profiles alone
        elif formula.moments != "raw":
            raise RecipeError(f"influence: profile {self.profile!r} is defined for `moments: raw` alone")
        if self.curvature_rows < 1 or self.vector_bytes < 1:
            raise RecipeError("influence: curvature_rows and vector_bytes must be at least 1")

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    @property
    def source(self) -> GradientSource:
        """What is differentiated, where, and by which formula."""
        return source_of(self)

    def notes(self) -> list[str]:
        """What a reader of the scores must know, in sentences: what is not exact, and moments that are not there."""
        return self.source.notes()

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """`scores` (n, tasks) float32, `norms` (n, checkpoints) float32 of Γ, `reason` (n,), `tasks` (JSON as uint8).

        Scores that are no cosines have their `unit` (text as uint8) beside them. Rows without a label, or with values
        that are not finite, have NaN scores and a reason. Errors: DataError on a target without a usable row in some
        task, or checkpoints of different models; TrainError where moments are asked for that are not there.
        """
        import numpy as np

        from tamis.gradient.influence import cosines, inner_products

        source = self.source
        rows, reason = source.objective.examples(shard.read(), source.base())
        ready = prepare(self._job(on))
        names = list(ready.tasks.names)
        scores = np.full((shard.rows, len(names)), np.nan)
        norms = np.full((shard.rows, len(source.used)), np.nan)
        usable = np.flatnonzero(reason == 0)
        cosine = source.formula.similarity == "cosine"
        if len(usable):
            scores[usable] = 0
            chosen = [rows[place] for place in usable]
            for number, weight in enumerate(source.weights):
                opened, direction = ready.model(number)
                for group in ready.groups(number):
                    found, norm = inner_products(  # the vectors have no name: one group's are gone before the next's
                        opened, chosen, direction, ready.vectors(number, group), on, source.objective
                    )
                    scores[np.ix_(usable, np.array(group))] += weight * (cosines(found, norm) if cosine else found)
                    norms[usable, number] = norm
        return as_signal(scores, norms, reason, names, cosine)

    def _job(self, on: Machine) -> Job:
        from tamis import digests

        return Job(
            identity=digests.of_component(self),
            device=on.device,
            source=self.source,
            target=self.target,
            by=self.by,
            vector_bytes=self.vector_bytes,
            pool=self.pool,
            curvature_rows=self.curvature_rows,
            on=on,
        )
