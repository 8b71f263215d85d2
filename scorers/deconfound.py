"""Deconfound: a column less what length, source, rater or format explain of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.column.confounding import Confounder, Form
from tamis.errors import RecipeError
from tamis.grouping import CLUSTERS, FIELDS
from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Arrays
    from tamis.views import PoolView, ShardSignals

LENGTH = "length"  # stands for tokens that are trained on
MUCH = 0.5


@dataclass(frozen=True, kw_only=True)
class Deconfound:
    """A column less what confounders explain of it: residuals of a cross-fitted regression.

    For "Aligning Language Models with Observational Data: Opportunities and Risks from a Causal Perspective"
    (DeconfoundLM), of whose method only the abstract was read: the exact form is ours. `column`: what to clear. `on`:
    `length` (response tokens), `source`, `kind`, `file`, `meta.NAME` (numbers where all of them are and there are more
    than 20, else kinds), `clusters:K`, or another column. Numbers enter by `form`: cubic spline, rank or linear; kinds
    one-hot, those of fewer than 5 rows together. Each row is predicted by the regression over the other `folds`, which
    go by the rows' keys.

    A column of which length alone explains more than half is a length score, and `notes` say so. Residuals are in the
    unit of the column; R² of every confounder alone and of all held out are among the facts.
    """

    column: str
    on: tuple[str, ...] = (LENGTH, "source")
    form: Form = "spline"
    folds: int = 5
    revision: ClassVar[int] = 1
    fits_rows: ClassVar[bool] = True  # numbers of single rows: new ones have none until it is fitted anew

    def __post_init__(self) -> None:
        if self.folds < 2 or not self.on:
            raise RecipeError("deconfound: `folds` is at least 2, and `on` names at least one confounder")
        if self.column in self.on:
            raise RecipeError(f"deconfound: {self.column} would explain itself; leave it out of `on`")

    @property
    def needs(self) -> frozenset[Need]:
        """The column, and what the confounders are read from."""
        from tamis.grouping import needs_of

        own = {Need(kind="column", name=self.column)}
        for name in self.on:
            own |= {Need(kind="column", name=f"{LENGTH}.response")} if name == LENGTH else needs_of(name)
        return frozenset(own)

    def fit(self, view: PoolView, /) -> tuple[Arrays, Mapping[str, Any]]:
        """Residual and prediction of every row by its key; facts: `r2` by confounder, `r2_all` held out, a note."""
        import numpy as np

        from tamis.column.confounding import cross_fitted, explained, folds_of
        from tamis.column.fitted import by_key, order_of

        order = order_of(view.pool)  # sums are taken in it
        column = view.column(self.column)
        known = order[np.isfinite(column.values[order])]
        reasons = np.array(column.reasons)
        predicted = np.full(len(view), np.nan)
        facts: dict[str, Any] = {"rows": len(known), "r2": {}}
        if len(known) > 1:
            score = column.values[known].astype(np.float64)
            on = [self._confounder(view, name).at(known) for name in self.on]
            predicted[known] = cross_fitted(score, on, folds_of(len(known), self.folds), self.form)
            facts |= self._facts(score, on, explained(score, predicted[known]))
        else:
            reasons[known] = Reason.NOT_MEASURED
        keys = view.pool.table(["key"]).column("key").to_pylist()
        residual = (column.values.astype(np.float64) - predicted).astype(np.float32)
        return by_key(keys, {"residual": residual, "raw": column.values}, reasons), facts

    def _confounder(self, view: PoolView, name: str) -> Confounder:
        import numpy as np

        from tamis.grouping import FEW

        if name in FIELDS or name.startswith(CLUSTERS):
            return Confounder(name, view.groups(name))
        if not name.startswith("meta."):
            return Confounder(name, view.column(f"{LENGTH}.response" if name == LENGTH else name).values)
        column = view.column(name)
        numbers = not (column.reasons == Reason.WRONG_KIND).any() and len(np.unique(column.values)) > FEW
        return Confounder(name, column.values if numbers else view.groups(name))

    def _facts(self, score: NDArray[np.float64], on: list[Confounder], held_out: float) -> dict[str, Any]:
        from tamis.column.confounding import r_squared

        alone = {one.name: round(r_squared(score, one, self.form), 6) for one in on}
        said = ", ".join(f"{name} {share:.2f}" for name, share in alone.items())
        note = f"R² of {self.column} on each alone: {said}; on all of them, held out: {max(0.0, held_out):.2f}"
        lengths = [name for name, share in alone.items() if name.partition(".")[0] == LENGTH and share > MUCH]
        note += f"; {self.column} is a length score" if lengths else ""
        return {"r2": alone, "r2_all": round(held_out, 6), "length_score": bool(lengths), "note": note}

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `residual` and `raw`, in the unit of the column; NaN with the column's reason."""
        from tamis.column.fitted import column_of

        unit = have.column(self.column).unit
        return {name: column_of(have, name, unit) for name in ("residual", "raw")}
