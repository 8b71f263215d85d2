"""What a trainer is given: rows rendered and tokenised, with their labels and weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """Tokenised rows, ragged: row i is `[offsets[i]:offsets[i + 1]]` of the flat arrays.

    `ids` int32 token ids; `trained` bool, True where the token is a label (the scored tokens of the same template);
    `token_weights` float32 per token or None; `row_weights` (n,) float32 or None. Rows without any trained token are
    refused by `render_rows` before they come here.
    """

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    row_weights: NDArray[np.float32] | None = None
    token_weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        """Tokens of all rows after truncation."""
        return int(self.offsets[-1])

    @property
    def trained_tokens(self) -> int:
        """Label tokens of all rows."""
        return int(self.trained.sum())

    @property
    def digest(self) -> str:
        """Identity by content."""
        import numpy as np

        from tamis import digests

        def of(array: NDArray[Any] | None) -> str | None:
            return None if array is None else digests.of_bytes(np.ascontiguousarray(array).tobytes())

        parts = (self.ids, self.trained, self.offsets, self.row_weights, self.token_weights)
        return digests.of_json([of(part) for part in parts])
