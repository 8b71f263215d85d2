"""What the engine speaks of: a set function over candidates, its running evaluation, and what a maximiser returns.

Candidates are numbered 0 … n-1 (a selector numbers its usable rows so, in the order of the pool). An objective is a
pure value: it never changes; `begin` starts an evaluation at the empty set, which a maximiser walks forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class State(Protocol):
    """f at a growing set S, S at first empty."""

    @property
    def value(self) -> float:
        """f(S), with f of the empty set 0."""
        ...

    def gains(self, rows: NDArray[np.int64], /) -> NDArray[np.float64]:
        """f(S + j) - f(S) for every j of `rows` (m,), none of which is in S.

        The gain of a row does not depend, to the last bit, on which others are asked for with it, nor on threads:
        sums run in a fixed order, in float64.
        """
        ...

    def add(self, row: int, /) -> None:
        """Put a row into S. Raises nothing for a row whose gain is negative."""
        ...


class Objective(Protocol):
    """A set function. `submodular`: gains never grow as S grows. `monotone`: gains are never negative."""

    @property
    def submodular(self) -> bool:
        """Whether lazy evaluation and the bounds hold."""
        ...

    @property
    def monotone(self) -> bool:
        """Whether more rows never make f smaller."""
        ...

    def __len__(self) -> int:
        """Number of candidates n."""
        ...

    def begin(self) -> State:
        """Evaluation at the empty set."""
        ...


@dataclass(frozen=True)
class Picks:
    """What a maximiser chose.

    `order`: (k,) int64 candidates in the order picked. `gains`: (k,) float64, f(S + j) - f(S) when j was picked; they
    add up to `value` = f(order). `bound`: no set of the same budget has a value above it: f(S) + the k largest gains at
    S (for costs: the gains that fit the budget by gain a token, the last in part), or the least such over the prefixes
    of the order; None where f is not monotone and submodular. `evaluations`: gains computed. `nested`: a smaller row
    budget gives a prefix of a larger one. `notes`: sentences a reader must know (sample size, parts, guard taken).
    `alone`: (n,) float64 value of every candidate alone, None where that was not computed along the way.
    """

    order: NDArray[np.int64]
    gains: NDArray[np.float64]
    value: float
    bound: float | None
    evaluations: int
    nested: bool
    notes: tuple[str, ...] = ()
    alone: NDArray[np.float64] | None = None


@runtime_checkable
class Compiled(Protocol):
    """An objective with a lazy greedy of its own, in compiled loops: the same picks as the general one, faster."""

    def lazy(self, rows: int, /) -> Picks:
        """The first `rows` picks of lazy greedy."""
        ...


def value_of(objective: Objective, rows: NDArray[np.int64]) -> float:
    """Value f of a set of candidates (k,), each once."""
    state = objective.begin()
    for row in rows.tolist():
        state.add(row)
    return state.value
