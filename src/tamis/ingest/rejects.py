"""`rejects.parquet`: a line for every record that did not enter the pool, written in batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tamis.ingest.judging import Input, key_of
from tamis.ingest.records import Record
from tamis.pool import rejects_schema

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 4096


@dataclass(frozen=True, slots=True)
class Rejected:
    """One record that stays out; fields as in `rejects.parquet`."""

    key: str
    file: str
    verdict: str
    step: str
    reason: str
    excerpt: str
    position: int

    @classmethod
    def of(cls, item: Input, record: Record, verdict: str, step: str, reason: str) -> Rejected:
        """Say it of a record: `quarantined` or `dropped`, by which step and why."""
        key = key_of(item.origin, record)
        return cls(key, item.source.file, verdict, step, reason, record.excerpt, record.position)


class Rejects:
    """A writer of rejects; use it in a `with`."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.waiting: list[pa.Table] = []
        self.writer = pq.ParquetWriter(path, rejects_schema(), compression="zstd")

    def add(self, table: pa.Table) -> None:
        """Write the rejects of a block (schema of `rejects.parquet`)."""
        if len(table):
            self.waiting.append(table)
        if sum(map(len, self.waiting)) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self.writer.write_table(pa.concat_tables(self.waiting).combine_chunks())
        self.waiting = []

    def __enter__(self) -> Rejects:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self.waiting and error is None:
            self._flush()
        self.writer.close()
