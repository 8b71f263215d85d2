"""Language: how surely an answer is in one language, and whether it is the one that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.text.criteria import column
from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Language:
    """Language of the answer: its probability, whether it is `wanted`, whether the prompt's is the same.

    `least`: probability from which a language counts as found (0.65, as in FineWeb for its fastText model; Data-Juicer
    has 0.8). Code and formulas have no language and get low probabilities. The model is that of langid.py (Lui and
    Baldwin, 2012), by py3langid. No published value. Probabilities lie in [0, 1].
    """

    wanted: str = "en"
    least: float = 0.65
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The language signal."""
        return frozenset({Need(kind="signal", name="language")})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `probability` of the answer's likeliest language, `wanted` and `same` (1 or 0).

        NaN where the answer has no letter; `same` also where the prompt has none.
        """
        import numpy as np

        from tamis.text.languages import NO_LANGUAGE, code_of

        signal = have["language"]
        asked, answered = np.asarray(signal["prompt"]), np.asarray(signal["response"])
        probability = np.asarray(signal["response_probability"])
        reasons = np.array(signal["reason"], np.uint8)
        reasons[(reasons == 0) & (answered == NO_LANGUAGE)] = Reason.NOTHING_TO_CHECK
        both = np.where((reasons == 0) & (asked == NO_LANGUAGE), int(Reason.NOTHING_TO_CHECK), reasons)
        wanted = (answered == code_of(self.wanted)) & (probability >= self.least)
        return {
            "probability": column(probability, "probability", reasons),
            "wanted": column(wanted, f"1 where it is in {self.wanted}", reasons),
            "same": column(asked == answered, "1 where prompt and answer agree", both.astype(np.uint8)),
        }
