"""What tuning adds: shift of the tokens of an answer against a base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import RecipeError
from tamis.prediction.reductions import RESPONSE, ResponseTokens, column, columns, response_reasons
from tamis.values import Need, Reason

if TYPE_CHECKING:
    from tamis.values import Column
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class TokenShift:
    """Token shift: share of answer tokens that the base model ranks low ("The Unlocking Spell").

    Lin et al. (ICLR 2024, arXiv:2312.01552) call a token unshifted where the base model ranks it first, marginal up to
    rank 3, shifted beyond; there the answer is the tuned model's greedy one, here it is the row's, so that the share
    says how much of the row the model of the run would not have written. Score with the model before tuning. No value
    is published per row. `shallow`: the last rank that is marginal. Range [0, 1]; the three shares add up to 1.
    """

    shallow: int = 3
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.shallow < 1:
            raise RecipeError(f"token-shift: shallow is a rank of at least 1, got {self.shallow}")

    @property
    def needs(self) -> frozenset[Need]:
        """The token signal over response tokens."""
        return frozenset({RESPONSE})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `score` (shifted), `marginal` and `unshifted`, shares of the response tokens."""
        signal = have["tokens"]
        tokens = ResponseTokens.of(signal)
        rank = tokens.values(signal["rank"])
        classes = {
            "score": rank > self.shallow,
            "marginal": (rank > 1) & (rank <= self.shallow),
            "unshifted": rank == 1,
        }
        shares = {view: tokens.reduced(inside.astype("float64"), "mean") for view, inside in classes.items()}
        return columns(shares, response_reasons(signal), "share")


@dataclass(frozen=True, kw_only=True)
class Cge:
    """Novelty of contrastive generative exploration: how much likelier a tuned model finds the answer.

    CGE (2024, arXiv:2410.14765): s = log p_tuned(y|x) - log p_base(y|x). The model of the run is the tuned one, the
    reference (`reference:`, `--reference`) the one before tuning, of the same tokenizer and template. `sequence` is the
    sum over response tokens, as in the paper, which grows with the length; `token` the mean. High: what tuning has
    added; no code was released and no value is published per row. Range (-inf, inf).
    """

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The token signal over response tokens, of the model and of the reference."""
        return frozenset({RESPONSE, Need(kind="signal", name="tokens", settings=RESPONSE.settings, by="reference")})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `sequence`, nats per sequence, and `token`, nats per token; NaN where the models count otherwise."""
        import numpy as np

        tuned, base = have["tokens"], have["tokens@reference"]
        reasons, other = response_reasons(tuned), response_reasons(base)
        reasons = np.where(reasons == Reason.NONE, other, reasons)
        counts = [np.asarray(signal["response_count"]) for signal in (tuned, base)]
        reasons[(reasons == Reason.NONE) & (counts[0] != counts[1])] = Reason.TEMPLATE
        novelty = base["response_nll_sum"] - tuned["response_nll_sum"]
        return {
            "sequence": column(novelty, reasons, "nats per sequence"),
            "token": column(novelty / np.maximum(counts[0], 1), reasons, "nats per token"),
        }
