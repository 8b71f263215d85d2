"""Deferral rules of language-model cascades: sum, mean and quantiles of the token losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import RecipeError
from tamis.prediction.reductions import RESPONSE, ResponseTokens, column, response_reasons

if TYPE_CHECKING:
    from tamis.values import Column, Need
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Cascades:
    """Language-model cascades (Gupta et al., 2024): sum, average and quantiles of the token losses.

    Chow-Sum = Σ_t l_t, Chow-Avg = mean_t l_t, Chow-Quantile(a) = quantile a of the l_t (ICLR 2024, arXiv:2404.10136).
    A quantile of 0 is the likeliest token, of 1 the least likely; the paper's grid is not known to us, this one is
    tenths with 1 % and 99 %. Rows that score high are those to send to a larger model or a teacher. Sum defers long
    answers, average over-defers short ones; thresholds are to be set anew for every task. Range [0, inf).
    """

    quantiles: tuple[float, ...] = (0.0, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0)
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if any(not 0 <= level <= 1 for level in self.quantiles):
            raise RecipeError(f"cascades: quantiles lie in [0, 1], got {list(self.quantiles)}")

    @property
    def needs(self) -> frozenset[Need]:
        """The token signal over response tokens."""
        return frozenset({RESPONSE})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `sum` (nats per sequence), `avg`, and `q80` for the quantile 0.8 and so on (nats per token)."""
        import numpy as np

        signal = have["tokens"]
        tokens, reasons = ResponseTokens.of(signal), response_reasons(signal)
        total = np.asarray(signal["response_nll_sum"])
        found = tokens.quantiles(tokens.values(signal["nll"]), self.quantiles)
        averages = {"avg": total / np.maximum(signal["response_count"], 1)}
        averages |= {view_of(level): found[:, number] for number, level in enumerate(self.quantiles)}
        made = {view: column(values, reasons, "nats per token") for view, values in averages.items()}
        return {"sum": column(total, reasons, "nats per sequence"), **made}


def view_of(level: float) -> str:
    """Name of the view of a quantile, in percent.

    >>> view_of(0.8), view_of(0.01), view_of(0.125)
    ('q80', 'q1', 'q12_5')
    """
    return f"q{100 * level:.10g}".replace(".", "_")
