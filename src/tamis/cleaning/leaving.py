"""Rows that leave a pool: shards without them, and a line of rejects for each. Shards that lose nothing stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import digests
from tamis.errors import DataError
from tamis.pool import REJECTS, ROWS, Pool, Shard, decode, rejects_schema
from tamis.text.passages import of_row
from tamis.values import Dropped

if TYPE_CHECKING:
    import pyarrow as pa

    from tamis.store import Store

EXCERPT = 200  # characters
WITHHELD = "(withheld)"
WINNER = "winner"


def winners_schema() -> pa.Schema:
    """Arrow schema of the rejects of a cleaning step: `winner` is the key of the row kept in its place, or ""."""
    import pyarrow as pa

    return rejects_schema().append(pa.field(WINNER, pa.string()))


def check(dropped: Dropped, pool: Pool, step: str) -> None:
    """DataError where what a cleaner says does not fit the pool: a fault of the cleaner."""
    import numpy as np

    leaving = int(np.asarray(dropped.rows).sum())
    faults = [
        f"its mask has shape {dropped.rows.shape} and type {dropped.rows.dtype} for {len(pool)} rows"
        if dropped.rows.shape != (len(pool),) or dropped.rows.dtype != np.bool_
        else "",
        f"it gives {len(dropped.reasons)} reasons for {leaving} rows" if len(dropped.reasons) != leaving else "",
        "a reason is empty" if not all(dropped.reasons) else "",
        f"it names {len(dropped.winners)} winners for {leaving} rows"
        if dropped.winners and len(dropped.winners) != leaving
        else "",
    ]
    if any(faults):
        raise DataError(f"{step}: {'; '.join(filter(None, faults))}: a fault of the cleaner")


@dataclass(frozen=True)
class Leaving:
    """Writes what a step leaves of a pool: shards into the store, rejects into the folder of the step's entry.

    `withheld`: the text of dropped rows is shown nowhere, for it holds what must not be shown.
    """

    pool: Pool
    dropped: Dropped
    step: str
    store: Store
    withheld: bool = False

    def into(self, folder: Path) -> list[list[Any]]:
        """Write; returns for every shard of the pool [rows left, identity of the new shard or "" where it stays]."""
        import pyarrow.parquet as pq

        left: list[list[Any]] = []
        with pq.ParquetWriter(folder / REJECTS, winners_schema(), compression="zstd") as writer:
            for shard, leaving, reasons, winners in self._parts():
                if not leaving.any():
                    left.append([shard.rows, ""])
                    continue
                table = shard.table()
                writer.write_table(self._rejects(table.filter(leaving), reasons, winners))
                left.append(self._shard(shard, table, leaving))
        return left

    def _parts(self) -> Iterator[tuple[Shard, Any, Sequence[str], Sequence[str]]]:
        """Every shard with its part of the mask, of the reasons and of the winners."""
        begun = 0
        for number, shard in enumerate(self.pool.shards):
            leaving = self.dropped.rows[self.pool.starts[number] : self.pool.starts[number + 1]]
            end = begun + int(leaving.sum())
            yield shard, leaving, self.dropped.reasons[begun:end], self.dropped.winners[begun:end]
            begun = end

    def _shard(self, shard: Shard, table: pa.Table, leaving: Any) -> list[Any]:
        import numpy as np
        import pyarrow.parquet as pq

        kept = table.filter(~leaving)
        if not kept.num_rows:
            return [0, ""]

        def make(folder: Path) -> dict[str, Any]:
            pq.write_table(kept, folder / ROWS, compression="zstd")
            return {"rows": kept.num_rows}

        mask = digests.of_bytes(np.packbits(leaving).tobytes())
        identity = digests.of_json({"shard": shard.digest, "without": mask})
        self.store.get_or_make("shard", identity, make)
        return [kept.num_rows, identity]

    def _rejects(self, table: pa.Table, reasons: Sequence[str], winners: Sequence[str]) -> pa.Table:
        import pyarrow as pa

        count = table.num_rows
        columns: Mapping[str, Any] = {
            "key": table.column("key"),
            "file": table.column("file"),
            "verdict": ["dropped"] * count,
            "step": [self.step] * count,
            "reason": list(reasons),
            "excerpt": [WITHHELD] * count if self.withheld else [excerpt(one) for one in table.to_pylist()],
            "position": table.column("position"),
            WINNER: list(winners) if winners else [""] * count,
        }
        return pa.table({name: columns[name] for name in winners_schema().names}, winners_schema())


def excerpt(record: dict[str, Any]) -> str:
    """The beginning of what a record of `rows.parquet` says, of prompt and answer."""
    text = of_row(decode(record)).whole
    return text if len(text) <= EXCERPT else f"{text[: EXCERPT - 2]} …"
