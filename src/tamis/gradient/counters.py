"""Random bits as a function of a key and a counter, in integer arithmetic that every device does alike.

The mixer is the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"):
two counters never share state, so any block of them can be drawn alone, on any device, in any order.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_GOLDEN = -7046029254386353131  # 0x9e3779b97f4a7c15 as int64, and the two multipliers of the finaliser
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685


def key_of(*parts: str | int) -> int:
    """Key (int64) of a stream of bits from words and whole numbers."""
    text = "\x1f".join(str(part) for part in parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def bits(key: int, counters: torch.Tensor) -> torch.Tensor:
    """64 random bits a counter, as int64 of the same shape. `counters`: int64 of any shape; products wrap around."""
    state = counters * _GOLDEN + key
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    return state ^ _shifted(state, 31)


def below(drawn: torch.Tensor, bound: int) -> torch.Tensor:
    """Whole numbers in [0, bound) from the upper 31 bits of `drawn` (bias below bound / 2^31)."""
    return (_shifted(drawn, 33) * bound) >> 31


def signs(key: int, start: int, stop: int, words: int, device: str | torch.device) -> torch.Tensor:
    """(stop - start, 64 words) float32 of random ±1; row i holds the signs of the counters i words … (i + 1) words."""
    import torch

    counters = torch.arange(start * words, stop * words, device=device)
    octets = bits(key, counters).view(torch.uint8)
    return _table(str(device)).index_select(0, octets.int()).view(stop - start, 64 * words)


def _shifted(state: torch.Tensor, by: int) -> torch.Tensor:
    """Shift right, with zeros from the left."""
    return (state >> by) & ((1 << (64 - by)) - 1)


@functools.lru_cache(maxsize=4)
def _table(device: str) -> torch.Tensor:
    """(256, 8) float32: the bits of every octet, lowest first, as ±1."""
    import torch

    octets = torch.arange(256)[:, None] >> torch.arange(8)
    return (1.0 - 2.0 * (octets & 1)).to(device, torch.float32)
