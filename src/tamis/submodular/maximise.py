"""Maximisers of set functions: what may be spent, how to spend it, and one entry for all ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tamis.errors import DataError, RecipeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.objective import Objective, Picks

Method = Literal["naive", "lazy"]


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


@dataclass(frozen=True, kw_only=True)
class Maximiser:
    """How to maximise. All methods are deterministic, give ties to the lower candidate and do not depend on threads.

    `naive`: every gain at every step; `lazy`: the same picks with gains computed only where an older gain, which
    bounds the new one, could still win (Minoux, 1978). Under a limit of tokens both go by gain a token, pass over what
    does not fit, and start again from the best single candidate where that is worth more (Lin & Bilmes, 2010).
    `stop_at_negative`: stop before a pick that would make f smaller; otherwise the limit is filled, and a note says so.
    """

    method: Method = "lazy"
    stop_at_negative: bool = False


def maximise(objective: Objective, limit: Limit, how: Maximiser | None = None) -> Picks:
    """Candidates in the order picked, within `limit`, with gains and a bound on what is possible.

    A limit of rows is met exactly where there are so many candidates; what is left of a limit of tokens is smaller than
    the smallest candidate not picked. Objectives with compiled loops (`Compiled`) run them under `lazy` and a limit of
    rows. An objective that is not submodular gets `naive` in place of `lazy`, with a note.
    """
    from tamis.submodular import greedy
    from tamis.submodular.objective import Compiled

    how = how or Maximiser()
    if limit.cost is not None and len(limit.cost) != len(objective):
        raise DataError(f"{len(limit.cost)} costs for {len(objective)} candidates")
    compiled = how.method == "lazy" and limit.rows is not None and not how.stop_at_negative and objective.submodular
    if compiled and isinstance(objective, Compiled):
        return objective.lazy(min(limit.most, len(objective)))
    return greedy.greedy(objective, limit, how)
