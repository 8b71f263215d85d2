"""Which tokens of a rendered conversation are the user's own words, the template's and special tokens left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tamis.chat_template import ChatTemplate, RowRefused, Span, chat_template, encodable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.models import ModelRef
    from tamis.values import Message, Row

MARK = "\ue0f5\ue0f6\ue0f7"  # of the private use area: no text holds it, and no template changes it


def user_tokens(rows: Sequence[Row], ref: ModelRef) -> list[NDArray[np.bool_] | None]:
    """(t,) whether each token of `render_all(rows, ref)` is a user's; None where the template has no such span.

    A user's token starts inside the content of a user message and is no special token. Of a pair, the prompt and the
    chosen answer are rendered. Rows without messages have no user's token.
    """
    import numpy as np

    from tamis.rendering import longest, tokenise

    template = chat_template(ref.name)
    laid = [_laid(row, template) for row in rows]
    special = np.array(sorted(getattr(template.tokenizer, "all_special_ids", [])), np.int64)
    limit = longest(ref)
    kept = slice(None, limit) if ref.truncation == "right" else slice(-limit, None)
    found: list[NDArray[np.bool_] | None] = []
    for spans, (ids, starts) in zip(
        (spans for _, spans in laid), tokenise([text for text, _ in laid], ref), strict=True
    ):
        if spans is None:
            found.append(None)
            continue
        mine = np.zeros(len(ids), np.bool_)
        for low, high in spans:
            mine |= (starts >= low) & (starts < high)
        found.append((mine & ~np.isin(ids, special))[kept])
    return found


def _laid(row: Row, template: ChatTemplate) -> tuple[str, list[Span] | None]:
    """The text of a row, and the character spans of its user messages."""
    if row.kind in ("text", "prompt"):
        return "", []
    messages = (*row.messages, *row.chosen) if row.kind == "pair" else row.messages
    try:
        text = template.lay(messages, row.tools).text
        spans = [
            _span(template, messages, place, row.tools, text)
            for place, message in enumerate(messages)
            if message.get("role") == "user" and message.get("content")
        ]
    except RowRefused:
        return "", None
    return text, None if None in spans else [span for span in spans if span is not None]


def _span(template: ChatTemplate, messages: Sequence[Message], place: int, tools: str | None, text: str) -> Span | None:
    """Where the content of one message stands: what is left when a mark stands in its place; None where that moves."""
    marked: list[Any] = list(messages)
    marked[place] = {**messages[place], "content": MARK}
    other = encodable(template.lay(marked, tools).text)
    start = other.find(MARK)
    behind = len(other) - start - len(MARK)
    same = start >= 0 and behind <= len(text) - start and text[:start] == other[:start]
    if not same or text[len(text) - behind :] != other[start + len(MARK) :]:
        return None
    return start, len(text) - behind
