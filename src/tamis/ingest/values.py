"""JSON values: parsed one by one, and split out of a document in bounded memory.

The splitter counts brackets outside strings, on bytes (structure is ASCII in UTF-8), so that one broken element of an
array is quarantined alone and the elements after it are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from tamis.ingest.records import EXCERPT, MAX_BYTES, Record, too_long

BLOCK = 1 << 18
_OUTSIDE = re.compile(rb'["{}\[\],]')
_INSIDE = re.compile(rb'["\\]')


def parse(said: bytes, raw: bytes | None = None) -> Record:
    """One JSON value, `said`, of the untouched bytes `raw`. NaN and Infinity, which JSON does not have, become null."""
    raw = said if raw is None else raw
    try:
        return Record(value=_DECODE(said.decode("utf-8")), raw=raw)
    except UnicodeDecodeError as error:
        return Record(fault=f"invalid UTF-8 at byte {error.start}", raw=raw)
    except json.JSONDecodeError as error:
        return Record(fault=f"broken JSON: {error.msg} at character {error.pos}", raw=raw)
    except RecursionError:
        return Record(fault="broken JSON: nested too deeply", raw=raw)
    except ValueError as error:  # a number of thousands of digits
        return Record(fault=f"broken JSON: {error}"[:EXCERPT], raw=raw)


def _no_constant(name: str) -> None:
    return None


_DECODE = json.JSONDecoder(parse_constant=_no_constant).decode  # made once: `json.loads` makes one a call


class Splitter:
    """Cuts a stream of bytes into the elements of one array (`base` 1) or into objects in a row (`base` 0)."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.depth = base
        self.in_string = False
        self.skip = False  # the next byte is escaped
        self.ended = False
        self.buffer = bytearray()
        self.long = False

    def feed(self, block: bytes) -> Iterator[Record]:
        """Yield the elements that `block` completes."""
        start = place = 0
        if self.skip:
            place, self.skip = 1, False
        while not self.ended and (match := (_INSIDE if self.in_string else _OUTSIDE).search(block, place)):
            place = match.end()
            byte = match[0]
            if self.in_string:
                place = self._inside(byte, place, len(block))
                continue
            end = self._outside(byte, place)
            if end >= 0:
                self._keep(block[start:end])
                start = place
                yield from self._emit()
        self._keep(block[start:])

    def _inside(self, byte: bytes, place: int, size: int) -> int:
        if byte == b'"':
            self.in_string = False
            return place
        self.skip = place == size
        return place + 1

    def _outside(self, byte: bytes, place: int) -> int:
        """End of the element that this byte closes, or -1."""
        if byte == b'"':
            self.in_string = True
        elif byte in b"{[":
            self.depth += 1
        elif byte in b"}]":
            self.depth -= 1
            if self.base and self.depth == 0:
                self.ended = True
                return place - 1
            if not self.base and self.depth <= 0:
                self.depth = 0
                return place
        elif self.base and self.depth == 1:
            return place - 1  # a comma between elements
        return -1

    def _keep(self, part: bytes) -> None:
        room = MAX_BYTES - len(self.buffer)
        self.long = self.long or len(part) > room
        self.buffer += part[:room]

    def _emit(self) -> Iterator[Record]:
        raw = bytes(self.buffer).strip()
        if self.long:
            yield too_long(raw)
        elif raw:
            yield parse(raw)
        self.buffer.clear()
        self.long = False

    def close(self, *, trailing: bool) -> Iterator[Record]:
        """Judge what is left at the end of the file, which is a fault unless the document has ended."""
        raw = bytes(self.buffer).strip()
        if not self.ended and (self.base or raw):
            yield Record(fault="the document breaks off: a bracket or a quote is never closed", raw=raw)
        elif raw and trailing:
            yield Record(fault="text after the end of the array", raw=raw)


def split(stream: IO[bytes], form: str, wrapper: re.Pattern[bytes]) -> Iterator[Record]:
    """Yield the elements of a JSON document: an array, an object around an array, or objects one after the other."""
    head = stream.read(BLOCK).removeprefix(b"\xef\xbb\xbf")
    if form == "json-wrapped":
        match: Any = wrapper.match(head)
        head = head[match.end() :]
    elif form == "json":
        head = head.lstrip()[1:]
    splitter = Splitter(0 if form == "json-objects" else 1)
    block = head
    while block:
        yield from splitter.feed(block)
        block = stream.read(BLOCK)
    yield from splitter.close(trailing=form != "json-wrapped")
