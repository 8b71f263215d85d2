"""Components of rows that are alike: candidates come in, pairs that are verified are joined by union-find."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.duplicates.sets import Sets


@dataclass
class Joining:
    """Union-find over rows. Pairs that are joined already are not verified again, which changes no component.

    `verified` counts pairs whose similarity was computed, `joined` those that reached the threshold.
    """

    sets: Sets
    threshold: float
    verified: int = 0
    joined: int = 0
    parents: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        import numpy as np

        self.parents = np.arange(len(self.sets), dtype=np.int64)

    def roots(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The root of every node: the lowest of its component."""
        import numpy as np

        from tamis.duplicates import loops

        found = np.empty(len(nodes), np.int64)
        loops.roots(self.parents, np.ascontiguousarray(nodes, np.int64), found)
        return found

    def open(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(p,) pairs that could be alike and are not joined yet: similarity is at most smaller size / larger size."""
        import numpy as np

        one, other = self.sets.sizes[left], self.sets.sizes[right]
        could = (np.minimum(one, other) >= self.threshold * np.maximum(one, other) - 1e-6) & (one > 0) & (other > 0)
        could[could] = self.roots(left[could]) != self.roots(right[could])
        return could

    def take(self, left: NDArray[np.int64], right: NDArray[np.int64], least: float | None = None) -> None:
        """Verify pairs, and join those that are alike: as alike as the threshold asks, or as `least`."""
        import numpy as np

        from tamis.duplicates import loops

        could = self.open(left, right)
        if not could.any():
            return
        pairs = np.unique(np.stack([left[could], right[could]], axis=1), axis=0)
        one, other = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
        alike = self.sets.jaccards(one, other) >= np.float32(self.threshold if least is None else least)
        loops.link(self.parents, one[alike], other[alike])
        self.verified += len(one)
        self.joined += int(alike.sum())
