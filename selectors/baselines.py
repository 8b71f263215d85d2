"""Baselines that every comparison needs: a random draw, and the longest rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.values import Need

if TYPE_CHECKING:
    from tamis.values import Budget, Machine, Subset
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class Random:
    """Uniform random draw without replacement, a pure function of seed and row key.

    Every row draws 53 bits from BLAKE2b keyed with the seed over its key, and the highest draws win: the draw of a row
    depends neither on the other rows nor on how the pool is cut into shards. `values` are the draws, in [0, 1).
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    seed: int = 0

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths of rows, for the budget."""
        return frozenset({Need(kind="signal", name="lengths")})

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in random order."""
        from tamis.budgets import order_of, pick
        from tamis.draws import of_keys, uniform

        draws = uniform(of_keys(view, self.seed))
        return pick(view, order_of(draws, view.usable, high=True), budget, draws, unit="uniform draw")


@dataclass(frozen=True, kw_only=True)
class Longest:
    """The longest rows: most response tokens, or most tokens (Long Is More for Alignment, 2024).

    `unit`: `response` counts the trained tokens of the row (the paper's choice), `tokens` all of them; both with the
    training model's tokenizer and template, after truncation.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    unit: Literal["response", "tokens"] = "response"

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths of rows."""
        return frozenset({Need(kind="signal", name="lengths")})

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, longest first."""
        import numpy as np

        from tamis.budgets import order_of, pick

        name, unit = ("response_tokens", "response tokens") if self.unit == "response" else ("tokens", "tokens")
        lengths = view.signal("lengths", name).astype(np.float64)
        return pick(view, order_of(lengths, view.usable, high=True), budget, lengths, unit=unit)
