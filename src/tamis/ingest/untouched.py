"""The input records of rows, byte for byte, read again from the files that the pool names."""

from __future__ import annotations

import bisect
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tamis.errors import DataError, RecipeError
from tamis.ingest import readers, sources
from tamis.ingest.judging import key_of
from tamis.ingest.readers import Container
from tamis.ingest.records import Record
from tamis.ingest.sources import Source
from tamis.pool import Pool

TABLES = ("parquet", "arrow-file", "arrow-stream", "hf-dataset")


def originals(pool: Pool, positions: Sequence[int]) -> Iterator[bytes]:
    """Yield the untouched input record of each row at `positions` (places in the pool), in that order.

    Of JSON lines, CSV and plain text: the line or lines with their end, as they are in the file (its last record may
    have none; a byte order mark belongs to the file). Of a JSON array, or of objects one after the other: the bytes of
    the element. Parquet and Arrow hold no bytes of a record: there it is a line of JSON, and `rendered` names the file.
    Each file is read once, and only the records asked for are kept, in a temporary file. Raises DataError where a file
    has changed or is gone since it was ingested, or where a place is not in the pool.
    """
    with ExitStack() as stack:
        spool = stack.enter_context(tempfile.TemporaryFile(prefix="tamis-originals-"))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tamis-originals-")))
        places = _spool(pool, positions, scratch, spool)
        for position in positions:
            start, size = places[int(position)]
            spool.seek(start)
            yield spool.read(size)


def rendered(pool: Pool) -> tuple[str, ...]:
    """Names of the pool's files whose records have no bytes of their own: `originals` gives them as lines of JSON."""
    return tuple(str(file["name"]) for file in pool.files if str(file["format"]).partition(":")[0] in TABLES)


@dataclass(frozen=True)
class _Asked:
    """An input file of a pool, and the records wanted of it: {position in the file: (place in the pool, key)}."""

    name: str
    digest: str
    packed: Container
    path: str | None
    origin: str
    records: dict[int, tuple[int, str]]


def _spool(pool: Pool, positions: Sequence[int], scratch: Path, spool: IO[bytes]) -> dict[int, tuple[int, int]]:
    """Copy the records asked for into `spool`; returns {place in the pool: (start, size)}."""
    found: dict[int, tuple[int, int]] = {}
    for number, asked in enumerate(_asked(pool, positions)):
        source = _again(asked, scratch / str(number))
        last = max(asked.records)
        for record in readers.read(source.path, asked.packed):
            if record.position in asked.records:
                place, key = asked.records[record.position]
                if key != key_of(asked.origin, record):
                    raise DataError(f"row {place} of the pool did not come from {asked.name}: its record is not there")
                raw = _bytes(record)
                found[place] = (spool.tell(), len(raw))
                spool.write(raw)
            if record.position >= last:
                break
    lost = set(map(int, positions)) - set(found)
    if lost:
        raise DataError(f"row {min(lost)} of the pool is not in its input file; ingest again")
    return found


def _asked(pool: Pool, positions: Sequence[int]) -> list[_Asked]:
    """Sort the places by the input file their rows came from, which the rows' keys are to prove."""
    ends, total = [], 0
    for file in pool.files:
        total += int(file["kept"])
        ends.append(total)
    if total != len(pool):
        raise DataError(f"the pool holds {len(pool)} rows, its files gave {total}: their records cannot be found")
    asked: dict[int, dict[int, tuple[int, str]]] = {}
    for place, (key, position) in _places(pool, positions).items():
        asked.setdefault(bisect.bisect_right(ends, place), {})[position] = (place, key)
    return [_about(pool.files[number], records) for number, records in sorted(asked.items())]


def _about(file: Mapping[str, Any], records: dict[int, tuple[int, str]]) -> _Asked:
    packed = Container.parse(str(file["format"]).partition(":")[0])
    return _Asked(file["name"], file["digest"], packed, file.get("path"), file.get("origin", ""), records)


def _places(pool: Pool, positions: Sequence[int]) -> dict[int, tuple[str, int]]:
    """{place in the pool: (key as it was read, position in the file)}; reads those columns of the shards touched."""
    found: dict[int, tuple[str, int]] = {}
    wanted: dict[int, list[int]] = {}
    for place in map(int, positions):
        if not 0 <= place < len(pool):
            raise DataError(f"row {place} asked of a pool of {len(pool)} rows")
        wanted.setdefault(bisect.bisect_right(pool.starts, place) - 1, []).append(place)
    for number, places in wanted.items():
        local = [place - pool.starts[number] for place in places]
        records = pool.shards[number].table(["key", "parent", "position"]).take(local).to_pylist()
        for place, row in zip(places, records, strict=True):
            found[place] = (row["parent"] or row["key"], row["position"])  # a changed row names the one that was read
    return found


def _again(asked: _Asked, scratch: Path) -> Source:
    """Find the file of a pool again. Raises DataError where it is gone or holds something else."""
    if asked.path is not None and Path(asked.path).exists():
        path = Path(asked.path)
        found = [Source(asked.name, path, path.name)]
    else:
        try:
            found = sources.resolve([asked.name], scratch)
        except (DataError, RecipeError) as error:
            raise DataError(f"the untouched rows are wanted, but their file is gone: {error}") from error
    for source in found:
        if source.digest() == asked.digest:
            return source
    raise DataError(
        f"{asked.name} has changed since it was ingested (digest {found[0].digest()[:8]}, the pool's rows came from "
        f"{asked.digest[:8]}): ingest it again, or export without the untouched rows"
    )


def _bytes(record: Record) -> bytes:
    if isinstance(record.raw, bytes):
        return record.raw
    return json.dumps(record.value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"
