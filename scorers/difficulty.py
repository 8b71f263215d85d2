"""Difficulty: how much the instruction helps the model with the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Ifd:
    """Instruction-following difficulty: loss of the answer given the instruction over its loss alone.

    Two formulas carry this name and order rows differently; both are columns. `loss` = L(y|x) / L(y), the ratio of mean
    losses of Cherry (Li et al. 2023, arXiv:2308.12032; its code ranks on it). `ppl` = exp(L(y|x) - L(y)), the ratio of
    perplexities of Superfiltering (Li et al. 2024, arXiv:2402.00530). `score` is the one that `form` names; the default
    follows the paper in which IFD was defined. Above 1 the instruction does not help, as a rule a misaligned pair.

    Both losses are means over the same tokens: the response behind its generation prompt, without the messages before.
    Superfiltering's code leaves the first token out of L(y) alone; here it is in both or, without a generation prompt,
    in neither. Several turns: token-weighted over all of them. Range (0, inf).
    """

    form: Literal["loss", "ppl"] = "loss"
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The token signal over response tokens."""
        return frozenset({Need(kind="signal", name="tokens", settings=(("loss", "response"),))})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `loss`, `ppl` and `score`, ratios. NaN where no token is scored in both views, and for plain text."""
        import numpy as np

        signal = have["tokens"]
        count = np.asarray(signal["alone_count"])
        reasons = np.asarray(signal["reason"]).copy()
        unpaired = (count == 0) & (reasons == Reason.NONE)
        if unpaired.any():
            kinds = np.array(have.shard.table(["kind"]).column("kind").to_pylist(), dtype=np.str_)
            reasons[unpaired] = np.where(kinds[unpaired] == "text", Reason.WRONG_KIND, Reason.TOO_SHORT)
        given, alone = (signal[name] / np.maximum(count, 1) for name in ("ifd_response_sum", "alone_nll_sum"))
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            ratios = {"loss": given / alone, "ppl": np.exp(given - alone)}
        columns = {}
        for view, ratio in (*ratios.items(), ("score", ratios[self.form])):
            values, why = ratio.astype(np.float32), reasons.copy()
            why[(why == Reason.NONE) & ~np.isfinite(values)] = Reason.NOT_FINITE
            values[why != Reason.NONE] = np.nan
            columns[view] = Column(values=values, unit="ratio", reasons=why)
        return columns
