"""The attention signal: how much of every response token's attention lies on the user's words."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.errors import RecipeError
from tamis.models import ModelRef
from tamis.values import Need, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tamis.pool import Shard
    from tamis.rendering import Rendered
    from tamis.values import Arrays, Machine, Row
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Attention mass on the user's words: per response token and head of one layer (eager attention).

    The mass of a token is the sum of its attention weights on the contents of the user messages before it; tokens of
    the template and special tokens are neither counted as the user's nor as the response's. `layer` counts from 0;
    default half of the depth (15 of 32). The model runs with eager attention, whatever the run uses elsewhere, and only
    up to that layer: about half a forward pass, whose attention matrices are held for one batch.
    """

    revision: ClassVar[int] = 1

    model: ModelRef
    layer: int | None = None

    def __post_init__(self) -> None:
        if self.layer is not None and self.layer < 0:
            raise RecipeError(f"attention: layer counts from 0, got {self.layer}")
        object.__setattr__(self, "model", dataclasses.replace(self.model, attention="eager"))

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    @property
    def forwards(self) -> float:
        """Forward passes over the pool: up to the layer that is read."""
        from tamis.models import describe, folder_of

        layers = describe(folder_of(self.model.name))["num_hidden_layers"]
        return 0.5 if self.layer is None or not layers else min(1.0, (self.layer + 1) / int(layers))

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """`mass` (m, heads) float16 in [0, 1], ragged by `mass_offsets`, over response tokens in order; `reason` (n,).

        `turn_tokens` int32, ragged by `turn_tokens_offsets`: how many of them belong to each assistant turn; turns
        without any are left out. RecipeError where the model has no such layer, ModelError where it gives no weights.
        """
        import numpy as np

        from tamis.engine import set_threads
        from tamis.ragged import Ragged
        from tamis.rendering import render_all

        set_threads(on.threads)
        rows = shard.read()
        rendered = render_all(rows, self.model)
        read = _Read.of(rows, rendered, self.model)
        good = np.flatnonzero(read.reason == 0)
        masses, heads = self._masses(read, good, on)
        broken = [place for place in good.tolist() if not np.isfinite(masses[place]).all()]
        read.reason[broken] = Reason.NOT_FINITE
        nothing = np.zeros((0, heads), np.float16)
        kept = [masses[place] if read.reason[place] == 0 else nothing for place in range(len(rows))]
        turns = [
            np.unique(one.turn[places], return_counts=True)[1] if reason == 0 else np.zeros(0, np.int64)
            for one, places, reason in zip(rendered, read.places, read.reason, strict=True)
        ]
        counted = Ragged.of(turns, np.int32)
        return {
            "mass": np.concatenate([nothing, *kept]),
            "mass_offsets": np.concatenate([[0], np.cumsum([len(one) for one in kept])]).astype(np.int64),
            "turn_tokens": counted.values,
            "turn_tokens_offsets": counted.offsets,
            "reason": read.reason,
        }

    def _masses(self, read: _Read, good: NDArray[np.int64], on: Machine) -> tuple[dict[int, NDArray[np.float16]], int]:
        """(tokens, heads) of every usable row by its place, and the number of heads."""
        import numpy as np

        from tamis.batching import batches, with_halving
        from tamis.models import cached_model
        from tamis.prediction.attention import attention_layers, half_depth
        from tamis.prediction.forward import forward_of

        if not len(good):
            return {}, 0
        model: Any = cached_model(self.model, on.device)
        forward, layers = forward_of(model), attention_layers(model)
        number = half_depth(len(layers)) if self.layer is None else self.layer
        if number >= len(layers):
            raise RecipeError(f"attention: layer {number} of a model with {len(layers)} layers, counted from 0")
        found: dict[int, NDArray[np.float16]] = {}

        def run(batch: NDArray[np.int64]) -> bool:
            chosen = good[batch].tolist()
            found.update(zip(chosen, read.measured(forward, layers[number], chosen, on.device), strict=True))
            return True

        for whole in batches(np.array([len(read.ids[place]) for place in good], np.int64), on.tokens_per_batch):
            for _ in with_halving(run, whole):
                pass
        return found, next(iter(found.values())).shape[1]


@dataclass(frozen=True)
class _Read:
    """Rows in tokens: `ids`, `users` (which are the user's), `places` of response tokens, and `reason` (n,)."""

    ids: list[NDArray[np.int32]]
    users: list[NDArray[np.bool_]]
    places: list[NDArray[np.int64]]
    reason: NDArray[np.uint8]

    @classmethod
    def of(cls, rows: Sequence[Row], rendered: Sequence[Rendered], ref: ModelRef) -> _Read:
        import numpy as np

        from tamis.chat_template import chat_template
        from tamis.prediction.user_tokens import user_tokens

        special = np.array(sorted(getattr(chat_template(ref.name).tokenizer, "all_special_ids", [])), np.int64)
        reason = np.array([int(one.reason) for one in rendered], np.uint8)
        users, places = [], []
        for number, (row, one, mine) in enumerate(zip(rows, rendered, user_tokens(rows, ref), strict=True)):
            answer = np.flatnonzero((one.turn >= 0) & ~np.isin(one.ids, special))
            usable = mine is not None and mine.any() and len(answer) > 0
            if not reason[number]:
                reason[number] = (
                    Reason.WRONG_KIND
                    if row.kind == "text"
                    else Reason.TEMPLATE
                    if mine is None
                    else Reason.NONE
                    if usable
                    else Reason.TOO_SHORT
                )
            users.append(mine if mine is not None else np.zeros(0, np.bool_))
            places.append(answer)
        return cls([one.ids for one in rendered], users, places, reason)

    def measured(self, forward: Any, layer: Any, chosen: list[int], device: str) -> list[NDArray[np.float16]]:
        """Masses of some rows, in one batch."""
        import numpy as np
        import torch

        from tamis.batching import pad
        from tamis.prediction.attention import attention_weights

        padded, mask = pad([self.ids[place] for place in chosen], 0)
        users = np.zeros(padded.shape, np.float32)
        for line, place in enumerate(chosen):
            users[line, : len(self.users[place])] = self.users[place]
        ids, real, mine = (torch.from_numpy(array).to(device) for array in (padded, mask, users))
        weights = attention_weights(forward, layer, ids, real).float()
        masses = (weights @ mine[:, None, :, None])[..., 0].transpose(1, 2)  # (b, t, heads)
        clipped = masses.clamp(0, 1).half().cpu().numpy()
        return [clipped[line, self.places[place]] for line, place in enumerate(chosen)]
