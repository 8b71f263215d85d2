"""Blend: several columns as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.column.normalising import Scale
from tamis.errors import RecipeError
from tamis.values import Column, Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Arrays
    from tamis.views import PoolView, ShardSignals


@dataclass(frozen=True, kw_only=True)
class Blend:
    """Weighted sum of columns, each by rank, z-score, min-max or as it is; per source if asked.

    `columns`: weight of each column, negative where low is good: `{ifd.loss: 1, perplexity.response: -0.5}`, also
    ratings of your own and `meta.NAME`. `normalise`: `rank` (default: no column outweighs another by its spread), `z`,
    `min-max` or `none`; `per`: over the rows of a source (or any grouping: kind, file, meta.NAME, clusters:K, a column)
    by themselves, so that groups of another level are compared fairly. A row that lacks one of the columns has no
    value. No published value; the range follows from the weights.
    """

    columns: Mapping[str, float]
    normalise: Scale = "rank"
    per: str | None = None
    revision: ClassVar[int] = 1
    fits_rows: ClassVar[bool] = True  # numbers of single rows: new ones have none until it is fitted anew

    def __post_init__(self) -> None:
        if not self.columns or not any(self.columns.values()):
            raise RecipeError("blend: `columns` names no column with a weight, as {ifd.loss: 1, length.words: -0.5}")

    @property
    def needs(self) -> frozenset[Need]:
        """The columns, and what the grouping reads."""
        from tamis.grouping import needs_of

        own = {Need(kind="column", name=name) for name in self.columns}
        return frozenset(own) | (needs_of(self.per) if self.per is not None else frozenset())

    def fit(self, view: PoolView, /) -> tuple[Arrays, Mapping[str, Any]]:
        """The blend of every row by its key; `note` counts the rows that lack a column."""
        import numpy as np

        from tamis.column.fitted import by_key

        groups = view.groups(self.per) if self.per is not None else np.zeros(len(view), np.int8)
        total, reasons = np.zeros(len(view)), np.zeros(len(view), np.uint8)
        for name, weight in self.columns.items():
            column = view.column(name)
            total += weight * self._normalised(column.values, groups)
            reasons = np.where(reasons > 0, reasons, column.reasons)
        keys = view.pool.table(["key"]).column("key").to_pylist()
        missing = int((reasons > 0).sum())
        facts = {"note": f"{missing:,} rows lack one of the columns"} if missing else {}
        return by_key(keys, {"score": total.astype(np.float32)}, reasons), {"rows": len(view) - missing, **facts}

    def _normalised(self, values: NDArray[np.float32], groups: NDArray[Any]) -> NDArray[np.float64]:
        """(n,) on the scale, group by group, over the rows that have a value."""
        import numpy as np

        from tamis.column.normalising import normalised

        known = np.isfinite(values)
        done = np.full(len(values), np.nan)
        for group in np.unique(groups):
            rows = known & (groups == group)
            done[rows] = normalised(values[rows], self.normalise)
        return done

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Column `score`, a weighted sum; NaN with the reason of the first column that has none."""
        from tamis.column.fitted import column_of

        unit = "weighted values" if self.normalise == "none" else f"weighted {self.normalise}"
        return {"score": column_of(have, "score", unit)}
