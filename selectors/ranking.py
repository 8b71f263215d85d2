"""Selection by one column: its highest values, its lowest, or a band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.errors import RecipeError
from tamis.values import Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.views import PoolView


def _needs(column: str) -> frozenset[Need]:
    return frozenset({Need(kind="signal", name="lengths"), Need(kind="column", name=column)})


def _ranked(view: PoolView, budget: Budget, by: str, *, high: bool) -> Subset:
    from tamis.budgets import order_of, pick

    column = view.column(by)
    order = order_of(column.values, view.usable, high=high)
    return pick(view, order, budget, column.values, unit=column.unit, reasons=column.reasons)


@dataclass(frozen=True, kw_only=True)
class Top:
    """Rows with the highest values of a column.

    `by`: a column, `scorer.view@model` or an unambiguous short form. Rows without a value are never taken; ties go to
    the lower place in the pool.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    by: str

    @property
    def needs(self) -> frozenset[Need]:
        """The column, and the lengths of rows."""
        return _needs(self.by)

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, highest first."""
        return _ranked(view, budget, self.by, high=True)


@dataclass(frozen=True, kw_only=True)
class Bottom:
    """Rows with the lowest values of a column.

    `by`: as in `top`. Rows without a value are never taken; ties go to the lower place in the pool.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    by: str

    @property
    def needs(self) -> frozenset[Need]:
        """The column, and the lengths of rows."""
        return _needs(self.by)

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, lowest first."""
        return _ranked(view, budget, self.by, high=False)


@dataclass(frozen=True, kw_only=True)
class Band:
    """Rows whose value of a column lies between two quantiles or two values, the middle of the band first.

    `scale`: with `quantile` (default) `low` and `high` are shares in [0, 1] of the usable rows that have a value, and
    equal values share their mean rank; with `value` they are values of the column. Both ends belong to the band. The
    row nearest to the middle comes first, ties go to the lower place; a gain is minus the distance from the middle.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    by: str
    low: float = 0.25
    high: float = 0.75
    scale: Literal["quantile", "value"] = "quantile"

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise RecipeError(f"band: low ({self.low}) must not be above high ({self.high})")
        if self.scale == "quantile" and not (0 <= self.low and self.high <= 1):
            raise RecipeError(f"band: quantiles lie in [0, 1], got {self.low} to {self.high}; or set scale: value")

    @property
    def needs(self) -> frozenset[Need]:
        """The column, and the lengths of rows."""
        return _needs(self.by)

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows of the band, nearest to its middle first."""
        import numpy as np

        from tamis.budgets import order_of, pick

        column = view.column(self.by)
        place = self._coordinates(column.values, view.usable)
        inside = np.isfinite(place) & (place >= self.low) & (place <= self.high)
        # rounded, so that two rows as far below as above the middle tie and do not hang on the last bit
        closeness = -np.round(np.abs(place - (self.low + self.high) / 2), 9)
        order = order_of(closeness, view.usable & inside, high=True)
        return pick(view, order, budget, column.values, gains=closeness, unit=column.unit, reasons=column.reasons)

    def _coordinates(self, values: NDArray[np.float32], usable: NDArray[np.bool_]) -> NDArray[Any]:
        import numpy as np

        if self.scale == "value":
            return values.astype(np.float64)
        ranked = usable & np.isfinite(values)
        known = np.sort(values[ranked])
        ranks = (np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right") - 1) / 2
        return np.where(ranked, ranks / max(1, len(known) - 1), np.nan)
