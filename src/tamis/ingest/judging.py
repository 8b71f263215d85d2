"""One input file, and the verdict on each of its records: a row, or the reason why it is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tamis import digests
from tamis.contents import content_digest
from tamis.errors import RecipeError
from tamis.ingest import formats, readers
from tamis.ingest.readers import Container
from tamis.ingest.records import EXCERPT, Record
from tamis.ingest.sources import Source
from tamis.ingest.turns import RowFault
from tamis.pool import encode
from tamis.values import Row

REVISION = 2


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
    """One file with everything that decides what its rows become. `ordinal` counts identical files of one ingest."""

    source: Source
    digest: str
    ordinal: int
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

    def judged(self) -> Iterator[Verdict]:
        """Every record of the file with its verdict, in order."""
        for record in readers.read(self.source.path, self.packed):
            try:
                if record.fault:
                    raise RowFault(record.fault)
                draft = formats.draft(record.value, self.mapping)
                encoded = self._encoded(record, draft)
            except RowFault as fault:
                yield Verdict(record, reason=str(fault)[:EXCERPT].encode("utf-8", "replace").decode())
            else:
                yield Verdict(record, encoded, draft.form)

    def _encoded(self, record: Record, draft: formats.Draft) -> dict[str, Any]:
        row = Row(
            key=self.key(record.position),
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


def storable(row: Row) -> dict[str, Any]:
    """Encode a row; refuse what is no text: lone surrogates anywhere, NUL characters in what is said."""
    for message in (*row.messages, *row.chosen, *row.rejected):
        if "\0" in message["content"]:
            raise RowFault("NUL character in the text")
    try:
        encoded = encode(row)
        for value in encoded.values():
            if isinstance(value, str):
                value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowFault("a lone surrogate, which is no Unicode text") from error
    except (TypeError, RecursionError) as error:
        raise RowFault(f"the record cannot be written as JSON: {error}"[:EXCERPT]) from error
    return encoded
