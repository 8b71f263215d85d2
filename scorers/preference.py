"""Columns of preference pairs, a view for each answer: `.chosen` and `.rejected`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.views import ShardSignals

SIDES = ("chosen", "rejected")


@dataclass(frozen=True, kw_only=True)
class PairPerplexity:
    """Perplexity of the chosen and of the rejected answer of a pair, given the prompt.

    exp of the mean negative log-likelihood per answer token, range [1, inf). Rows that are no pairs have no value.
    """

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The pair signal."""
        return frozenset({Need(kind="signal", name="pairs")})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Views `chosen` and `rejected`, in perplexity."""
        import numpy as np

        signal = have["pairs"]
        columns = {}
        for side in SIDES:
            with np.errstate(over="ignore", invalid="ignore"):
                mean = signal[f"{side}_nll_sum"] / np.maximum(signal[f"{side}_count"], 1)
                values = np.exp(mean).astype(np.float32)
            columns[side] = _column(values, signal["reason"], "perplexity")
        return columns


@dataclass(frozen=True, kw_only=True)
class PairLength:
    """Length in tokens of the chosen and of the rejected answer of a pair, and their difference.

    `difference` is chosen minus rejected: where it leans one way over a whole pool, preference tuning learns length.
    """

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths signal."""
        return frozenset({Need(kind="signal", name="lengths")})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Views `chosen`, `rejected` and `difference`, in tokens."""
        import numpy as np

        lengths = have["lengths"]
        sides = {side: np.asarray(lengths[f"{side}_tokens"]).astype(np.float32) for side in SIDES}
        reasons = np.asarray(lengths["reason"]).copy()
        reasons[np.asarray(lengths["pair"]) == 0] = Reason.WRONG_KIND
        views = {**sides, "difference": sides["chosen"] - sides["rejected"]}
        return {view: _column(values, reasons, "tokens") for view, values in views.items()}


def _column(values: NDArray[np.float32], reason: NDArray[np.uint8], unit: str) -> Column:
    import numpy as np

    reasons = np.asarray(reason).copy()
    reasons[(reasons == 0) & ~np.isfinite(values)] = Reason.NOT_FINITE
    values[reasons != 0] = np.nan
    return Column(values=values, unit=unit, reasons=reasons)
