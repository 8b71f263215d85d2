"""A hook that records the loss of every row whenever training sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.training.recorded import KEEPS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.training import Candidates, StepRows
    from tamis.values import Need


@dataclass(frozen=True, kw_only=True)
class RecordLosses:
    """Records loss and token accuracy of every row in every epoch of a training, at no pass more.

    The values are those of the forward pass of the step, so just before the row is trained on, under the dropout of the
    training: forgetting events as Toneva et al. (2019) count them, and trajectories for S2L. The record lies in
    `records/losses` beside the checkpoints: `digest` (n,) of the rows, `losses` and `accuracies` (n, epochs), NaN where
    another hook left the row out of an epoch. The pass `recorded` reads it.
    """

    revision: ClassVar[int] = 1
    keeps: ClassVar[str] = KEEPS

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
        """Nothing: what is recorded is seen by `watch`."""

    def prepare(self, candidates: Candidates, /) -> None:
        """Note which rows the training has."""
        from tamis.training.recorded import token_digests

        candidates.record["number"] = candidates.numbers.copy()
        candidates.record["digest"] = token_digests([ids for ids, _ in candidates.examples])

    def watch(self, rows: StepRows, /) -> None:
        """Write the means of a step's rows into the column of its epoch."""
        import numpy as np

        record = rows.record
        at = np.searchsorted(record["number"], rows.numbers)
        labels = np.maximum(rows.labels, 1)
        for name, values in (("losses", rows.nll / labels), ("accuracies", rows.hits / labels)):
            table = record.get(name, np.zeros((len(record["number"]), 0), np.float32))
            if table.shape[1] <= rows.epoch:
                table = _widened(table, rows.epoch + 1)
            table[at, rows.epoch] = values
            record[name] = table


def _widened(table: NDArray[np.float32], epochs: int) -> NDArray[np.float32]:
    import numpy as np

    missing = np.full((len(table), epochs - table.shape[1]), np.nan, np.float32)
    return np.concatenate([table, missing], axis=1)
