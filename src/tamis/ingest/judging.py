"""One input file, and the verdict on each of its records: a row, or the reason why it is none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tamis import digests
from tamis.contents import content_digest
from tamis.errors import RecipeError
from tamis.ingest import formats, readers
from tamis.ingest.readers import Block, Container
from tamis.ingest.records import EXCERPT, MAX_BYTES, Record, printable
from tamis.ingest.sources import Source
from tamis.ingest.tables import plain
from tamis.ingest.turns import RowFault
from tamis.pool import encode
from tamis.values import Row

REVISION = 3


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
class Verdict:
    """`row`: the encoded row of a good record, else None with a `reason`. `form`: as `formats` names it."""

    record: Record
    row: dict[str, Any] | None = None
    form: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Input:
    """One file with everything that decides what its rows become.

    `origin` (see `origin_of`) outlives growth of the file, `digest` does not.
    """

    source: Source
    digest: str
    origin: str
    packed: Container
    default_source: str
    mapping: Mapping[str, str] | None
    sample: Sample | None
    shard_rows: int

    def identity(self) -> str:
        """Identity of what was read of the file."""
        return digests.of_json(
            {
                "revision": REVISION,
                "file": self.digest,
                "origin": self.origin,
                "name": self.source.file,
                "container": str(self.packed),
                "mapping": self.mapping,
                "source": self.default_source,
                "sample": self.sample,
                "shard_rows": self.shard_rows,
            }
        )

    def identity_of_shard(self, keys: Sequence[str]) -> str:
        """Identity of a shard: of what its rows are, whatever else the file holds, so that a file may grow."""
        settings = {"mapping": self.mapping, "source": self.default_source, "file": self.source.file}
        return digests.of_json({"revision": REVISION, "keys": list(keys), **settings})

    @property
    def not_sampled(self) -> str:
        """The reason of a good row that the sample leaves out."""
        sample = self.sample
        assert sample is not None
        return f"not in the sample of {sample.rows} rows a file (seed {sample.seed}, skip {sample.skip})"

    def judged(self, block: Block) -> Iterator[Verdict]:
        """Every record of a block of the file with its verdict, in order."""
        for record in readers.records(block, self.packed):
            try:
                if record.fault:
                    raise RowFault(record.fault)
                draft = formats.draft(record.value, self.mapping)
                encoded = self._encoded(record, draft)
            except RowFault as fault:
                yield Verdict(record, reason=printable(str(fault)[:EXCERPT]))
            else:
                yield Verdict(record, encoded, draft.form)

    def _encoded(self, record: Record, draft: formats.Draft) -> dict[str, Any]:
        row = Row(
            key=key_of(self.origin, record),
            content="",
            kind=draft.kind,
            source=draft.source or self.default_source,
            messages=draft.messages,
            tools=draft.tools,
            chosen=draft.chosen,
            rejected=draft.rejected,
            label=draft.label,
            meta=draft.meta,
            file=self.source.file,
            position=record.position,
        )
        return storable(row) | {"content": content_digest(row)}


def origin_of(name: str, first: bytes, ordinal: int) -> str:
    """What a file is to the keys of its rows: its name, its first record, and which of those in one ingest it is.

    Rows that are added to the end of a file leave it as it is, and so the keys of the others.
    """
    return digests.of_json([name, digests.of_bytes(first), ordinal])


def key_of(origin: str, record: Record) -> str:
    """Key of a record: of the file's origin, the place in it and the record; unique, also where a file comes twice."""
    return digests.of_bytes(f"{origin}:{record.position}:".encode() + record.content)


MAX_TURNS = 1000  # templates are rendered turn by turn, so that the work of a row grows with their square
MAX_DEPTH = 100  # of objects and lists in one another: what is read here is read again below deeper stacks


def storable(row: Row) -> dict[str, Any]:
    """Encode a row; refuse what no stage could use.

    Lone surrogates anywhere, NUL characters in what is said, more than 1,000 turns, JSON nested more than 100 deep.
    Numbers beyond a float's range become null, as NaN and Infinity do where they are read.
    """
    said = (*row.messages, *row.chosen, *row.rejected)
    if len(said) > MAX_TURNS:
        raise RowFault(f"{len(said):,} turns, more than {MAX_TURNS:,}")
    for message in said:
        if "\0" in message["content"]:
            raise RowFault("NUL character in the text")
    try:
        encoded = _finite(row)
        for value in encoded.values():
            if isinstance(value, str) and not value.isascii():
                value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowFault("a lone surrogate, which is no Unicode text") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise RowFault(f"the record cannot be written as JSON: {error}"[:EXCERPT]) from error
    _check_size(encoded)
    return encoded


def _check_size(encoded: Mapping[str, Any]) -> None:
    """Refuse what is too long (rows of tables have no bytes that a reader could count) or nested too deeply."""
    texts = {name: encoded[name] or "" for name in ("messages", "chosen", "rejected", "meta", "tools")}
    if sum(map(len, texts.values())) > MAX_BYTES:
        raise RowFault("longer than 16 MiB")
    for name, text in texts.items():
        if _too_deep(text):
            raise RowFault(f"nested too deeply: {name} holds more than {MAX_DEPTH} levels of objects and lists")


def _finite(row: Row) -> dict[str, Any]:
    """Encode a row; infinite numbers, which only a float out of range is here, become null."""
    try:
        return encode(row)
    except ValueError:
        turns: dict[str, Any] = {
            name: tuple(map(plain, getattr(row, name))) for name in ("messages", "chosen", "rejected")
        }
        return encode(replace(row, **turns, meta=plain(row.meta)))


def _too_deep(text: str) -> bool:
    """Whether JSON text is nested too deeply; what holds few brackets cannot be, and is not looked at."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = deepest = 0
    for sign in (match[0] for match in _STRUCTURE.finditer(text)):
        depth += (sign in "[{") - (sign in "]}")
        deepest = max(deepest, depth)
    return deepest > MAX_DEPTH


_STRUCTURE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')  # strings whole, so that their brackets do not count
