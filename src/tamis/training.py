"""What a trainer is given: rows rendered and tokenised, with their labels and weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.pool import Pool

Takes = Literal["tokens", "pairs", "rows"]  # what a trainer is given: TrainingRows, TrainingPairs, TrainingSubset


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


@dataclass(frozen=True, kw_only=True)
class TrainingPairs:
    """Tokenised preference pairs: pair i is row i of `chosen` and row i of `rejected`, prompt included in both."""

    chosen: TrainingRows
    rejected: TrainingRows

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def row_weights(self) -> NDArray[np.float32] | None:
        """(n,) weights of the pairs, or None."""
        return self.chosen.row_weights

    @property
    def tokens(self) -> int:
        """Tokens of both sides after truncation."""
        return self.chosen.tokens + self.rejected.tokens

    @property
    def trained_tokens(self) -> int:
        """Answer tokens of both sides."""
        return self.chosen.trained_tokens + self.rejected.trained_tokens

    @property
    def digest(self) -> str:
        """Identity by content."""
        from tamis import digests

        return digests.of_json([self.chosen.digest, self.rejected.digest])


@dataclass(frozen=True, kw_only=True)
class TrainingSubset:
    """Rows of a pool as they were read, for a trainer that renders them itself; `rendered` are the same as tokens.

    `positions`: places in the pool, in order.
    """

    pool: Pool
    positions: tuple[int, ...]
    rendered: TrainingRows | TrainingPairs

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def row_weights(self) -> NDArray[np.float32] | None:
        """(n,) weights of the rows, or None."""
        return self.rendered.row_weights

    @property
    def tokens(self) -> int:
        """Tokens after truncation, as tamis renders the rows."""
        return self.rendered.tokens

    @property
    def trained_tokens(self) -> int:
        """Label tokens, as tamis renders the rows."""
        return self.rendered.trained_tokens

    @property
    def digest(self) -> str:
        """Identity by content."""
        from tamis import digests

        return digests.of_json([self.pool.digest, list(self.positions), self.rendered.digest])


TrainingInput = TrainingRows | TrainingPairs | TrainingSubset
