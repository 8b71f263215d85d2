"""Long output: whether an answer is as long as it was asked to be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.text.criteria import column
from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    from tamis.values import Row
    from tamis.views import ShardSignals

Bound = Literal["exact", "most", "least"]
_MOST = r"(?:at most|up to|no more than|not more than|fewer than|less than|under|below|within|maximum(?: of)?|max)"
_LEAST = r"(?:at least|no fewer than|no less than|not less than|more than|over|minimum(?: of)?|min)"
_ENGLISH = re.compile(
    rf"(?:\b(?:(?P<most>{_MOST})|(?P<least>{_LEAST}))\s+)?(?<![\d.,])(?P<low>\d[\d,]*)"
    r"(?:\s*(?:-|\u2013|to)\s*(?P<high>\d[\d,]*))?"
    r"[\s-]*(?:chinese )?words?\b(?P<after> or (?:less|fewer|more))?",
    re.IGNORECASE,
)
_CHINESE = re.compile(
    r"(?P<before>不超过|不多于|少于|最多|至多|不少于|不低于|至少|超过|多于)?(?P<low>\d[\d,]*|[一二两三四五六七八九十][一二两三四五六七八九十百千万]*(?<=[百千万]))\s*(?P<ten>万)?字"
    r"(?P<after>以内|以下|以上)?"
)
_DIGITS = {sign: place for place, sign in enumerate("零一二三四五六七八九")} | {"两": 2}
_UNITS = {"十": 10, "百": 100, "千": 1000}


@dataclass(frozen=True, kw_only=True)
class LongOutput:
    """Length score of Minimum Tuning to Unlock Long Output: how near an answer is to the length asked.

    SL = 100 max(0, 1 - (y / x - 1) / 3) where the answer of y words is longer than the x asked for, and
    100 max(0, 1 - (x / y - 1) / 2) where it is shorter. Prompts with exactly one required length count ("800 words",
    "500字", "三千字"); the paper keeps rows of at least 80. Chinese characters count as words.

    The released code reads "up to 500 words" and "500字以内" as exactly 500: `bounds: exact`. By default (`keep`) what
    keeps to an upper or lower bound has 100. Several exchanges: the mean over those that require one length.

    A length is required in 1.3 % of the rows of 32 public sets (103 of 7,775), where 61 % have at least 80. Of original
    answers and their expert revisions (CaR, 88 rows) it tells the revised with an AUC of 0.58 [0.46, 0.70], and
    with ratings of 31 rows it goes by 0.30 [-0.06, 0.58]: no clear signal on so few.
    """

    bounds: Literal["keep", "exact"] = "keep"
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `score` in [0, 100], `required` and `written` (words, means). NaN where no one length is required."""
        import numpy as np

        rows = have.shard.read()
        found = [self._of(row) for row in rows]
        values = np.array([np.mean(one, axis=0) if one else (np.nan,) * 3 for one in found]).reshape(-1, 3)
        answered = np.array([row.kind == "prompt" for row in rows])
        why = np.where(answered, int(Reason.NEEDS_ANSWER), int(Reason.NOTHING_TO_CHECK))
        reasons = np.where(np.isnan(values[:, 0]), why, 0).astype(np.uint8)
        units = {"score": "points of 100", "required": "words", "written": "words"}
        return {name: column(values[:, at], unit, reasons) for at, (name, unit) in enumerate(units.items())}

    def _of(self, row: Row) -> list[tuple[float, float, float]]:
        from tamis.text.passages import exchanges
        from tamis.text.words import words_of

        judged = []
        for asked, answer in exchanges(row):
            lengths = required_lengths(asked)
            written = len(words_of(answer))
            if len(lengths) == 1 and written:
                ((bound, required),) = lengths
                bound = "exact" if self.bounds == "exact" else bound
                judged.append((kept_score(bound, required, written), float(required), float(written)))
        return judged


def required_lengths(prompt: str) -> set[tuple[Bound, int]]:
    """Lengths in words or Chinese characters that a prompt asks for, each with what kind of bound it is.

    >>> sorted(required_lengths("An essay of up to 500 words.")), required_lengths("写一篇三千字的文章")
    ([('most', 500)], {('exact', 3000)})
    """
    found: set[tuple[Bound, int]] = set()
    for match in _ENGLISH.finditer(prompt):
        after = match["after"] or ""
        most = bool(match["most"]) or after.endswith(("less", "fewer"))
        least = bool(match["least"]) or after.endswith("more")
        bound: Bound = "most" if most else "least" if least else "exact"
        found |= {(bound, number) for text in (match["low"], match["high"]) if text and (number := _number(text))}
    for match in _CHINESE.finditer(prompt):
        said = f"{match['before'] or ''}{match['after'] or ''}"
        bound = "exact"
        if said:
            bound = "least" if said in ("不少于", "不低于", "至少", "超过", "多于", "以上") else "most"
        if number := _number(match["low"]) * (10_000 if match["ten"] else 1):
            found.add((bound, number))
    return found


def length_score(required: float, written: float) -> float:
    """SL of an answer of `written` words where `required` were asked for, both above 0; in [0, 100].

    >>> length_score(1000, 500)
    50.0
    """
    if written > required:
        return 100 * max(0.0, 1 - (written / required - 1) / 3)
    return 100 * max(0.0, 1 - (required / written - 1) / 2)


def kept_score(bound: Bound, required: float, written: float) -> float:
    """SL, or 100 where an upper or lower bound is kept."""
    if (bound == "most" and written <= required) or (bound == "least" and written >= required):
        return 100.0
    return length_score(required, written)


def _number(text: str) -> int:
    """A number in digits or in Chinese signs such as 三千; 0 where it is none, or absurd."""
    if text[0].isdigit():
        digits = text.replace(",", "")
        return int(digits) if digits.isascii() and len(digits) <= len("1000000") else 0
    total = digit = 0
    for sign in text:
        if sign == "万":
            total, digit = 10_000 * (total + digit), 0
        elif sign in _UNITS:
            total, digit = total + _UNITS[sign] * (digit or 1), 0
        else:
            digit = _DIGITS[sign]
    return total + digit
