"""Rows near an evaluation item by their embeddings: what no run of words finds, and no proof of anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from tamis.pool import Shard
    from tamis.values import Machine
    from tamis.vectors.encoders import EncoderRef
    from tamis.views import PoolView, ShardSignals

BLOCK = 4096  # evaluation items whose cosines with a shard are in memory at a time


def near(view: PoolView, cosine: float, encoder: EncoderRef | None, on: Machine) -> pa.Table:
    """One line (`tamis.contamination.search.schema`, kind `embedding`) for each row near an item, the nearest one.

    Vectors: the pooled hidden states of the signal `tokens`, or the encoder's of the prompts. Rows and items without
    one (a reason, or all 0) are near to nothing. Ties go to the earlier item.
    """
    import numpy as np
    import pyarrow as pa

    from tamis.contamination.search import schema

    sets = [_vectors(have, encoder, on) for one in view.against for have in one.shards()]
    keys = [key for one in view.against for shard in one.pool.shards for key in _keys(shard)]
    theirs = np.concatenate(sets) if sets else np.zeros((0, 1), np.float32)
    tables = [schema().empty_table()]
    for start, have in zip(view.pool.starts, view.shards(), strict=False):
        best, scores = _nearest(_vectors(have, encoder, on), theirs)
        found = np.flatnonzero(scores >= cosine).tolist()
        own = _keys(have.shard) if found else []
        lines = [_line(start + row, own[row][0], keys[int(best[row])], float(scores[row])) for row in found]
        tables.append(pa.Table.from_pylist(lines, schema()))
    return pa.concat_tables(tables)


def _line(place: int, key: str, item: tuple[str, str, int], score: float) -> dict[str, Any]:
    about = {"item": item[0], "set": item[1], "position": item[2], "part": "prompt"}
    where = {"field": "", "message": -1, "start": -1, "end": -1, "text": ""}
    return {"place": place, "key": key, **about, **where, "kind": "embedding", "score": min(score, 1.0)}


def _keys(shard: Shard) -> list[tuple[str, str, int]]:
    table = shard.table(["key", "file", "position"])
    return list(zip(*(table.column(name).to_pylist() for name in ("key", "file", "position")), strict=True))


def _vectors(have: ShardSignals, encoder: EncoderRef | None, on: Machine) -> NDArray[np.float32]:
    """(n, d) of unit length, 0 where a row has no vector."""
    import numpy as np

    from tamis.vectors.index import unit

    if encoder is not None:
        return _encoded(have.shard, encoder, on)
    found = np.asarray(have["tokens"]["pooled"], np.float32)
    good = (have["tokens"]["reason"] == 0) & np.isfinite(found).all(axis=1)
    return np.where(good[:, None], unit(np.where(good[:, None], found, 1)), 0).astype(np.float32)


def _encoded(shard: Shard, encoder: EncoderRef, on: Machine) -> NDArray[np.float32]:
    import numpy as np

    from tamis.values import Reason
    from tamis.vectors.encoders import encode, text_for

    texts: Sequence[Any] = [text_for(row, "whole" if row.kind == "text" else "instruction") for row in shard.read()]
    found = encode(encoder, [text if isinstance(text, str) else "-" for text in texts], on)
    found[[isinstance(text, Reason) for text in texts]] = 0
    return np.asarray(np.nan_to_num(found), np.float32)


def _nearest(own: NDArray[np.float32], theirs: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For every row the nearest item and its cosine; -1 where there is none."""
    import numpy as np

    best, scores = np.full(len(own), -1, np.int64), np.full(len(own), -1, np.float32)
    for start in range(0, len(theirs), BLOCK):
        cosines = own @ theirs[start : start + BLOCK].T
        place = cosines.argmax(axis=1)
        value = cosines[np.arange(len(own)), place]
        better = value > scores
        best[better], scores[better] = place[better] + start, value[better]
    return best, scores
