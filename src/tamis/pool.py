"""Pool: an immutable handle on Parquet shards with a manifest; never a list of rows in memory.

A shard is a folder with `rows.parquet` (columns of `SCHEMA`; messages, tools, chosen, rejected and meta as JSON text).
A pool is a list of shards in order, plus, for every input file, the rows that did not enter (`rejects.parquet`:
quarantined or dropped, with reason and place), so that the ledger can account for every row read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import digests
from tamis.errors import DataError
from tamis.values import Kind, Message, Row

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = "rows.parquet"
REJECTS = "rejects.parquet"
MANIFEST = "pool.json"


def schema() -> pa.Schema:
    """Arrow schema of `rows.parquet`."""
    import pyarrow as pa

    text = ("key", "content", "parent", "kind", "source", "messages", "tools", "chosen", "rejected", "meta", "file")
    types: dict[str, Any] = {name: pa.string() for name in text}
    return pa.schema([*types.items(), ("label", pa.bool_()), ("position", pa.int64())])


def rejects_schema() -> pa.Schema:
    """Arrow schema of `rejects.parquet`: verdict is `quarantined` or `dropped`; `excerpt` is at most 200 characters."""
    import pyarrow as pa

    text = ("key", "file", "verdict", "step", "reason", "excerpt")
    return pa.schema([*[(name, pa.string()) for name in text], ("position", pa.int64())])


def encode(row: Row) -> dict[str, Any]:
    """A row as the plain record that `rows.parquet` holds."""
    return {
        "key": row.key,
        "content": row.content,
        "parent": row.parent,
        "kind": row.kind,
        "source": row.source,
        "messages": _turns(row.messages),
        "tools": row.tools,
        "chosen": _turns(row.chosen),
        "rejected": _turns(row.rejected),
        "meta": _DUMP(dict(row.meta)),
        "file": row.file,
        "label": row.label,
        "position": row.position,
    }


# made once: `json.dumps` makes one a call
_DUMP = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def _turns(messages: Sequence[Message]) -> str:
    return _DUMP(list(messages)) if messages else "[]"


def decode(record: dict[str, Any]) -> Row:
    """The row of a record of `rows.parquet`."""
    kind: Kind = record["kind"]
    return Row(
        key=record["key"],
        content=record["content"],
        parent=record["parent"],
        kind=kind,
        source=record["source"],
        messages=tuple(json.loads(record["messages"])),
        tools=record["tools"],
        chosen=tuple(json.loads(record["chosen"])),
        rejected=tuple(json.loads(record["rejected"])),
        label=record["label"],
        meta=json.loads(record["meta"]),
        file=record["file"],
        position=record["position"],
    )


@dataclass(frozen=True)
class Shard:
    """At most a few thousand rows of one input file. `digest` is that of its content."""

    path: Path
    digest: str
    rows: int

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The records, or some of their columns."""
        import pyarrow.parquet as pq

        return pq.read_table(self.path / ROWS, columns=None if columns is None else list(columns))

    def read(self) -> list[Row]:
        """The rows, decoded."""
        return [decode(record) for record in self.table().to_pylist()]


@dataclass(frozen=True)
class Pool:
    """Shards in order. `files` says for every input file: name, digest, format, rows, kept, quarantined, dropped.

    `steps`: what cleaning did to it, in order (`tamis.stages.clean.Done`); no part of its digest, which is of the rows.
    """

    shards: tuple[Shard, ...]
    files: tuple[dict[str, Any], ...] = ()
    rejects: tuple[Path, ...] = ()
    steps: tuple[dict[str, Any], ...] = ()

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def __repr__(self) -> str:
        files, shards = len(self.files), len(self.shards)
        parts = f"{files} file{'s' * (files != 1)} in {shards} shard{'s' * (shards != 1)}"
        return f"Pool({len(self):,} rows of {parts})"

    def _repr_html_(self) -> str:
        """For notebooks: counts by file, and the first rows; text of the data is escaped."""
        from tamis.api.notebook import ROWS, Card, shown

        counts = ("rows", "kept", "quarantined", "dropped")
        files = [[file.get("name", ""), *(file.get(name, "") for name in counts)] for file in self.files[:ROWS]]
        first = self.shards[0].table().slice(0, ROWS).to_pylist() if self.shards else []
        rows = [[place, record["kind"], *shown(decode(record))] for place, record in enumerate(first)]
        more = f"and {len(self) - len(rows):,} more" if len(self) > len(rows) else ""
        about = Card(repr(self), ("file", *counts), files)
        return about.html() + Card("First rows", ("row", "kind", "source", "asked", "answered"), rows, more).html()

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the shards in order: equal for equal content, wherever it lies."""
        return digests.of_json([shard.digest for shard in self.shards])

    @functools.cached_property
    def starts(self) -> list[int]:
        """Place of the first row of every shard, and the number of rows at the end."""
        starts = [0]
        for shard in self.shards:
            starts.append(starts[-1] + shard.rows)
        return starts

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all rows, in order. Only for small columns: text of ten million rows does not fit."""
        import pyarrow as pa

        if not self.shards:
            return schema().empty_table().select(list(columns))
        return pa.concat_tables([shard.table(columns) for shard in self.shards])

    def read(self, positions: Sequence[int]) -> list[Row]:
        """The rows at these places, in this order; each shard is read once."""
        import bisect

        wanted: dict[int, list[int]] = {}
        for place in positions:
            if not 0 <= place < len(self):
                raise DataError(f"row {place} asked of a pool of {len(self)} rows")
            wanted.setdefault(bisect.bisect_right(self.starts, place) - 1, []).append(place)
        found: dict[int, Row] = {}
        for number, places in wanted.items():
            local = [place - self.starts[number] for place in places]
            for place, record in zip(places, self.shards[number].table().take(local).to_pylist(), strict=True):
                found[place] = decode(record)
        return [found[place] for place in positions]

    def named(self, positions: Sequence[int]) -> list[tuple[str, str]]:
        """(key, content) of the rows at these places, in this order."""
        import numpy as np

        wanted = np.asarray(positions, np.int64)
        shards = np.searchsorted(np.asarray(self.starts), wanted, side="right") - 1
        found: dict[int, tuple[str, str]] = {}
        for number in np.unique(shards).tolist():
            places = wanted[shards == number]
            table = self.shards[number].table(["key", "content"]).take(places - self.starts[number])
            pairs = zip(table.column("key").to_pylist(), table.column("content").to_pylist(), strict=True)
            found |= dict(zip(places.tolist(), pairs, strict=True))
        return [found[place] for place in wanted.tolist()]

    def __iter__(self) -> Iterator[Row]:
        for shard in self.shards:
            yield from shard.read()

    def save(self, path: Path) -> None:
        """Write `pool.json`; shards are named relative to its folder."""
        from tamis.store import write_json

        folder = path.parent.resolve()
        write_json(
            path,
            {
                "digest": self.digest,
                "rows": len(self),
                "shards": [
                    {"path": _relative(shard.path, folder), "digest": shard.digest, "rows": shard.rows}
                    for shard in self.shards
                ],
                "rejects": [_relative(file, folder) for file in self.rejects],
                "files": list(self.files),
                "steps": list(self.steps),
            },
        )

    @classmethod
    def open(cls, path: Path) -> Pool:
        """Open a pool by its folder or its `pool.json`."""
        file = path / MANIFEST if path.is_dir() else path
        if not file.is_file():
            raise DataError(f"{path} is not a pool: expected a folder with {MANIFEST}; make one with `tamis ingest`")
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            folder = file.parent.resolve()
            pool = cls(
                tuple(
                    Shard((folder / item["path"]).resolve(), item["digest"], item["rows"])
                    for item in manifest["shards"]
                ),
                tuple(_facts(item) for item in manifest["files"]),
                tuple((folder / item).resolve() for item in manifest["rejects"]),
                tuple(manifest.get("steps", ())),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
            raise DataError(
                f"{file} is not a manifest of a pool ({error!r}); make it again with `tamis ingest`"
            ) from error
        pool.check(file)
        return pool

    def check(self, file: Path) -> None:
        """DataError where a shard or the rejects are not what `file`, the manifest, names; it says what to do."""
        from tamis import intact

        wanted = {shard.path: (shard.digest, shard.rows) for shard in self.shards}
        for folder, (digest, rows) in [*wanted.items(), *((one.parent, ("", 0)) for one in self.rejects)]:
            found = intact.look(folder)
            if isinstance(found, dict) and (not digest or (digest, rows) == (found["digest"], found["facts"]["rows"])):
                continue
            what = found or f"{folder} is not there" if not isinstance(found, dict) else f"{folder} holds other rows"
            raise DataError(
                f"{file}: {what}; run the command that made this pool again (`tamis ingest … --out`), it makes anew "
                "what is damaged and nothing else"
            )


def _facts(file: Any) -> dict[str, Any]:
    """What a manifest says of an input file. Raises ValueError for what no ingest writes."""
    counts = [file.get(name) for name in ("rows", "kept", "quarantined", "dropped")]
    if not isinstance(file.get("name"), str) or any(type(count) is not int or count < 0 for count in counts):
        raise ValueError(f"an input file with the counts {counts}")
    return dict(file)


def _relative(path: Path, folder: Path) -> str:
    import os

    return Path(os.path.relpath(path.resolve(), folder)).as_posix()
