"""The search of a whole pool, shard by shard: which item stands in which row, where, and how much of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from tamis.contamination.finding import Finder, Hits, Said, pairs_of
from tamis.contamination.letters import Stream
from tamis.contamination.looked import Looked
from tamis.contamination.numerals import Where, offsets, other_numbers

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from tamis.pool import Pool

FILE = "contamination.parquet"
MOST = 0.75  # share of an item of which is told though it is not enough
NEARBY = 0.6  # that where numbers are others: one of them near the beginning of a short item takes many runs along
EXCERPT = 300  # characters of a span that the table holds
Numbers = Literal["keep", "any"]


def schema() -> pa.Schema:
    """Arrow schema of the table of spans: one line a span, or one for a row near an item by its embedding.

    `place`, `key`: the row. `field` (messages, chosen or rejected), `message` (its number there), `start`, `end`
    (characters of its content): the span, whose first 300 characters are `text`. `set`, `item`, `position`: file, key
    and position of the evaluation item, `part` (prompt or answer) what of it. `kind`: `words`, `whole` (a short text)
    or `embedding`; `numbers` (other numbers in it) and `most` (not enough of it) do not make a row contaminated.
    `score`: share of the item that the row holds, or the cosine.
    """
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    return pa.schema(
        [
            *[("place", number), ("key", text), ("field", text), ("message", pa.int32()), ("start", number)],
            *[("end", number), ("text", text), ("set", text), ("item", text), ("position", number), ("part", text)],
            *[("kind", text), ("score", pa.float32())],
        ]
    )


def search(pool: Pool, looked: Looked, coverage: float, numbers: Numbers = "keep") -> pa.Table:
    """Every span of every item of which the share `coverage` stands in a row, in the order of the rows.

    Those of which MOST is there, or NEARBY with other numbers (unless `numbers` is `any`), have a `kind` of their own.
    Memory: what is looked for (about 40 bytes a token of the items), one shard, and what was found.
    """
    import pyarrow as pa

    finder = Finder(looked)
    tables = [schema().empty_table()]
    for start, shard in zip(pool.starts, pool.shards, strict=False):
        said = Said.of(shard)
        records = list(_found(said, finder, coverage, numbers))
        if records:
            keys = shard.table(["key"]).column("key").to_pylist()
            for record in records:
                record |= {"place": start + record["place"], "key": keys[record["place"]]}
            tables.append(pa.Table.from_pylist(records, schema()))
    return pa.concat_tables(tables)


def _found(said: Said, finder: Finder, coverage: float, numbers: Numbers) -> Iterator[dict[str, Any]]:
    """The lines of a shard, `place` within it."""
    import numpy as np

    stream = Stream.of(said.texts)
    hits = finder.hits(stream)
    if not len(hits.starts):
        return
    texts = stream.text_of(hits.starts)
    rows = np.asarray(said.rows, np.int64)[texts]
    pairs = pairs_of(hits, rows, finder.looked, min(NEARBY, coverage))
    for number in range(len(pairs.rows)):
        kind = "whole" if pairs.whole[number] else "words" if pairs.coverage[number] >= coverage else "most"
        if numbers == "keep" and other_numbers(pairs, number, Where(hits, texts, stream.texts), said, finder.looked):
            kind = "numbers"
        elif kind == "most" and pairs.coverage[number] < MOST:
            continue
        item = finder.looked.items[int(pairs.items[number])]
        about = {"place": int(pairs.rows[number]), "kind": kind, "score": float(pairs.coverage[number])}
        about |= {"set": item.set, "item": item.key, "position": item.position, "part": item.part}
        for text, start, end in _spans(pairs.hits[number], hits, texts):
            yield about | _span(said, text, start - int(stream.texts[text]), end - int(stream.texts[text]))


def _spans(own: NDArray[np.int64], hits: Hits, texts: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """(text, first letter, end) of the stretches that the hits of a pair make together."""
    open_: tuple[int, int, int] | None = None
    for text, start, end in sorted(zip(*(one[own].tolist() for one in (texts, hits.starts, hits.ends)), strict=True)):
        if open_ is not None and open_[0] == text and start <= open_[2]:
            open_ = (text, open_[1], max(end, open_[2]))
            continue
        if open_ is not None:
            yield open_
        open_ = (text, start, end)
    if open_ is not None:
        yield open_


def _span(said: Said, text: int, start: int, end: int) -> dict[str, Any]:
    whole = said.texts[text]
    _, places = offsets(whole)
    first, last = places[start], places[end - 1] + 1
    where = {"field": said.fields[text], "message": said.places[text], "start": first, "end": last}
    return {**where, "text": whole[first:last][:EXCERPT].encode("utf-8", "replace").decode("utf-8")}
