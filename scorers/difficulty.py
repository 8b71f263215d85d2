"""Difficulty: how much the instruction helps the model with the answer, and the answer with the instruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.prediction.reductions import columns
from tamis.values import Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Column
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
        """The token signal over response tokens, given the prompt and alone."""
        settings = (("loss", "response"), ("alone", True))
        return frozenset({Need(kind="signal", name="tokens", settings=settings)})

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
        return _ratios(signal["ifd_response_sum"], signal["alone_nll_sum"], count, reasons, self.form)


@dataclass(frozen=True, kw_only=True)
class ReversedIfd:
    """r-IFD: loss of the instruction given the answer over its loss alone; low where the answer fits.

    Selective Reflection-Tuning (Li et al., 2024, arXiv:2402.10110): `ppl` = exp(L(x|y') - L(x)), the ratio of
    perplexities, where y' asks the model to guess the instruction of an answer; `loss` = L(x|y') / L(x). `score` is the
    one that `form` names; paper and code take the perplexities. Both losses are means over the same tokens, those of
    the first instruction; the words around its answer are our own, after those of the paper. No value is published per
    row. Low is good, at least below 1: above it the answer does not tell of the instruction. Range (0, inf).
    """

    form: Literal["ppl", "loss"] = "ppl"
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The reversed signal."""
        return frozenset({Need(kind="signal", name="reversed")})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `loss`, `ppl` and `score`, ratios. NaN where a row has no instruction or no answer."""
        import numpy as np

        signal = have["reversed"]
        count = np.asarray(signal["instruction_count"])
        reasons = np.asarray(signal["reason"]).copy()
        reasons[(count == 0) & (reasons == Reason.NONE)] = Reason.TOO_SHORT
        return _ratios(signal["reversed_nll_sum"], signal["instruction_nll_sum"], count, reasons, self.form)


def _ratios(
    given: NDArray[np.float64],
    alone: NDArray[np.float64],
    count: NDArray[np.int64],
    reasons: NDArray[np.uint8],
    form: str,
) -> dict[str, Column]:
    """Ratio of mean losses and of perplexities of the same tokens, given something and alone, and the one chosen."""
    import numpy as np

    means = [np.asarray(total) / np.maximum(count, 1) for total in (given, alone)]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        ratios = {"loss": means[0] / means[1], "ppl": np.exp(means[0] - means[1])}
    return columns({**ratios, "score": ratios[form]}, reasons, "ratio")
