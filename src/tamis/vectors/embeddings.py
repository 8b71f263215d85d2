"""Embeddings of rows, as the covering and matching selectors read them: pooled hidden states of the `tokens` pass.

A stage of the pass `sentence-embeddings`, named by `from`, stands in for them: it makes the same signal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tamis.errors import DataError
from tamis.values import Need, Reason
from tamis.vectors.nearness import POOLED, repeats

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.vectors.nearness import Duplicates
    from tamis.views import PoolView


Side = Literal["target", "existing"]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of the rows that may be chosen.

    `places`: (m,) int64 places in the pool, ascending; candidate i of a selector is row `places[i]`. `vectors`: (m, d)
    float32 of unit length, in that order. `reasons`: (n,) uint8 by place, non-zero where a row has no embedding or may
    not be chosen.
    """

    places: NDArray[np.int64]
    vectors: NDArray[np.float32]
    reasons: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.places)


def needs_of(side: Side | None = None) -> frozenset[Need]:
    """Pooled hidden states of the pool, and of the other side where there is one; the lengths of rows."""
    signals = {Need(kind="signal", name="tokens", settings=POOLED), Need(kind="signal", name="lengths")}
    return frozenset(signals | ({Need(kind="signal", name="tokens", side=side, settings=POOLED)} if side else set()))


def of_pool(view: PoolView, who: str, duplicates: Duplicates = "keep") -> Embeddings:
    """Embeddings of the usable rows; with duplicates `once`, only the first row of equal text has one.

    Raises DataError where no usable row has one. `who` names the selector in errors.
    """
    import numpy as np

    from tamis.vectors.index import unit

    vectors = unit(view.signal("tokens", "pooled"))
    known = np.isfinite(vectors).all(axis=1)
    reasons = view.signal("lengths", "reason").astype(np.uint8)
    reasons = np.where(view.usable & (reasons == 0), view.signal("tokens", "reason"), reasons).astype(np.uint8)
    reasons[(reasons == 0) & ~(known & view.usable)] = Reason.NOT_MEASURED
    if duplicates == "once":
        reasons[repeats(view, reasons == 0)] = Reason.DUPLICATE
    places = np.flatnonzero(reasons == 0)
    if not len(places):
        raise DataError(f"{who}: no usable row of the pool has an embedding")
    return Embeddings(places, vectors[places], reasons)


def of_side(view: PoolView, side: Side, who: str) -> NDArray[np.float32]:
    """(q, d) float32 unit embeddings of the rows of the target, or of existing data, that have one, in order.

    Raises DataError where there is no such data, or none of its rows has one. `who` names the selector in errors.
    """
    import numpy as np

    from tamis.vectors.index import unit

    other = view.target if side == "target" else view.existing_pool
    data = "target" if side == "target" else "existing data"
    if other is None:
        files = "target files" if side == "target" else "files"
        raise DataError(f"{who} has no {data}: name {files} in the recipe, or give --{side}")
    vectors = unit(other.signal("tokens", "pooled"))
    good = np.isfinite(vectors).all(axis=1)
    if not good.any():
        raise DataError(f"no row of the {data} has hidden states; all were refused by the model's pass")
    own = view.signal("tokens", "pooled").shape[1]
    if own != vectors.shape[1]:
        raise DataError(
            f"{who} compares embeddings of {own} numbers with those of the {data}, which have {vectors.shape[1]}: both "
            "must come from one model (`sentence-embeddings` embeds the pool alone)"
        )
    return vectors[good]


def of_existing(view: PoolView) -> NDArray[np.float32]:
    """(e, d) float32 unit embeddings of the rows of the pool chosen before (`PoolView.existing`) that have one."""
    import numpy as np

    from tamis.vectors.index import unit

    vectors = unit(view.signal("tokens", "pooled")[np.asarray(view.existing, np.int64)])
    return vectors[np.isfinite(vectors).all(axis=1)]
