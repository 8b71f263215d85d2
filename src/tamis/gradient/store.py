"""The gradient store: Γ / ‖Γ‖ of every row on every checkpoint, projected and encoded, for targets to come.

Projections are linear, so the product of a projected row with a projected target vector stands for the product of the
two gradients. Its noise is ‖x‖ ‖y‖ / √dim; where Γ is preconditioned, what is projected are cΓ and V / c, with the c
that makes that least (`Direction.balance`) and leaves the product as it is. What a store was made with travels with it
(`Contents`), so that a query cannot read it otherwise.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError
from tamis.gradient.encodings import Encoding
from tamis.gradient.formula import Formula
from tamis.gradient.objective import Objective
from tamis.gradient.projections import Projection
from tamis.gradient.source import GradientSource
from tamis.gradient.span import Span

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.gradient.directions import Direction
    from tamis.gradient.objective import Example, Opened
    from tamis.gradient.projections import Sketch
    from tamis.training.checkpoints import Checkpoint
    from tamis.values import Machine

Put = Callable[["NDArray[np.int64]", "torch.Tensor"], None]
Balances = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a store holds. `checkpoints`: digests of those used, in order; `formula`: the one carried out.

    `span`: the one that rows are projected on, where that is the projection.
    """

    checkpoints: tuple[str, ...]
    formula: Formula
    objective: Objective
    layers: str
    projection: Projection
    encoding: Encoding
    balanced: bool
    span: Span | None = None

    @classmethod
    def of(
        cls,
        source: GradientSource,
        projection: Projection,
        encoding: Encoding,
        balanced: bool,
        span: Span | None = None,
    ) -> Contents:
        """Describe the store that is made of a source."""
        return cls(
            checkpoints=tuple(checkpoint.digest for checkpoint in source.used),
            formula=source.formula,
            objective=source.objective,
            layers=source.layers,
            projection=projection,
            encoding=encoding,
            balanced=balanced,
            span=span,
        )

    def packed(self) -> NDArray[np.uint8]:
        """As an array beside the features: JSON as bytes."""
        import numpy as np

        return np.frombuffer(json.dumps(dataclasses.asdict(self), sort_keys=True).encode(), np.uint8)

    @classmethod
    def read(cls, packed: NDArray[np.uint8]) -> Contents:
        """Back from the array."""
        about: dict[str, Any] = json.loads(bytes(packed))
        return cls(
            checkpoints=tuple(about["checkpoints"]),
            formula=Formula(**about["formula"]),
            objective=Objective(**about["objective"]),
            layers=about["layers"],
            projection=Projection(**about["projection"]),
            encoding=about["encoding"],
            balanced=about["balanced"],
            span=Span(about["span"]["tokens"], tuple(about["span"]["mixes"])) if about.get("span") else None,
        )

    def sketch(self, number: int, opened: Opened, on: Machine, limit: int) -> Sketch:
        """Return the projection on the checkpoint `number`. `limit`: bytes that a span may take up."""
        if self.span is not None:
            return self.span.sketch(number, opened, self.objective, on, limit)
        return self.projection.sketch(number, opened.device, opened.shapes)

    def source(self, checkpoints: Sequence[Checkpoint], **formula: Any) -> GradientSource:
        """Where a target's gradients come from: the checkpoints of the store, found among those given by their digests.

        `formula`: settings that are the query's own. DataError where a checkpoint of the store is not there.
        """
        known = {checkpoint.digest: checkpoint for checkpoint in checkpoints}
        if missing := [digest for digest in self.checkpoints if digest not in known]:
            raise DataError(
                f"the gradients were stored with other checkpoints ({missing[0][:8]} is not among the "
                f"{len(checkpoints)} given): name the stage that the stage `gradients` names"
            )
        return GradientSource(
            checkpoints=tuple(known[digest] for digest in self.checkpoints),
            asked=self.formula.but(**formula),
            objective=self.objective,
            layers=self.layers,
        )


def project_rows(
    opened: Opened,
    rows: Sequence[Example],
    direction: Direction,
    sketch: Sketch,
    put: Put,
    on: Machine,
    objective: Objective,
    balances: Balances,
    inside: bool = False,
) -> NDArray[np.float64]:
    """(n,) norms of Γ, NaN where something is not finite; `put(places, unit)` takes cΓ / ‖Γ‖ projected, (b, dim).

    `balances`: c by layer, see `balances_of`. `inside`: lengths are those of the projections instead of Γ's. Rows must
    have a label. One layer's gradients and one batch's projections are all that is ever held; where the projection is
    `logra`'s, Γ the raw gradient and a row short beside the layer, not even these: see `_factored`.
    """
    import torch

    from tamis.gradient.influence import sweep, token_lengths, wide
    from tamis.gradient.per_example import formed
    from tamis.gradient.projections import Logra

    def one(batch: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        sums = sketch.start(len(batch))
        squares = torch.zeros(len(batch), dtype=torch.float64, device=opened.device)

        def consume(name: str, gradient: torch.Tensor) -> None:
            gamma = direction(name, wide(gradient))
            squares.add_(torch.linalg.vector_norm(gamma, dim=1).double().square_())
            if name in balances:
                gamma *= balances[name]
            sketch.add(name, gamma.float(), sums)

        form = formed(consume)

        def hand(name: str, delta: torch.Tensor, seen: torch.Tensor) -> None:
            if not isinstance(sketch, Logra) or direction.formula.moments != "raw" or not _factored(delta, seen):
                return form(name, delta, seen)
            delta, seen = delta.float(), seen.float()
            squares.add_(((delta @ delta.mT) * (seen @ seen.mT)).sum((1, 2)).clamp(min=0).double())
            return sketch.add_factors(name, delta, seen, sums)

        losses = objective.factors(opened, [rows[place] for place in batch], hand)
        projected = sketch.finish(sums)
        lengths = torch.linalg.vector_norm(projected, dim=1).double() if inside else squares.sqrt()
        norms = torch.where(losses.isfinite() & squares.isfinite(), lengths, torch.nan)
        divisor = norms.clamp(min=torch.finfo(torch.float32).tiny)[:, None].float()
        put(batch, (projected / divisor).nan_to_num(0.0, 0.0, 0.0))
        return norms, norms

    return sweep(token_lengths(rows, objective), on, one)[0]


def _factored(delta: torch.Tensor, seen: torch.Tensor) -> bool:
    """Whether ‖deltaᵀ seen‖ costs less by products of tokens with tokens than by forming the product."""
    tokens, out, width = delta.shape[1], delta.shape[2], seen.shape[2]
    return tokens * (out + width) < out * width


def read_rows(arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], *, lengths: bool) -> NDArray[np.float32]:
    """(m, C dim) float32 projected Γ of some rows of a store's shard, the checkpoints side by side.

    `lengths`: whether each has the length of Γ on its checkpoint, or length about 1. Rows must have no reason.
    """
    import numpy as np
    import torch

    from tamis.gradient.encodings import decode, width

    contents = Contents.read(np.asarray(arrays["contents"], np.uint8))
    dim, size = contents.projection.dim, width(contents.encoding, contents.projection.dim)
    stored, scales = arrays["features"][rows], arrays["scales"][rows]
    if lengths:
        scales = scales * arrays["norms"][rows]
    found = np.empty((len(rows), scales.shape[1], dim), np.float32)
    for number in range(scales.shape[1] if len(rows) else 0):
        items = torch.from_numpy(np.ascontiguousarray(stored[:, number * size : (number + 1) * size]))
        numbers = decode(items, contents.encoding, torch.empty(len(items), dim)).numpy()
        found[:, number] = numbers * scales[:, number, None]
    return found.reshape(len(rows), scales.shape[1] * dim)


def project_vectors(sketch: Sketch, vectors: Mapping[str, torch.Tensor], balances: Balances) -> torch.Tensor:
    """(K, dim) float32: V / c by layer, (K, p) each, projected."""
    sums = sketch.start(len(next(iter(vectors.values()))))
    for name, vector in vectors.items():
        sketch.add(name, (vector / balances[name] if name in balances else vector).float(), sums)
    return sketch.finish(sums)


def shares_kept(projected: torch.Tensor, vectors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(K,) ‖P V‖² / ‖V‖² in [0, 1] of (K, dim) coordinates in a span, and V by layer; 1 where V is 0."""
    import torch

    whole = torch.stack([vector.double().square().sum(1) for vector in vectors.values()]).sum(0)
    kept = projected.double().square().sum(1)
    return (kept / whole).nan_to_num(1.0).clamp(max=1.0)


def balances_of(direction: Direction, opened: Opened, balanced: bool) -> Balances:
    """Return c by layer, none where nothing is balanced or Γ is not preconditioned."""
    found = {name: direction.balance(name) for name in opened.layers} if balanced else {}
    return {name: balance for name, balance in found.items() if balance is not None}
