"""The texts of a row: what was asked, what was answered, and both, for everything that reads text and no tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tamis.values import text_of

if TYPE_CHECKING:
    from tamis.values import Message, Row


@dataclass(frozen=True)
class Passages:
    """Texts of one row; "" where it has none.

    `prompt`: all messages that are not the assistant's, one under the other. `response`: all of the assistant's, tool
    calls as JSON; of a pair the chosen answer; of plain text the text. `whole`: both, in the order of the messages.
    `answered`: whether there is an answer to the last prompt, and it is more than white space.
    """

    prompt: str
    response: str
    whole: str
    answered: bool


def of_row(row: Row) -> Passages:
    """The texts of a row of any kind."""
    messages = _said(row)
    answers = [row.kind == "text" or message.get("role") == "assistant" for message in messages]
    texts = [text_of(message) for message in messages]
    return Passages(
        prompt="\n".join(text for text, answer in zip(texts, answers, strict=True) if not answer),
        response="\n".join(text for text, answer in zip(texts, answers, strict=True) if answer),
        whole="\n".join(texts),
        answered=row.kind != "prompt"
        and any(text.strip() for text, answer in zip(texts, answers, strict=True) if answer),
    )


def exchanges(row: Row) -> list[tuple[str, str]]:
    """What the user asked and what was answered in the end, by exchange; those without an answer left out.

    An exchange begins with the user's message and ends before his next one; its answer is the last of the assistant's
    messages in it, so that calls of tools are no answers where one follows them. Plain text has no exchange.
    """
    found: list[tuple[str, str]] = []
    asked, answer, open_ = "", "", False
    for message in () if row.kind == "text" else _said(row):
        role, text = message.get("role"), text_of(message)
        if role == "user":
            if answer:
                found.append((asked, answer))
                open_ = False
            asked, answer, open_ = (f"{asked}\n{text}" if open_ else text), "", True
        elif role == "assistant" and text:
            answer = text
    return [*found, (asked, answer)] if answer else found


def _said(row: Row) -> tuple[Message, ...]:
    return (*row.messages, *row.chosen)
