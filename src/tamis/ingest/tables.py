"""Tables: CSV and TSV with or without a header, Parquet, Arrow files and streams."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any

from tamis.ingest.fields import KNOWN
from tamis.ingest.records import EXCERPT, MAX_BYTES, Record, too_long

BATCH = 256
_NAME = re.compile(r"[^\W\d][\w .:/()#%&?+-]{,63}")  # what passes for the name of a column


def parquet(stream: IO[bytes]) -> Iterator[Record]:
    """Rows of a Parquet file, one record batch in memory at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(stream) as file:
        yield from batches(file.iter_batches(batch_size=BATCH))


def arrow(stream: IO[bytes], form: str) -> Iterator[Record]:
    """Rows of an Arrow (feather) file or an Arrow stream."""
    import pyarrow as pa

    if form == "arrow-stream":
        with pa.ipc.open_stream(stream) as reader:
            yield from batches(reader)
        return
    with pa.ipc.open_file(stream) as file:
        yield from batches(file.get_batch(number) for number in range(file.num_record_batches))


def batches(found: Iterable[Any]) -> Iterator[Record]:
    """Rows of record batches as plain values."""
    for batch in found:
        for start in range(0, batch.num_rows, BATCH):
            for row in batch.slice(start, BATCH).to_pylist():
                yield Record(value={str(name): plain(value) for name, value in row.items()})


def plain(value: Any) -> Any:
    """Turn a value into what JSON holds: times become text, NaN null, bytes text or hexadecimal."""
    if isinstance(value, dict):
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
        names = {cell.strip().strip(b'"').lower().decode("utf-8", "replace") for cell in first.split(delimiter)}
        if len(names) > 1 and names & KNOWN:
            return form
    return "text"


def separated(lines: Iterable[bytes], form: str) -> Iterator[Record]:
    """Rows of a CSV or TSV file. Without a header row the columns are named 0, 1, 2, …, and no row is lost."""
    csv.field_size_limit(MAX_BYTES)
    source = iter(lines)
    first = next(source, b"")
    delimiter = "\t" if form == "tsv" else max(",;\t", key=first.decode("utf-8", "replace").count)
    names: list[str] | None = None
    for raw, cells in _cells(itertools.chain([first], source), delimiter):
        if isinstance(cells, str):
            yield Record(fault=cells, raw=raw)
            continue
        if names is None:
            names = header(cells)
            if names is not None:
                continue
            names = [str(number) for number in range(len(cells))]
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


def header(cells: list[str]) -> list[str] | None:
    """Read the names of a header row; None where the row is data: empty, repeated, long, numeric cells or prose."""
    names = [cell.strip() for cell in cells]
    if len(set(names)) != len(names):
        return None
    return names if all(_NAME.fullmatch(name) for name in names) else None


def _row(names: list[str], cells: list[str], raw: bytes) -> Record:
    if len(raw) > MAX_BYTES:
        return too_long(raw)
    if any("\udc80" <= char <= "\udcff" for cell in cells if not cell.isascii() for char in cell):
        return Record(fault="invalid UTF-8", raw=raw)
    if len(cells) != len(names):
        return Record(fault=f"{len(cells)} cells where the first row has {len(names)}", raw=raw)
    return Record(value=dict(zip(names, cells, strict=True)), raw=raw)
