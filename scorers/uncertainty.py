"""Uncertainty: how open the model holds the next token of the response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.prediction.reductions import RESPONSE, ResponseTokens, Turns, column, columns, response_reasons

if TYPE_CHECKING:
    from tamis.values import Column, Need
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Entropy:
    """Entropy of the model's next-token distribution over the response: mean, max and sum, in nats.

    `response` is the mean over tokens, in [0, ln of the vocabulary], `max` the most uncertain token, `sum` grows with
    the length. `turns` says how several assistant turns become one number: `tokens`, over all their tokens (default),
    or the `mean`, `last`, `max` or `sum` of what each turn has. Shannon's entropy, as active learning has it (Settles,
    2009); no published value.
    """

    turns: Turns = "tokens"
    revision: ClassVar[int] = 2

    @property
    def needs(self) -> frozenset[Need]:
        """The token signal over response tokens."""
        return frozenset({RESPONSE})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `response` and `max`, nats per token, and `sum`, nats per sequence."""
        import numpy as np

        signal = have["tokens"]
        tokens, reasons = ResponseTokens.of(signal), response_reasons(signal)
        values = tokens.values(signal["entropy"])
        mean, total = (tokens.reduced(values, over, self.turns) for over in ("mean", "sum"))
        if self.turns == "tokens":  # sums taken before entropies were rounded
            total = np.asarray(signal["entropy_sum"])
            mean = total / np.maximum(signal["response_count"], 1)
        return {
            "response": column(mean, reasons, "nats per token"),
            "max": column(tokens.reduced(values, "max", self.turns), reasons, "nats per token"),
            "sum": column(total, reasons, "nats per sequence"),
        }


@dataclass(frozen=True, kw_only=True)
class PredictiveEntropy:
    """Predictive entropy of the answer, and the same normalised by its length (LNPE).

    The Monte-Carlo estimate over K answers y_k of one prompt is PE = -(1/K) Σ_k Σ_t log p(y_t) and LNPE = -(1/K) Σ_k
    mean_t log p(y_t) (Malinin and Gales, ICLR 2021, arXiv:2002.07650). Here K = 1, the answer of the row, as curation
    does it: `sequence` is its summed and `token` its mean negative log-likelihood; for rows that are answers to one
    prompt the estimates are the means of the columns. PE ranks by length. The end of the turn counts where the template
    trains on it. High: uncertain. Range [0, inf).
    """

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The token signal over response tokens."""
        return frozenset({RESPONSE})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `sequence`, nats per sequence, and `token`, nats per token."""
        import numpy as np

        signal = have["tokens"]
        total, count = np.asarray(signal["response_nll_sum"]), np.maximum(signal["response_count"], 1)
        reasons = response_reasons(signal)
        return {
            "sequence": column(total, reasons, "nats per sequence"),
            "token": column(total / count, reasons, "nats per token"),
        }


@dataclass(frozen=True, kw_only=True)
class LookBeforeYouLeap:
    """The four single-pass estimators of "Look Before You Leap" (Huang et al., 2023).

    `max-loss` and `mean-loss` of the response tokens, `max-entropy` and `mean-entropy` of their predictions
    (arXiv:2307.10236; formulas from third-party code, none was released). No value is published per row. High:
    uncertain. Range [0, inf).
    """

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The token signal over response tokens."""
        return frozenset({RESPONSE})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `max-loss`, `mean-loss`, `max-entropy` and `mean-entropy`, nats per token."""
        import numpy as np

        signal = have["tokens"]
        tokens, count = ResponseTokens.of(signal), np.maximum(signal["response_count"], 1)
        views = {
            "max-loss": tokens.reduced(tokens.values(signal["nll"]), "max"),
            "mean-loss": signal["response_nll_sum"] / count,
            "max-entropy": tokens.reduced(tokens.values(signal["entropy"]), "max"),
            "mean-entropy": signal["entropy_sum"] / count,
        }
        return columns(views, response_reasons(signal), "nats per token")


@dataclass(frozen=True, kw_only=True)
class Margin:
    """Margin: probability of the likeliest next token less that of the second, over the response.

    Classic active learning (Scheffer et al., 2001) at every token of the given answer; no value is published for
    language models. `response` is the mean, `min` the closest decision. Low: uncertain. Range [0, 1]. `turns`: as in
    `entropy`; the `min` of several turns is over all their tokens.
    """

    turns: Turns = "tokens"
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The token signal over response tokens, with the two likeliest tokens of every prediction."""
        return frozenset({RESPONSE})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `response` and `min`, probabilities."""
        import numpy as np

        signal = have["tokens"]
        tokens = ResponseTokens.of(signal)
        best = np.exp(np.asarray(signal["top_logprob"], np.float64)[tokens.at, :2])
        margin = best[:, 0] - best[:, 1]
        views = {"response": tokens.reduced(margin, "mean", self.turns), "min": -tokens.reduced(-margin, "max")}
        return columns(views, response_reasons(signal), "probability")


@dataclass(frozen=True, kw_only=True)
class LeastConfidence:
    """Least confidence: one less the probability of the likeliest next token, over the response.

    Classic active learning (Lewis and Gale, 1994) at every token of the given answer; no value is published for
    language models. `response` is the mean, `max` the least certain token. High: uncertain. Range [0, 1). `turns`: as
    in `entropy`; the `max` of several turns is over all their tokens.
    """

    turns: Turns = "tokens"
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The token signal over response tokens, with the likeliest token of every prediction."""
        return frozenset({RESPONSE})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `response` and `max`, probabilities."""
        import numpy as np

        signal = have["tokens"]
        tokens = ResponseTokens.of(signal)
        doubt = -np.expm1(np.asarray(signal["top_logprob"], np.float64)[tokens.at, 0])
        views = {"response": tokens.reduced(doubt, "mean", self.turns), "max": tokens.reduced(doubt, "max")}
        return columns(views, response_reasons(signal), "probability")
