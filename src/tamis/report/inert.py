"""Making text of a dataset inert: in HTML, in Plotly's own mark-up and in JSON that stands inside HTML.

Dataset text is never trusted. HTML is escaped by the template; what is left for this module is what a template cannot
see: characters that no file may hold (lone surrogates, control characters), characters that turn the reading order of
the text around them, the subset of HTML that Plotly renders in labels, and numbers that JSON does not know.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Mapping
from typing import Any

REPLACEMENT = "\ufffd"
# C0 and C1 controls but for tab and newline, lone surrogates, non-characters, and the bidirectional embeddings,
# overrides and isolates that would reorder the page around the text that holds them.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")


def clean(value: object, limit: int | None = None) -> str:
    """`value` as text that may stand in a page: forbidden characters become U+FFFD, cut after `limit` characters."""
    text = "" if value is None else str(value)
    if limit is not None and len(text) > limit:
        text = text[:limit].rstrip() + " … (cut)"
    return _FORBIDDEN.sub(REPLACEMENT, text.replace("\r\n", "\n").replace("\r", "\n"))


def clean_tree(value: Any) -> Any:
    """`value` (plain JSON) with every string cleaned, keys included, and every NaN or infinity made None."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {clean(key): clean_tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_tree(item) for item in value]
    return value


def plotly_text(value: object, limit: int = 160) -> str:
    """`value` for a label, a tick or a hover box of Plotly, which renders tags there: on one line, escaped."""
    line = " ".join(clean(value).split())
    if len(line) > limit:
        line = line[: limit - 1] + "…"
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def plotly_lines(value: object, width: int = 64) -> str:
    """`value` wrapped at `width` characters for a hover box; only the line breaks between the lines are mark-up."""
    lines = textwrap.wrap(" ".join(clean(value).split()), width)
    return "<br>".join(plotly_text(line, width + 1) for line in lines)


def embedded_json(value: Any) -> str:
    """`value` as ASCII JSON that may stand in a `<script type="application/json">`: it can end no element.

    Raises ValueError where a NaN or an infinity is left, which JavaScript's parser would refuse.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
