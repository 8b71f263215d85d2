"""Q-Tuning: rows and tokens of every batch pruned on the plane of error and uncertainty of the model in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.errors import RecipeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.training import Candidates
    from tamis.values import Need


@dataclass(frozen=True, kw_only=True)
class QTuning:
    """Keeps rows of every batch that are wrong and sure or right and unsure, and prunes tokens.

    arXiv:2509.23873. Perplexity and mean entropy of the labels of the whole batch of an optimiser step, without
    dropout, divide its rows (`tamis.prediction.quadrants`): `rows` is the share that stays, to the nearest row, at
    least one. Of rows with high perplexity and low entropy the share `tokens` of the labels stays, those whose
    perplexity, smoothed with its neighbours by `smoothing`, is lowest; the others become context. Published budgets:
    (12.5 %, 50 %), (25 %, 50 % or 70 %), (50 %, 70 %). Costs a forward pass over the batch. Quantiles of small batches
    mean little: use `batch_rows` of 16 or more.
    """

    revision: ClassVar[int] = 1

    rows: float = 0.25
    tokens: float = 0.7
    smoothing: float = 0.5
    steps: int = 10

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {value}: expected a share in (0, 1], as 0.25"
            for name, value in (("rows", self.rows), ("tokens", self.tokens))
            if not 0 < value <= 1
        ]
        if not 0 <= self.smoothing <= 1:
            faults.append(f"smoothing is {self.smoothing}: expected the weight of the neighbours, in [0, 1]")
        if self.steps < 1:
            faults.append(f"steps is {self.steps}: expected at least 1 step of the bisection")
        if faults:
            raise RecipeError(faults)

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the step."""
        return frozenset()

    def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
        """Nothing: rows and tokens are pruned before the step."""

    def prune(self, candidates: Candidates, /) -> Sequence[NDArray[np.bool_]]:
        """Masks of the labels that stay; a row whose losses are not finite goes first."""
        import numpy as np

        from tamis.prediction.current import label_losses
        from tamis.prediction.quadrants import kept_tokens, plane

        nll, entropy = label_losses(candidates)
        with np.errstate(over="ignore"):
            error = np.array([np.exp(part.mean(dtype=np.float64)) for part in nll])
        doubt = np.array([part.mean(dtype=np.float64) for part in entropy])
        found = plane(error, doubt, self.rows, self.steps)
        chosen = found.order[: max(1, round(self.rows * len(candidates)))]
        masks = [np.zeros(len(ids), np.bool_) for ids, _ in candidates.examples]
        for row in chosen.tolist():
            places = np.flatnonzero(candidates.examples[row][1][1:]) + 1
            if found.misconception[row]:
                places = places[kept_tokens(nll[row], self.tokens, self.smoothing)]
            masks[row][places] = True
        return masks
