"""Greedy maximisation: the naive rule, and the lazy one that makes the same picks from far fewer gains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tamis.submodular.bounds import bound_at, most_of
from tamis.submodular.front import Front
from tamis.submodular.knapsack import guarded
from tamis.submodular.objective import Picks
from tamis.submodular.walk import Walk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.maximise import Limit, Maximiser
    from tamis.submodular.objective import Objective
    from tamis.submodular.walk import Path


def greedy(objective: Objective, limit: Limit, how: Maximiser) -> Picks:
    """Naive or lazy greedy in general loops, over any objective; see `Maximiser`."""
    import numpy as np

    walk = Walk(objective, limit)
    rows = np.arange(len(objective))
    walk.measure(rows)
    alone = walk.upper.copy()
    fill(walk, rows, objective, how)
    walk, notes = guarded(walk, alone, objective, limit, how)
    if how.method == "lazy" and not objective.submodular:
        notes = ("the objective is not submodular: every gain was computed at every step", *notes)
    return finished(walk, alone, objective, limit, nested=limit.rows is not None, notes=notes)


def fill(walk: Walk, rows: NDArray[np.int64], objective: Objective, how: Maximiser) -> None:
    """Walk on through `rows` (ascending) by greedy steps until none fits."""
    lazy = objective.submodular and how.method != "naive"
    (lazily if lazy else plainly)(walk, rows, how.stop_at_negative)


def plainly(walk: Walk, rows: NDArray[np.int64], stop_at_negative: bool) -> None:
    """Walk on through `rows` (ascending): at every step measure all that fit and take the best, until none fits."""
    import numpy as np

    while len(rows := walk.fitting(rows)):
        walk.measure_all(rows)
        best = int(rows[np.argmax(walk.upper[rows] / walk.cost[rows])])
        if stop_at_negative and walk.upper[best] < 0:
            return
        walk.take(best)


def lazily(walk: Walk, rows: NDArray[np.int64], stop_at_negative: bool) -> None:
    """Make the picks of `plainly` for a submodular objective, measuring only what could still be the best."""
    front = Front(walk, rows)
    while (best := front.leader()) is not None:
        if stop_at_negative and walk.upper[best] < 0:
            return
        walk.take(best)
        front.drop()


def finished(
    walk: Walk,
    alone: NDArray[np.float64] | None,
    objective: Objective,
    limit: Limit,
    *,
    nested: bool = False,
    notes: tuple[str, ...] = (),
) -> Picks:
    """Picks of a walk that is over. `alone`: (n,) value of every candidate alone, for a second bound; None: unknown."""
    bound = None
    if objective.submodular and objective.monotone:
        bound = bound_at(walk, limit.most)
        if alone is not None:
            bound = min(bound, most_of(alone, walk.cost, limit.most)[0])
    return picks_of(walk.path, bound, alone, nested=nested, notes=notes)


def picks_of(
    path: Path,
    bound: float | None,
    alone: NDArray[np.float64] | None = None,
    *,
    nested: bool = False,
    notes: tuple[str, ...] = (),
) -> Picks:
    """Picks of a path; a note tells of picks that made f smaller. A bound below f(S) by rounding becomes f(S)."""
    import numpy as np

    gains = np.array(path.picked_on, np.float64)
    if lost := int((gains < 0).sum()):
        notes += (f"{lost} of the {len(gains)} picks made f smaller: the budget was filled all the same",)
    return Picks(
        order=np.array(path.order, np.int64),
        gains=gains,
        value=path.value,
        bound=None if bound is None else max(bound, path.value),
        evaluations=path.evaluations,
        nested=nested,
        notes=notes,
        alone=alone,
    )
