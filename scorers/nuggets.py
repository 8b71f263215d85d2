"""Nuggets: the golden score, the share of anchors that a row helps as a one-shot demonstration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.values import Column, Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Nuggets:
    """Nuggets: share of anchors whose loss falls behind the row as their demonstration (golden score).

    Li et al. 2024, *One-Shot Learning as Instruction Data Prospector for Large Language Models* (arXiv 2312.10302): the
    share of anchors j with log p(y_j | row, x_j) > log p(y_j | x_j); sums and means order them alike. The paper keeps
    rows above 0.8 or 0.85, or the best 1 %. Long demonstrations win more often, whatever they say. `anchors`, `count`,
    `stop` and `threshold` are those of the pass `in-context`, where rows may be stopped early: `score` of such a row is
    its share so far, which lies below the threshold. No published value; range [0, 1].
    """

    revision: ClassVar[int] = 1

    anchors: Literal["clusters", "drawn"] = "clusters"
    count: int = 100
    stop: Literal["never", "certain", "hoeffding"] = "never"
    threshold: float = 0.8

    @property
    def needs(self) -> frozenset[Need]:
        """The in-context signal."""
        settings = (
            ("anchors", self.anchors),
            ("count", self.count),
            ("stop", self.stop),
            ("threshold", self.threshold),
        )
        return frozenset({Need(kind="signal", name="in-context", settings=settings)})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `score`, the share of anchors helped; `gain`, mean nats that an anchor's response gains; `asked`.

        `asked` is the share of the anchors that the row was tried on: below 1 where it was stopped early.
        """
        import numpy as np

        signal = have["in-context"]
        reasons = np.asarray(signal["reason"], np.uint8).copy()
        counts = np.diff(np.asarray(signal["nll_offsets"]))
        gains = np.asarray(signal["bare_nll"], np.float64) - np.asarray(signal["nll"], np.float64)
        owner = np.repeat(np.arange(len(counts)), counts)
        tried = np.maximum(counts, 1)
        found = {
            "score": (np.bincount(owner, gains > 0, len(counts)) / tried, "share of anchors"),
            "gain": (np.bincount(owner, gains, len(counts)) / tried, "nats"),
            "asked": (counts / np.maximum(np.asarray(signal["possible"]), 1), "share of anchors"),
        }
        return {name: _column(values, unit, reasons) for name, (values, unit) in found.items()}


def _column(values: NDArray[np.float64], unit: str, reasons: NDArray[np.uint8]) -> Column:
    import numpy as np

    found = values.astype(np.float32)
    found[reasons != 0] = np.nan
    return Column(values=found, unit=unit, reasons=reasons.copy())
