"""Where the answers of a chat stand among the tokens of what its template writes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.chat_template import ChatTemplate, RowRefused, chat_template

if TYPE_CHECKING:
    from tamis.rendering import Rendered
    from tamis.values import Row

_HOLLOW = "\ue0f7"  # of the private area: no template writes it, and no answer begins or ends with it


@dataclass(frozen=True)
class Answer:
    """The content of one assistant message: tokens `first` up to `stop` hold all of it, maybe more at either end."""

    message: int
    first: int
    stop: int


def find_answers(row: Row, rendered: Rendered, model: str) -> list[Answer] | None:
    """The answers of a chat in its uncut rendering; None where the template writes any of them otherwise.

    The template is rendered once more with a mark in place of every answer: what stands between the marks is the
    template's own, and the answers must fill the gaps, as they are or with the white space around them trimmed.
    """
    template = chat_template(model)
    laid = _gaps(row, template)
    if laid is None:
        return None
    text, places, gaps = laid
    tokenizer: Any = template.tokenizer
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if encoded["input_ids"] != rendered.ids.tolist():
        return None
    starts, ends = ([bounds[side] for bounds in encoded["offset_mapping"]] for side in (0, 1))
    return [
        Answer(place, bisect_right(ends, low), bisect_left(starts, high))
        for place, (low, high) in zip(places, gaps, strict=True)
    ]


def _gaps(row: Row, template: ChatTemplate) -> tuple[str, list[int], list[tuple[int, int]]] | None:
    """The text of a conversation, its assistant messages, and where their contents stand in it."""
    places = [place for place, message in enumerate(row.messages) if message["role"] == "assistant"]
    said = [str(row.messages[place].get("content") or "") for place in places]
    hollow = [{**one, "content": _HOLLOW} if place in places else one for place, one in enumerate(row.messages)]
    try:
        text = template.prompt(row.messages, row.tools, generate=False)
        parts = template.prompt(hollow, row.tools, generate=False).split(_HOLLOW)
    except RowRefused:  # a template may look into the answers
        return None
    if len(parts) != len(said) + 1 or not text.startswith(parts[0]):
        return None
    gaps = []
    low = len(parts[0])
    for content, behind in zip(said, parts[1:], strict=True):
        fits = [one for one in (content, content.strip()) if text.startswith(one + behind, low)]
        if not fits:
            return None
        gaps.append((low, low + len(fits[0])))
        low += len(fits[0]) + len(behind)
    return (text, places, gaps) if low == len(text) else None
