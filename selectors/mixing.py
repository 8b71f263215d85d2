"""Mixers: how a budget is divided among the groups of a pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.values import Need

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tamis.values import Budget
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class Proportional:
    """Every group keeps its share of the pool.

    `by`: source, kind, file or meta.NAME. Shares are in the unit of the budget: of rows, or of tokens.
    """

    revision: ClassVar[int] = 1

    by: str = "source"

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths of rows."""
        return frozenset({Need(kind="signal", name="lengths")})

    def share(self, view: PoolView, budget: Budget, /) -> Mapping[str, Budget]:
        """Budget of every group with a usable row; they add up to `budget`, or to what the pool holds."""
        from tamis.mixes import divide, holdings

        held = holdings(view, self.by, budget)
        return divide(budget, held, held, usable=int(view.usable.sum()))


@dataclass(frozen=True, kw_only=True)
class Equal:
    """Every group gets the same share; what small groups cannot use goes to the others.

    `by`: source, kind, file or meta.NAME. Shares are in the unit of the budget: of rows, or of tokens.
    """

    revision: ClassVar[int] = 1

    by: str = "source"

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths of rows."""
        return frozenset({Need(kind="signal", name="lengths")})

    def share(self, view: PoolView, budget: Budget, /) -> Mapping[str, Budget]:
        """Budget of every group with a usable row; they add up to `budget`, or to what the pool holds."""
        from tamis.mixes import divide, holdings

        held = holdings(view, self.by, budget)
        return divide(budget, dict.fromkeys(held, 1), held, usable=int(view.usable.sum()))
