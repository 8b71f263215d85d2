"""Files to a Pool: shards in the store, and a line in the rejects for every row that stays out."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tamis.errors import DataError, RecipeError
from tamis.ingest import mappings, readers, sources
from tamis.ingest.judging import Input, Sample, origin_of
from tamis.ingest.rejects import Rejects
from tamis.pool import REJECTS, ROWS, Pool, Shard, schema
from tamis.store import Entry, Store


def ingest(
    files: Sequence[str],
    store: Store,
    *,
    source: str | None = None,
    mapping: Mapping[str, Any] | None = None,
    sample: Sample | None = None,
    shard_rows: int = 1024,
) -> Pool:
    """Read files into a pool of Parquet shards; what cannot be used is quarantined, never lost.

    `files`: names as `tamis.ingest.sources` reads them. `source` names the rows that do not name their source
    themselves (default: the file name). `mapping`: fields, turns and roles, see `tamis.ingest.mappings`.
    A file that has not changed is not parsed again; a new file only adds shards, and so do new rows at the end of a
    file, but for its last shard where that is not full. For every file of the pool
    rows = kept + quarantined + dropped. Raises DataError naming every input that is missing, RecipeError for a wrong
    mapping.
    """
    entries = mappings.flatten(mapping)
    mappings.check_mapping(entries)
    if shard_rows < 1:
        raise RecipeError(f"shard_rows is {shard_rows}; expected at least 1")
    store.root.mkdir(parents=True, exist_ok=True)
    shards: list[Shard] = []
    facts: list[dict[str, Any]] = []
    rejects: list[Path] = []
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="remote-", dir=store.root) as scratch:
        for found in sources.resolve(files, Path(scratch)):
            digest = found.digest()
            given = {**found.mapping, **entries}
            mappings.check_mapping(given)
            packed = readers.container(found.path, found.file, given)
            name = source or found.label or found.stem
            first = readers.first(found.path, packed)
            alike = origin_of(found.file, first, 0)
            origin = origin_of(found.file, first, seen[alike])
            seen[alike] += 1
            item = Input(found, digest, origin, packed, name, given or None, sample, shard_rows)
            entry, made = _ingest_file(item, store)
            shards += made
            rejects.append(entry.file(REJECTS))
            about = {key: value for key, value in entry.facts.items() if key != "shards"}
            facts.append({"name": found.name, "digest": digest, "origin": origin, **found.facts(), **about})
    return Pool(tuple(shards), tuple(facts), tuple(rejects))


def _ingest_file(item: Input, store: Store) -> tuple[Entry, list[Shard]]:
    """Get the file's rejects entry, whose facts name its shards; parse only if a part of it is missing."""
    identity = item.identity()
    for _ in range(2):
        entry = store.get_or_make("rejects", identity, _Parsing(item, store).into)
        shards = [store.get("shard", name) for name in entry.facts["shards"]]
        found = [Shard(shard.path, shard.digest, shard.facts["rows"]) for shard in shards if shard is not None]
        if len(found) == len(shards):
            return entry, found
        shutil.rmtree(entry.path)  # a shard was lost from outside: parse again
    raise DataError(f"{item.source.name}: its shards vanish while it is read; is something deleting {store.root}?")


@dataclass
class _Parsing:
    """One walk over a file: rows into shards, the others into `rejects.parquet`."""

    item: Input
    store: Store
    rows: list[dict[str, Any]] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)

    def into(self, folder: Path) -> dict[str, Any]:
        """Write the rejects into `folder` and the shards into the store; returns the counts."""
        taken = _taken(self.item)
        with Rejects(folder / REJECTS, self.item) as rejects:
            for verdict in self.item.judged():
                self.counts["rows"] += 1
                if verdict.row is None:
                    self.counts["quarantined"] += 1
                    rejects.add(verdict.record, "quarantined", "ingest", verdict.reason)
                    continue
                self.forms[verdict.form] += 1
                if taken is not None and verdict.record.position not in taken:
                    self.counts["dropped"] += 1
                    rejects.add(verdict.record, "dropped", "sample", _not_sampled(self.item.sample))
                    continue
                self._keep(verdict.row)
        if self.rows:
            self._close_shard()
        form = self.forms.most_common(1)
        return {
            "format": f"{self.item.packed}: {form[0][0]}" if form else str(self.item.packed),
            **{name: self.counts[name] for name in ("rows", "kept", "quarantined", "dropped")},
            "shards": self.shards,
        }

    def _keep(self, row: dict[str, Any]) -> None:
        self.counts["kept"] += 1
        self.rows.append(row)
        if len(self.rows) == self.item.shard_rows:
            self._close_shard()

    def _close_shard(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist(self.rows, schema=schema())

        def make(folder: Path) -> dict[str, Any]:
            pq.write_table(table, folder / ROWS, compression="zstd")
            return {"rows": table.num_rows}

        identity = self.item.identity_of_shard([row["key"] for row in self.rows])
        self.store.get_or_make("shard", identity, make)
        self.shards.append(identity)
        self.rows = []


def _not_sampled(sample: Sample | None) -> str:
    assert sample is not None
    return f"not in the sample of {sample.rows} rows a file (seed {sample.seed}, skip {sample.skip})"


def _taken(item: Input) -> frozenset[int] | None:
    """Positions that the sample takes; None for all. Costs a walk of its own over the file, but no memory for rows."""
    sample = item.sample
    if sample is None:
        return None
    good = [verdict.record.position for verdict in item.judged() if verdict.row is not None]

    def rank(position: int) -> tuple[bytes, int]:
        text = f"{sample.seed}:{item.digest}:{position}".encode()
        return hashlib.blake2b(text, digest_size=8).digest(), position

    return frozenset(sorted(good, key=rank)[sample.skip : sample.skip + sample.rows])
