"""Evaluation items: the texts that are looked for, and the rules of looking."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tamis.pool import Pool
    from tamis.values import Row

Of = Literal["prompt", "answer", "both"]
SHORT = 8  # items of fewer tokens are compared whole
LEAST = 5  # tokens of a text that is found in the midst of a message


@dataclass(frozen=True)
class Item:
    """A text that is looked for: the prompt or the answer of one row of an evaluation set."""

    set: str  # name of its file
    key: str
    position: int
    part: Literal["prompt", "answer"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How items are looked for; `tamis.cleaners.contamination` says what the settings mean."""

    n: int = 8
    of: Of = "prompt"
    shared: int = 10
    header: int = 4


def items_of(pools: Iterable[Pool], of: Of) -> list[Item]:
    """The texts to look for in evaluation sets, in order; a text that a set has twice is looked for once."""
    found: dict[tuple[str, str, str], Item] = {}
    for pool in pools:
        for row in pool:
            for part, text in _parts(row, of):
                item = Item(row.file, row.key, row.position, part, text)
                found.setdefault((item.set, part, text), item)
    return list(found.values())


def _parts(row: Row, of: Of) -> Iterable[tuple[Literal["prompt", "answer"], str]]:
    """A plain text is a prompt: it is all there is. Of a pair both answers are answers."""
    from tamis.values import text_of

    asked = [text_of(one) for one in row.messages if row.kind == "text" or one.get("role") != "assistant"]
    answers = [text_of(one) for one in row.messages if row.kind != "text" and one.get("role") == "assistant"]
    if of in ("prompt", "both") and (text := "\n".join(asked)).strip():
        yield "prompt", text
    if of in ("answer", "both"):
        for answer in ("\n".join(answers), *("\n".join(map(text_of, one)) for one in (row.chosen, row.rejected))):
            if answer.strip():
                yield "answer", answer
