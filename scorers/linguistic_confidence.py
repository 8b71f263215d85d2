"""Linguistic confidence: how sure an answer sounds, by its own words."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.prediction.reductions import column
from tamis.values import Need, Reason, text_of

if TYPE_CHECKING:
    from tamis.values import Column, Row
    from tamis.views import ShardSignals

# English, and our own: how likely what is said is true, by a reader who goes by these words alone.
LEXICON: dict[float, tuple[str, ...]] = {
    1.0: ("without a doubt", "without any doubt", "no doubt", "undoubtedly", "unquestionably", "beyond doubt"),
    0.95: (
        *("certainly", "definitely", "i am certain", "i'm certain", "i am sure", "i'm sure", "i am positive"),
        *("it is certain", "i am confident", "i'm confident", "i know that", "absolutely certain", "obviously"),
        *("almost certainly", "for certain", "clearly"),
    ),
    0.85: ("very likely", "highly likely", "most likely", "very probably", "highly probable", "in all likelihood"),
    0.75: ("likely", "probably", "probable", "presumably", "i expect", "i believe", "chances are"),
    0.65: ("i think", "it seems", "it appears", "apparently", "seemingly", "i suppose", "i guess", "i would say"),
    0.5: (
        *("might", "maybe", "perhaps", "possibly", "it is possible", "it's possible", "could be", "may be"),
        *("conceivably", "not entirely sure", "not completely sure", "not entirely certain", "not quite sure"),
        *("as likely as not", "hard to say", "difficult to say"),
    ),
    0.3: (
        *("i am not sure", "i'm not sure", "not sure", "i am not certain", "i'm not certain", "not certain", "unsure"),
        *("i am unsure", "uncertain", "unclear", "not confident", "no guarantee"),
    ),
    0.25: ("i doubt", "doubtful", "unlikely", "improbable", "not likely", "not probable", "probably not"),
    0.1: (
        *("very unlikely", "highly unlikely", "very doubtful", "i have no idea", "no idea", "i don't know"),
        *("i do not know", "i cannot tell", "i can't tell", "almost certainly not", "hardly possible"),
    ),
    0.05: ("certainly not", "definitely not", "impossible", "no chance", "absolutely not"),
}
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_PERCENT = re.compile(
    r"\b(\d{1,3}(?:\.\d+)?)\s?(?:%|percent)\s+(?:sure|certain|confident|chance|likely|probability|confidence)\b"
)


@dataclass(frozen=True, kw_only=True)
class LinguisticConfidence:
    """Linguistic confidence of the answer: its least sure sentence, by a lexicon of hedges.

    After "Can Large Language Models Express Uncertainty Like Human?" (2025): words of certainty and doubt are worth a
    confidence in [0, 1] ("certainly" 0.95, "likely" 0.75, "might" 0.5, "I doubt" 0.25; "80 % sure" says it itself). A
    longer phrase goes before the words in it ("not sure" is not "sure"), the least of a sentence's is the sentence's,
    and the least of the sentences' the answer's. The values are ours; English only; no value is published per row.
    Range [0, 1]; NaN where the answer has no such word. Of a pair the chosen answer counts, of a text all of it.

    How sure an answer sounds is not how true it is: of 22,434 judged answers to TruthfulQA 787 have such a word, and
    among these the less sure are the true ones more often (AUC 0.29), for who declines to answer says nothing false.
    """

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """One column `score`, a confidence."""
        import numpy as np

        values = np.full(len(have), np.nan)
        reasons = np.zeros(len(have), np.uint8)
        for place, row in enumerate(have.shard.read()):
            answer = _answer(row)
            found = confidence(answer)
            if found is not None:
                values[place] = found
            else:
                reasons[place] = Reason.NOT_SAID if answer.strip() else Reason.NEEDS_ANSWER
        return {"score": column(values, reasons, "confidence")}


def confidence(answer: str) -> float | None:
    """Confidence of the least sure sentence, or None where no sentence has a word of the lexicon.

    >>> confidence("It is certainly red. It might be large."), confidence("I am not sure."), confidence("It is red.")
    (0.5, 0.3, None)
    """
    found = [value for sentence in _SENTENCE.split(answer.lower().replace("\u2019", "'")) for value in _said(sentence)]
    return min(found, default=None)


def _said(sentence: str) -> list[float]:
    shares = [min(float(share), 100) / 100 for share in _PERCENT.findall(sentence)]
    values, pattern = _lexicon()
    return shares + [values[phrase] for phrase in pattern.findall(_PERCENT.sub(" ", sentence))]


@functools.cache
def _lexicon() -> tuple[dict[str, float], re.Pattern[str]]:
    """Confidence by phrase, and a pattern that finds them, longest first."""
    values = {phrase: value for value, phrases in LEXICON.items() for phrase in phrases}
    longest_first = sorted(values, key=lambda phrase: (-len(phrase), phrase))
    return values, re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")


def _answer(row: Row) -> str:
    """What the model writes: the assistant's contents; of a pair, the chosen ones; of a text, all; of a prompt, ""."""
    if row.kind == "prompt":
        return ""
    messages = row.chosen if row.kind == "pair" else row.messages
    kept = [message for message in messages if row.kind == "text" or message.get("role") == "assistant"]
    return "\n".join(text_of(message) for message in kept)
