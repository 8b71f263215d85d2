"""A raw record as a reader found it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 16 << 20
EXCERPT = 200


@dataclass(frozen=True, slots=True)
class Record:
    """`value` as parsed, or `fault`: why it could not be. `raw`: its untouched bytes (of a fault: text, or a part)."""

    position: int = 0
    value: Any = None
    fault: str = ""
    raw: bytes | str | None = None

    def at(self, position: int) -> Record:
        """Put the record at its place in the file."""
        return Record(position, self.value, self.fault, self.raw)

    @property
    def content(self) -> bytes:
        """What its key is made of: its bytes without white space around them; of a table's record its JSON."""
        raw = self.raw
        if raw is None:
            raw = json.dumps(self.value, ensure_ascii=False, separators=(",", ":"), default=str)
        return raw.strip() if isinstance(raw, bytes) else raw.strip().encode("utf-8", "surrogatepass")

    @property
    def excerpt(self) -> str:
        """The first 200 characters, always valid UTF-8 without control characters."""
        raw = self.raw
        if raw is None:
            raw = json.dumps(self.value, ensure_ascii=False, default=str) if self.value is not None else ""
        raw = raw.strip()
        text = raw[: 4 * EXCERPT].decode("utf-8", "replace") if isinstance(raw, bytes) else raw[:EXCERPT]
        return printable(text[:EXCERPT])


def printable(text: str) -> str:
    """`text` as valid UTF-8 without control characters: they become spaces."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def too_long(raw: bytes | str) -> Record:
    """Make the record that stands for one of more than 16 MiB."""
    return Record(fault="longer than 16 MiB", raw=raw[: 4 * EXCERPT])
