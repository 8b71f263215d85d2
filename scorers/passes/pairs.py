"""The pair signal: losses of both answers of a preference pair, given the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.models import ModelRef
from tamis.values import Need, Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tamis.pool import Shard
    from tamis.values import Arrays, Machine
    from tamis.views import ShardSignals

SIDES: tuple[Literal["chosen"], Literal["rejected"]] = ("chosen", "rejected")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Losses of the chosen and of the rejected answer of every preference pair, given the prompt."""

    model: ModelRef
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays (n,) of one shard, 0 for rows that are no pairs.

        `chosen_nll_sum`, `rejected_nll_sum` float64 nats over `chosen_count`, `rejected_count` int64 answer tokens;
        `reason` uint8 (`Reason`): why a row has no value on one side or both.
        """
        import numpy as np

        from tamis.engine import set_threads
        from tamis.models import cached_model
        from tamis.prediction.likelihood import response_nll
        from tamis.rendering import render_all

        set_threads(on.threads)
        rows = shard.read()
        places = np.array([place for place, row in enumerate(rows) if row.kind == "pair"], np.int64)
        reason = np.full(len(rows), Reason.WRONG_KIND, np.uint8)
        reason[places] = 0
        arrays: dict[str, NDArray[Any]] = {}
        for side in SIDES:
            rendered = render_all([rows[place] for place in places], self.model, side=side)
            good = [number for number, one in enumerate(rendered) if not one.reason]
            sums, counts = np.zeros(len(rows), np.float64), np.zeros(len(rows), np.int64)
            if good:
                opened = cached_model(self.model, on.device)
                where = places[good]
                sums[where], counts[where] = response_nll(opened, [rendered[number] for number in good], on)
            missing = np.array([int(one.reason) for one in rendered], np.uint8)
            reason[places] = np.where(reason[places] == 0, missing, reason[places])
            arrays |= {f"{side}_nll_sum": sums, f"{side}_count": counts}
        broken = ~np.isfinite(arrays["chosen_nll_sum"] + arrays["rejected_nll_sum"])
        reason[broken] = Reason.NOT_FINITE
        return arrays | {"reason": reason}
