"""Tables: CSV and TSV with or without a header, Parquet, Arrow files and streams."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from tamis.ingest.fields import KNOWN
from tamis.ingest.records import EXCERPT, MAX_BYTES, Record, too_long

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 256
_NAME = re.compile(r"[^\W\d][\w .:/()#%&?+-]{,63}|")  # what passes for the name of a column; an index has none


def parquet(stream: IO[bytes]) -> Iterator[pa.RecordBatch]:
    """Record batches of a Parquet file, one in memory at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(stream) as file:
        yield from file.iter_batches(batch_size=BATCH)


def arrow(stream: IO[bytes], form: str) -> Iterator[pa.RecordBatch]:
    """Record batches of an Arrow (feather) file or an Arrow stream."""
    import pyarrow as pa

    if form == "arrow-stream":
        with pa.ipc.open_stream(stream) as reader:
            yield from reader
        return
    with pa.ipc.open_file(stream) as file:
        yield from (file.get_batch(number) for number in range(file.num_record_batches))


def batches(found: Iterable[Any]) -> Iterator[Record]:
    """Rows of record batches as plain values."""
    for batch in found:
        for start in range(0, batch.num_rows, BATCH):
            yield from _rows(batch.slice(start, BATCH))


UNREADABLE = (ValueError, TypeError, KeyError, OverflowError, NotImplementedError)  # what Arrow raises for values


def _rows(batch: pa.RecordBatch) -> Iterator[Record]:
    """Rows of a few; where one cannot be read (text that is no UTF-8, a time before year 1), the others are."""
    try:
        rows = batch.to_pylist()
    except UNREADABLE as error:
        if batch.num_rows == 1:
            yield Record(fault=f"the row cannot be read: {type(error).__name__}: {error}"[:EXCERPT])
            return
        for place in range(batch.num_rows):
            yield from _rows(batch.slice(place, 1))
        return
    for row in rows:
        yield Record(value={str(name): plain(value) for name, value in row.items()})


def plain(value: Any) -> Any:
    """Turn a value into what JSON holds: times become text, NaN null, bytes text or hexadecimal."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.hex()
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def guess(first: bytes) -> str:
    """`csv`, `tsv` or `text` for a file whose name does not say: a header names at least one known field."""
    for delimiter, form in ((b"\t", "tsv"), (b",", "csv")):
        names = {cell.strip().strip(b'"').decode("utf-8", "replace") for cell in first.split(delimiter)}
        if len(names) > 1 and names & KNOWN:
            return form
    return "text"


def has_header(head: bytes, form: str, names: frozenset[str]) -> bool:
    """Whether the first row of a table is a header: it holds one of `names`, and nothing that cannot be a name.

    A first row that names no known field is data, so that no row is ever lost to a guess.
    """
    lines = head.splitlines(keepends=True)
    for _, cells in _cells(iter(lines), _delimiter(lines, form)):
        found = [cell.strip() for cell in cells] if isinstance(cells, list) else []
        unique = len(set(found)) == len(found)
        return unique and bool(names & set(found)) and all(_NAME.fullmatch(name) for name in found)
    return False


def _delimiter(lines: list[bytes], form: str) -> str:
    first = lines[0].decode("utf-8", "replace") if lines else ""
    return "\t" if form == "tsv" else max(",;\t", key=first.count)


def separated(lines: Iterable[bytes], form: str, *, header: bool) -> Iterator[Record]:
    """Rows of a CSV or TSV file. Without a header row the columns are named 0, 1, 2, …"""
    csv.field_size_limit(MAX_BYTES)
    source = iter(lines)
    first = [line for line in [next(source, b"")] if line]
    names: list[str] | None = None
    for raw, cells in _cells(itertools.chain(first, source), _delimiter(first, form)):
        if isinstance(cells, str):
            yield Record(fault=cells, raw=raw)
            continue
        if names is None:
            names = [cell.strip() if header else str(number) for number, cell in enumerate(cells)]
            if header:
                continue
        yield _row(names, cells, raw)


def _cells(lines: Iterator[bytes], delimiter: str) -> Iterator[tuple[bytes, list[str] | str]]:
    """Rows of cells with the bytes they were read from; blank lines are none, what the csv module refuses is text."""
    read: list[bytes] = []  # lines of the row that is being read: a quoted cell may hold several

    def text() -> Iterator[str]:
        for line in lines:
            read.append(line)
            yield line.decode("utf-8", "surrogateescape")

    reader = csv.reader(text(), delimiter=delimiter)
    while True:
        read.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield b"".join(read), f"broken CSV: {error}"[:EXCERPT]
            continue
        if cells and (len(cells) > 1 or cells[0].strip()):
            yield b"".join(read), cells


def _row(names: list[str], cells: list[str], raw: bytes) -> Record:
    if len(raw) > MAX_BYTES:
        return too_long(raw)
    if any("\udc80" <= char <= "\udcff" for cell in cells if not cell.isascii() for char in cell):
        return Record(fault="invalid UTF-8", raw=raw)
    if len(cells) != len(names):
        return Record(fault=f"{len(cells)} cells where the first row has {len(names)}", raw=raw)
    return Record(value=dict(zip(names, cells, strict=True)), raw=raw)
