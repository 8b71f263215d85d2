"""Refusal: answers that decline, and answers in which a model speaks of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.text.criteria import column
from tamis.values import Column, Need

if TYPE_CHECKING:
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Refusals and disclaimers (Poison of Alignment, Bekbayev et al. 2023), by patterns of our own.

    The paper removes such answers and reports 4 to 33 % better benchmarks; it released no list, and no published value
    exists. To remove them also removes safety that somebody may have wanted: hence a column, never a default filter.
    English only. An apology in a story or the word "racism" is no refusal. Found in 1.0 % of 7,775 rows of 32 public
    sets, from 0 to 14 % a set; all refusals planted in the shipped pool are found, whose wordings were known when the
    patterns were written.
    """

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The text signal."""
        return frozenset({Need(kind="signal", name="text")})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `refusal` (1 where the answer begins with one), `disclaimers` and `boilerplate` (counts), `score`.

        `score` is 1 where an answer refuses or disclaims and 0 elsewhere; filler ("Great question!") stands apart.
        """
        import numpy as np

        from tamis.text.text_statistics import statistic

        signal = have["text"]
        table, reasons = np.asarray(signal["response"]), np.asarray(signal["reason"])
        refusal, disclaimers = statistic(table, "refusal"), statistic(table, "disclaimers")
        return {
            "refusal": column(refusal, "1 where it refuses", reasons),
            "disclaimers": column(disclaimers, "phrases", reasons),
            "boilerplate": column(statistic(table, "boilerplate"), "phrases", reasons),
            "score": column((refusal > 0) | (disclaimers > 0), "1 where it refuses or disclaims", reasons),
        }
