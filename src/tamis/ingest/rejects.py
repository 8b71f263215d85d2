"""`rejects.parquet`: a line for every record that did not enter the pool, written in batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tamis.ingest.judging import Input, key_of
from tamis.ingest.records import Record
from tamis.pool import rejects_schema

BATCH = 4096


class Rejects:
    """A writer of rejects; use it in a `with`."""

    def __init__(self, path: Path, item: Input) -> None:
        import pyarrow.parquet as pq

        self.item = item
        self.waiting: list[dict[str, Any]] = []
        self.writer = pq.ParquetWriter(path, rejects_schema(), compression="zstd")

    def add(self, record: Record, verdict: str, step: str, reason: str) -> None:
        """Write one record that stays out: `quarantined` or `dropped`, by which step and why."""
        self.waiting.append(
            {
                "key": key_of(self.item.origin, record),
                "file": self.item.source.file,
                "verdict": verdict,
                "step": step,
                "reason": reason,
                "excerpt": record.excerpt,
                "position": record.position,
            }
        )
        if len(self.waiting) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self.writer.write_table(pa.Table.from_pylist(self.waiting, schema=rejects_schema()))
        self.waiting = []

    def __enter__(self) -> Rejects:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self.waiting and error is None:
            self._flush()
        self.writer.close()
