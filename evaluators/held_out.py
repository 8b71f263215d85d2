"""Loss on held-out rows, per token of the response."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import DataError, ModelError
from tamis.values import Items, Need

if TYPE_CHECKING:
    from tamis.models import ModelRef
    from tamis.pool import Pool
    from tamis.values import Machine

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """Negative log-likelihood per response token of held-out rows, in nats; lower is better.

    Rendering, truncation and scored tokens are those of training. An item's value is its summed loss, its weight the
    number of its tokens. Rows without a token to score are left out and logged.
    """

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the model and the rows."""
        return frozenset()

    def evaluate(self, model: ModelRef, pool: Pool, on: Machine, /) -> Items:
        """One result per row that can be scored, in the order of `pool`."""
        import numpy as np

        from tamis.engine import set_threads
        from tamis.models import cached_model
        from tamis.prediction.likelihood import response_nll
        from tamis.rendering import render_all

        set_threads(on.threads)
        opened = cached_model(model, on.device)
        keys: list[str] = []
        sums, counts = [np.zeros(0, np.float64)], [np.zeros(0, np.int64)]
        for shard in pool.shards:
            rows = shard.read()
            rendered = render_all(rows, model)
            for row, one in zip(rows, rendered, strict=True):
                if one.reason:
                    log.warning("evaluation row %s:%d is left out: %s", row.file, row.position, one.reason.text)
            keys += [row.key for row, one in zip(rows, rendered, strict=True) if not one.reason]
            nll, tokens = response_nll(opened, [one for one in rendered if not one.reason], on)
            sums.append(nll)
            counts.append(tokens)
        if not keys:
            raise DataError("no evaluation row can be scored: each needs an answer that the chat template accepts")
        values = np.concatenate(sums)
        if broken := int((~np.isfinite(values)).sum()):
            raise ModelError(
                f"{model.label} has a loss that is not finite on {broken} of {len(keys)} evaluation rows: training "
                "diverged (lower the learning rate), or the dtype is too narrow"
            )
        return Items(
            keys=keys,
            values=values,
            weights=np.concatenate(counts).astype(np.float64),
            metric="held-out loss",
            unit="nats per token",
            lower_is_better=True,
        )
