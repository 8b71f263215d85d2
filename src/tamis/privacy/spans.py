"""Places in a text, each of a kind, and the text with placeholders in their stead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Span:
    """Characters `start` to `end` of a text; `kind` names what stands there, as the placeholder does: `EMAIL`."""

    start: int
    end: int
    kind: str
    score: float = 1.0


def apart(spans: Iterable[Span]) -> list[Span]:
    """Those of the spans that do not overlap, the surest and then the longest first, in the order of the text."""
    kept: list[Span] = []
    for one in sorted(spans, key=lambda one: (-one.score, one.start - one.end, one.start, one.kind)):
        if all(one.end <= other.start or other.end <= one.start for other in kept):
            kept.append(one)
    return sorted(kept)


def masked(text: str, spans: Iterable[Span]) -> str:
    """The text with `<KIND>` in the place of every span; the spans do not overlap and are in order."""
    parts, end = [], 0
    for span in spans:
        parts += [text[end : span.start], f"<{span.kind}>"]
        end = span.end
    return "".join([*parts, text[end:]])
