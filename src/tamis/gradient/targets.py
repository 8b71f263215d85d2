"""The rows of a target pool as tasks: by a field of the rows, or every row a query of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tamis.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.gradient.objective import Example
    from tamis.gradient.source import GradientSource
    from tamis.pool import Pool

log = logging.getLogger(__name__)
EACH_ROW = "row"


@dataclass(frozen=True)
class Tasks:
    """`names` of the tasks, and the target's usable rows: `examples`, with the number of the `task` of each (n,).

    `rows`: rows of the target, usable or not.
    """

    names: tuple[str, ...]
    examples: list[Example]
    task: NDArray[np.int64]
    rows: int

    @property
    def sizes(self) -> list[int]:
        """Usable rows of every task."""
        import numpy as np

        return [int(count) for count in np.bincount(self.task, minlength=len(self.names))]

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
