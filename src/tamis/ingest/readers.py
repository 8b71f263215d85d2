"""Raw records with their places, streamed from a file whatever its container; the content decides, not the name.

A broken record is a record with a `fault`; a file that breaks off ends in one. Blank lines are no records.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from tamis.ingest import foreign, tables, values
from tamis.ingest.fields import KNOWN
from tamis.ingest.mappings import rules
from tamis.ingest.records import EXCERPT, MAX_BYTES, Record, too_long
from tamis.ingest.sources import arrow_files

if TYPE_CHECKING:
    import pyarrow as pa

HEAD = 1 << 16
BOMB_BYTES, BOMB_TIMES = 256 << 20, 200  # expanded bytes that no file is refused for; beyond them, how many times
FOREIGN = "foreign"
HEADLESS = "-without-header"
BOM = b"\xef\xbb\xbf"
_WRAPPER = re.compile(rb'^\s*\{\s*"(?:data|rows|examples|instances|train)"\s*:\s*\[\s*(?=\{)')
_BOMB = re.compile(rb"\[\s*\[\s*\[")  # an array of records, or of lists of turns, does not begin so
_JSON_START = (b"{", b"[")


@dataclass(frozen=True)
class Container:
    """How the records of a file are packed. `compression`: "" or gzip or zstd; `header`: of a table, if it has one."""

    form: str
    compression: str = ""
    header: bool = True

    def __str__(self) -> str:
        form = self.form if self.header else f"{self.form}{HEADLESS}"
        return f"{form}+{self.compression}" if self.compression else form

    @classmethod
    def parse(cls, text: str) -> Container:
        """Read what `str` wrote."""
        form, _, compression = text.partition("+")
        return cls(form.removesuffix(HEADLESS), compression, not form.endswith(HEADLESS))


def container(path: Path, name: str, mapping: Mapping[str, str] | None = None) -> Container:
    """Detect the container of a file from its first 64 KiB; the name decides only between plain text and tables.

    The first row of a table is its header if it names a known field or one of `mapping`; a mapping by number says that
    there is none.
    """
    if path.is_dir():
        return Container("hf-dataset")
    compression = _compression(path)
    try:
        with _open(path, compression) as stream:
            head = stream.read(HEAD)
    except _BROKEN:
        return Container("broken", compression)
    if foreign.name_of(head):
        return Container(FOREIGN, compression)
    form = _form(head, name.lower())
    if form not in ("csv", "tsv"):
        return Container(form, compression)
    names = frozenset(rules(mapping).fields.values())
    headless = any(field.isdigit() for field in names)
    return Container(form, compression, not headless and tables.has_header(head.removeprefix(BOM), form, KNOWN | names))


@dataclass(frozen=True)
class Block:
    """Records of a file one after the other, the first at the place `first`.

    `raws`: what each is read from by `records` (a line; Parquet and Arrow: one batch for all). `parsed`: those of a
    container that cannot be cut without reading it.
    """

    first: int
    size: int
    raws: tuple[bytes, ...] = ()
    batch: pa.RecordBatch | None = None
    parsed: tuple[Record, ...] = ()


BLOCK_ROWS, BLOCK_BYTES = 1024, 4 << 20  # a block ends with the first of them


def blocks(path: Path, packed: Container) -> Iterator[Block]:
    """The records of a file in blocks. Never raises for what the file contains."""
    number = 0
    try:
        for block in _blocks(path, packed):
            number = block.first + block.size
            yield block
    except _BROKEN as error:
        fault = f"the file breaks off here: {type(error).__name__}: {error}"[:EXCERPT]
        yield Block(number, 1, parsed=(Record(fault=fault),))


def records(block: Block, packed: Container) -> Iterator[Record]:
    """The records of a block with their places."""
    found: Iterable[Record] = block.parsed
    if block.batch is not None:
        found = tables.batches([block.batch])
    elif block.raws:
        found = map(_line_of_text if packed.form == "text" else _line_of_json, block.raws)
    for number, record in enumerate(found, block.first):
        yield record.at(number)


def read(path: Path, packed: Container) -> Iterator[Record]:
    """Yield the records of a file, numbered from 0. Never raises for what the file contains."""
    for block in blocks(path, packed):
        yield from records(block, packed)


def first(path: Path, packed: Container) -> bytes:
    """The content of a file's first record, by which it is known when it has grown; nothing where it holds none."""
    try:
        return next((record.content for block in _blocks(path, packed, 1) for record in records(block, packed)), b"")
    except _BROKEN:
        return b""


# pyarrow's errors are ValueError, OSError, KeyError or NotImplementedError, and MemoryError where a length lies
_BROKEN = (EOFError, OSError, zlib.error, ValueError, KeyError, NotImplementedError, OverflowError, MemoryError)


def _blocks(path: Path, packed: Container, rows: int | None = None) -> Iterator[Block]:
    number = 0
    for block in _cut(path, packed, rows or BLOCK_ROWS):
        yield replace(block, first=number)
        number += block.size


def _cut(path: Path, packed: Container, rows: int) -> Iterator[Block]:
    if packed.form == "hf-dataset":
        for file in arrow_files(path):
            with _arrow_stream(file) as batches:
                yield from _tables(batches)
        return
    with _open(path, packed.compression) as stream:
        if packed.form == "parquet":
            yield from _tables(tables.parquet(stream))
        elif packed.form in ("arrow-file", "arrow-stream"):
            yield from _tables(tables.arrow(stream, packed.form))
        elif packed.form in ("text", "jsonl"):
            yield from _of_lines(stream, rows)
        elif packed.form == "broken":
            stream.read(HEAD)  # raises what the file suffers from
        elif packed.form == FOREIGN:
            yield Block(0, 1, parsed=(Record(fault=foreign.fault(stream.read(HEAD))),))
        else:
            yield from _of_records(_parsed(stream, packed), rows)


def _of_lines(stream: IO[bytes], rows: int) -> Iterator[Block]:
    """Blocks of lines that are not blank; those before a place where the file breaks off are not lost."""
    held: list[bytes] = []
    size = 0
    lines = _lines(stream)
    while True:
        try:
            line = next(lines, None)
        except _BROKEN:
            if held:
                yield Block(0, len(held), raws=tuple(held))
            raise
        if line is None:
            break
        if not line.strip():
            continue
        held.append(line)
        size += len(line)
        if len(held) == rows or size >= BLOCK_BYTES:
            yield Block(0, len(held), raws=tuple(held))
            held, size = [], 0
    if held:
        yield Block(0, len(held), raws=tuple(held))


def _parsed(stream: IO[bytes], packed: Container) -> Iterator[Record]:
    if packed.form in ("csv", "tsv"):
        yield from tables.separated(_lines(stream), packed.form, header=packed.header)
    elif packed.form in ("json", "json-objects", "json-wrapped"):
        yield from values.split(stream, packed.form, _WRAPPER)


def _of_records(found: Iterator[Record], rows: int) -> Iterator[Block]:
    """Blocks of records that are read already; those before a place where the file breaks off are not lost."""
    held: list[Record] = []
    size = 0
    try:
        for record in found:
            held.append(record)
            size += len(record.raw or b"")
            if len(held) == rows or size >= BLOCK_BYTES:
                yield Block(0, len(held), parsed=tuple(held))
                held, size = [], 0
    except _BROKEN:
        if held:
            yield Block(0, len(held), parsed=tuple(held))
        raise
    if held:
        yield Block(0, len(held), parsed=tuple(held))


def _tables(batches: Iterable[pa.RecordBatch]) -> Iterator[Block]:
    for batch in batches:
        step = max(1, min(tables.BATCH, BLOCK_BYTES * batch.num_rows // max(batch.nbytes, 1)))
        for start in range(0, batch.num_rows, step):
            part = batch.slice(start, step)
            yield Block(0, part.num_rows, batch=part)


def _arrow_stream(file: Path) -> pa.RecordBatchStreamReader:
    import pyarrow as pa

    return pa.ipc.open_stream(pa.memory_map(str(file)))


def _compression(path: Path) -> str:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == b"\x1f\x8b":
        return "gzip"
    return "zstd" if magic == b"\x28\xb5\x2f\xfd" else ""


def _open(path: Path, compression: str) -> IO[bytes]:
    if not compression:
        return path.open("rb")
    raw: Any
    if compression == "gzip":
        raw = gzip.open(path, "rb")
    else:
        import pyarrow as pa

        raw = pa.CompressedInputStream(pa.OSFile(str(path), "rb"), "zstd")
    return cast(IO[bytes], io.BufferedReader(_Bounded(raw, path.stat().st_size), 1 << 20))


class _Bounded(io.RawIOBase):
    """What a compressed file expands to; a bomb raises OSError before it has cost more than a second or two."""

    def __init__(self, raw: Any, packed: int) -> None:
        self.raw = raw
        self.limit = max(BOMB_BYTES, BOMB_TIMES * packed)
        self.count = 0

    def readable(self) -> bool:
        """Yes: `BufferedReader` asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, as of a raw stream."""
        found = self.raw.read(len(buffer))
        self.count += len(found)
        if self.count > self.limit:
            raise OSError(f"it expands to more than {BOMB_TIMES} times its size: a bomb; unpack it if it is none")
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        """Close the file below."""
        self.raw.close()
        super().close()


def _form(head: bytes, name: str) -> str:
    for magic, form in ((b"PAR1", "parquet"), (b"ARROW1", "arrow-file"), (b"\xff\xff\xff\xff", "arrow-stream")):
        if head.startswith(magic):
            return form
    text = head.removeprefix(BOM).lstrip()
    if not text:
        return "empty"
    for suffix in (".gz", ".zst", ".zstd"):
        name = name.removesuffix(suffix)
    table = "tsv" if name.endswith(".tsv") else "csv" if name.endswith(".csv") else ""
    first, _, rest = text.partition(b"\n")
    if text[:1] in _JSON_START and not (table and not _is_json(first)):
        return _json_form(text, first, rest)
    if table:
        return table
    if name.endswith((".json", ".jsonl", ".ndjson")):
        return "jsonl"
    return tables.guess(first)


def _json_form(text: bytes, first: bytes, rest: bytes) -> str:
    """One array, one object around an array, objects over several lines, or one value a line."""
    follows = rest.lstrip()[:1] == text[:1]
    if _is_json(first) and (follows or not rest.strip()) and (text[:1] == b"{" or follows):
        wrapped = text[:1] == b"{" and not follows and _WRAPPER.match(text)
        return "json-wrapped" if wrapped else "jsonl"
    second = rest.lstrip().partition(b"\n")[0]
    if text[:1] == b"[" and (_BOMB.match(text) or (first.strip() != b"[" and _is_json(second))):
        return "jsonl"  # a broken first line, and a whole value in the second, which an array has no room for
    if text[:1] == b"[":
        return "json" if text[1:].lstrip()[:1] in (b"{", b"]", b"[", b"") else "jsonl"
    if _WRAPPER.match(text):
        return "json-wrapped"
    indented = first.strip() == b"{" or rest[:1] in (b" ", b"\t")
    return "json-objects" if indented else "jsonl"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines with their ends; one longer than 16 MiB is cut to 16 MiB + 1 bytes, the rest of it skipped."""
    first = True
    while line := stream.readline(MAX_BYTES + 1):
        if len(line) > MAX_BYTES:
            while (more := stream.readline(MAX_BYTES)) and not more.endswith(b"\n"):
                pass
        if first:
            line, first = line.removeprefix(BOM), False
        yield line


def _line_of_json(line: bytes) -> Record:
    said = line.strip()
    return too_long(said) if len(said) > MAX_BYTES else values.parse(said, line)


def _line_of_text(line: bytes) -> Record:
    said = line.rstrip(b"\r\n")
    if len(said) > MAX_BYTES:
        return too_long(said)
    try:
        return Record(value={"text": said.decode("utf-8")}, raw=line)
    except UnicodeDecodeError as error:
        return Record(fault=f"invalid UTF-8 at byte {error.start}", raw=line)
