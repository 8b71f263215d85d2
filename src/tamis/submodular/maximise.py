"""Maximisers of set functions: what may be spent, how to spend it, and one entry for all ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from tamis.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.objective import Objective, Picks

Method = Literal["naive", "lazy", "stochastic", "threshold", "sieve", "partition"]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What may be spent: at most `rows` candidates, or candidates whose `cost` (n,) adds up to at most `tokens`.

    Costs are whole numbers of at least 1, one a candidate. Raises RecipeError where neither or both are given, or where
    they are below 1.
    """

    rows: int | None = None
    tokens: int | None = None
    cost: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.tokens is None) or (self.tokens is None) != (self.cost is None):
            raise RecipeError("a limit is rows, or tokens with the cost of every candidate")
        if self.most < 1:
            raise RecipeError(f"a limit of {self.most} leaves nothing to choose; it is at least 1")
        if self.cost is not None and len(self.cost) and self.cost.min() < 1:
            raise DataError("a candidate costs less than one token; every row has at least one")

    @property
    def most(self) -> int:
        """The limit in its own unit: rows or tokens."""
        most = self.rows if self.rows is not None else self.tokens
        return most or 0

    def costs(self, size: int) -> NDArray[np.int64]:
        """What each of `size` candidates costs, (size,) int64: 1 where the limit is rows."""
        import numpy as np

        return np.ones(size, np.int64) if self.cost is None else self.cost


@dataclass(frozen=True, kw_only=True)
class Maximiser:
    """How to maximise. All methods are deterministic, give ties to the lower candidate and do not depend on threads.

    `naive`: every gain at every step, O(n k) gains. `lazy`: the same picks with gains computed only where an older
    gain, which bounds the new one, could still win (Minoux, 1978). `stochastic`: each pick is the best of
    n / k ln(1 / epsilon) candidates drawn with `seed`, n ln(1 / epsilon) gains in all; 1 - 1/e - epsilon of the best in
    expectation (Mirzasoleiman et al., 2015). `threshold`: what gains at least a threshold that falls by 1 - epsilon,
    n / epsilon ln(k / epsilon) gains at most (Badanidiyuru & Vondrak, 2014). `sieve`: one pass in the order of the
    data, 1/2 - epsilon of the best (Badanidiyuru et al., 2014). `partition`: greedy on `parts` random parts, greedy on
    what they chose, the better of that and the best part (GreeDi: Mirzasoleiman et al., 2013). Shares hold for limits
    of rows and monotone submodular f.

    Under a limit of tokens every method goes by gain a token, passes over what does not fit, and starts again from the
    best single candidate where that alone is worth more, at least (1 - 1/e) / 2 of the best for naive and lazy (Khuller
    et al., 1999; Lin & Bilmes, 2010). `stop_at_negative`: stop before a pick that would make f smaller; otherwise the
    limit is filled, and a note says so.
    """

    method: Method = "lazy"
    stop_at_negative: bool = False
    epsilon: float = 0.1
    seed: int = 0
    parts: int = 8

    def __post_init__(self) -> None:
        faults = []
        if self.method not in get_args(Method):
            faults.append(f"there is no maximiser {self.method!r}; expected one of {', '.join(get_args(Method))}")
        if not 0 < self.epsilon < 1:
            faults.append(f"epsilon of a maximiser lies between 0 and 1, not at {self.epsilon}")
        if self.parts < 1:
            faults.append(f"a maximiser has at least 1 part, not {self.parts}")
        if faults:
            raise RecipeError(faults)

    @property
    def nested(self) -> bool:
        """Whether a smaller limit of rows gives the beginning of a larger one."""
        return self.method in ("naive", "lazy")


def maximiser_of(component: Any) -> Maximiser:
    """The maximiser of a selector with settings `maximiser`, `epsilon` and `seed`; RecipeError where one is wrong."""
    return Maximiser(method=component.maximiser, epsilon=component.epsilon, seed=component.seed)


def maximise(objective: Objective, limit: Limit, how: Maximiser | None = None) -> Picks:
    """Candidates in the order picked, within `limit`, with gains and a bound on what is possible.

    A limit of rows is met exactly where there are so many candidates; what is left of a limit of tokens is smaller than
    the smallest candidate not picked. Objectives with compiled loops (`Compiled`) run them under `lazy` and a limit of
    rows. An objective that is not submodular gets `naive` in place of `lazy`, with a note; `threshold` and `sieve`
    refuse it (RecipeError).
    """
    from tamis.submodular.objective import Compiled

    how = how or Maximiser()
    if limit.cost is not None and len(limit.cost) != len(objective):
        raise DataError(f"{len(limit.cost)} costs for {len(objective)} candidates")
    if how.method in ("threshold", "sieve") and not objective.submodular:
        raise RecipeError(f"maximiser {how.method!r} needs a submodular objective; choose naive, lazy or stochastic")
    compiled = how.method == "lazy" and limit.rows is not None and not how.stop_at_negative and objective.submodular
    if compiled and isinstance(objective, Compiled):
        return objective.lazy(min(limit.most, len(objective)))
    return _ways()[how.method](objective, limit, how)


def _ways() -> dict[Method, Callable[[Objective, Limit, Maximiser], Picks]]:
    from tamis.submodular import greedy, partition, stochastic, streaming, threshold

    return {
        "naive": greedy.greedy,
        "lazy": greedy.greedy,
        "stochastic": stochastic.stochastic,
        "threshold": threshold.threshold,
        "sieve": streaming.sieve,
        "partition": partition.partition,
    }
