"""From an objective and a maximiser to a subset: any budget, and what the run can say of its own quality."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from tamis.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.maximise import Limit, Maximiser
    from tamis.submodular.objective import Objective, Picks
    from tamis.values import Budget, Subset
    from tamis.views import PoolView


def subset_of(
    view: PoolView,
    budget: Budget,
    objective: Objective,
    places: NDArray[np.int64],
    how: Maximiser | None = None,
    *,
    unit: str,
    reasons: NDArray[np.uint8] | None = None,
    values: NDArray[np.float32] | None = None,
    notes: tuple[str, ...] = (),
) -> Subset:
    """The rows that `how` picks for `objective`, whose candidate i is row `places[i]` (m,), ascending.

    A share is one of the usable rows; a budget of tokens is never exceeded, and what is left of it is smaller than the
    smallest candidate not picked. `values` (n,): the statistic every row is judged on (default: its value f alone), in
    `unit`; `reasons` (n,): why a row is no candidate. The notes say f(S) and the bound of this run, then what the
    maximiser says, then `notes`. Raises DataError where there is no candidate, BudgetTooSmall where none fits.
    """
    import numpy as np

    from tamis.budgets import pick
    from tamis.submodular.maximise import maximise

    limit = limit_of(view, budget, places)
    picks = maximise(objective, limit, how)
    gains = np.full(len(view), np.nan)
    gains[places[picks.order]] = picks.gains
    if values is None:
        values = np.full(len(view), np.nan, np.float32)
        values[places] = _alone(objective, picks)
    subset = pick(view, places[picks.order], budget, values, unit=unit, gains=gains, reasons=reasons)
    return dataclasses.replace(subset, notes=(quality(picks), *_empty(picks), *picks.notes, *notes))


def limit_of(view: PoolView, budget: Budget, places: NDArray[np.int64]) -> Limit:
    """The limit that a budget sets for candidates at `places` (m,); see `subset_of` for what it raises."""
    from tamis.budgets import BudgetTooSmall
    from tamis.submodular.maximise import Limit

    if not len(places):
        raise DataError("no usable row is a candidate: there is nothing to choose from")
    rows, tokens = budget.limits(int(view.usable.sum()))
    if tokens is None:
        return Limit(rows=rows)
    cost = view.cost[places]
    if tokens < cost.min():
        raise BudgetTooSmall(
            f"a budget of {tokens} tokens is smaller than the smallest row that can be chosen ({cost.min()} tokens); "
            "raise it"
        )
    return Limit(tokens=tokens, cost=cost)


def quality(picks: Picks) -> str:
    """What f(S) is, and how much of the best possible that is at the least.

    >>> import numpy as np
    >>> from tamis.submodular.objective import Picks
    >>> none = np.zeros(0)
    >>> quality(Picks(none.astype(int), none, 3.0, 4.0, 9, True))
    'f(S) = 3, at least 75 % of the best possible within this budget'
    """
    if picks.bound is None:
        return f"f(S) = {picks.value:.6g}; no bound on the best possible: f is not monotone and submodular"
    share = 100.0 if picks.bound <= picks.value else math.floor(1000 * picks.value / picks.bound) / 10
    return f"f(S) = {picks.value:.6g}, at least {share:g} % of the best possible within this budget"


def _empty(picks: Picks) -> tuple[str, ...]:
    """A note where the objective was exhausted before the budget was."""
    import numpy as np

    useful = np.flatnonzero(picks.gains != 0)
    empty = len(picks.gains) - (int(useful[-1]) + 1 if len(useful) else 0)
    if not empty:
        return ()
    return (f"the last {empty} of {len(picks.gains)} picks gained nothing: they are in the order of the pool",)


def _alone(objective: Objective, picks: Picks) -> NDArray[np.float64]:
    import numpy as np

    return picks.alone if picks.alone is not None else objective.begin().gains(np.arange(len(objective)))
