"""What of a column other things explain: cross-fitted regression, and R² of each of them alone.

DeconfoundLM: "Aligning Language Models with Observational Data: Opportunities and Risks from a Causal Perspective".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Form = Literal["spline", "rank", "linear"]
KNOTS = 5
ROWS_A_KNOT = 10
RARE = 5  # fewer rows of a kind say nothing of it


@dataclass(frozen=True)
class Confounder:
    """Something that may explain a column. `values`: (n,) numbers, NaN where a row has none, or (n,) names of kinds."""

    name: str
    values: NDArray[Any]

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return self.values.dtype.kind in "fiu"

    def at(self, rows: NDArray[Any]) -> Confounder:
        """The same for some rows."""
        return Confounder(self.name, self.values[rows])


def cross_fitted(
    score: NDArray[np.float64], on: Sequence[Confounder], folds: NDArray[np.int64], form: Form = "spline"
) -> NDArray[np.float64]:
    """(n,) what `on` predicts of a score, for every row by the regression over the rows of the other folds."""
    import numpy as np

    predicted = np.full(len(score), np.nan)
    for fold in np.unique(folds):
        inside, outside = folds == fold, folds != fold
        seen, unseen = [one.at(outside) for one in on], [one.at(inside) for one in on]
        predicted[inside] = _regressed(score[outside], seen, unseen, form)
    return predicted


def r_squared(score: NDArray[np.float64], on: Confounder, form: Form = "spline") -> float:
    """Share of a score's variance that one confounder alone explains, over the rows fitted: 0 to 1."""
    predicted = _regressed(score, [on], [on], form)
    return explained(score, predicted)


def explained(score: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """1 less the squared errors by those around the mean; 0 where a score does not vary. Below 0 off the rows fitted"""
    import numpy as np

    around = float(np.square(score - score.mean()).sum())
    return 1.0 - float(np.square(score - predicted).sum()) / around if around > 0 else 0.0


def _regressed(
    score: NDArray[np.float64], seen: Sequence[Confounder], unseen: Sequence[Confounder], form: Form
) -> NDArray[np.float64]:
    """Least squares with an intercept (of least norm, where columns depend on each other), at the unseen rows."""
    import numpy as np
    from sklearn.linear_model import LinearRegression

    pairs = [_designs(one, other, form) for one, other in zip(seen, unseen, strict=True)]
    fitted = np.column_stack([np.zeros((len(score), 0)), *(one for one, _ in pairs)])
    asked = np.column_stack([np.zeros((len(unseen[0].values), 0)), *(other for _, other in pairs)])
    if not fitted.shape[1]:
        return np.full(len(asked), score.mean())
    found: NDArray[np.float64] = LinearRegression().fit(fitted, score).predict(asked)
    return found


def _designs(seen: Confounder, unseen: Confounder, form: Form) -> list[NDArray[np.float64]]:
    """Columns of a design made from the rows seen, for these and for the others.

    Kinds of fewer than `RARE` rows have no column of their own: nothing could be learnt of them.
    """
    import numpy as np

    if not seen.numeric:
        kinds, counts = np.unique(seen.values, return_counts=True)
        common = kinds[counts >= RARE]
        return [(one.values[:, None] == common[None]).astype(np.float64) for one in (seen, unseen)]
    known = np.asarray(seen.values, np.float64)
    middle = float(np.nanmedian(known)) if np.isfinite(known).any() else 0.0
    both = [np.asarray(one.values, np.float64) for one in (seen, unseen)]
    gone = [~np.isfinite(one) for one in both]
    filled = [np.where(no, middle, one) for one, no in zip(both, gone, strict=True)]
    bases = _bases(filled[0], filled[1], form)
    weight = float(gone[0].sum() >= RARE)
    return [np.column_stack([base, weight * no]) for base, no in zip(bases, gone, strict=True)]


def _bases(seen: NDArray[np.float64], unseen: NDArray[np.float64], form: Form) -> list[NDArray[np.float64]]:
    """Numbers as columns: cubic splines with knots at quantiles of the rows seen, ranks among those, or themselves.

    A spline has at most a knot for every `ROWS_A_KNOT` rows and is flat beyond the outer ones; with less than three
    knots it is a line.
    """
    import numpy as np

    if form == "rank":
        order = np.sort(seen)
        sides = [[np.searchsorted(order, one, side) for side in ("left", "right")] for one in (seen, unseen)]
        return [np.add(*side)[:, None] / (2 * len(order)) for side in sides]
    knots = np.unique(np.quantile(seen, np.linspace(0, 1, max(2, min(KNOTS, len(seen) // ROWS_A_KNOT)))))
    if form == "linear" or len(knots) < 3:
        return [seen[:, None], unseen[:, None]]
    from sklearn.preprocessing import SplineTransformer

    spline = SplineTransformer(degree=3, knots=knots[:, None], extrapolation="constant", include_bias=False)
    return [spline.fit_transform(seen[:, None]), spline.transform(unseen[:, None])]


def folds_of(count: int, folds: int) -> NDArray[np.int64]:
    """(n,) fold of rows in the order of their keys, in turn: as many as asked for, at most one a row."""
    import numpy as np

    return np.arange(count) % max(1, min(folds, count))
