"""DSIR: importance resampling by hashed n-grams (Xie et al., NeurIPS 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.errors import DataError, RecipeError
from tamis.values import Need, Reason
from tamis.vectors.nearness import Duplicates

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from tamis.pool import Pool
    from tamis.values import Budget, Machine, Row, Subset
    from tamis.views import PoolView

_FLOOR = 1e-8  # of a probability: that of the released code
_ROWS = 4096  # counted at once


@dataclass(frozen=True, kw_only=True)
class Dsir:
    """DSIR: rows drawn so that their hashed n-grams resemble the target's (Xie et al., 2302.03169).

    Features of a row are the words and pairs of words of all its messages, in lower case (a word is a run of letters
    and digits, or of other signs), each hashed by SHA-256 into `buckets`. With p_target and p_pool the shares of the
    buckets among all features of the target (each count raised by `laplace`) and of the usable pool, a row weighs
    log w = Σ over its features of log(p_target + 1e-8) - log(p_pool + 1e-8), and the budget goes to the highest
    log w / `temperature` + Gumbel noise, which is a draw without replacement. The noise is a function of `seed` and of
    the row's key; `temperature: 0` leaves it out.

    That sum grows with the length of a row, and its spread over rows is many times that of the noise: what is published
    is nearly a ranking, and favours long rows or short ones. `per_token` divides it by the number of features; means
    then lie close together, and a `temperature` around 0.05 keeps them above the noise. A target of few rows leaves
    most buckets empty, whose features cost 18 nats each: `laplace` above 0 softens that. Rows of fewer than `min_words`
    words are left out (the code's 100 would empty a pool of short instructions), and with `duplicates` `once` all but
    the first of rows with equal text. Departures from the code: p_pool is counted over the whole pool, not over a
    part, and one target is one distribution (no resampling by target).

    Time: O(words of pool and target), no model is run; memory: 2 bytes a feature (4 above 65,536 buckets).
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    buckets: int = 10_000
    laplace: float = 0.0
    per_token: bool = False
    temperature: float = 1.0
    min_words: int = 1
    duplicates: Duplicates = "once"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.buckets < 1 or self.min_words < 1 or self.laplace < 0 or self.temperature < 0:
            raise RecipeError(
                f"dsir: buckets and min_words are at least 1, laplace and temperature not negative; got {self.buckets},"
                f" {self.min_words}, {self.laplace} and {self.temperature}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths of rows, of the pool for the budget; the target is there for its text."""
        return frozenset({Need(kind="signal", name="lengths"), Need(kind="signal", name="lengths", side="target")})

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, highest draw first; a gain is what the row was drawn on."""
        import numpy as np

        from tamis.budgets import order_of, pick

        weights, reasons = self._weights(view)
        if (reasons > 0).all():
            raise DataError(f"dsir: no usable row of the pool has {self.min_words} words; lower min_words")
        keys = weights if self.temperature == 0 else weights / self.temperature + gumbel(view, self.seed)
        order = order_of(keys, reasons == 0, high=True)
        values = np.where(reasons == 0, weights, np.nan)
        unit = "mean log weight of a feature" if self.per_token else "log weight"
        return pick(view, order, budget, values, unit=unit, gains=keys, reasons=reasons)

    def _weights(self, view: PoolView) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """(n,) log w, or its mean; (n,) why a row may not be drawn."""
        import numpy as np

        from tamis.vectors.nearness import repeats

        if view.target is None:
            raise DataError("dsir has no target: name target files in the recipe, or give --target")
        wanted, _ = _features(view.target.pool, self.buckets)
        if not len(wanted):
            raise DataError("dsir: no row of the target holds a word")
        found, words = _features(view.pool, self.buckets)
        features = np.maximum(2 * words - 1, 0)  # of w words: w, and w - 1 pairs
        reasons = view.signal("lengths", "reason").astype(np.uint8)
        reasons[(reasons == 0) & ~view.usable] = Reason.NOT_MEASURED
        raw = np.zeros(self.buckets, np.int64)
        for rows, ids, row_of in _blocks(found, features):
            raw += np.bincount(ids[view.usable[rows][row_of]], minlength=self.buckets)
        ratio = log_ratio(np.bincount(wanted, minlength=self.buckets) + self.laplace, raw)
        weights = np.zeros(len(view))
        for rows, ids, row_of in _blocks(found, features):
            weights[rows] = np.bincount(row_of, ratio[ids], minlength=rows.stop - rows.start)
        if self.per_token:
            weights /= np.maximum(features, 1)
        reasons[(reasons == 0) & (words < self.min_words)] = Reason.TOO_SHORT
        if self.duplicates == "once":
            reasons[repeats(view, reasons == 0)] = Reason.DUPLICATE
        return weights, reasons


def gumbel(view: PoolView, seed: int) -> NDArray[np.float64]:
    """(n,) draws of the standard Gumbel distribution, all finite; a row's is a function of seed and key alone."""
    import numpy as np

    from tamis import draws

    inner = draws.uniform(draws.of_keys(view, seed)) + 2.0**-54  # neither 0 nor 1, whose logarithms are no draw
    return np.asarray(-np.log(-np.log(inner)), np.float64)


def log_ratio(target: NDArray[Any], raw: NDArray[Any]) -> NDArray[np.float64]:
    """(buckets,) log weight of a feature, from its counts (buckets,) in the target and in the raw pool."""
    import numpy as np

    shares = [counts / max(1, counts.sum()) + _FLOOR for counts in (target, raw)]
    return np.asarray(np.log(shares[0]) - np.log(shares[1]), np.float64)


def _features(pool: Pool, buckets: int) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
    """Buckets of all features, row after row (words first, then pairs), and (n,) words of every row."""
    import functools
    import itertools

    import numpy as np

    bucket = functools.lru_cache(1 << 18)(functools.partial(_bucket, buckets))
    kind = np.uint16 if buckets <= 2**16 else np.uint32
    parts: list[NDArray[np.unsignedinteger]] = [np.empty(0, kind)]
    words = []
    for row in (row for shard in pool.shards for row in shard.read()):
        found = list(_words(row))
        words.append(len(found))
        pairs = [" ".join(pair) for pair in itertools.pairwise(found)]
        parts.append(np.fromiter(map(bucket, found + pairs), kind))
    return np.concatenate(parts), np.asarray(words, np.int64)


def _blocks(
    found: NDArray[np.unsignedinteger], features: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]:
    """Some rows at a time: their places, the buckets of their features, and the row of the block each belongs to."""
    import numpy as np

    ends = np.cumsum(features)
    for start in range(0, len(features), _ROWS):
        rows = slice(start, min(start + _ROWS, len(features)))
        first = int(ends[start - 1]) if start else 0
        ids = found[first : int(ends[rows.stop - 1])].astype(np.int64)
        yield rows, ids, np.repeat(np.arange(rows.stop - start), features[rows])


def _words(row: Row) -> Iterator[str]:
    """Words of all messages of a row, the chosen answer of a pair among them, in lower case."""
    import re

    from tamis.values import text_of

    text = "\n".join(text_of(message) for message in (*row.messages, *row.chosen))
    return (match.group() for match in re.finditer(r"\w+|[^\w\s]+", text.lower()))


def _bucket(buckets: int, text: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), "big") % buckets
