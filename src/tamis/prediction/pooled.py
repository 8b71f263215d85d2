"""One vector per row from its last hidden states; by default a mean weighted by position (RDS+, arXiv 2503.01807)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.models import ModelRef
    from tamis.rendering import Rendered
    from tamis.values import Machine

How = Literal["weighted", "mean", "last"]


def pool(hidden: Any, real: Any, how: How = "weighted") -> Any:
    """One vector for each sequence of hidden states (b, t, d), real (b, t) from the first on: unit length, float32.

    `weighted`: mean with weights t / sum(t), t = 1, 2, … over real tokens. `mean`: plain mean. `last`: the last one's.
    """
    import torch

    if how == "last":
        last = real.sum(1) - 1
        return torch.nn.functional.normalize(
            hidden[torch.arange(len(hidden), device=hidden.device), last].float(), dim=-1
        )
    weights = real.float()
    if how == "weighted":
        weights = weights * torch.arange(1, real.shape[1] + 1, device=real.device, dtype=torch.float32)
    weights = weights / weights.sum(1, keepdim=True)
    # the scale of the states is divided out in float32, so nothing is lost to half precision
    mean = torch.einsum("bt,btd->bd", weights, hidden.float())
    return torch.nn.functional.normalize(mean, dim=-1)


def pooled_states(rendered: Sequence[Rendered], ref: ModelRef, on: Machine) -> NDArray[np.float32]:
    """(n, d) float32 of unit length, zero where a row has no token: what the `tokens` pass keeps as `pooled`."""
    import numpy as np
    import torch

    from tamis.batching import batches, pad, with_halving
    from tamis.models import cached_model
    from tamis.prediction.forward import forward_of

    model = cached_model(ref, on.device)
    forward = forward_of(model)
    found = np.zeros((len(rendered), forward.width), np.float32)
    places = np.array([place for place, one in enumerate(rendered) if len(one.ids)], np.int64)

    def run(batch: NDArray[np.int64]) -> bool:
        padded, mask = pad([rendered[place].ids for place in places[batch]], 0)
        with torch.inference_mode():
            ids, real = (torch.from_numpy(array).to(on.device) for array in (padded, mask))
            found[places[batch]] = pool(forward.hidden(ids, real), real).cpu().numpy()
        return True

    lengths = np.array([len(rendered[place].ids) for place in places], np.int64)
    for batch in batches(lengths, on.tokens_per_batch):
        for _ in with_halving(run, batch):
            pass
    return found
