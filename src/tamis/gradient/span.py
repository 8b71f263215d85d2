"""The span of a target's gradients: rows stored as coordinates in it lose nothing that this target can see.

Every V of a target is a combination of the gradients g_j of its rows, so <Γ, V> is the product of the coordinates of Γ
and V in an orthonormal basis of their span: no more numbers than the target has rows (GIST, arXiv 2602.18584). The
basis is that of the singular value decomposition of the unit vectors g_j / ‖g_j‖, found through their Gram matrix: rows
`mix` G, where G holds the g_j. The mix of every checkpoint and the tokens of the target's rows travel with the store,
so a query builds the very basis that the rows were projected on, whatever machine or batch size measured them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.gradient.objective import Example, Objective, Opened
    from tamis.gradient.source import GradientSource
    from tamis.pool import Pool
    from tamis.values import Machine

CUT = 1e-4  # of the largest singular value: smaller ones are repeated rows, told apart by rounding alone


@dataclass(frozen=True)
class Span:
    """Which span: the target's usable rows as JSON of their `tokens`, and the `mixes` of the checkpoints, packed."""

    tokens: str
    mixes: tuple[str, ...]

    @classmethod
    def of(cls, examples: Sequence[Example], mixes: Sequence[NDArray[np.float32]]) -> Span:
        """Pack rows and mixes, (dim, rows) each."""
        import numpy as np

        tokens = json.dumps(_listed(examples), separators=(",", ":"))
        return cls(tokens, tuple(base64.b64encode(np.asarray(mix, "<f4").tobytes()).decode() for mix in mixes))

    @property
    def examples(self) -> list[Any]:
        """The target's rows, as the objective takes them."""
        return [_example(one) for one in json.loads(self.tokens)]

    def sketch(self, number: int, opened: Opened, objective: Objective, on: Machine, limit: int) -> Coordinates:
        """The basis on the checkpoint `number`. DataError where the bases of all take more than `limit` bytes.

        A basis holds as many float32 numbers as the model has adapted weights for each of its directions; one is there
        twice while it is made.
        """
        import numpy as np

        examples = self.examples
        mix = np.frombuffer(base64.b64decode(self.mixes[number]), "<f4").reshape(-1, len(examples))
        needed = 4 * len(mix) * opened.parameters * (len(self.mixes) + 1)
        if needed > limit:
            raise DataError(
                f"the span of {len(mix)} target gradients of {opened.parameters:,} numbers on {len(self.mixes)} "
                f"checkpoints takes {needed / 1e9:.2f} GB, more than vector_bytes ({limit / 1e9:.2f} GB): raise that, "
                "or use a smaller `dim`, fewer target rows, `use: last`, or `layers: last 25%`"
            )
        return Coordinates(_basis(opened, examples, mix, on, objective), opened.device)


class Coordinates:
    """A projection at work, as `tamis.gradient.projections.Sketch`: on an orthonormal basis, (dim, p) by layer."""

    def __init__(self, basis: Mapping[str, torch.Tensor], device: str) -> None:
        self.basis, self.device = basis, device
        self.dim = len(next(iter(basis.values())))

    def start(self, rows: int) -> torch.Tensor:
        """Sums of nothing."""
        import torch

        return torch.zeros(rows, self.dim, device=self.device)

    def add(self, name: str, part: torch.Tensor, sums: torch.Tensor) -> None:
        """Add a layer of every row, (b, p)."""
        sums += part @ self.basis[name].T

    def finish(self, sums: torch.Tensor) -> torch.Tensor:
        """(b, dim) float32."""
        return sums


def usable_rows(target: Pool, source: GradientSource) -> list[Example]:
    """The target's rows that have a label; DataError where none has."""
    examples, reason = source.objective.examples(list(target), source.base())
    found = [example for example, why in zip(examples, reason, strict=True) if not why]
    if not found:
        raise DataError(f"none of {len(reason)} target rows has a label: there are no gradients to span anything")
    return found


def mix_of(
    opened: Opened, rows: Sequence[Example], dim: int, on: Machine, objective: Objective, limit: int
) -> NDArray[np.float32]:
    """(dim, rows) by which the rows' gradients become an orthonormal basis of their span, most spread first.

    Lines beyond the rank (singular values below `CUT`) are 0, and so are columns of rows whose gradient is 0 or not
    finite. Gradients are held for as many layers at once as fit into `limit` bytes, one at least.
    """
    import numpy as np

    gram = _gram(opened, rows, on, objective, limit)
    lengths = np.sqrt(np.diag(gram))
    good = np.flatnonzero(np.isfinite(lengths) & (lengths > 0))
    if not len(good):
        raise DataError(f"none of {len(rows)} target rows has a finite gradient that is not 0")
    unit = gram[np.ix_(good, good)] / np.outer(lengths[good], lengths[good])
    values, vectors = np.linalg.eigh(unit)
    kept = np.flatnonzero(values > CUT**2 * values[-1])[::-1][:dim]
    mix = np.zeros((dim, len(rows)), np.float32)
    mix[np.ix_(np.arange(len(kept)), good)] = (vectors[:, kept] / np.sqrt(values[kept])).T / lengths[good]
    return mix


def _gram(
    opened: Opened, rows: Sequence[Example], on: Machine, objective: Objective, limit: int
) -> NDArray[np.float64]:
    """(rows, rows) inner products of the rows' gradients, in double precision."""
    import torch

    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=opened.device)
    for group in _layer_groups(opened, len(rows), limit):
        for part in _gradients(opened, rows, group, on, objective):
            exact = part.to(opened.device).double()
            gram += exact @ exact.T
    return gram.cpu().numpy()


def _gradients(
    opened: Opened, rows: Sequence[Example], names: Sequence[str], on: Machine, objective: Objective
) -> list[torch.Tensor]:
    """The rows' gradients of some layers, (rows, p) float32 each, in main memory."""
    import torch

    from tamis.gradient.influence import sweep, token_lengths, wide

    kept = {name: torch.zeros(len(rows), opened.layers[name].weight.numel()) for name in names}

    def one(batch: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        def consume(name: str, gradient: torch.Tensor) -> None:
            if name in kept:
                kept[name][batch] = wide(gradient).float().cpu()

        losses = objective.gradients(opened, [rows[place] for place in batch], consume)
        return losses, losses

    sweep(token_lengths(rows, objective), on, one)
    return list(kept.values())


def _layer_groups(opened: Opened, rows: int, limit: int) -> list[list[str]]:
    """Names of layers whose gradients, of all rows, are in memory together."""
    groups: list[list[str]] = []
    room = 0
    for name, layer in opened.layers.items():
        size = 4 * rows * layer.weight.numel()
        if not groups or size > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= size
    return groups


def _basis(
    opened: Opened, rows: Sequence[Example], mix: NDArray[np.float32], on: Machine, objective: Objective
) -> dict[str, torch.Tensor]:
    """`mix` times the rows' gradients: (dim, p) float32 by layer."""
    import numpy as np
    import torch

    from tamis.gradient.influence import sweep, token_lengths, wide

    weights = torch.from_numpy(mix.copy()).to(opened.device)
    basis = {
        name: torch.zeros(len(mix), layer.weight.numel(), device=opened.device) for name, layer in opened.layers.items()
    }

    def one(batch: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        parts: dict[str, torch.Tensor] = {}

        def consume(name: str, gradient: torch.Tensor) -> None:
            parts[name] = weights[:, batch] @ wide(gradient).float()

        losses = objective.gradients(opened, [rows[place] for place in batch], consume)
        for name, part in parts.items():  # only now: a batch that ran out of memory halfway is run again in halves
            basis[name] += part
        return losses, losses

    counted = np.flatnonzero(mix.any(0))
    lengths = token_lengths([rows[place] for place in counted.tolist()], objective)
    sweep(lengths, on, lambda batch: one(counted[batch]))
    return basis


def _listed(example: Any) -> Any:
    """Tuples and arrays as nested lists of whole numbers."""
    if hasattr(example, "tolist"):
        return [int(number) for number in example.tolist()]
    return [_listed(one) for one in example]


def _example(listed: Any) -> Any:
    """One row back from lists: (ids, labels), or two sides of that."""
    import numpy as np

    if isinstance(listed[0][0], list):
        return tuple(_example(side) for side in listed)
    return np.array(listed[0], np.int32), np.array(listed[1], np.bool_)
