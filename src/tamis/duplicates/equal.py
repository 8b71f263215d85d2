"""Groups of equal 128-bit digests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def of_hexadecimal(texts: Sequence[str]) -> NDArray[np.uint64]:
    """(n, 2) uint64 of digests written with 32 hexadecimal digits."""
    import numpy as np

    return np.frombuffer(bytes.fromhex("".join(texts)), "<u8").astype(np.uint64).reshape(-1, 2)


def groups(digests: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n,) the first place of each digest (n, 2); a digest of zeros stands alone."""
    import numpy as np

    order = np.lexsort((np.arange(len(digests)), digests[:, 1], digests[:, 0]))
    sorted_ = digests[order]
    new = np.r_[True, (sorted_[1:] != sorted_[:-1]).any(axis=1)][: len(order)] | ~sorted_.any(axis=1)
    found = np.empty(len(digests), np.int64)
    found[order] = order[new][np.cumsum(new) - 1]
    return found
