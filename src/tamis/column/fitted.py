"""Numbers of rows that a scorer learnt from the whole pool, kept by key, so that no order or shard changes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tamis.values import Column, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.pool import Pool
    from tamis.values import Arrays
    from tamis.views import ShardSignals

KEY = "key"


def order_of(pool: Pool) -> NDArray[np.int64]:
    """(n,) places of all rows in the order of their keys: sums taken in it are the same however a pool is ordered."""
    import numpy as np

    keys = np.array(pool.table(["key"]).column("key").to_pylist(), dtype=np.str_)
    return np.argsort(keys, kind="stable")


def by_key(keys: Sequence[str], values: Mapping[str, NDArray[np.float32]], reasons: NDArray[np.uint8]) -> Arrays:
    """Arrays for `fit` to hand back: values (n,) float32 by name and their reasons, sorted by the rows' short keys."""
    import numpy as np

    from tamis.demonstrations.pairing import short_keys

    short = short_keys(keys)
    order = np.argsort(short, kind="stable")
    arrays = {name: np.asarray(one, np.float32)[order] for name, one in values.items()}
    return {KEY: short[order], "reason": np.asarray(reasons, np.uint8)[order], **arrays}


def column_of(have: ShardSignals, name: str, unit: str) -> Column:
    """The column of a shard's rows from what `by_key` kept; NaN with "not measured" for rows that are not there."""
    import numpy as np

    from tamis.demonstrations.pairing import short_keys

    fitted = have["fit"]
    wanted, known = short_keys(have.shard.table(["key"]).column("key").to_pylist()), np.asarray(fitted[KEY])
    if not len(known):
        gone = np.full(len(wanted), Reason.NOT_MEASURED, np.uint8)
        return Column(values=np.full(len(wanted), np.nan, np.float32), unit=unit, reasons=gone)
    at = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    there = known[at] == wanted
    reasons = np.where(there, np.asarray(fitted["reason"])[at], Reason.NOT_MEASURED).astype(np.uint8)
    values = np.where(reasons > 0, np.nan, np.asarray(fitted[name])[at]).astype(np.float32)
    return Column(values=values, unit=unit, reasons=reasons)
