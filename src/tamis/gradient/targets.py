"""The rows of a target pool as tasks, by a field or every row a query of its own; and what scores on them look like."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError
from tamis.values import Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.gradient.objective import Example
    from tamis.gradient.source import GradientSource
    from tamis.pool import Pool
    from tamis.values import Arrays

log = logging.getLogger(__name__)
EACH_ROW = "row"
UNIT = "gradient product"  # of scores that are no cosines


@dataclass(frozen=True)
class Tasks:
    """`names` of the tasks, and the target's usable rows: `examples`, with the number of the `task` of each (n,).

    `rows`: rows of the target, usable or not.
    """

    names: tuple[str, ...]
    examples: list[Example]
    task: NDArray[np.int64]
    rows: int

    def check(self, without: Iterable[int] = (), among: Iterable[int] | None = None) -> None:
        """Raise DataError where a task (of those `among`) has no row but those at the places `without`."""
        import numpy as np

        places = np.array(list(without), np.int64)
        left = set(np.delete(self.task, places).tolist())
        numbers = range(len(self.names)) if among is None else among
        empty = [repr(self.names[number]) for number in numbers if number not in left]
        if empty or not self.names:
            found = f"{len(places)} target rows give values that are not finite: " if len(places) else ""
            raise DataError(
                f"{found}of {self.rows} target rows {len(self.task) - len(places)} can be used: no row is left for "
                f"{', '.join(empty[:5]) or 'the target'}. Target rows need a non-empty answer that is not cut off by "
                "the model's max_tokens"
            )


def read_tasks(target: Pool, by: str, source: GradientSource) -> Tasks:
    """Render the target. `by`: `source`, `kind`, `file` or `meta.FIELD`; `row`: every usable row is a task.

    Tasks are sorted by name; queries keep the order of the rows and are named by their keys. Rows without a label are
    left out with a warning. Raises DataError where a task has no other row.
    """
    import numpy as np

    from tamis.views import PoolView

    rows = list(target)
    examples, reason = source.objective.examples(rows, source.base())
    usable = np.flatnonzero(reason == 0)
    if by == EACH_ROW:
        names = tuple(rows[place].key for place in usable)
        task = np.arange(len(usable))
    else:
        groups = [str(name) for name in PoolView(target).groups(by)]
        names = tuple(sorted(set(groups)))
        task = np.array([names.index(groups[place]) for place in usable], np.int64)
    found = Tasks(names, [examples[place] for place in usable], task, len(rows))
    found.check()
    if len(usable) < len(rows):
        log.warning(
            "%d of %d target rows cannot be used for influence and are left out", len(rows) - len(usable), len(rows)
        )
    return found


def as_signal(
    scores: NDArray[np.float64],
    norms: NDArray[np.floating],
    reason: NDArray[np.uint8],
    names: Sequence[str],
    cosine: bool,
) -> Arrays:
    """The arrays of the signal `influence`, whoever measured it.

    `scores` (n, tasks) float32, NaN where there is a reason; `norms` (n, checkpoints) float32 of Γ; `reason` (n,);
    `tasks`, the names as JSON in uint8; and, of scores that are no cosines, their `unit` as text in uint8. Rows without
    a reason whose numbers are not finite get one. `scores` and `reason` are changed in place.
    """
    import numpy as np

    reason[(reason == 0) & ~(np.isfinite(scores).all(1) & np.isfinite(norms).all(1))] = Reason.NOT_FINITE
    scores[reason > 0] = np.nan
    arrays: dict[str, NDArray[Any]] = {
        "scores": scores.astype(np.float32),
        "norms": norms.astype(np.float32),
        "reason": reason,
        "tasks": np.frombuffer(json.dumps(list(names)).encode(), np.uint8),
    }
    return arrays if cosine else {**arrays, "unit": np.frombuffer(UNIT.encode(), np.uint8)}
