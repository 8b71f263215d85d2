"""The loss of whole rows: summed negative log-likelihood of the tokens that training would train on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tamis.values import Machine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from tamis.rendering import Rendered


def response_nll(
    model: PreTrainedModel, rendered: Sequence[Rendered], on: Machine
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return (sums, counts): nats of the scored tokens of every row, (n,) float64, and their number, (n,) int64.

    Each row must have a token. Batches hold rows of like length; logits are made of scored positions only, a bounded
    block at a time; a sum is taken in float64 over float32 losses. NaN or infinite losses come back as they are.
    """
    import numpy as np

    from tamis.batching import batches, with_halving
    from tamis.prediction.forward import forward_of

    sums = np.zeros(len(rendered), np.float64)
    counts = np.array([int((one.turn >= 0).sum()) for one in rendered], np.int64)
    parts = forward_of(model)

    def run(batch: NDArray[np.int64]) -> bool:
        import torch

        from tamis.batching import pad

        chosen = [rendered[place] for place in batch]
        padded, mask = pad([one.ids for one in chosen], 0)
        places = [np.flatnonzero(one.turn >= 0) for one in chosen]
        owners = np.repeat(np.arange(len(chosen)), [len(found) for found in places])
        arrays = (padded, mask, owners, np.concatenate(places))
        with torch.inference_mode():
            ids, real, rows, at = (torch.from_numpy(array).to(on.device) for array in arrays)
            nll = parts.losses(ids, parts.hidden(ids, real), rows, at)
        sums[batch] = np.bincount(owners, nll.cpu().numpy().astype(np.float64), minlength=len(chosen))
        return True

    for batch in batches(np.array([len(one.ids) for one in rendered], np.int64), on.tokens_per_batch):
        for _ in with_halving(run, batch):
            pass
    return sums, counts
