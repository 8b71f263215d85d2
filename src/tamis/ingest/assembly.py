"""Files to a Pool: keys and digests, shards in the store, and a line in the rejects for every row that stays out."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tamis import digests
from tamis.contents import content_digest
from tamis.errors import DataError, RecipeError
from tamis.ingest import formats, readers, sources
from tamis.ingest.readers import Container
from tamis.ingest.records import EXCERPT, Record
from tamis.ingest.turns import RowFault
from tamis.pool import REJECTS, ROWS, Pool, Shard, encode, rejects_schema, schema
from tamis.store import Entry, Store
from tamis.values import Row

REVISION = 1
REJECTS_BATCH = 4096


@dataclass(frozen=True)
class Sample:
    """From each input file, `rows` of its good rows: those at places skip … skip + rows of a seeded permutation.

    The rows kept stay in file order. Two samples of one seed with other `skip` have no row in common.
    """

    rows: int
    seed: int = 0
    skip: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.skip < 0:
            raise RecipeError(
                f"a sample takes at least 1 row and skips at least 0; got rows={self.rows}, skip={self.skip}"
            )


@dataclass(frozen=True)
class _Input:
    """One file with everything that decides what its rows become."""

    source: sources.Source
    digest: str
    ordinal: int  # of identical files in one ingest
    packed: Container
    default_source: str
    mapping: Mapping[str, str] | None
    sample: Sample | None
    shard_rows: int

    def identity(self, shard: int | None = None) -> str:
        """Identity of the file's rejects, or of one of its shards."""
        return digests.of_json(
            {
                "revision": REVISION,
                "file": self.digest,
                "ordinal": self.ordinal,
                "name": self.source.file,
                "container": str(self.packed),
                "mapping": self.mapping,
                "source": self.default_source,
                "sample": self.sample,
                "shard_rows": self.shard_rows,
                "shard": shard,
            }
        )

    def key(self, position: int) -> str:
        """Key of the row at a position: unique, also where one file is given twice."""
        return digests.of_bytes(f"{self.digest}:{self.ordinal}:{position}".encode())

    def judged(self) -> Iterator[tuple[Record, Row | str, str]]:
        """Every record with its row, or with the reason why it is none; and the form it has."""
        for record in readers.read(self.source.path, self.packed):
            try:
                if record.fault:
                    raise RowFault(record.fault)
                found = formats.draft(record.value, self.mapping)
                row = self._row(record, found)
            except RowFault as fault:
                yield record, str(fault)[:EXCERPT].encode("utf-8", "replace").decode(), ""
            else:
                yield record, row, found.form

    def _row(self, record: Record, found: formats.Draft) -> Row:
        row = Row(
            key=self.key(record.position),
            content="",
            kind=found.kind,
            source=found.source or self.default_source,
            messages=found.messages,
            tools=found.tools,
            chosen=found.chosen,
            rejected=found.rejected,
            label=found.label,
            meta=found.meta,
            file=self.source.file,
            position=record.position,
        )
        _check_text(row)
        return replace(row, content=content_digest(row))


def _check_text(row: Row) -> None:
    """Refuse what cannot be stored as text, or is none: lone surrogates anywhere, NUL characters in what is said."""
    for message in (*row.messages, *row.chosen, *row.rejected):
        if "\0" in message["content"]:
            raise RowFault("NUL character in the text")
    try:
        for value in encode(row).values():
            if isinstance(value, str):
                value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowFault("a lone surrogate, which is no Unicode text") from error
    except (TypeError, RecursionError) as error:
        raise RowFault(f"meta cannot be written as JSON: {error}"[:EXCERPT]) from error


def ingest(
    files: Sequence[str],
    store: Store,
    *,
    source: str | None = None,
    mapping: Mapping[str, str] | None = None,
    sample: Sample | None = None,
    shard_rows: int = 1024,
) -> Pool:
    """Read files into a pool of Parquet shards; what cannot be used is quarantined, never lost.

    `files`: paths, globs, `tamis:NAME`, dataset folders, `hf://org/set`, fsspec URLs. `source` names the rows that do
    not name their source themselves (default: the file name). `mapping`: {canonical: field}, see `formats`.
    A file that has not changed is not parsed again; a new file only adds shards. Raises DataError naming every input
    that is missing, RecipeError for a wrong mapping.
    """
    formats.check_mapping(mapping or {})
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
            packed = readers.container(found.path, found.file)
            item = _Input(found, digest, seen[digest], packed, source or found.stem, mapping, sample, shard_rows)
            seen[digest] += 1
            entry, made = _ingest_file(item, store)
            shards += made
            rejects.append(entry.file(REJECTS))
            about = {key: value for key, value in entry.facts.items() if key != "shards"}
            facts.append({"name": found.name, "digest": digest, **about})
    return Pool(tuple(shards), tuple(facts), tuple(rejects))


def _ingest_file(item: _Input, store: Store) -> tuple[Entry, list[Shard]]:
    """The file's rejects entry, whose facts name its shards; parsed only if a part of it is missing."""
    identity = item.identity()
    for _ in range(2):
        entry = store.get_or_make("rejects", identity, _Parsing(item, store).into)
        shards = [store.get("shard", name) for name in entry.facts["shards"]]
        found = [Shard(shard.path, shard.digest, shard.facts["rows"]) for shard in shards if shard is not None]
        if len(found) == len(shards):
            return entry, found
        shutil.rmtree(entry.path)  # a shard was lost from outside: parse again
    raise DataError(
        f"{item.source.name}: its shards vanish while they are being read; is another run deleting {store.root}?"
    )


@dataclass
class _Parsing:
    """One walk over a file: rows into shards, the others into `rejects.parquet`."""

    item: _Input
    store: Store
    rows: list[dict[str, Any]] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)

    def into(self, folder: Path) -> dict[str, Any]:
        """Write the rejects into `folder` and the shards into the store; returns the counts."""
        taken = _taken(self.item)
        with _Rejects(folder / REJECTS, self.item) as rejects:
            for record, row, form in self.item.judged():
                self.counts["rows"] += 1
                if isinstance(row, str):
                    self.counts["quarantined"] += 1
                    rejects.add(record, "quarantined", "ingest", row)
                    continue
                self.forms[form] += 1
                if taken is not None and record.position not in taken:
                    self.counts["dropped"] += 1
                    rejects.add(record, "dropped", "sample", _not_sampled(self.item.sample))
                    continue
                self._keep(row)
        if self.rows:
            self._close_shard()
        return {
            "format": self._format(),
            **{name: self.counts[name] for name in ("rows", "kept", "quarantined", "dropped")},
            "shards": self.shards,
        }

    def _keep(self, row: Row) -> None:
        self.counts["kept"] += 1
        self.rows.append(encode(row))
        if len(self.rows) == self.item.shard_rows:
            self._close_shard()

    def _close_shard(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist(self.rows, schema=schema())

        def make(folder: Path) -> dict[str, Any]:
            pq.write_table(table, folder / ROWS, compression="zstd")
            return {"rows": table.num_rows}

        identity = self.item.identity(len(self.shards))
        self.store.get_or_make("shard", identity, make)
        self.shards.append(identity)
        self.rows = []

    def _format(self) -> str:
        form = self.forms.most_common(1)
        return f"{self.item.packed}: {form[0][0]}" if form else str(self.item.packed)


def _not_sampled(sample: Sample | None) -> str:
    assert sample is not None
    return f"not in the sample of {sample.rows} rows a file (seed {sample.seed}, skip {sample.skip})"


def _taken(item: _Input) -> frozenset[int] | None:
    """Positions that the sample takes; None for all. Costs a walk over the file of its own, and no memory for rows."""
    sample = item.sample
    if sample is None:
        return None
    good = [record.position for record, row, _ in item.judged() if isinstance(row, Row)]

    def rank(position: int) -> tuple[bytes, int]:
        text = f"{sample.seed}:{item.digest}:{position}".encode()
        return hashlib.blake2b(text, digest_size=8).digest(), position

    return frozenset(sorted(good, key=rank)[sample.skip : sample.skip + sample.rows])


class _Rejects:
    """`rejects.parquet`, written in batches."""

    def __init__(self, path: Path, item: _Input) -> None:
        import pyarrow.parquet as pq

        self.item = item
        self.waiting: list[dict[str, Any]] = []
        self.writer = pq.ParquetWriter(path, rejects_schema(), compression="zstd")

    def add(self, record: Record, verdict: str, step: str, reason: str) -> None:
        """One row that stays out."""
        self.waiting.append(
            {
                "key": self.item.key(record.position),
                "file": self.item.source.file,
                "verdict": verdict,
                "step": step,
                "reason": reason,
                "excerpt": record.excerpt,
                "position": record.position,
            }
        )
        if len(self.waiting) >= REJECTS_BATCH:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self.writer.write_table(pa.Table.from_pylist(self.waiting, schema=rejects_schema()))
        self.waiting = []

    def __enter__(self) -> _Rejects:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self.waiting and error is None:
            self._flush()
        self.writer.close()
