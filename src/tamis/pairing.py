"""Which pairs of rows are measured: all of them, those of near neighbours, or those with some rows drawn by key."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Candidates = Literal["neighbours", "sampled", "all"]
_EXACT = 20_000  # up to so many rows neighbours are compared one by one, without FAISS
_BLOCK = 1024


@dataclass(frozen=True)
class Side:
    """Rows on one side of a pair. `places` (m,) int64; `vectors` (m, d) float32 of unit length; `draws` (m,) uint64."""

    places: NDArray[np.int64]
    vectors: NDArray[np.float32]
    draws: NDArray[np.uint64]


def short_keys(keys: Sequence[str], seed: int | None = None) -> NDArray[np.uint64]:
    """(n,) 64-bit digests of row keys; with a seed they are draws keyed by it. No order or shard changes them."""
    import numpy as np

    secret = b"" if seed is None else seed.to_bytes(16, "little", signed=True)
    found = (hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, key=secret) for key in keys)
    return np.array([int.from_bytes(one.digest(), "little") for one in found], np.uint64)


def choose_pairs(rule: Candidates, count: int, each: Side, among: Side) -> NDArray[np.int64]:
    """(p, 2) int64 places: `count` rows of `among` for every row of `each`, its nearest or the same drawn ones.

    `all` takes every pair. Where `each` is `among`, no row is paired with itself.
    """
    import numpy as np

    same = each is among
    if rule == "neighbours":
        return _neighbours(each, among, count, same)
    drawn = among.places
    if rule == "sampled":
        drawn = np.sort(among.places[np.lexsort((among.places, among.draws))[:count]])
    left, right = np.repeat(each.places, len(drawn)), np.tile(drawn, len(each.places))
    pairs = np.stack([left, right], 1)
    return pairs[left != right] if same else pairs


def _neighbours(each: Side, among: Side, count: int, same: bool) -> NDArray[np.int64]:
    import numpy as np

    wanted = min(count + int(same), len(among.places))
    found = _nearest(each.vectors, among.vectors, wanted) if wanted else np.zeros((len(each.places), 0), np.int64)
    near = np.where(found < 0, -1, among.places[found])
    keep = near >= 0
    if same:
        keep &= near != each.places[:, None]
    keep &= np.cumsum(keep, 1) <= count
    left = np.repeat(each.places, keep.sum(1))
    return np.stack([left, near[keep]], 1)


def _nearest(queries: NDArray[np.float32], vectors: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """(q, count) places in `vectors` of the nearest by cosine, best first; -1 where a search found fewer."""
    import numpy as np

    from tamis.index import build

    if len(vectors) > _EXACT:
        return build(vectors).nearest(queries, count)[1]
    done = []
    for start in range(0, len(queries), _BLOCK):
        products = np.round(queries[start : start + _BLOCK] @ vectors.T, 6)  # equal rows tie, whatever their block
        done.append(np.argsort(-products, axis=1, kind="stable")[:, :count])
    return np.concatenate(done) if done else np.zeros((0, count), np.int64)
