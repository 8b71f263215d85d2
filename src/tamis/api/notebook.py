"""How values look in a notebook and at a prompt: a title, a few facts and a small table, as text or as escaped HTML.

Text of a dataset is never trusted: it is cut, its control characters are replaced, and HTML is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tamis.values import Row, text_of

LONGEST = 200  # characters of a title or a cell
NARROW = 48  # characters of a cell at a prompt
ROWS = 5  # rows of a table
_STYLE = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"


@dataclass(frozen=True)
class Card:
    """A title, and a table of at most a few rows under `head`; `more` says what is left out."""

    title: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    more: str = ""

    def text(self) -> str:
        """Lines for a prompt: the title, the table with aligned columns, what is left out."""
        lines = [_plain(self.title, 10 * LONGEST)]
        if self.rows:
            cells = [[_plain(cell, NARROW) for cell in row] for row in (self.head, *self.rows)]
            widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
            lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        return "\n".join(line.rstrip() for line in [*lines, *([_plain(self.more, 10 * LONGEST)] if self.more else [])])

    def html(self) -> str:
        """The same as HTML, every text escaped."""
        parts = [f"<p><strong>{_safe(self.title, 10 * LONGEST)}</strong></p>"]
        if self.rows:
            head = "".join(f'<th style="{_STYLE}">{_safe(cell)}</th>' for cell in self.head)
            body = "".join(
                "<tr>" + "".join(f'<td style="{_STYLE}">{_safe(cell)}</td>' for cell in row) + "</tr>"
                for row in self.rows
            )
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        if self.more:
            parts.append(f"<p>{_safe(self.more, 10 * LONGEST)}</p>")
        return f"<div>{''.join(parts)}</div>"


def shown(row: Row) -> tuple[str, str, str]:
    """Source, what was asked last and what was answered, as a table shows them; of a pair the chosen answer."""
    messages = [*row.messages, *row.chosen]
    answered = bool(messages) and messages[-1].get("role") == "assistant"
    asked = messages[:-1] if answered else messages
    return row.source, text_of(asked[-1]) if asked else "", text_of(messages[-1]) if answered else ""


def _plain(value: Any, longest: int = LONGEST) -> str:
    """One line of at most `longest` characters without control, format and line-separating characters."""
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else ""
    text = text or (f"{value:.4g}" if isinstance(value, float) else str(value))
    text = "".join(letter if letter.isprintable() else " " for letter in text[: longest + 1])
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _safe(value: Any, longest: int = LONGEST) -> str:
    return html.escape(_plain(value, longest), quote=True)
