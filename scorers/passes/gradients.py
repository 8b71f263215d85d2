"""The gradient store: projected gradients of every row, measured once, for any number of targets."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.errors import RecipeError
from tamis.gradient.encodings import Encoding
from tamis.gradient.formula import EpsMode, Moments, Momentum, Profile
from tamis.gradient.layers import ALL
from tamis.gradient.objective import Loss
from tamis.gradient.projections import Kind, Projection
from tamis.gradient.source import GradientSource, Models, Use, source_of
from tamis.gradient.store import Contents, balances_of
from tamis.pool import Pool
from tamis.training.checkpoints import Checkpoint
from tamis.values import Reason

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.gradient.directions import Direction
    from tamis.gradient.objective import Example, Opened
    from tamis.gradient.projections import Sketch
    from tamis.gradient.store import Balances
    from tamis.pool import Shard
    from tamis.values import Arrays, Machine, Need
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """Gradient store of LESS: Γ / ‖Γ‖ of every row, projected and kept for targets to come.

    A `gradient-query` then scores any target without a pass over the pool; rows appended later are new shards. The
    formula of Γ is that of `influence` (`profile` and its overrides, `layers`, `use`, `loss`). `projection`: `sjlt`,
    `rotation`, `srht`, `rademacher` or `logra` (`tamis.gradient.projections`), to `dim` numbers a checkpoint, with
    `nonzeros` a coordinate for sjlt; the noise of a cosine is about 1 / √dim for each checkpoint, independent between
    them. `encoding`: `float16`, `float32`, `int8` or `bit` (`tamis.gradient.encodings`). `balanced` spreads
    preconditioning over both sides of the product before they are projected, which leaves the scores and takes away
    noise; the released LESS does not.

    `projection: span` keeps the coordinates of Γ in the span of the gradients of the `target`'s rows, at most as many
    numbers as it has rows (or `dim`, the most spread directions): nothing is lost for any combination of these rows,
    however `gradient-query` groups them. Of another target a query sees the projection onto that span, and warns of the
    share of its squared norm that lies inside. Nothing is balanced. `normalise: span` divides by the length of the
    coordinates instead of ‖Γ‖; with `moments: raw` that is GIST (arXiv 2602.18584). `vector_bytes` bounds the bases of
    all checkpoints; beyond, the pass refuses.
    """

    revision: ClassVar[int] = 1

    checkpoints: tuple[Checkpoint, ...]
    profile: Profile = "recommended"
    moments: Moments | None = None
    eps_mode: EpsMode | None = None
    bias_correction: bool | None = None
    momentum: Momentum | None = None
    layers: str = ALL
    use: Use | None = None
    loss: Loss = "sft"
    beta: float = 0.1
    projection: Kind = "sjlt"
    dim: int = 16384
    nonzeros: int = 1
    seed: int = 0
    encoding: Encoding = "float16"
    balanced: bool = True
    target: Pool | None = None
    normalise: Literal["whole", "span"] = "whole"
    vector_bytes: int = field(default=1 << 31, metadata={"science": False})

    def __post_init__(self) -> None:
        if self.source.asked.curvature != "none":
            raise RecipeError(f"gradients: profile {self.profile!r} needs its target before the pool; use `influence`")
        self.projected()
        if not self.reads_target:
            object.__setattr__(self, "target", None)  # so that another target leaves the identity alone
            if self.normalise == "span":
                raise RecipeError("gradients: `normalise: span` goes with `projection: span` alone")
        elif self.target is None:
            raise RecipeError("gradients: `projection: span` needs a target; add `target: {files: [few_shot.jsonl]}`")
        else:
            object.__setattr__(self, "balanced", False)

    @property
    def reads_target(self) -> bool:
        """Whether the store is made for a target."""
        return self.projection == "span"

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    @property
    def source(self) -> GradientSource:
        """What is differentiated, where, and by which formula."""
        return source_of(self)

    def projected(self) -> Projection:
        """Return the projection; RecipeError where its settings do not fit."""
        return Projection(kind=self.projection, dim=self.dim, nonzeros=self.nonzeros, seed=self.seed)

    def numbers(self, target_rows: int) -> int:
        """Numbers of a row and checkpoint, with so many rows in the target."""
        return min(self.dim, target_rows) if self.reads_target else self.dim

    def row_bytes(self, checkpoints: int, target_rows: int) -> int:
        """Bytes of a row in the store."""
        from tamis.gradient.encodings import row_bytes

        return checkpoints * (row_bytes(self.encoding, self.numbers(target_rows)) + 4) + 1

    def notes(self) -> tuple[str, ...]:
        """What a reader of scores made from this must know, in words."""
        if self.target is not None:
            return (*self.source.notes(), *self._span_notes(self.target))
        size = f"{self.dim:,} numbers a checkpoint ({self.projection}), stored as {self.encoding}"
        return (*self.source.notes(), f"approximation: gradients projected to {size}")

    def _span_notes(self, target: Pool) -> list[str]:
        stored = f"gradients are stored as {self.encoding} in the span of those of {len(target):,} target rows"
        notes = [f"{stored}: of another target only its part in that span counts"]
        if self.dim < len(target):
            notes.append(f"approximation: {self.dim:,} directions of that span are kept")
        if self.normalise == "span":
            notes.append("cosines are taken inside the span (GIST): the part of a gradient outside it does not count")
        return notes

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """`features` (n, checkpoints * width), `scales` and `norms` of Γ (n, checkpoints) float32, `reason` (n,).

        A number is a feature times its scale, as `encoding` says. `contents` (JSON as uint8) says what the store was
        made with. Rows without a label, or with values that are not finite, have a reason, scales of NaN and features
        of 0. Errors: DataError on checkpoints of different models; TrainError where moments are asked for that are not
        there.
        """
        import numpy as np

        from tamis.gradient.encodings import storage, width

        source = self.source
        rows, reason = source.objective.examples(shard.read(), source.base())
        usable = np.flatnonzero(reason == 0)
        count = len(source.used)
        ready = _ready(self._job(on))
        contents = ready.contents
        arrays = {
            "features": np.zeros(
                (shard.rows, count * width(self.encoding, contents.projection.dim)), storage(self.encoding)
            ),
            "scales": np.full((shard.rows, count), np.nan, np.float32),
            "norms": np.full((shard.rows, count), np.nan, np.float32),
            "reason": reason,
            "contents": contents.packed(),
        }
        if len(usable):
            for number in range(count):
                self._fill(arrays, ready, number, [rows[place] for place in usable], usable, on)
        broken = (reason == 0) & ~np.isfinite(arrays["norms"]).all(1)
        reason[broken] = Reason.NOT_FINITE
        arrays["scales"][broken] = np.nan
        return arrays

    def _fill(
        self,
        arrays: dict[str, NDArray[Any]],
        ready: _Ready,
        number: int,
        rows: list[Example],
        usable: NDArray[np.int64],
        on: Machine,
    ) -> None:
        """Write one checkpoint's features, scales and norms straight into the arrays of the shard."""
        from tamis.gradient.encodings import encode, width
        from tamis.gradient.store import project_rows

        opened, direction, sketch, balances = ready.checkpoint(number)
        size = width(self.encoding, ready.contents.projection.dim)

        def put(batch: NDArray[np.int64], unit: torch.Tensor) -> None:
            places = usable[batch]
            stored, scales = encode(unit, self.encoding)
            arrays["features"][places, number * size : (number + 1) * size] = stored
            arrays["scales"][places, number] = scales

        objective = self.source.objective
        inside = self.normalise == "span"
        arrays["norms"][usable, number] = project_rows(
            opened, rows, direction, sketch, put, on, objective, balances, inside
        )

    def _job(self, on: Machine) -> _Job:
        from tamis import digests

        return _Job(digests.of_component(self), on.device, self, on)


@dataclass(frozen=True)
class _Job:
    """Key of what a process prepares once: a pass (by identity) on a device."""

    identity: str
    device: str
    component: Gradients = field(compare=False)
    on: Machine = field(compare=False)


@functools.lru_cache(maxsize=1)
def _ready(job: _Job) -> _Ready:
    return _Ready(job)


class _Ready:
    """Models, directions, projections and balances of the checkpoints, each made when first asked for."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self.model = Models(job.component.source, job.device)
        self.kept: dict[int, tuple[Opened, Direction, Sketch, Balances]] = {}

    @functools.cached_property
    def contents(self) -> Contents:
        """What the store is made with. A span is measured here, on every checkpoint."""
        from tamis.gradient.span import Span, mix_of, usable_rows

        component, on = self.job.component, self.job.on
        source, projection, span = component.source, component.projected(), None
        if component.target is not None:
            rows = usable_rows(component.target, source)
            dim, limit = component.numbers(len(rows)), component.vector_bytes
            projection = dataclasses.replace(projection, dim=dim)
            checkpoints = range(len(source.used))
            span = Span.of(
                rows, [mix_of(self.model(number)[0], rows, dim, on, source.objective, limit) for number in checkpoints]
            )
        return Contents.of(source, projection, component.encoding, component.balanced, span)

    def checkpoint(self, number: int) -> tuple[Opened, Direction, Sketch, Balances]:
        """Of the checkpoint `number` of those used."""
        if number not in self.kept:
            component = self.job.component
            opened, direction = self.model(number)
            sketch = self.contents.sketch(number, opened, self.job.on, component.vector_bytes)
            self.kept[number] = (opened, direction, sketch, balances_of(direction, opened, component.balanced))
        return self.kept[number]
