"""Which row of a group of duplicates stays, and what is said of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tamis.errors import RecipeError
from tamis.values import Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.views import PoolView

NAMED = ("first", "last", "longest")


def column_of(keep: str) -> tuple[str, int] | None:
    """(column, 1) of a rule that keeps the highest value, (column, -1) of `-column`, the lowest; None for a word."""
    if keep in NAMED:
        return None
    name = keep.removeprefix("-").strip()
    if not name:
        raise RecipeError(f"keep: {keep!r} is not understood: write first, last, longest, a column or -column (lowest)")
    return name, -1 if keep.startswith("-") else 1


def needs_of(keep: str) -> frozenset[Need]:
    """The column that a rule reads."""
    found = column_of(keep)
    return frozenset({Need(kind="column", name=found[0])} if found else set())


def worth(view: PoolView, keep: str, characters: NDArray[np.int32] | None = None) -> NDArray[np.float64]:
    """(n,) worth of every row by the rule: the worthiest stays, of equals the first. NaN is worth least."""
    import numpy as np

    places = np.arange(len(view), dtype=np.float64)
    if keep == "first":
        return -places
    if keep == "last":
        return places
    if keep == "longest":
        assert characters is not None
        return characters.astype(np.float64)
    found = column_of(keep)
    assert found is not None
    values = view.column(found[0]).values.astype(np.float64) * found[1]
    return np.where(np.isnan(values), -np.inf, values)


@dataclass(frozen=True)
class Kept:
    """`winner` (n,) int64: the row that stays for each row, itself where it stays."""

    winner: NDArray[np.int64]

    @property
    def dropped(self) -> NDArray[np.bool_]:
        """(n,) rows that leave."""
        import numpy as np

        left: NDArray[np.bool_] = self.winner != np.arange(len(self.winner))
        return left


def best(labels: NDArray[np.int64], worth: NDArray[np.float64]) -> Kept:
    """The worthiest row of every group of equal label; ties go to the lower place."""
    import numpy as np

    order = np.lexsort((np.arange(len(labels)), -worth, labels))
    first = np.r_[True, labels[order][1:] != labels[order][:-1]][: len(order)]
    winner = np.empty(len(labels), np.int64)
    winner[order] = order[first][np.cumsum(first) - 1]
    return Kept(winner)
