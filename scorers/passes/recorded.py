"""Trajectories that a training recorded itself, as the signal that extra passes over its checkpoints would make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.models import ModelRef
from tamis.training.checkpoints import Checkpoint
from tamis.values import Need, Reason

if TYPE_CHECKING:
    from tamis.pool import Shard
    from tamis.values import Arrays, Machine
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Losses of rows recorded inside a training (hook `record-losses`), as the signal `trajectories`.

    Where `trajectories` measures every row after each epoch, these are the losses of the training steps: each row just
    before it was trained on, under dropout. Rows that the training did not have, or left out of an epoch, have no
    trajectory. A row is known by its tokens; of rows with the same tokens the first counts.
    """

    revision: ClassVar[int] = 1
    makes: ClassVar[str] = "trajectories"
    in_process: ClassVar[bool] = True

    checkpoints: tuple[Checkpoint, ...]

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    @property
    def forwards(self) -> float:
        """No forward pass."""
        return 0.0

    def notes(self) -> tuple[str, ...]:
        """What a reader must know: when the losses were taken."""
        return ("losses of rows are those of training steps, under dropout, each before the row was trained on",)

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """`losses` (n, E) float32 nats per label and `accuracies` (n, E) in [0, 1], one column an epoch; `reason` (n,).

        TrainError where the training recorded none.
        """
        import numpy as np

        from tamis.rendering import render_all
        from tamis.training.recorded import read_record, token_digests

        record = read_record(self.checkpoints)
        rendered = render_all(shard.read(), ModelRef(**self.checkpoints[-1].facts["base"]))
        reason = np.array([int(one.reason) for one in rendered], np.uint8)
        known, first = np.unique(np.asarray(record["digest"]), return_index=True)
        mine = token_digests([one.ids for one in rendered])
        at = np.minimum(np.searchsorted(known, mine), len(known) - 1)
        trained = (known[at] == mine) & (reason == 0)
        found = {}
        for name in ("losses", "accuracies"):
            found[name] = np.asarray(record[name], np.float32)[first[at]]
            found[name][~trained] = np.nan
        whole = np.isfinite(found["losses"]).all(axis=1)
        reason[(reason == 0) & ~whole] = Reason.NOT_MEASURED
        for values in found.values():
            values[reason != 0] = np.nan
        return found | {"reason": reason}
