"""Forgetting events: how often a row that a training had learnt was not known any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.errors import RecipeError
from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.views import ShardSignals

THRESHOLDS = {"accuracy": 0.5, "loss": 0.6931}  # most tokens right; a probability of one half, geometric mean


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """Forgetting events: transitions from known to not known over a training (Toneva et al. 2019).

    arXiv 1812.05159, for classifiers. Of a language model a row counts as known where its token accuracy is at least
    `threshold` (`by: accuracy`, default 0.5: most of its tokens are the most probable), or its loss per token at most
    that (`by: loss`, default ln 2). Presentations are the columns of the signal `trajectories`: epochs recorded by the
    hook `record-losses`, as in the paper, or checkpoints measured by the pass; three to five are the least that tell
    anything. A row that was never known counts as forgotten in every presentation (`never: presentations`, the code of
    Toneva et al.; the paper and data_diet say infinitely often, which orders rows alike) or has no value (`never:
    unscored`). The paper drops rows at 0. No published value; range [0, presentations].
    """

    revision: ClassVar[int] = 1

    by: Literal["accuracy", "loss"] = "accuracy"
    threshold: float | None = None
    never: Literal["presentations", "unscored"] = "presentations"

    def __post_init__(self) -> None:
        if self.threshold is not None and self.threshold < 0:
            raise RecipeError(f"forgetting: threshold is at least 0, got {self.threshold:g}")

    @property
    def needs(self) -> frozenset[Need]:
        """Losses over a training."""
        return frozenset({Need(kind="signal", name="trajectories")})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `score`, events; `first`, the presentation from 1 at which the row was first known, NaN if never."""
        import numpy as np

        signal = have["trajectories"]
        reasons = np.asarray(signal["reason"], np.uint8)
        limit = THRESHOLDS[self.by] if self.threshold is None else self.threshold
        if self.by == "accuracy":
            known = np.asarray(signal["accuracies"]) >= limit
        else:
            known = np.asarray(signal["losses"]) <= limit
        never = ~known.any(axis=1)
        events = (known[:, :-1] & ~known[:, 1:]).sum(axis=1).astype(np.float64)
        events[never] = known.shape[1] if self.never == "presentations" else np.nan
        first = np.where(never, np.nan, known.argmax(axis=1) + 1.0)
        return {"score": _column(events, "events", reasons), "first": _column(first, "presentation", reasons)}


def _column(values: NDArray[np.float64], unit: str, reasons: NDArray[np.uint8]) -> Column:
    import numpy as np

    found, why = values.astype(np.float32), reasons.copy()
    why[(why == 0) & np.isnan(found)] = Reason.NEVER_LEARNED
    found[why != 0] = np.nan
    return Column(values=found, unit=unit, reasons=why)
