"""Losses of every row at every checkpoint of a warm-up: what S2L clusters, and where forgetting is counted."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.errors import DataError
from tamis.models import ModelRef
from tamis.training.checkpoints import Checkpoint
from tamis.values import Need, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tamis.pool import Shard
    from tamis.prediction.forward import Forward
    from tamis.rendering import Rendered
    from tamis.values import Arrays, Machine
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """Loss and token accuracy of every row at every checkpoint of a warm-up (S2L, Yang et al., 2024).

    The warm-up may be that of a smaller model: S2L (SmallToLarge) trains the smallest of a family on the pool, and its
    rows' losses over training tell which rows are learnt alike. `start`: put the loss under the model that the
    checkpoints were trained from before them. Time: a forward pass over the pool for each; the models are kept open.
    """

    revision: ClassVar[int] = 2

    checkpoints: tuple[Checkpoint, ...]
    start: bool = False

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """`losses` (n, C) float32, nats per response token, checkpoints in order; `reason` (n,) why a row has none.

        `accuracies` (n, C) float32: the share of response tokens to which no other token is preferred. DataError where
        there is no checkpoint, or they were not all trained from one model.
        """
        import numpy as np

        from tamis.engine import set_threads
        from tamis.rendering import render_all

        base, models = self._models()
        rendered = render_all(shard.read(), base)
        reason = np.array([int(one.reason) for one in rendered], np.uint8)
        rows = np.flatnonzero(reason == 0)
        losses, accuracies = (np.full((shard.rows, len(models)), np.nan, np.float32) for _ in range(2))
        set_threads(on.threads)
        if len(rows):
            scored = [rendered[row] for row in rows]
            for number, (_, forward) in enumerate(_opened(models, on.device)):
                losses[rows, number], accuracies[rows, number] = _means(scored, forward, on)
        broken = (reason == 0) & ~np.isfinite(losses).all(axis=1)
        reason[broken] = Reason.NOT_FINITE
        losses[broken], accuracies[broken] = np.nan, np.nan
        return {"losses": losses, "accuracies": accuracies, "reason": reason}

    def _models(self) -> tuple[ModelRef, tuple[tuple[ModelRef, str], ...]]:
        """The model that all checkpoints were trained from, and those to be measured, each with its digest."""
        if not self.checkpoints:
            raise DataError("trajectories need at least one checkpoint: name a warm-up that keeps every epoch")
        bases = [ModelRef(**checkpoint.facts["base"]) for checkpoint in self.checkpoints]
        if any(base != bases[0] for base in bases):
            raise DataError("the checkpoints were not all trained from one model; their losses make no trajectory")
        models = tuple((checkpoint.model(), checkpoint.digest) for checkpoint in self.checkpoints)
        return bases[0], ((bases[0], bases[0].digest), *models) if self.start else models


@functools.lru_cache(maxsize=1)
def _opened(models: tuple[tuple[ModelRef, str], ...], device: str) -> list[tuple[Any, Forward]]:
    """Models, and each taken apart, kept by the process until it works on another pass; the digests tell them apart."""
    from tamis.models import open_model
    from tamis.prediction.forward import forward_of

    opened = [open_model(model, device) for model, _ in models]
    return [(model, forward_of(model)) for model in opened]


def _means(rendered: Sequence[Rendered], forward: Forward, on: Machine) -> NDArray[np.float64]:
    """(2, m): mean negative log-likelihood and accuracy of the response tokens of rows that have some."""
    import numpy as np

    from tamis.batching import batches, with_halving

    means = np.empty((2, len(rendered)))

    def run(batch: NDArray[np.int64]) -> bool:
        means[:, batch] = _batch([rendered[row] for row in batch], forward, on)
        return True

    for whole in batches(np.array([len(one.ids) for one in rendered], np.int64), on.tokens_per_batch):
        for _ in with_halving(run, whole):
            pass
    return means


def _batch(rendered: Sequence[Rendered], forward: Forward, on: Machine) -> NDArray[np.float64]:
    import numpy as np
    import torch

    from tamis.batching import pad

    padded, mask = pad([one.ids for one in rendered], 0)
    scored = [np.flatnonzero(one.turn >= 0) for one in rendered]
    rows = np.repeat(np.arange(len(rendered)), [len(places) for places in scored])
    with torch.inference_mode():
        ids, real = (torch.from_numpy(array).to(on.device) for array in (padded, mask))
        row, at = (torch.from_numpy(array).to(on.device) for array in (rows, np.concatenate(scored)))
        found = forward.predictions(ids, forward.hidden(ids, real), row, at, 1)
    each = (found.nll.cpu().numpy().astype(np.float64), (found.rank == 1).cpu().numpy().astype(np.float64))
    return np.stack([np.bincount(rows, one, len(rendered)) for one in each]) / np.bincount(rows)
