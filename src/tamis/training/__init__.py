"""What a trainer is given: rows rendered and tokenised, with their labels and weights; what its hooks see of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.models import ModelRef
    from tamis.pool import Pool
    from tamis.values import Machine, TokenWeights

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
        """Label tokens of all rows, those of weight 0 left out."""
        import numpy as np

        trained = self.trained if self.token_weights is None else self.trained & (self.token_weights > 0)
        return int(np.count_nonzero(trained))

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

    `positions`: places in the pool, in order. `tokens_weighed`: weights of response tokens, or None; `rendered` has
    them laid over its tokens.
    """

    pool: Pool
    positions: tuple[int, ...]
    rendered: TrainingRows | TrainingPairs
    tokens_weighed: TokenWeights | None = None

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
    """The rows of an optimiser step before its backward pass, for a hook that chooses among them or prunes them.

    `examples`: (ids, labels) of each, labels bool; `numbers` (n,) their places in the training rows. `model` is the one
    in training, in train mode, its trainable parameters marked: leave it as it is. `step` counts from 0;
    `learning_rate` is that of the step. `memory` belongs to the hook; it is empty wherever a killed run may go on from,
    so that what is kept in it from step to step changes nothing. `record` belongs to the hook too: arrays by name,
    which are saved with the state of the run, so that a run that goes on finds them.
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
    record: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True, kw_only=True, eq=False)
class StepTokens:
    """The labels of one micro batch under the model in training, for a hook that weighs them. All tensors detached.

    `row` (m,) int64: which of `numbers` (b,), places in the training rows, a label belongs to; `place` (m,) int64: its
    place in its row; `nll` (m,) float32 nats, with the dropout of the training; `logits` (m, v) of the predictions, in
    the dtype of the model: read only. `record`: the arrays of the hook. `step` counts from 0.
    """

    step: int
    numbers: NDArray[np.int64]
    row: torch.Tensor
    place: torch.Tensor
    nll: torch.Tensor
    logits: torch.Tensor
    record: dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class StepRows:
    """The rows that an optimiser step was made on, as the model saw them just before it, for a hook that watches.

    `numbers` (n,) int64 places in the training rows; `nll` (n,) float64 summed nats of their labels, with the dropout
    of the training and without weights; `labels` (n,) int64 how many; `hits` (n,) int64 labels to which the model gave
    the highest probability. `step` and `epoch` count from 0. `record`: arrays by name that belong to the hook; they are
    saved with the state of the run and, where the hook has a `keeps`, written to `records/KEEPS` beside the
    checkpoints.
    """

    step: int
    epoch: int
    numbers: NDArray[np.int64]
    nll: NDArray[np.float64]
    labels: NDArray[np.int64]
    hits: NDArray[np.int64]
    record: dict[str, NDArray[Any]]
