"""Mixers: how a budget is divided among the groups of a pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import RecipeError
from tamis.values import Need

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tamis.values import Budget
    from tamis.views import PoolView

LEAST = 1e-300  # a group that was kept never weighs nothing


def _needs(by: str) -> frozenset[Need]:
    from tamis import grouping

    return grouping.needs_of(by) | {Need(kind="signal", name="lengths")}


def _shares(view: PoolView, budget: Budget, held: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, Budget]:
    """`budget` divided by weights; a group without one weighs 0."""
    from tamis.mixes import claims_of, divide

    claims = claims_of({name: weights.get(name, 0.0) for name in held})
    return divide(budget, claims, held, usable=int(view.usable.sum()))


@dataclass(frozen=True, kw_only=True)
class Proportional:
    """Every group keeps its share of the pool.

    `by`: source, kind, file, meta.NAME, clusters:K or a column. Shares are in the unit of the budget: of rows, or of
    tokens.
    """

    revision: ClassVar[int] = 1

    by: str = "source"

    def __post_init__(self) -> None:
        _needs(self.by)  # refuses a grouping that is none

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths of rows, and what the groups are read from."""
        return _needs(self.by)

    def share(self, view: PoolView, budget: Budget, /) -> Mapping[str, Budget]:
        """Budget of every group with a usable row; they add up to `budget`, or to what the pool holds."""
        from tamis.mixes import divide, holdings

        held = holdings(view, self.by, budget)
        return divide(budget, held, held, usable=int(view.usable.sum()))


@dataclass(frozen=True, kw_only=True)
class Equal:
    """Every group gets the same share; what small groups cannot use goes to the others.

    `by`: as in `proportional`. Shares are in the unit of the budget: of rows, or of tokens.
    """

    revision: ClassVar[int] = 1

    by: str = "source"

    def __post_init__(self) -> None:
        _needs(self.by)  # refuses a grouping that is none

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths of rows, and what the groups are read from."""
        return _needs(self.by)

    def share(self, view: PoolView, budget: Budget, /) -> Mapping[str, Budget]:
        """Budget of every group with a usable row; they add up to `budget`, or to what the pool holds."""
        from tamis.mixes import divide, holdings

        held = holdings(view, self.by, budget)
        return divide(budget, dict.fromkeys(held, 1), held, usable=int(view.usable.sum()))


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """Shares by a power of what groups hold: w ~ n^alpha, between proportional (1) and equal (0).

    The multilingual rule of Devlin (2018) and Conneau et al. (2020, arXiv:1911.02116). `alpha` in [0, 1]: 0.5 is the
    square root. `by`: as in `proportional`; n is counted in the unit of the budget, rows or tokens.
    """

    revision: ClassVar[int] = 1

    by: str = "source"
    alpha: float = 0.5

    def __post_init__(self) -> None:
        _needs(self.by)  # refuses a grouping that is none
        if not 0 <= self.alpha <= 1:
            raise RecipeError(f"temperature: alpha must lie between 0 (equal) and 1 (proportional), got {self.alpha}")

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths of rows, and what the groups are read from."""
        return _needs(self.by)

    def share(self, view: PoolView, budget: Budget, /) -> Mapping[str, Budget]:
        """Budget of every group with a usable row; they add up to `budget`, or to what the pool holds."""
        from tamis.mixes import holdings, tempered

        held = holdings(view, self.by, budget)
        return _shares(view, budget, held, tempered(held, self.alpha))


@dataclass(frozen=True, kw_only=True)
class PromptsFirst:
    """Many groups with few rows each: shares by min(n, cap), what is left goes to the large groups.

    For groups that are instructions, rules or templates ("From Symbolic Tasks to Code Generation", 2024,
    arXiv:2405.19787: at a fixed budget more different instructions beat more examples of each). `cap`: rows, or tokens,
    of a group that count (default: the budget divided by the number of groups, which makes the shares those of
    `equal`). `by`: as in `proportional`. Where the budget is smaller than the number of groups, those of lower name
    among equals get a row.
    """

    revision: ClassVar[int] = 1

    by: str = "source"
    cap: int | None = None

    def __post_init__(self) -> None:
        _needs(self.by)  # refuses a grouping that is none
        if self.cap is not None and self.cap < 1:
            raise RecipeError(f"prompts-first: cap must be at least 1, got {self.cap}")

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths of rows, and what the groups are read from."""
        return _needs(self.by)

    def share(self, view: PoolView, budget: Budget, /) -> Mapping[str, Budget]:
        """Budget of every group with a usable row; they add up to `budget`, or to what the pool holds."""
        from tamis.mixes import divide, holdings

        usable = int(view.usable.sum())
        held = holdings(view, self.by, budget)
        rows, tokens = budget.limits(usable)
        cap = self.cap or max(1, -(-(rows or tokens or 0) // max(1, len(held))))
        return divide(budget, {name: min(amount, cap) for name, amount in held.items()}, held, usable=usable)


@dataclass(frozen=True, kw_only=True)
class TaskEmbeddings:
    """Groups whose mean embedding is nearest to the target's: "What to Pre-Train on" (Poth et al., 2021).

    arXiv:2104.08247, TextEmb: the cosine of a group's mean embedding with the target's; here embeddings are pooled
    hidden states of whole rows. Shares are ~ exp(cosine / temperature); `keep` takes the nearest groups alone, others
    only once these are full. `by`: as in `proportional`. Time O(n d) beyond the embeddings.
    """

    revision: ClassVar[int] = 1

    by: str = "source"
    keep: int | None = None
    temperature: float = 0.1

    def __post_init__(self) -> None:
        _needs(self.by)  # refuses a grouping that is none
        if self.keep is not None and self.keep < 1:
            raise RecipeError(f"task-embeddings: keep must be at least 1, got {self.keep}")
        if not self.temperature > 0:
            raise RecipeError(f"task-embeddings: temperature must be above 0, got {self.temperature}")

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of pool and target, the lengths of rows, and what the groups are read from."""
        from tamis.vectors import embeddings

        return _needs(self.by) | embeddings.needs_of("target")

    def share(self, view: PoolView, budget: Budget, /) -> Mapping[str, Budget]:
        """Budget of every group with a usable row; they add up to `budget`, or to what the pool holds."""
        import math

        from tamis.mixes import holdings
        from tamis.vectors import embeddings, tasks

        who = "task-embeddings"
        found = tasks.tasks_of(view, embeddings.of_pool(view, who), self.by)
        near = tasks.cosines_to(found, embeddings.of_side(view, "target", who))
        best = sorted(near, key=lambda name: (-near[name], name))[: self.keep]
        weights = {name: max(LEAST, math.exp((near[name] - near[best[0]]) / self.temperature)) for name in best}
        return _shares(view, budget, holdings(view, self.by, budget), weights)


@dataclass(frozen=True, kw_only=True)
class Smart:
    """SMART's weights (Renduchintala et al., 2024): graph cut over tasks, Taylor softmax of its gains.

    arXiv:2403.08370. A task is a group (`by`: as in `proportional`) and stands for the mean of its rows' embeddings:
    here pooled hidden states of whole rows, in the paper GTE embeddings of prompts. `tasks`: tasks kept, the first of
    the graph cut (default: all); others get rows only once these are full. `lam`: weight of redundancy (0.4 in the
    paper; up to 0.5 no gain is negative). `temperature` divides the gains, `normalise` divides them by the number of
    tasks first; without it gains are sums over tasks, and the weights go with their squares. Below g = -1, where the
    Taylor polynomial rises again, weights stay at their lowest. Any selector may choose inside the tasks; the selector
    `smart` is this mixer with facility location. Time O(n d + t² d) for t tasks.
    """

    revision: ClassVar[int] = 1

    by: str = "source"
    tasks: int | None = None
    lam: float = 0.4
    temperature: float = 1.0
    normalise: bool = False

    def __post_init__(self) -> None:
        _needs(self.by)  # refuses a grouping that is none
        from tamis.vectors.tasks import check

        check("smart", self.tasks, self.lam, self.temperature)

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states, the lengths of rows, and what the groups are read from."""
        from tamis.vectors import embeddings

        return _needs(self.by) | embeddings.needs_of()

    def share(self, view: PoolView, budget: Budget, /) -> Mapping[str, Budget]:
        """Budget of every group with a usable row; they add up to `budget`, or to what the pool holds."""
        from tamis.mixes import holdings
        from tamis.vectors import embeddings, tasks

        found = tasks.tasks_of(view, embeddings.of_pool(view, "smart"), self.by)
        weighted = tasks.weigh(
            found, keep=self.tasks, lam=self.lam, temperature=self.temperature, normalise=self.normalise
        )
        return _shares(view, budget, holdings(view, self.by, budget), weighted.by_name(found.names))
