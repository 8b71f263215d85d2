"""Values that were found for the whole pool at once, by row: kept by key, so that no order and no shard enters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tamis.demonstrations.pairing import short_keys

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.pool import Shard

KEY = "key"


def packed(keys: Sequence[str], values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Arrays to be stored: `key` (n,) uint64, ascending, and each of `values` (n,) in that order."""
    import numpy as np

    digests = short_keys(keys)
    order = np.argsort(digests, kind="stable")
    return {KEY: digests[order], **{name: array[order] for name, array in values.items()}}


def of_shard(kept: Mapping[str, NDArray[Any]], shard: Shard) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(n,) places of the shard's rows among the values kept, and (n,) whether they are there at all."""
    import numpy as np

    digests = short_keys(shard.table([KEY]).column(KEY).to_pylist())
    known = np.asarray(kept[KEY])
    places = np.minimum(np.searchsorted(known, digests), max(0, len(known) - 1)).astype(np.int64)
    there = known[places] == digests if len(known) else np.zeros(len(digests), np.bool_)
    return places, np.asarray(there)
