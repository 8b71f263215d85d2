"""Where: a filter over columns and fields, as a cleaning step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.column.filtering import filter_rows, needs_of
from tamis.values import Dropped, Machine, Need

if TYPE_CHECKING:
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class Where:
    """Drops rows for which an expression over columns and fields does not hold.

    `keep`: as in `tamis filter --where`, for example `lang == "en" and (ifd < 1 or source in ("oasst", "lima"))`.
    Columns that nobody has made are made by their scorers first. A comparison with a value that is not there is neither
    true nor false: rows whose fate hangs on it are dropped too, as not scored, and counted apart. Raises RecipeError
    where the expression is wrong.
    """

    revision: ClassVar[int] = 1
    keep: str

    def __post_init__(self) -> None:
        needs_of(self.keep)  # a wrong expression is said when the recipe is read

    @property
    def needs(self) -> frozenset[Need]:
        """The columns that the expression names, and the signal of languages where it names `lang`."""
        return needs_of(self.keep)

    def clean(self, view: PoolView, on: Machine, /) -> Dropped:
        """Rows that do not pass. `facts`: `false` and `not_scored`, their numbers."""
        import numpy as np

        kept, unscored = filter_rows(view, self.keep)
        false, unknown = f"{self.keep!r} is false", f"not scored: {self.keep!r} cannot be judged"
        gone = np.flatnonzero(~kept)
        reasons = tuple(unknown if unscored[place] else false for place in gone.tolist())
        facts = {"false": int((~kept & ~unscored).sum()), "not_scored": int(unscored.sum())}
        return Dropped(rows=~kept, reasons=reasons, facts=facts)
