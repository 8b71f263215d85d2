"""Which pairs of rows are measured: all, those of near neighbours or shared words, or those with rows drawn by key."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.demonstrations.asked import Asked

Candidates = Literal["copying", "neighbours", "sampled", "all"]
Chosen = Literal["neighbours", "sampled", "all"]
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


def choose_pairs(rule: Chosen, count: int, each: Side, among: Side) -> NDArray[np.int64]:
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

    from tamis.vectors.index import build

    if len(vectors) > _EXACT:
        return build(vectors).nearest(queries, count)[1]
    done = []
    for start in range(0, len(queries), _BLOCK):
        products = np.round(queries[start : start + _BLOCK] @ vectors.T, 6)  # equal rows tie, whatever their block
        done.append(np.argsort(-products, axis=1, kind="stable")[:, :count])
    return np.concatenate(done) if done else np.zeros((0, count), np.int64)


def copying_pairs(
    asked: Asked, queries: NDArray[np.int64], shown: NDArray[np.int64], per_row: int
) -> NDArray[np.int64]:
    """(p, 2) int64 (query, demonstration): of every query those demonstrations that hold most of its response.

    `per_row` in the mean: half of the pairs go to all queries alike, the other half as 1 / (scored tokens). A norm of
    errors over √T moves little where T is large, and where utilities are small a missed one costs little. `queries` and
    `shown` are places; no row is paired with itself; ties go by row key, so that the order of rows changes no pair.
    """
    import numpy as np

    from tamis.text.copying import Copies

    if not len(queries) or not len(shown):
        return np.zeros((0, 2), np.int64)
    queries, shown = (places[np.argsort(asked.keys[places], kind="stable")] for places in (queries, shown))
    scored = np.array([int(asked.scored[int(place)].sum()) for place in queries], np.int64)
    counts = shared_out(per_row, scored, len(shown))
    done = []
    shares = Copies.of(asked.shown, shown).shares(asked.queries, asked.scored, queries)
    for query, count, share in zip(queries, counts, shares, strict=True):
        order = shown[np.argsort(-share, kind="stable")[: count + 1]]
        order = order[order != query][:count]
        done.append(np.stack([np.full(len(order), query), order], 1))
    return np.concatenate(done)


def copying_queries(
    asked: Asked, queries: NDArray[np.int64], shown: NDArray[np.int64], per_row: int
) -> NDArray[np.int64]:
    """(p, 2) int64 (demonstration, query): for every demonstration the queries of whose responses it holds most."""
    import numpy as np

    from tamis.text.copying import Copies

    queries = queries[np.argsort(asked.keys[queries], kind="stable")]
    best = np.full((len(shown), 0), 0.0)
    which = np.zeros((len(shown), 0), np.int64)
    shares = Copies.of(asked.shown, shown).shares(asked.queries, asked.scored, queries)
    for query, share in zip(queries, shares, strict=True):  # kept in order of share, earlier queries first in ties
        best, which = np.column_stack([best, share]), np.column_stack([which, np.full(len(shown), query)])
        if best.shape[1] >= 2 * per_row + 64 or query == queries[-1]:
            order = np.argsort(-best, axis=1, kind="stable")[:, :per_row]
            best, which = np.take_along_axis(best, order, 1), np.take_along_axis(which, order, 1)
    return np.stack([np.repeat(shown, which.shape[1]), which.ravel()], 1)


def shared_out(per_row: int, scored: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """(q,) counts of `per_row` in the mean, half alike and half by 1 / `scored` (q,), none above `most`."""
    import numpy as np

    per_row = min(per_row, most)
    alike = (per_row + 1) // 2
    left, room = float((per_row - alike) * len(scored)), np.full(len(scored), float(most - alike))
    more, weights = np.zeros(len(scored)), 1.0 / np.maximum(scored, 1)
    while left > 0.5 and (open_ := more < room).any():
        more[open_] += left * weights[open_] / weights[open_].sum()
        left = float(np.maximum(more - room, 0).sum())
        more = np.minimum(more, room)
    counts = np.floor(more).astype(np.int64)
    rest = round((per_row - alike) * len(scored) - left) - int(counts.sum())
    counts[np.argsort(-(more - counts), kind="stable")[: max(rest, 0)]] += 1
    return alike + counts
