"""What a trainer is given: rows rendered and tokenised, with their labels and weights; what its hooks see of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.models import ModelRef
    from tamis.pool import Pool
    from tamis.values import Machine

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


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The rows of an optimiser step before its backward pass, for a hook that chooses among them.

    `examples`: (ids, labels) of each, labels bool; `numbers` (n,) their places in the training rows. `model` is the one
    in training, in train mode, its trainable parameters marked: leave it as it is. `step` counts from 0;
    `learning_rate` is that of the step. `memory` belongs to the hook; it is empty wherever a killed run may go on from,
    so that what is kept in it from step to step changes nothing.
    """

    step: int
    examples: Sequence[tuple[NDArray[np.int32], NDArray[np.bool_]]]
    numbers: NDArray[np.int64]
    learning_rate: float
    model: Any
    kind: Literal["lora", "full"]
    base: ModelRef
    on: Machine
    memory: dict[str, Any]

    def __len__(self) -> int:
        return len(self.examples)
