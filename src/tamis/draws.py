"""Random numbers of rows as pure functions of seed, row key and counter: no order of rows or shards changes them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.views import PoolView

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def of_keys(view: PoolView, seed: int) -> NDArray[np.uint64]:
    """(n,) 64 random bits of every row: BLAKE2b, keyed with the seed, over its key."""
    import numpy as np

    secret = seed.to_bytes(16, "little", signed=True)
    drawn = np.empty(len(view), np.uint64)
    place = 0
    for shard in view.pool.shards:
        for key in shard.table(["key"]).column("key").to_pylist():
            octets = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, key=secret).digest()
            drawn[place] = int.from_bytes(octets, "little")
            place += 1
    return drawn


def uniform(drawn: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in [0, 1) from the upper 53 bits."""
    import numpy as np

    return (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53


def at(drawn: NDArray[np.uint64], counter: int) -> NDArray[np.uint64]:
    """Fresh bits of the same rows for a whole number `counter` >= 0, by the finaliser of SplitMix64 (Steele 2014)."""
    import numpy as np

    state = drawn + np.uint64(((counter + 1) * _GOLDEN) % 2**64)  # products and sums wrap around
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_FIRST)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_SECOND)
    fresh: NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return fresh
