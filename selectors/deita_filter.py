"""DEITA's representation filter: the best rows first, none too near to one kept before (Liu et al., ICLR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import RecipeError
from tamis.values import Need
from tamis.vectors.embeddings import needs_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.vectors.embeddings import Embeddings
    from tamis.views import PoolView

_BLOCK = 512
_DIGITS = 6  # of a cosine: beyond, float32 products hang on how rows are put into blocks


@dataclass(frozen=True, kw_only=True)
class Deita:
    """DEITA's filter: best rows first, each kept when no row kept before is too near (Liu et al., 2024).

    Rows come by the column `by`, high first, or by the product of the columns `by` and `times` (DEITA: quality times
    complexity); NaN is never kept. DEITA's own scorers are trained judges; without a column rows come by response
    tokens, longest first: the strongest order that costs nothing, where the order of a pool means nothing. A row is
    kept while its largest cosine to a kept row, or to one chosen before (`existing`), is at most `threshold`: 0.9 in
    the paper, for last-token states of Mistral-7B. Here embeddings are position-weighted means of last hidden states
    (`tokens`), which lie closer together: raise the threshold, or let `centred` take the mean of the pool off first.

    Dropped rows never come back, so fewer rows than the budget may be chosen; under a token budget a kept row that does
    not fit is passed over. Unlike in the released code, a row that is near to dropped rows only is kept, whatever the
    block, and one column is enough. Time O(n k d) for k kept rows, in blocks of matrix products; memory (n, d).
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    by: str | None = None
    times: str | None = None
    threshold: float = 0.9
    centred: bool = False

    def __post_init__(self) -> None:
        if not -1 <= self.threshold <= 1:
            raise RecipeError(f"deita: threshold is a cosine in [-1, 1], got {self.threshold}")
        if self.times is not None and self.by is None:
            raise RecipeError("deita: `times` is a second column; name the first as `by`")

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of the pool, the lengths of rows, and the columns."""
        columns = {Need(kind="column", name=name) for name in (self.by, self.times) if name is not None}
        return needs_of() | columns

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, best first; a gain is the value that a row came by."""
        import dataclasses

        import numpy as np

        from tamis.budgets import order_for, order_of, pick
        from tamis.vectors.embeddings import of_existing, of_pool

        values, reasons, unit = self._values(view)
        rows = of_pool(view, "deita")
        vectors, kept = self._vectors(rows, of_existing(view))
        ranked = order_of(np.where(rows.reasons == 0, values, np.nan), view.usable, high=True)
        within = np.searchsorted(rows.places, ranked)

        def first(limit: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            taken = ranked[far_from_kept(vectors, within, kept, self.threshold, limit)]
            return taken, values[taken].astype(np.float32)

        order, _ = order_for(view, budget, first)
        subset = pick(view, order, budget, values, unit=unit, reasons=reasons)
        return dataclasses.replace(subset, notes=_notes(budget, subset, ranked, self.threshold, int(view.usable.sum())))

    def _values(self, view: PoolView) -> tuple[NDArray[np.float64], NDArray[np.uint8], str]:
        """(n,) values by which rows come, why a row has none, and their unit."""
        import numpy as np

        if self.by is None:
            reasons = view.signal("lengths", "reason").astype(np.uint8)
            return view.signal("lengths", "response_tokens").astype(np.float64), reasons, "response tokens"
        column = view.column(self.by)
        if self.times is None:
            return column.values.astype(np.float64), column.reasons, column.unit
        other = view.column(self.times)
        reasons = np.where(column.reasons > 0, column.reasons, other.reasons).astype(np.uint8)
        values = column.values.astype(np.float64) * other.values
        return values, reasons, f"{column.unit} x {other.unit}"

    def _vectors(
        self, rows: Embeddings, existing: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Vectors of the candidates and of the rows chosen before, less the mean of the candidates where asked."""
        import numpy as np

        from tamis.vectors.index import unit

        if not self.centred:
            return rows.vectors, existing
        mean = rows.vectors.mean(axis=0, dtype=np.float64)
        return np.nan_to_num(unit(rows.vectors - mean)), np.nan_to_num(unit(existing - mean))


def _notes(budget: Budget, subset: Subset, ranked: NDArray[np.int64], threshold: float, usable: int) -> tuple[str, ...]:
    """How far down the rows the filter went, and whether it ran out of rows."""
    import numpy as np

    rows, _ = budget.limits(usable)
    taken = len(subset.positions)
    if rows is not None and taken < min(rows, usable):
        gone = f"the others have a cosine above {threshold:g} to one of them"
        return (f"only {taken:,} of {len(ranked):,} rows were kept, fewer than the budget: {gone}",)
    seen = int(np.flatnonzero(np.isin(ranked, subset.positions)).max(initial=-1)) + 1
    return (f"{taken:,} of the {seen:,} best rows were kept",)


def far_from_kept(
    vectors: NDArray[np.float32],
    order: NDArray[np.int64],
    kept: NDArray[np.float32],
    threshold: float,
    limit: int,
) -> NDArray[np.int64]:
    """Places in `order` (r,) of the rows kept, at most `limit`: walked in order, no cosine to a kept row > threshold.

    `vectors` (m, d) of unit length, `order` places among them; `kept` (e, d) vectors that count as kept before. A
    cosine equal to the threshold, to six digits, is no ground for dropping.
    """
    import numpy as np

    chosen = np.empty((len(kept) + min(limit, len(order)), vectors.shape[1]), np.float32)
    chosen[: len(kept)] = kept
    count = len(kept)
    taken: list[int] = []
    for start in range(0, len(order), _BLOCK):
        block = vectors[order[start : start + _BLOCK]]
        near = np.zeros(len(block), np.bool_)
        for first in range(0, count, 8 * _BLOCK):
            near |= _above(block @ chosen[first : min(count, first + 8 * _BLOCK)].T, threshold).any(axis=1)
        pairs = _above(block @ block.T, threshold)
        for row in range(len(block)):
            if near[row]:
                continue
            if len(taken) == limit:
                return np.asarray(taken, np.int64)
            taken.append(start + row)
            chosen[count] = block[row]
            count += 1
            near |= pairs[row]
    return np.asarray(taken, np.int64)


def _above(cosines: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    import numpy as np

    above: NDArray[np.bool_] = np.round(cosines, _DIGITS).astype(np.float64) > threshold + 10.0**-_DIGITS / 2
    return above
