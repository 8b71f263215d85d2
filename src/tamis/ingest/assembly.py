"""Files to a Pool: shards in the store, and a line in the rejects for every row that stays out."""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError, RecipeError
from tamis.ingest import blocks, mappings, readers, sources
from tamis.ingest.judging import Input, Sample, origin_of
from tamis.ingest.rejects import Rejects
from tamis.pool import REJECTS, ROWS, Pool, Shard
from tamis.store import Entry, Store, scratch
from tamis.values import Machine

if TYPE_CHECKING:
    import pyarrow as pa


def ingest(
    files: Sequence[str],
    store: Store,
    *,
    source: str | None = None,
    mapping: Mapping[str, Any] | None = None,
    sample: Sample | None = None,
    shard_rows: int = 1024,
    on: Machine | None = None,
) -> Pool:
    """Read files into a pool of Parquet shards; what cannot be used is quarantined, never lost.

    `files`: names as `tamis.ingest.sources` reads them. `source` names the rows that do not name their source
    themselves (default: the file name). `mapping`: fields, turns and roles, see `tamis.ingest.mappings`.
    A file that has not changed is not parsed again; a new file only adds shards, and so do new rows at the end of a
    file, but for its last shard where that is not full. For every file of the pool
    rows = kept + quarantined + dropped. `on`: the machine whose workers share large files (default: this process
    alone); the pool is the same to the last bit. Raises DataError naming every input that is missing, RecipeError for
    a wrong mapping.
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
    with scratch(store.root) as copies:
        for found in sources.resolve(files, copies):
            stamp, digest = _looked_at(found)
            given = {**found.mapping, **entries}
            mappings.check_mapping(given)
            packed = readers.container(found.path, found.file, given)
            name = source or found.label or found.stem
            first = readers.first(found.path, packed)
            alike = origin_of(found.file, first, 0)
            origin = origin_of(found.file, first, seen[alike])
            seen[alike] += 1
            item = Input(found, digest, origin, packed, name, given or None, sample, shard_rows)
            entry, made = _ingest_file(item, store, on or Machine(), stamp)
            shards += made
            rejects.append(entry.file(REJECTS))
            about = {key: value for key, value in entry.facts.items() if key != "shards"}
            facts.append({"name": found.name, "digest": digest, "origin": origin, **found.facts(), **about})
    return Pool(tuple(shards), tuple(facts), tuple(rejects))


def _looked_at(source: sources.Source) -> tuple[Any, str]:
    """Size and time of a file, and its digest. DataError where it cannot be read."""
    try:
        return _stamp(source), source.digest()
    except OSError as error:
        raise DataError(f"{source.name}: cannot be read ({error.strerror or error})") from error


def _stamp(source: sources.Source) -> Any:
    found = source.path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _ingest_file(item: Input, store: Store, on: Machine, stamp: Any) -> tuple[Entry, list[Shard]]:
    """Get the file's rejects entry, whose facts name its shards; parse only if a part of it is missing."""
    identity = item.identity()
    for _ in range(2):
        entry = store.get_or_make("rejects", identity, _Parsing(item, store, on, stamp).into)
        shards = [store.get("shard", name) for name in entry.facts["shards"]]
        found = [Shard(shard.path, shard.digest, shard.facts["rows"]) for shard in shards if shard is not None]
        if len(found) == len(shards):
            return entry, found
        store.discard(entry, "a shard of it is gone")  # parse again
    raise DataError(f"{item.source.name}: its shards vanish while it is read; is something deleting {store.root}?")


SHARD_BYTES = 64 << 20  # of text in a shard, whatever its rows: passes hold a shard in memory


@dataclass
class _Parsing:
    """One walk over a file: rows into shards, the others into `rejects.parquet`."""

    item: Input
    store: Store
    on: Machine
    stamp: Any  # of the file when its digest was taken
    waiting: list[pa.Table] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)

    def into(self, folder: Path) -> dict[str, Any]:
        """Write the rejects into `folder` and the shards into the store; returns the counts."""
        tasks = blocks.tasks(self.item, _taken(self.item, self.on))
        with Rejects(folder / REJECTS) as rejects:
            for judged in blocks.shared_out(blocks.judge, tasks, self.on):
                self.counts.update(judged.counts)
                self.forms.update(judged.forms)
                rejects.add(judged.rejects)
                self._keep(judged.rows)
        if sum(map(len, self.waiting)):
            self._close_shard(self._joined())
        self._check_stamp()
        form = self.forms.most_common(1)
        return {
            "format": f"{self.item.packed}: {form[0][0]}" if form else str(self.item.packed),
            **{name: self.counts[name] for name in ("rows", "kept", "quarantined", "dropped")},
            "shards": self.shards,
        }

    def _check_stamp(self) -> None:
        """Refuse what was read of a file that is not the one whose digest is in its identity."""
        try:
            same = _stamp(self.item.source) == self.stamp
        except OSError:
            same = False
        if not same:
            name = self.item.source.name
            raise DataError(f"{name} changed or vanished while it was read; run again when nothing writes to it")

    def _keep(self, rows: pa.Table) -> None:
        """Write the shards that these rows complete; the rest waits."""
        self.waiting.append(rows)
        if (
            sum(map(len, self.waiting)) < self.item.shard_rows
            and sum(part.nbytes for part in self.waiting) < SHARD_BYTES
        ):
            return
        whole, start = self._joined(), 0
        for end in self._ends(whole):
            self._close_shard(whole.slice(start, end - start))
            start = end
        self.waiting = [whole.slice(start)]

    def _ends(self, rows: pa.Table) -> Iterator[int]:
        """Where shards end: at so many rows, or at so many bytes of text. It does not depend on how blocks are cut."""
        import pyarrow.compute as pc

        lengths = (
            pc.binary_length(rows.column(name)).to_pylist() for name in ("messages", "chosen", "rejected", "meta")
        )
        count = size = 0
        for end, row in enumerate(zip(*lengths, strict=True), 1):
            count, size = count + 1, size + sum(row)
            if count == self.item.shard_rows or size >= SHARD_BYTES:
                yield end
                count = size = 0

    def _joined(self) -> pa.Table:
        import pyarrow as pa

        return pa.concat_tables(self.waiting)

    def _close_shard(self, rows: pa.Table) -> None:
        import pyarrow.parquet as pq

        table = rows.combine_chunks()  # bytes of the file must not depend on how the blocks were cut

        def make(folder: Path) -> dict[str, Any]:
            pq.write_table(table, folder / ROWS, compression="zstd")
            return {"rows": table.num_rows}

        identity = self.item.identity_of_shard(table.column("key").to_pylist())
        self.store.get_or_make("shard", identity, make)
        self.shards.append(identity)


def _taken(item: Input, on: Machine) -> list[int] | None:
    """Positions that the sample takes, sorted; None for all. Costs a walk of its own over the file."""
    sample = item.sample
    if sample is None:
        return None
    good = itertools.chain.from_iterable(blocks.shared_out(blocks.good, blocks.tasks(item), on))

    def rank(position: int) -> tuple[bytes, int]:
        text = f"{sample.seed}:{item.digest}:{position}".encode()
        return hashlib.blake2b(text, digest_size=8).digest(), position

    return sorted(heapq.nsmallest(sample.skip + sample.rows, good, key=rank)[sample.skip :])
