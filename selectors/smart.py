"""SMART: a budget divided among tasks by a graph cut, facility location inside (Renduchintala et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.budgets import BudgetTooSmall
from tamis.errors import RecipeError
from tamis.values import Budget, Need

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.objective import Picks
    from tamis.values import Machine, Subset
    from tamis.vectors.embeddings import Embeddings
    from tamis.vectors.tasks import Tasks, Weighted
    from tamis.views import PoolView

SAID = 12  # tasks that a note lists
DENSE = 4096  # rows of a task up to which all its cosines are held in memory: 64 MB


@dataclass(frozen=True, kw_only=True)
class Smart:
    """SMART: budget by graph cut over tasks, facility location inside (Renduchintala et al., 2024).

    Findings of ACL 2024, arXiv:2403.08370. A task is a group of the pool (`by`: source, kind, file, meta.NAME,
    clusters:K or a column); it stands for the mean of its rows' embeddings. A greedy graph cut puts the tasks in order
    (`lam` 0.4), `tasks` keeps the first of them, and the second-order Taylor softmax of the gains (`temperature`;
    `normalise` divides gains by the number of tasks first) says what each gets. Inside a task rows are picked by
    facility location over cosines, tasks side by side in as many threads as there are workers.

    Embeddings are pooled hidden states of whole rows; the paper's are GTE embeddings of prompts alone. Its code gives
    what rounding leaves over to the first tasks, moves what a small task cannot use row by row, and divides tasks again
    by template; here budgets are filled like water, by largest remainder, and do not depend on the order of tasks.

    Rows of tasks that were not kept are taken only once the kept ones are full. With a budget of tokens, what is left
    over goes to the tasks in their order. For other selectors inside the tasks, use them with the mixer `smart`.

    A task of more than 4,096 rows is seen through a k-NN graph (`neighbours` of each row, itself counted). Time O(n d)
    for the tasks, then O(m² d) for a task of m rows, less with a graph.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = False

    by: str = "source"
    tasks: int | None = None
    lam: float = 0.4
    temperature: float = 1.0
    normalise: bool = False
    duplicates: Literal["once", "keep"] = "keep"
    neighbours: int = 64

    def __post_init__(self) -> None:
        from tamis import grouping
        from tamis.vectors.tasks import check

        grouping.needs_of(self.by)  # refuses a grouping that is none
        check("smart", self.tasks, self.lam, self.temperature)
        if self.neighbours < 2:
            raise RecipeError(
                f"smart: neighbours must be at least 2, the row itself and one more, got {self.neighbours}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states, the lengths of rows, and what the groups are read from."""
        from tamis import grouping
        from tamis.vectors import embeddings

        return embeddings.needs_of() | grouping.needs_of(self.by)

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, task by task, heaviest first; a gain is that of facility location.

        `values` is the mean cosine of a row to those of its task.
        """
        import numpy as np

        from tamis.values import Subset
        from tamis.vectors import embeddings, tasks

        found = embeddings.of_pool(view, "smart", self.duplicates)
        parts = tasks.tasks_of(view, found, self.by)
        weighted = tasks.weigh(
            parts, keep=self.tasks, lam=self.lam, temperature=self.temperature, normalise=self.normalise
        )
        filling = _Filling(found, parts, view.cost[found.places], budget, self.neighbours, on)
        filling.fill(self._shares(view, filling, weighted), weighted.names)
        chosen, gains = filling.chosen()
        values = np.full(len(view), np.nan, np.float32)
        values[found.places] = _to_own_task(found, parts)
        return Subset(
            positions=found.places[chosen],
            gains=gains,
            values=values,
            reasons=found.reasons,
            unit="mean cosine to its task",
            notes=(*_weights_said(weighted, self.by), *filling.notes(weighted.names)),
        )

    def _shares(self, view: PoolView, filling: _Filling, weighted: Weighted) -> dict[str, Budget]:
        from tamis.mixes import claims_of, divide

        claims = claims_of(weighted.by_name(filling.tasks.names))
        return divide(filling.budget, claims, filling.held(), usable=int(view.usable.sum()))


def _to_own_task(found: Embeddings, parts: Tasks) -> NDArray[np.float32]:
    """(m,) mean cosine of every row to the rows of its task."""
    import numpy as np

    values = np.empty(len(found), np.float32)
    for rows in parts.members:
        mean = found.vectors[rows].mean(axis=0, dtype=np.float64)
        values[rows] = found.vectors[rows] @ mean
    return values


def _weights_said(weighted: Weighted, by: str) -> tuple[str, ...]:
    pairs = list(zip(weighted.names, weighted.weights.tolist(), strict=True))
    said = [f"{name or '(none)'} {weight:.3g}" for name, weight in pairs]
    shown = said if len(said) <= SAID else [*said[: SAID - 1], f"… {said[-1]}"]
    return (f"{len(pairs)} tasks by {by} in the order of the graph cut, with their weights: {', '.join(shown)}",)


@dataclass(frozen=True)
class _Part:
    """What was picked from one task: rows as numbered in the embeddings."""

    task: str
    rows: NDArray[np.int64]
    picks: Picks
    notes: tuple[str, ...]


class _Filling:
    """Rows picked task by task. Rows are numbered as in the embeddings."""

    def __init__(
        self,
        found: Embeddings,
        tasks: Tasks,
        cost: NDArray[np.int64],
        budget: Budget,
        neighbours: int,
        on: Machine,
    ) -> None:
        self.vectors, self.tasks, self.cost = found.vectors, tasks, cost
        self.budget, self.neighbours, self.workers = budget, neighbours, max(1, on.workers)
        self.members = dict(zip(tasks.names, tasks.members, strict=True))
        self.shared: list[_Part] = []
        self.left_over: list[_Part] = []

    def held(self) -> dict[str, int]:
        """What each task holds, in the unit of the budget."""
        tokens = self.budget.tokens is not None
        return {name: int(self.cost[rows].sum()) if tokens else len(rows) for name, rows in self.members.items()}

    def fill(self, shares: dict[str, Budget], first: Sequence[str]) -> None:
        """Spend the shares, tasks `first` in their order, then the others by name; then what tokens are left."""
        from concurrent.futures import ThreadPoolExecutor

        total = self.budget.tokens
        if total is not None and total < self.cost.min():
            raise BudgetTooSmall(
                f"a budget of {total} tokens is smaller than the smallest row with an embedding "
                f"({self.cost.min()} tokens); raise it"
            )
        names = [*first, *sorted(set(self.members) - set(first))]
        with ThreadPoolExecutor(self.workers) as pool:
            done = pool.map(lambda name: self._inside(name, self.members[name], shares[name]), names)
            self.shared = [part for part in done if part is not None]
        if total is not None:
            for name in names:
                self._spend(name, total)

    def _spend(self, name: str, total: int) -> None:
        """Fill what is left of the tokens from one task."""
        import numpy as np

        chosen, _ = self.chosen()
        left = total - int(self.cost[chosen].sum())
        rows = np.setdiff1d(self.members[name], chosen)
        part = self._inside(name, rows[self.cost[rows] <= left], Budget(tokens=left))
        self.left_over += [part] if part is not None else []

    def _inside(self, name: str, rows: NDArray[np.int64], share: Budget) -> _Part | None:
        """Facility location over some rows of a task; None where the share buys none of them."""
        from tamis.submodular.facility_location import FacilityLocation
        from tamis.submodular.maximise import Limit, maximise
        from tamis.submodular.similar import kernel_of
        from tamis.values import Machine

        if not len(rows) or not (share.rows or (share.tokens or 0) >= self.cost[rows].min()):
            return None
        limit = Limit(rows=share.rows) if share.rows else Limit(tokens=share.tokens, cost=self.cost[rows])
        kernel, notes = kernel_of(self.vectors[rows], "auto", self.neighbours, Machine(), DENSE)
        picks = maximise(FacilityLocation(kernel), limit)
        return _Part(name, rows[picks.order], picks, (*notes, *picks.notes))

    def chosen(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows in the order picked, and their gains."""
        import numpy as np

        parts = [*self.shared, *self.left_over]
        rows = np.concatenate([np.zeros(0, np.int64), *[part.rows for part in parts]])
        return rows, np.concatenate([np.zeros(0), *[part.picks.gains for part in parts]]).astype(np.float32)

    def notes(self, kept: Sequence[str]) -> tuple[str, ...]:
        """The bound inside the tasks, with the shares as they are; rows of other tasks; what single tasks say."""
        value = sum(part.picks.value for part in self.shared)
        bounds = [part.picks.bound for part in self.shared if part.picks.bound is not None]
        said = []
        if bounds and len(bounds) == len(self.shared):
            share = 100 * min(1.0, value / sum(bounds)) if sum(bounds) else 100.0
            said.append(f"f = {value:.6g} inside the tasks, at least {share:.1f} % of the best with these shares")
        others = sum(len(part.rows) for part in [*self.shared, *self.left_over] if part.task not in kept)
        if others:
            said.append(f"the tasks kept could not use the whole budget: {others} rows are of other tasks")
        return (*said, *[f"{part.task}: {note}" for part in self.shared for note in part.notes])
