"""Rows of the pool, and of a target or of existing data behind them, in token ids, as pairs are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError
from tamis.ragged import Ragged
from tamis.values import Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.demonstrations.pairing import Side
    from tamis.demonstrations.prompting import Layout
    from tamis.models import ModelRef
    from tamis.pool import Pool, Shard


@dataclass(frozen=True)
class Asked:
    """Rows by place, those of the pool first, `own` of them.

    `keys` (m,) uint64 digests of row keys; `reason` (m,) uint8 why a row has no pair; `queries` int32 and `scored` bool
    with the same offsets, `shown` int32 the rows as demonstrations; `bare` (b,) int32 what stands before a query
    without one.
    """

    own: int
    keys: NDArray[np.uint64]
    reason: NDArray[np.uint8]
    queries: Ragged
    scored: Ragged
    shown: Ragged
    bare: NDArray[np.int32]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As arrays to be stored."""
        import numpy as np

        return {
            "own": np.array([self.own], np.int64),
            "key": self.keys,
            "reason": self.reason,
            "query_ids": self.queries.values,
            "query_offsets": self.queries.offsets,
            "scored": self.scored.values,
            "shown_ids": self.shown.values,
            "shown_offsets": self.shown.offsets,
            "bare": self.bare,
        }

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Asked:
        """From stored arrays."""
        offsets = arrays["query_offsets"]
        return cls(
            int(arrays["own"][0]),
            arrays["key"],
            arrays["reason"],
            Ragged(arrays["query_ids"], offsets),
            Ragged(arrays["scored"], offsets),
            Ragged(arrays["shown_ids"], arrays["shown_offsets"]),
            arrays["bare"],
        )

    def places(self, shard: Shard) -> NDArray[np.int64]:
        """(n,) places of a shard's rows. DataError where the rows are not those of this pool."""
        import numpy as np

        from tamis.demonstrations.pairing import short_keys

        keys = short_keys(shard.table(["key"]).column("key").to_pylist())
        order = np.argsort(self.keys[: self.own], kind="stable")
        at = np.minimum(np.searchsorted(self.keys[order], keys), len(order) - 1)
        places: NDArray[np.int64] = order[at]
        if not np.array_equal(self.keys[places], keys):
            raise DataError("the shard is not of the pool whose pairs were chosen: measure the pass on that pool again")
        return places

    def side(self, part: slice, vectors: NDArray[np.float32] | None, draws: NDArray[np.uint64]) -> Side:
        """The rows of a part that can take part in pairs; those without a finite vector get a reason."""
        import numpy as np

        from tamis.demonstrations.pairing import Side
        from tamis.vectors.index import unit

        reason = self.reason[part]
        if vectors is not None:
            vectors = unit(vectors)
            reason[(reason == 0) & ~np.isfinite(vectors).all(axis=1)] = Reason.NOT_FINITE
        usable = np.flatnonzero(reason == 0)
        near = np.zeros((len(usable), 0), np.float32) if vectors is None else vectors[usable]
        return Side(usable + (part.start or 0), near, draws[part][usable])


def ask(pool: Pool, other: Pool | None, ref: ModelRef, layout: Layout, seed: int) -> tuple[Asked, NDArray[np.uint64]]:
    """The rows of both, and a draw (m,) for each, keyed by `seed` and its key; shard by shard."""
    import numpy as np

    from tamis.demonstrations.pairing import short_keys
    from tamis.demonstrations.prompting import prompts_of

    keys: list[str] = []
    reasons, queries, scored, shown = [], [], [], []
    bare: NDArray[np.int32] = np.zeros(0, np.int32)
    for shard in (*pool.shards, *(other.shards if other is not None else ())):
        rows = shard.read()
        prompts = prompts_of(rows, ref, layout)
        keys += [row.key for row in rows]
        bare = max(bare, prompts.bare, key=len)
        reasons.append(prompts.reason)
        queries.append(Ragged.of(prompts.queries, np.int32))
        scored.append(Ragged.of(prompts.scored, np.bool_))
        shown.append(Ragged.of(prompts.demonstrations, np.int32))
    asked = Asked(
        own=len(pool),
        keys=short_keys(keys),
        reason=np.concatenate([np.zeros(0, np.uint8), *reasons]),
        queries=Ragged.joined(queries, np.int32),
        scored=Ragged.joined(scored, np.bool_),
        shown=Ragged.joined(shown, np.int32),
        bare=bare,
    )
    return asked, short_keys(keys, seed)


def lists(name: str, pairs: NDArray[np.int64], keys: NDArray[np.uint64], count: int) -> dict[str, NDArray[Any]]:
    """Pairs (p, 2) of a row and another as one list a row, ordered by the other's key: `name` and `name_offsets`."""
    import numpy as np

    pairs = pairs[np.lexsort((keys[pairs[:, 1]], pairs[:, 0]))]
    packed = Ragged.by_row(pairs[:, 0], pairs[:, 1].astype(np.int64), count)
    return {name: packed.values, f"{name}_offsets": packed.offsets}
