"""Context: how far an answer reads the user's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.values import Column, Need

if TYPE_CHECKING:
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class ContextDependency:
    """Context dependency: how much of an answer's attention lies on the user's words (Wang et al. 2025).

    *On the Loss of Context-awareness in General Instruction Fine-tuning*: for every assistant turn the mean over its
    tokens of the largest attention mass of any head of one layer on the user's words (pass `attention`; `layer` as
    there), a row being its turn of the largest value (`turns`: or the mean of its turns, or the last). Above 0.5 the
    paper calls an answer dependent on its context. No published value; range [0, 1].

    Of 100 solutions of GSM8K problems (base-4m) it tells right from wrong with an AUC of 0.61, 95 % interval 0.50 to
    0.72: no signal of correctness, which it does not claim.
    """

    revision: ClassVar[int] = 1

    turns: Literal["max", "mean", "last"] = "max"
    layer: int | None = None

    @property
    def needs(self) -> frozenset[Need]:
        """The attention signal, of the layer asked for."""
        settings = () if self.layer is None else (("layer", self.layer),)
        return frozenset({Need(kind="signal", name="attention", settings=settings)})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Column `score`, a share of attention; NaN where no response token, or no word of the user, is left."""
        import numpy as np

        signal = have["attention"]
        reasons = np.asarray(signal["reason"], np.uint8).copy()
        values = np.full(len(reasons), np.nan, np.float32)
        counts = np.asarray(signal["turn_tokens"], np.int64)
        if len(counts):
            largest = np.asarray(signal["mass"], np.float64).max(axis=1)
            means = np.add.reduceat(largest, np.cumsum(counts) - counts) / counts
            starts = np.asarray(signal["turn_tokens_offsets"])
            rows = np.flatnonzero(np.diff(starts))
            first, last = starts[rows], starts[rows + 1] - 1
            if self.turns == "max":
                values[rows] = np.maximum.reduceat(means, first)
            elif self.turns == "mean":
                values[rows] = np.add.reduceat(means, first) / (last - first + 1)
            else:
                values[rows] = means[last]
        values[reasons != 0] = np.nan
        return {"score": Column(values=values, unit="share of attention", reasons=reasons)}
