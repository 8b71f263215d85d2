"""Preference margins on held-out pairs: how far training moved the model towards the chosen answers."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.errors import DataError, ModelError
from tamis.models import ModelRef
from tamis.training.checkpoints import FACTS, Checkpoint
from tamis.values import Items, Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.pool import Pool
    from tamis.rendering import Rendered
    from tamis.values import Machine

log = logging.getLogger(__name__)
SIDES: tuple[Literal["chosen"], Literal["rejected"]] = ("chosen", "rejected")


@dataclass(frozen=True, kw_only=True)
class PreferenceMargin:
    """Implicit margin of DPO on held-out preference pairs, in nats per pair; higher is better.

    The margin of a pair is the log-ratio of its chosen answer minus that of its rejected one, each summed over the
    answer's tokens, against `reference`: the model that the trained one was made from (Rafailov et al. 2023,
    arXiv:2305.18290, without its factor β). A model that is its own reference has margins of 0. `measure: accuracy`
    counts the pairs with a margin above 0, ties half. Pairs of which a side has no token left are left out and logged.
    """

    revision: ClassVar[int] = 1

    measure: Literal["margin", "accuracy"] = "margin"
    reference: ModelRef | None = None

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the model and the pairs."""
        return frozenset()

    def evaluate(self, model: ModelRef, pool: Pool, on: Machine, /) -> Items:
        """One result per pair that can be scored, in the order of `pool`."""
        import numpy as np

        from tamis.engine import set_threads
        from tamis.rendering import render_all

        set_threads(on.threads)
        reference = self.reference or _reference_of(model)
        keys: list[str] = []
        margins = [np.zeros(0, np.float64)]
        left_out = 0
        for shard in pool.shards:
            rows = [row for row in shard.read() if row.kind == "pair"]
            rendered = [render_all(rows, model, side=side) for side in SIDES]
            good = [place for place in range(len(rows)) if not any(side[place].reason for side in rendered)]
            left_out += shard.rows - len(good)
            keys += [rows[place].key for place in good]
            margins.append(_margins(model, reference, [[side[place] for place in good] for side in rendered], on))
        if not keys:
            raise DataError("no evaluation row is a preference pair whose two answers can be scored")
        if left_out:
            log.warning("%d evaluation rows are left out: no pair, or a side without a token to score", left_out)
        values = np.concatenate(margins)
        if broken := int((~np.isfinite(values)).sum()):
            raise ModelError(f"{model.label} has a margin that is not finite on {broken} of {len(keys)} pairs")
        accuracy = self.measure == "accuracy"
        return Items(
            keys=keys,
            values=np.where(values == 0, 0.5, values > 0).astype(np.float64) if accuracy else values,
            weights=np.ones(len(keys), np.float64),
            metric="preference accuracy" if accuracy else "preference margin",
            unit="share of pairs" if accuracy else "nats per pair",
            lower_is_better=False,
        )


def _reference_of(model: ModelRef) -> ModelRef:
    """The model without its adapter; of a full checkpoint, the model it was trained from; of a base, itself."""
    if model.adapter is not None:
        return dataclasses.replace(model, adapter=None)
    if (Path(model.name) / FACTS).is_file():
        return ModelRef(**Checkpoint(Path(model.name)).facts["base"])
    return model


def _margins(
    model: ModelRef, reference: ModelRef, sides: Sequence[Sequence[Rendered]], on: Machine
) -> NDArray[np.float64]:
    """(n,) margins of pairs, nats."""
    import numpy as np

    from tamis.models import cached_model
    from tamis.prediction.likelihood import response_nll

    if model.digest == reference.digest or not sides[0]:
        return np.zeros(len(sides[0]), np.float64)

    def gap(of: ModelRef) -> NDArray[np.float64]:
        opened = cached_model(of, on.device)
        chosen, rejected = (response_nll(opened, side, on)[0] for side in sides)
        return rejected - chosen

    return gap(model) - gap(reference)
