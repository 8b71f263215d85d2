"""The training objective: weighted mean of the negative log-likelihood of the trained tokens of one optimiser step."""

from __future__ import annotations

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

    def lengths(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of the chosen rows (numbers into `places`)."""
        places = self.places[chosen]
        lengths: NDArray[np.int64] = self.rows.offsets[places + 1] - self.rows.offsets[places]
        return lengths

    def examples(self, chosen: NDArray[np.int64]) -> list[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
        """(ids, labels) of the chosen rows; a label is a token of positive weight."""
        spans = [slice(self.rows.offsets[place], self.rows.offsets[place + 1]) for place in self.places[chosen]]
        return [(self.rows.ids[span], self.weights[span] > 0) for span in spans]

    def totals(self, chosen: NDArray[np.int64]) -> tuple[float, int]:
        """Sum of the label weights and number of labels of the chosen rows."""
        import numpy as np

        spans = [slice(self.rows.offsets[place], self.rows.offsets[place + 1]) for place in self.places[chosen]]
        weight = float(sum(self.weights[span].sum(dtype=np.float64) for span in spans))
        return weight, int(sum(np.count_nonzero(self.weights[span]) for span in spans))

    def padded(self, chosen: NDArray[np.int64], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Pad the chosen rows on the right with 0: ids (b, t) int64 and label weights (b, t) float32."""
        import numpy as np
        import torch

        width = int(self.lengths(chosen).max())
        ids = np.zeros((len(chosen), width), np.int64)
        weights = np.zeros((len(chosen), width), np.float32)
        for line, place in enumerate(self.places[chosen]):
            span = slice(self.rows.offsets[place], self.rows.offsets[place + 1])
            ids[line, : span.stop - span.start] = self.rows.ids[span]
            weights[line, : span.stop - span.start] = self.weights[span]
        return torch.from_numpy(ids).to(device), torch.from_numpy(weights).to(device)


def weighted_nll(model: Any, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum over labels of weight times negative log-likelihood (nats), float32, with its graph.

    `ids` (b, t) int64 and `weights` (b, t): the weight of token t belongs to its prediction from position t - 1.
    """
    import torch
    import torch.nn.functional as functional

    from tamis.logits import selected_logits

    labelled = weights[:, 1:] != 0
    select = torch.nn.functional.pad(labelled, (0, 1))
    logits = selected_logits(model, ids, select)
    nll = functional.cross_entropy(logits.float(), ids[:, 1:][labelled], reduction="none")
    return (nll * weights[:, 1:][labelled]).sum()
