"""What the model in training makes of some rows, for hooks: losses and entropies of labels, without dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tamis.ragged import Ragged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.training import Candidates

BLOCK = 1024  # labels whose logits are widened at once


def label_losses(candidates: Candidates) -> tuple[Ragged, Ragged]:
    """Negative log-likelihood and entropy of the prediction of every label, float32 nats, one list a candidate.

    The first token of a row is no label. Rows are run in batches of like length; the model's modes are put back.
    """
    import numpy as np

    from tamis.batching import batches

    lists = [np.flatnonzero(labels[1:]) + 1 for _, labels in candidates.examples]
    offsets = np.concatenate([[0], np.cumsum([len(places) for places in lists])]).astype(np.int64)
    nll, entropy = (np.full(offsets[-1], np.nan, np.float32) for _ in range(2))
    lengths = np.array([len(ids) for ids, _ in candidates.examples], np.int64)
    with _without_dropout(candidates):
        for batch in batches(lengths, candidates.on.tokens_per_batch):
            into = np.concatenate([np.arange(offsets[place], offsets[place + 1]) for place in batch])
            nll[into], entropy[into] = _run(candidates, batch, lists)
    return Ragged(nll, offsets), Ragged(entropy, offsets)


@contextmanager
def _without_dropout(candidates: Candidates) -> Iterator[None]:
    import torch

    model = candidates.model
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    half = candidates.base.dtype == "bfloat16"
    device = next(model.parameters()).device.type
    try:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=half):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _run(
    candidates: Candidates, batch: NDArray[np.int64], lists: list[NDArray[np.int64]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Losses and entropies of the labels of some candidates, one after another."""
    import numpy as np
    import torch

    from tamis.batching import pad
    from tamis.prediction.logits import selected_logits

    device = next(candidates.model.parameters()).device
    padded, _ = pad([candidates.examples[place][0] for place in batch], 0)
    ids = torch.from_numpy(padded).to(device)
    rows = torch.from_numpy(np.repeat(np.arange(len(batch)), [len(lists[place]) for place in batch])).to(device)
    places = torch.from_numpy(np.concatenate([lists[place] for place in batch])).to(device)
    select = torch.zeros_like(ids, dtype=torch.bool)
    select[rows, places - 1] = True
    logits, target = selected_logits(candidates.model, ids, select), ids[rows, places]
    nll, entropy = (torch.empty(len(target), dtype=torch.float32, device=device) for _ in range(2))
    for start in range(0, len(target), BLOCK):
        part = slice(start, start + BLOCK)
        scores = torch.log_softmax(logits[part].float(), -1)
        nll[part] = -scores.gather(-1, target[part, None])[:, 0]
        entropy[part] = -(scores.exp() * scores.clamp(min=-1e4)).sum(-1)
    return nll.cpu().numpy(), entropy.cpu().numpy()
