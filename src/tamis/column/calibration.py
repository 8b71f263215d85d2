"""Calibration of a score where the truth is known: ECE, Brier, AUROC, AURC; and TSU, which needs no truth.

Scores say how sure one may be that a row is right: high is sure. Ties count half, so that no order of rows matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tamis.column.normalising import average_ranks
from tamis.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BINS = 10


def auroc(score: NDArray[Any], right: NDArray[np.bool_]) -> float | None:
    """Probability that a row that is right scores higher than one that is not; None where either is missing."""
    good = int(right.sum())
    wrong = len(right) - good
    if not good or not wrong:
        return None
    return float((average_ranks(score)[right].sum() - good * (good + 1) / 2) / (good * wrong))


def aurc(score: NDArray[Any], right: NDArray[np.bool_]) -> float:
    """Area under the risk-coverage curve: mean over k of the share of errors among the k most confident rows.

    Rows of equal score take the share of errors of all of them.
    """
    import numpy as np

    levels, place = np.unique(-np.asarray(score, np.float64), return_inverse=True)
    errors = np.bincount(place, weights=~right) / np.bincount(place, minlength=len(levels))
    ordered = np.repeat(errors, np.bincount(place))
    return float(np.mean(np.cumsum(ordered) / np.arange(1, len(ordered) + 1)))


def expected_error(confidence: NDArray[Any], right: NDArray[np.bool_], bins: int = BINS) -> float:
    """ECE with bins of equal mass: |mean confidence - share right|, weighted by rows. `confidence` in [0, 1].

    Rows of equal confidence are never parted.
    """
    import numpy as np

    at = ((average_ranks(confidence) - 0.5) / len(confidence) * bins).astype(np.int64)
    gap = np.bincount(at, weights=np.asarray(confidence, np.float64) - right, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def brier(confidence: NDArray[Any], right: NDArray[np.bool_]) -> float:
    """Mean squared difference between a confidence in [0, 1] and the truth (0 or 1)."""
    import numpy as np

    return float(np.square(np.asarray(confidence, np.float64) - right).mean())


def rising(uncertainties: Sequence[NDArray[Any]]) -> float:
    """TSU (Inv-Entropy): share of rows whose uncertainty grows strictly from one temperature to the next.

    `uncertainties`: one (n,) for each temperature, the lowest first. Rows that lack one do not count. DataError where
    all do, or there are fewer than two.
    """
    import numpy as np

    table = np.array(uncertainties, np.float64)
    known = np.isfinite(table).all(axis=0)
    if len(table) < 2 or not known.any():
        raise DataError("rising uncertainty takes two columns at least, and a row that has all of them")
    return float((np.diff(table[:, known], axis=0) > 0).all(axis=0).mean())


def calibration(
    score: NDArray[Any], truth: NDArray[Any], *, bins: int = BINS, uncertainty: bool = False
) -> Mapping[str, Any]:
    """All figures over the rows that have both; with `uncertainty` a high score speaks against a row.

    `truth` is 1 where a row is right and 0 where it is not. ECE and Brier need a confidence in [0, 1], 1 less the score
    for an uncertainty, and are None for other scores. `rows`, `right`: how many count. DataError where no row has both,
    or the truth is anything else.
    """
    import numpy as np

    both = np.isfinite(score) & np.isfinite(truth)
    if not both.any():
        raise DataError("no row has both a score and a truth")
    given, known = np.asarray(score, np.float64)[both], np.asarray(truth)[both]
    if not np.isin(known, (0, 1)).all():
        found = known[~np.isin(known, (0, 1))][0]
        raise DataError(f"the truth must be 1 (right) or 0 (wrong), or true and false; a row has {found:g}")
    right = known == 1
    probability = bool(given.min() >= 0 and given.max() <= 1)
    sure = (1 - given if probability else -given) if uncertainty else given
    return {
        "rows": len(right),
        "right": int(right.sum()),
        "ece": expected_error(sure, right, bins) if probability else None,
        "brier": brier(sure, right) if probability else None,
        "auroc": auroc(sure, right),
        "aurc": aurc(sure, right),
        "error": float((~right).mean()),
        "bins": bins,
    }
