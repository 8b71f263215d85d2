"""Rows that a transform changes: a new shard in which each names its parent. Shards that stay as they are, stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import digests
from tamis.contents import content_digest
from tamis.errors import DataError
from tamis.pool import ROWS, Pool, Shard, decode, encode, schema
from tamis.values import Dropped, Message, Row, text_of

if TYPE_CHECKING:
    from tamis.protocols import Transform
    from tamis.store import Entry, Store

PATCH = "patch"
EMPTIED = "nothing is left of a text that was there"
_FIXED = ("kind", "source", "file", "position", "label")


@dataclass(frozen=True)
class PatchJob:
    """One shard and the transform that goes over it; picklable, so that workers can do it."""

    store: Store
    transform: Transform
    shard: Shard

    @property
    def identity(self) -> str:
        """Of the transform's work on this shard alone: appended data leaves it as it is."""
        return digests.of_component(self.transform, {"shard": self.shard.digest})


def patch(job: PatchJob) -> str:
    """Apply the transform to one shard; returns the identity of what it found (kind `patch`).

    Its facts: `rows` changed, `shard` (identity of the new shard, "" where nothing changed), `emptied` (places of rows
    of which a text would be gone: they stay as they were, and are to be dropped), `counts` of the transform.
    """

    def make(folder: Path) -> dict[str, Any]:
        found = job.transform.apply(job.shard)
        records = job.shard.table().to_pylist() if found.rows else []
        emptied, changed = [], 0
        for place, row in sorted(found.rows.items()):
            old = decode(records[place])
            _check(old, row, type(job.transform).__name__)
            if emptied_by(old, row):
                emptied.append(int(place))
            elif (content := content_digest(row)) != old.content or row.meta != old.meta:
                records[place] = encode(_child(old, row, content, job.transform))
                changed += 1
        made = _shard(job, records) if changed else ""
        return {"rows": changed, "shard": made, "emptied": emptied, "counts": dict(found.facts)}

    return _entry(job, make)


def _entry(job: PatchJob, make: Any) -> str:
    job.store.get_or_make(PATCH, job.identity, make, about=job.transform)
    return job.identity


def _shard(job: PatchJob, records: list[dict[str, Any]]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def make(folder: Path) -> dict[str, Any]:
        pq.write_table(pa.Table.from_pylist(records, schema=schema()), folder / ROWS, compression="zstd")
        return {"rows": len(records)}

    identity = digests.of_json({"shard": job.shard.digest, "patched": job.identity})
    job.store.get_or_make("shard", identity, make)
    return identity


def _child(old: Row, new: Row, content: str, transform: Transform) -> Row:
    """The changed row: a key made of its parent's and the transform; `parent` is the row as it was read."""
    key = digests.of_bytes(f"{old.key}:{digests.of_component(transform)}".encode())
    return dataclasses.replace(new, key=key, parent=old.parent or old.key, content=content)


def _check(old: Row, new: Row, name: str) -> None:
    moved = [field for field in _FIXED if getattr(old, field) != getattr(new, field)]
    if moved:
        raise DataError(f"{name} changes {', '.join(moved)} of a row, which no transform may: a fault of the transform")


def emptied_by(old: Row, new: Row) -> bool:
    """Whether a text that said something says nothing any more."""
    return any(
        text_of(before).strip() and not text_of(after).strip()
        for before, after in zip(_messages(old), _messages(new), strict=True)
    )


def _messages(row: Row) -> tuple[Message, ...]:
    return (*row.messages, *row.chosen, *row.rejected)


def patched(pool: Pool, entries: list[Entry], store: Store) -> Pool | None:
    """The pool with every shard that was patched in the place of its old one; None where one is gone from the store."""
    shards = []
    for shard, entry in zip(pool.shards, entries, strict=True):
        if not (identity := entry.facts["shard"]):
            shards.append(shard)
            continue
        found = store.get("shard", identity)
        if found is None:
            return None
        shards.append(Shard(found.path, found.digest, found.facts["rows"]))
    return dataclasses.replace(pool, shards=tuple(shards))


def emptied(pool: Pool, entries: list[Entry]) -> Dropped | None:
    """Rows of which a transform would have left nothing; None where there is none."""
    import numpy as np

    rows = np.zeros(len(pool), np.bool_)
    for start, entry in zip(pool.starts, entries, strict=False):
        rows[[start + place for place in entry.facts["emptied"]]] = True
    return Dropped(rows=rows, reasons=(EMPTIED,) * int(rows.sum())) if rows.any() else None


def counts(entries: list[Entry]) -> dict[str, int]:
    """Counts of a transform over all shards, added up."""
    total: dict[str, int] = {}
    for entry in entries:
        given: Mapping[str, int] = entry.facts["counts"]
        for name, number in given.items():
            total[name] = total.get(name, 0) + int(number)
    return total
