"""The training objective: weighted mean of the negative log-likelihood of the trained tokens of one optimiser step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.errors import TrainError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.training import TrainingRows


def label_weights(rows: TrainingRows) -> NDArray[np.float32]:
    """Per token: row weight times token weight where the token is a label, else 0. The first token is never one."""
    import numpy as np

    weights = rows.trained.astype(np.float32)
    lengths = np.diff(rows.offsets)
    weights[rows.offsets[:-1][lengths > 0]] = 0
    if rows.token_weights is not None:
        weights *= rows.token_weights
    if rows.row_weights is not None:
        weights *= np.repeat(rows.row_weights, lengths)
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise TrainError("training weights must be finite and not negative; look at the weights of the subset")
    return weights


@dataclass(frozen=True)
class Examples:
    """Rows with at least one label of positive weight; a row of weight zero is as good as absent."""

    rows: TrainingRows
    weights: NDArray[np.float32]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, rows: TrainingRows) -> Examples:
        """Collect the usable rows; none at all is a TrainError."""
        import numpy as np

        weights = label_weights(rows)
        sums = np.array([weights[a:b].sum() for a, b in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)])
        places = np.flatnonzero(sums > 0)
        if not len(places):
            raise TrainError(
                f"none of the {len(rows)} rows has a trained token of positive weight; nothing to train on"
            )
        return cls(rows, weights, places)

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, chosen: NDArray[np.int64]) -> Batch:
        """The chosen rows (numbers into `places`)."""
        places = self.places[chosen]
        spans = [slice(self.rows.offsets[place], self.rows.offsets[place + 1]) for place in places]
        return Batch(places, [self.rows.ids[span] for span in spans], [self.weights[span] for span in spans])


@dataclass(frozen=True)
class Batch:
    """Some training rows: `numbers` (n,) their places, their token ids and label weights (float32, 0: no label)."""

    numbers: NDArray[np.int64]
    ids: Sequence[NDArray[np.int32]]
    weights: Sequence[NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens of the rows."""
        import numpy as np

        return np.array([len(ids) for ids in self.ids], np.int64)

    @property
    def weight(self) -> float:
        """Sum of the label weights."""
        import numpy as np

        return float(sum(weights.sum(dtype=np.float64) for weights in self.weights))

    @property
    def labels(self) -> int:
        """Number of labels."""
        import numpy as np

        return int(sum(np.count_nonzero(weights) for weights in self.weights))

    def examples(self) -> list[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
        """(ids, labels) of every row; a label is a token of positive weight."""
        return [(ids, weights > 0) for ids, weights in zip(self.ids, self.weights, strict=True)]

    def some(self, at: NDArray[np.int64]) -> Batch:
        """The rows at these places of the batch."""
        return Batch(self.numbers[at], [self.ids[place] for place in at], [self.weights[place] for place in at])

    def masked(self, masks: Sequence[NDArray[np.bool_]]) -> Batch:
        """The same rows with the labels under the masks alone; rows that lose all their labels are left out."""
        import numpy as np

        weights = [own * mask for own, mask in zip(self.weights, masks, strict=True)]
        kept = np.array([place for place, own in enumerate(weights) if own.any()], np.int64)
        return Batch(self.numbers, self.ids, weights).some(kept)

    def padded(self, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Pad the rows on the right with 0: ids (n, t) int64 and label weights (n, t) float32."""
        import numpy as np
        import torch

        width = int(self.lengths.max())
        ids = np.zeros((len(self), width), np.int64)
        weights = np.zeros((len(self), width), np.float32)
        for line, (own, weight) in enumerate(zip(self.ids, self.weights, strict=True)):
            ids[line, : len(own)] = own
            weights[line, : len(own)] = weight
        return torch.from_numpy(ids).to(device), torch.from_numpy(weights).to(device)


@dataclass(frozen=True)
class Labels:
    """The labels of a padded batch: `row` and `place` (m,) int64, `target` (m,) ids, `logits` (m, v), `nll` (m,) nats.

    `nll` is float32 and, like the logits, carries the graph.
    """

    row: torch.Tensor
    place: torch.Tensor
    target: torch.Tensor
    logits: torch.Tensor
    nll: torch.Tensor


def labels_of(model: Any, ids: torch.Tensor, weights: torch.Tensor) -> Labels:
    """Run the model over ids (b, t) int64 and keep what belongs to tokens whose weight (b, t) is not 0.

    Token t is predicted from position t - 1.
    """
    import torch.nn.functional as functional

    from tamis.prediction.logits import selected_logits

    labelled = weights[:, 1:] != 0
    logits = selected_logits(model, ids, functional.pad(labelled, (0, 1)))
    target = ids[:, 1:][labelled]
    nll = functional.cross_entropy(logits.float(), target, reduction="none")
    row, place = labelled.nonzero(as_tuple=True)
    return Labels(row, place + 1, target, logits, nll)
