"""Perplexity of the prompt, the response, and both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    from tamis.views import ShardSignals

View = Literal["prompt", "response", "whole"]


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Perplexity, exp of the mean negative log-likelihood per token: prompt, response, whole row.

    `response`: tokens that are trained on, given everything before them. `prompt`: every other token that has a
    predecessor, the template's own included. `whole`: both. Used to filter by Marion et al. 2023 (arXiv:2309.04564)
    and others; which end is good depends on the data, so this only measures. No published value per row.
    Range [1, inf).
    """

    views: tuple[View, ...] = ("prompt", "response", "whole")
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The token signal, over all tokens if more than the response is asked for."""
        loss = "response" if set(self.views) <= {"response"} else "all"
        return frozenset({Need(kind="signal", name="tokens", settings=(("loss", loss),))})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """One column per view, in perplexity (no unit of its own: exp of nats per token)."""
        import numpy as np

        signal = have["tokens"]
        columns: dict[str, Column] = {}
        for view in self.views:
            parts = ("prompt", "response") if view == "whole" else (view,)
            total = np.sum([signal[f"{part}_nll_sum"] for part in parts], axis=0)
            count = np.sum([signal[f"{part}_count"] for part in parts], axis=0)
            reasons = np.asarray(signal["reason"]).copy()
            if view != "response":  # a prompt can be measured where there is no answer
                reasons[(count > 0) & np.isfinite(total)] = Reason.NONE
                reasons[(count == 0) & (reasons == Reason.NONE)] = Reason.TOO_SHORT
            with np.errstate(over="ignore", invalid="ignore"):
                values = np.exp(total / np.maximum(count, 1)).astype(np.float32)
            reasons[(reasons == Reason.NONE) & ~np.isfinite(values)] = Reason.NOT_FINITE
            values[reasons != Reason.NONE] = np.nan
            columns[view] = Column(values=values, unit="perplexity", reasons=reasons)
        return columns
