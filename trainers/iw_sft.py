"""Importance-weighted fine-tuning: rows, or tokens, weighed by how much likelier training has made them (iw-SFT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.errors import RecipeError

if TYPE_CHECKING:
    import torch

    from tamis.training import Candidates, StepTokens
    from tamis.values import Need

NUMBERS, OFFSETS, PLACES, NLL = "numbers", "offsets", "places", "nll"


@dataclass(frozen=True, kw_only=True)
class IwSft:
    """Weighs rows by their probability under the model in training over that before training (iw-SFT).

    `level: sequence` multiplies the losses of a row by exp(`temperature` · mean over its labels of (log p - log p
    before)), at most `clip`; `level: token` those of a token by p over p before, within `low` and `high`. Weights have
    no gradient. The model before training is measured once, before the first step, without dropout. The released code
    has a temperature of 2 in its function and 1 where that is called, which is used here; the sum is divided by the
    number of labels, as without the hook. Weights above 1 amplify what was memorised: `clip` bounds that. Qin and
    Springenberg 2025 (arXiv:2507.12856).
    """

    revision: ClassVar[int] = 1

    level: Literal["sequence", "token"] = "sequence"
    temperature: float = 1.0
    clip: float = 16.0
    low: float = 0.2
    high: float = 1.8

    def __post_init__(self) -> None:
        if self.clip <= 0 or not 0 <= self.low <= self.high or self.high <= 0:
            raise RecipeError(
                f"clip {self.clip}, low {self.low}, high {self.high}: expected a clip above 0, and 0 <= low <= high"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the step."""
        return frozenset()

    def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
        """Nothing: the weights are given within the step."""

    def prepare(self, candidates: Candidates, /) -> None:
        """Record the losses of all labels under the model before training, 8 bytes a label."""
        import numpy as np

        from tamis.prediction.current import label_losses

        losses, _ = label_losses(candidates)
        places = [np.flatnonzero(labels[1:]) + 1 for _, labels in candidates.examples]
        candidates.record.update(
            {
                NUMBERS: np.asarray(candidates.numbers, np.int64),
                OFFSETS: losses.offsets,
                PLACES: np.concatenate(places).astype(np.int32),
                NLL: losses.values,
            }
        )

    def reweigh(self, tokens: StepTokens, /) -> torch.Tensor:
        """(m,) factors of the labels, equal within a row where `level` is sequence."""
        before = self._before(tokens)
        if self.level == "token":
            return (before - tokens.nll).exp().clamp(self.low, self.high)
        return sequence_weights(before - tokens.nll, tokens.row, len(tokens.numbers), self.temperature, self.clip)[
            tokens.row
        ]

    def _before(self, tokens: StepTokens) -> torch.Tensor:
        """(m,) losses of the labels under the model before training."""
        import numpy as np
        import torch

        record = tokens.record
        line = np.searchsorted(record[NUMBERS], tokens.numbers)
        rows, places = tokens.row.cpu().numpy(), tokens.place.cpu().numpy()
        found = np.empty(len(rows), np.float32)
        for row, at in enumerate(line):
            part = slice(int(record[OFFSETS][at]), int(record[OFFSETS][at + 1]))
            mine = rows == row
            found[mine] = record[NLL][part][np.searchsorted(record[PLACES][part], places[mine])]
        return torch.from_numpy(found).to(tokens.nll.device)


def sequence_weights(
    gains: torch.Tensor, row: torch.Tensor, rows: int, temperature: float, clip: float
) -> torch.Tensor:
    """(rows,) exp of `temperature` times the mean of `gains` (m,) over the labels of each row, in [0, `clip`].

    `gains`: log p - log p before, nats; `row` (m,) int64 says whose they are.

    >>> import torch
    >>> sequence_weights(torch.tensor([0.0, 0.0, 10.0]), torch.tensor([0, 0, 1]), 2, 1.0, 16.0).tolist()
    [1.0, 16.0]
    """
    import torch

    zeros = torch.zeros(rows, dtype=torch.float32, device=gains.device)
    total = zeros.index_add(0, row, gains.float())
    count = zeros.index_add(0, row, torch.ones_like(gains, dtype=torch.float32))
    return (temperature * total / count.clamp(min=1)).exp().clamp(max=clip)
