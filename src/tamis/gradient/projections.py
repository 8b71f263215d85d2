"""Random projections of gradients that arrive layer by layer, without a matrix in memory.

A gradient of length p becomes a vector of `dim` numbers whose inner products are those of the gradients, up to noise
of variance about 1 / dim for unit vectors. All are linear and unbiased, E <Sx, Sy> = <x, y>. Every entry of the random
matrix is a function of (seed, checkpoint, layer, coordinate), drawn by `tamis.gradient.counters`: batches, shards,
devices and the order of layers change nothing.

    sjlt        every coordinate is added, with a random sign, to one bucket in each of `nonzeros` ranges of buckets
                (Kane and Nelson 2014, arXiv 1012.1577)
    rotation    signs; blocks of `dim` coordinates, each rotated by a random offset, are added up: inside a block
                nothing collides
    srht        signs, fast Hadamard transform, random rows of it (Ailon and Chazelle 2009), layer by layer
    rademacher  dense signs: the released LESS's, and the oracle of the others
    span        coordinates in the span of a target's gradients, exact for it: not random, `tamis.gradient.span`
    logra       every layer's gradient (out, in) between two small matrices of signs: what projecting its inputs and
                its outputs' gradients gives (LoGra, arXiv 2405.13954), so that a raw gradient need not be formed; the
                layers share `dim` evenly. Noisiest
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from tamis.errors import ModelError, RecipeError

if TYPE_CHECKING:
    import torch

Kind = Literal["sjlt", "rotation", "srht", "rademacher", "logra", "span"]
CACHE_BYTES = 1 << 30  # of drawn buckets and signs that a projection keeps; beyond, they are drawn for every batch
BLOCK_NUMBERS = 1 << 22  # of a dense matrix drawn at once
HADAMARD = 1 << 20  # longest transform; a longer layer is cut
_FACTOR = 32  # a transform is a product of Hadamard matrices of at most this size (measured: fastest)


class Sketch(Protocol):
    """A projection at work: sums of one batch, layer by layer."""

    def start(self, rows: int) -> torch.Tensor:
        """Sums of nothing for `rows` rows."""
        ...

    def add(self, name: str, part: torch.Tensor, sums: torch.Tensor) -> None:
        """Add the layer `name` of every row, (b, p) float32, to the sums."""
        ...

    def finish(self, sums: torch.Tensor) -> torch.Tensor:
        """(b, dim) float32."""
        ...


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Which projection: to `dim` numbers, `nonzeros` a coordinate (sjlt alone). RecipeError where they do not fit."""

    kind: Kind = "sjlt"
    dim: int = 16384
    nonzeros: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1 or self.nonzeros < 1:
            raise RecipeError(f"a projection needs dim and nonzeros of at least 1, got {self.dim} and {self.nonzeros}")
        if self.kind == "sjlt" and self.dim % self.nonzeros:
            raise RecipeError(f"dim {self.dim} is no multiple of nonzeros {self.nonzeros}: choose one that is")
        if self.kind == "rademacher" and self.dim % 64:
            raise RecipeError(f"dim {self.dim} is no multiple of 64, which the dense projection needs")

    def sketch(self, stream: str | int, device: str, shapes: Mapping[str, tuple[int, ...]]) -> Sketch:
        """Return the projection of one stream (a checkpoint: their noise is independent, so that it averages out).

        `shapes`: (out, in) of every layer that will come; `logra` alone reads them. RecipeError for `span`, which is
        measured, not drawn.
        """
        if self.kind == "span":
            raise RecipeError("projection 'span' is made of a target's gradients: see tamis.gradient.span")
        if self.kind == "logra":
            return Logra(self, stream, device, shapes)
        kinds: dict[Kind, Callable[[Projection, str | int, str], Sketch]] = {
            "sjlt": Sjlt,
            "rotation": Rotation,
            "srht": Srht,
            "rademacher": Rademacher,
        }
        return kinds[self.kind](self, stream, device)


class _Keyed:
    """What the sketches share: a key a layer, sums of `width` numbers, and a cache of what was drawn."""

    def __init__(self, projection: Projection, stream: str | int, device: str) -> None:
        self.projection, self.stream, self.device = projection, stream, device
        self.dim = self.width = projection.dim
        self.kept: dict[str, torch.Tensor] = {}
        self.bytes = 0

    def key(self, name: str) -> int:
        from tamis.gradient.counters import key_of

        return key_of(self.projection.kind, self.projection.seed, self.stream, name)

    def start(self, rows: int) -> torch.Tensor:
        import torch

        return torch.zeros(rows, self.width, device=self.device)

    def finish(self, sums: torch.Tensor) -> torch.Tensor:
        return sums

    def once(self, name: str, draw: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return what was drawn for a layer before, as long as the cache has room."""
        if (found := self.kept.get(name)) is not None:
            return found
        drawn = draw()
        if self.bytes + drawn.nbytes <= CACHE_BYTES:
            self.kept[name] = drawn
            self.bytes += drawn.nbytes
        return drawn


class Sjlt(_Keyed):
    """Sparse Johnson-Lindenstrauss. Positive and negative entries have sums of their own: one addition an entry."""

    def __init__(self, projection: Projection, stream: str | int, device: str) -> None:
        super().__init__(projection, stream, device)
        self.width = 2 * self.dim

    def add(self, name: str, part: torch.Tensor, sums: torch.Tensor) -> None:
        """Add a layer, as `Sketch` says."""
        for places in self.once(name, lambda: self._places(name, part.shape[1])):
            sums.scatter_add_(1, places.long().expand(len(part), -1), part)

    def finish(self, sums: torch.Tensor) -> torch.Tensor:
        """(b, dim) float32, as `Sketch` says."""
        positive, negative = sums.chunk(2, dim=1)
        return (positive - negative) / math.sqrt(self.projection.nonzeros)

    def _places(self, name: str, size: int) -> torch.Tensor:
        """(nonzeros, size) int32: the sum that takes each entry."""
        import torch

        from tamis.gradient.counters import below, bits

        count, span = self.projection.nonzeros, self.dim // self.projection.nonzeros
        number = torch.arange(count, device=self.device)[:, None]
        drawn = bits(self.key(name), torch.arange(size, device=self.device) * count + number)
        return (below(drawn, span) + number * span + (drawn & 1) * self.dim).int()


class Rotation(_Keyed):
    """Signs, then blocks of `dim` coordinates rotated by random offsets and added up."""

    def add(self, name: str, part: torch.Tensor, sums: torch.Tensor) -> None:
        """Add a layer, as `Sketch` says."""
        import torch

        from tamis.gradient.counters import below, bits, key_of, signs

        size = part.shape[1]
        sign = self.once(name, lambda: signs(self.key(name), 0, -(-size // 64), 1, self.device).view(-1)[:size])
        blocks = -(-size // self.dim)
        offsets = below(bits(key_of(self.key(name), "offset"), torch.arange(blocks)), self.dim).tolist()
        for block, offset in enumerate(offsets):
            turned = (
                part[:, block * self.dim : (block + 1) * self.dim] * sign[block * self.dim : (block + 1) * self.dim]
            )
            head = min(turned.shape[1], self.dim - offset)
            sums[:, offset : offset + head] += turned[:, :head]
            sums[:, : turned.shape[1] - head] += turned[:, head:]


class Srht(_Keyed):
    """Signs, Hadamard transform of every layer (or piece of at most 2^20 of it), and random rows of the outcome."""

    def add(self, name: str, part: torch.Tensor, sums: torch.Tensor) -> None:
        """Add a layer, as `Sketch` says."""
        from torch.nn.functional import pad

        for number, piece in enumerate(part.split(HADAMARD, dim=1)):
            length = 1 << (max(piece.shape[1], self.dim) - 1).bit_length()
            name_of_piece, size = f"{name}/{number}", piece.shape[1]
            sign = self.once(f"{name_of_piece}/sign", lambda: self._sign(name_of_piece, size))  # noqa: B023
            rows = self.once(f"{name_of_piece}/rows", lambda: self._rows(name_of_piece, length))  # noqa: B023
            turned = hadamard(pad(piece * sign, (0, length - size)))
            sums += turned.index_select(1, rows)

    def finish(self, sums: torch.Tensor) -> torch.Tensor:
        """(b, dim) float32, as `Sketch` says."""
        return sums / math.sqrt(self.dim)

    def _sign(self, name: str, size: int) -> torch.Tensor:
        from tamis.gradient.counters import signs

        return signs(self.key(name), 0, -(-size // 64), 1, self.device).view(-1)[:size]

    def _rows(self, name: str, length: int) -> torch.Tensor:
        """(dim,) int64 rows of the transform, none twice, in random order."""
        import torch

        from tamis.gradient.counters import bits, key_of

        drawn = bits(key_of(self.key(name), "rows"), torch.arange(length, device=self.device))
        return torch.argsort(drawn, stable=True)[: self.dim]


class Rademacher(_Keyed):
    """Dense random signs, drawn in blocks of coordinates; the bits are the same whatever the size of the blocks."""

    def add(self, name: str, part: torch.Tensor, sums: torch.Tensor) -> None:
        """Add a layer, as `Sketch` says."""
        size = max(1, BLOCK_NUMBERS // self.dim)
        for start in range(0, part.shape[1], size):
            stop = min(start + size, part.shape[1])
            sums += part[:, start:stop] @ self.matrix(name, start, stop)

    def finish(self, sums: torch.Tensor) -> torch.Tensor:
        """(b, dim) float32, as `Sketch` says."""
        return sums / math.sqrt(self.dim)

    def matrix(self, name: str, start: int, stop: int) -> torch.Tensor:
        """(stop - start, dim) float32 of ±1: the rows of coordinates start … stop - 1 of a layer."""
        from tamis.gradient.counters import signs

        return signs(self.key(name), start, stop, self.dim // 64, self.device)


class Logra(_Keyed):
    """Two-sided random projection of every layer, each into numbers of its own; ModelError where dim is too small."""

    def __init__(
        self, projection: Projection, stream: str | int, device: str, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        super().__init__(projection, stream, device)
        self.shapes = shapes
        self.side = math.isqrt(self.dim // max(1, len(shapes)))
        if not self.side:
            raise ModelError(f"dim {self.dim} leaves no number for each of {len(shapes)} layers: use a larger one")
        self.slots = {name: number * self.side**2 for number, name in enumerate(sorted(shapes))}

    def add(self, name: str, part: torch.Tensor, sums: torch.Tensor) -> None:
        """Add a layer, as `Sketch` says."""
        left, right = self._ends(name)
        rows, columns = self.shapes[name]
        small = left.T @ part.view(-1, rows, columns) @ right
        sums[:, self.slots[name] : self.slots[name] + self.side**2] += small.flatten(1)

    def add_factors(self, name: str, delta: torch.Tensor, seen: torch.Tensor, sums: torch.Tensor) -> None:
        """Add a layer from the factors of its gradients, (b, t, out) and (b, t, in) float32, without forming them."""
        left, right = self._ends(name)
        small = (delta @ left).transpose(1, 2) @ (seen @ right)
        sums[:, self.slots[name] : self.slots[name] + self.side**2] += small.flatten(1)

    def finish(self, sums: torch.Tensor) -> torch.Tensor:
        """(b, dim) float32, as `Sketch` says."""
        return sums / self.side

    def _ends(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(out, side) and (in, side) signs of a layer."""
        rows, columns = self.shapes[name]
        ends = (("out", rows), ("in", columns))
        draws = [(f"{name}/{end}", functools.partial(self._signs, f"{name}/{end}", size)) for end, size in ends]
        left, right = (self.once(*one) for one in draws)
        return left, right

    def _signs(self, name: str, size: int) -> torch.Tensor:
        """(size, side) of ±1."""
        from tamis.gradient.counters import signs

        return signs(self.key(name), 0, size, -(-self.side // 64), self.device)[:, : self.side]


def hadamard(rows: torch.Tensor) -> torch.Tensor:
    """Hadamard transform (entries ±1, Sylvester's order) of every row of (b, n), n a power of two.

    The matrix is a Kronecker product, so the transform is one product with a small matrix per factor: the last axis is
    transformed and put first, until every axis has had its turn.
    """
    count, length = rows.shape
    done, left = rows, length
    while left > 1:
        factor = min(_FACTOR, left)
        turned = done.reshape(-1, factor) @ _sylvester(factor, str(rows.device))
        done = turned.view(count, length // factor, factor).transpose(1, 2)
        left //= factor
    return done.reshape(count, length)


@functools.lru_cache(maxsize=16)
def _sylvester(size: int, device: str) -> torch.Tensor:
    import torch

    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix.to(device)
