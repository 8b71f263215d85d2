"""Encodings of projected gradients, and their products with queries, in blocks that never hold a whole shard.

A row is stored as numbers times one float32 scale: `float16` (2 bytes a number, scaled to a largest value of 1 first),
`int8` (1 byte, a step of the largest value / 127), `float32` (4 bytes, for the few numbers of a span) or `bit` (signs,
eight to a byte, as QLESS, arXiv 2502.01703; the scale ‖x‖² / ‖x‖₁ keeps the product of a row with itself).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import StoreError

if TYPE_CHECKING:
    import io

    import numpy as np
    import torch
    from numpy.typing import NDArray

Encoding = Literal["float16", "float32", "int8", "bit"]
BLOCK_NUMBERS = 1 << 20  # decoded at once: small enough for a cache


def width(encoding: Encoding, dim: int) -> int:
    """Stored items of a row of `dim` numbers."""
    return -(-dim // 8) if encoding == "bit" else dim


def row_bytes(encoding: Encoding, dim: int) -> int:
    """Bytes of a row of `dim` numbers with its scale."""
    return width(encoding, dim) * {"float16": 2, "float32": 4, "int8": 1, "bit": 1}[encoding] + 4


def storage(encoding: Encoding) -> str:
    """Type of the stored items, as numpy names it."""
    return {"float16": "float16", "float32": "float32", "int8": "int8", "bit": "uint8"}[encoding]


def encode(vectors: torch.Tensor, encoding: Encoding) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Stored items (b, width) and scales (b,) of (b, dim) float32. Values must be finite."""
    import numpy as np
    import torch

    largest = vectors.abs().amax(1)
    scaled = vectors / largest.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    if encoding == "bit":
        shares = scaled.square().sum(1) / scaled.abs().sum(1).clamp(min=1)  # the largest is 1, or all are 0
        return np.packbits((vectors > 0).cpu().numpy(), axis=1, bitorder="little"), (largest * shares).cpu().numpy()
    if encoding == "int8":
        return (scaled * 127).round().to(torch.int8).cpu().numpy(), (largest / 127).cpu().numpy()
    return (scaled.half() if encoding == "float16" else scaled).cpu().numpy(), largest.cpu().numpy()


def decode(stored: torch.Tensor, encoding: Encoding, into: torch.Tensor) -> torch.Tensor:
    """Stored rows (b, width) as (b, dim) float32, before their scale; `into` (at least b, dim) takes them."""
    import torch

    rows, dim = len(stored), into.shape[1]
    if encoding != "bit":
        return into[:rows].copy_(stored)
    numbers = _octets(str(into.device)).index_select(0, stored.flatten().int()).view(rows, -1)
    return torch.narrow(numbers, 1, 0, dim)


def products(
    features: NDArray[Any], encoding: Encoding, queries: torch.Tensor, scales: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(n, C, K) products of every row with the queries of every checkpoint, scales included.

    `features` (n, C width): stored rows, the checkpoints side by side, usually memory-mapped; `queries` (C, K, dim)
    float32 on the device that does the work; `scales` (n, C). Sums are float32.
    """
    import numpy as np
    import torch

    checkpoints, tasks, dim = queries.shape
    size = width(encoding, dim)
    found = np.empty((len(features), checkpoints, tasks))
    into = torch.empty(max(1, BLOCK_NUMBERS // dim), dim, device=queries.device)
    for start, block in blocks(features, len(into)):
        items = torch.from_numpy(block).to(queries.device)
        for number in range(checkpoints):
            rows = decode(items[:, number * size : (number + 1) * size], encoding, into)
            found[start : start + len(block), number] = (queries[number] @ rows.T).T.cpu().numpy()
    return found * scales[:, :, None]


def blocks(array: NDArray[Any], rows: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """(start, rows start … start + rows - 1) of a (n, width) array, in one buffer that the next block overwrites.

    A memory-mapped array is read through its file, so that what was read does not count as memory of this process.
    """
    import numpy as np

    buffer = np.empty((rows, array.shape[1]), array.dtype)
    with contextlib.ExitStack() as stack:
        file = None
        if isinstance(array, np.memmap) and array.filename is not None:
            file = stack.enter_context(Path(array.filename).open("rb", buffering=0))
            file.seek(array.offset)
        for start in range(0, len(array), rows):
            block = buffer[: min(rows, len(array) - start)]
            if file is None:
                block[:] = array[start : start + len(block)]
            else:
                _fill(file, block.data.cast("B"))
            yield start, block


def _fill(file: io.RawIOBase, octets: memoryview) -> None:
    """Read until the buffer is full: one call may return less."""
    done = 0
    while done < len(octets):
        count = file.readinto(octets[done:])
        if not count:
            raise StoreError(f"{getattr(file, 'name', file)} ends before its last row: delete its folder and run again")
        done += count


@functools.lru_cache(maxsize=4)
def _octets(device: str) -> torch.Tensor:
    """(256, 8) float32: the bits of every octet, lowest first, as -1 or 1."""
    import torch

    return (2.0 * ((torch.arange(256)[:, None] >> torch.arange(8)) & 1) - 1.0).to(device, torch.float32)
