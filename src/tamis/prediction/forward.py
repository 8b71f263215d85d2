"""Forward passes that never hold logits of a whole batch: hidden states first, then the head on chosen positions.

Logits are made in tiles of at most `TILE_BYTES`, some positions by some tokens of the vocabulary, small enough on a CPU
to be read while they lie in its cache. What is kept of them stands in `tamis.prediction.predictions`.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from tamis.prediction.predictions import Predictions, Running

TILE_BYTES, TILE_BYTES_GPU = 2**21, 2**28  # of float32 logits held at once
POSITIONS, LEAST = 512, 16  # of a tile, and where the head cannot be cut by tokens, at least
WHOLE_BYTES = 2**28  # logits of one call of a model that cannot be taken apart, or those of one sequence


@dataclass(frozen=True)
class Forward:
    """A causal language model taken apart into decoder and head, adapter included.

    `whole`: the head alone does not give the model's logits (an architecture with steps of its own between the two),
    so the model is called as one piece.
    """

    model: Any
    decoder: Any
    head: Any
    whole: bool

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def vocabulary(self) -> int:
        """Number of logits of a prediction."""
        return int(self.model.config.get_text_config().vocab_size)

    def hidden(self, ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Last hidden states after the final norm, (b, t, d), in the model's dtype. Padding is on the right.

        Under causal attention no real token sees it, so no mask is handed over, which would slow attention down.
        """
        mask = None if bool(real[:, 0].all()) else real.long()
        hidden: torch.Tensor = self.decoder(input_ids=ids, attention_mask=mask, use_cache=False)[0]
        return hidden

    def losses(self, ids: torch.Tensor, hidden: torch.Tensor, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of the tokens at (rows, places), (m,) float32 nats.

        `places` are at least 1: a token is predicted from the one before it. `rows` ascend.
        """
        import torch

        parts = [running.nll() for running, _ in self._run(ids, hidden, rows, places, 0)]
        return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)

    def predictions(
        self, ids: torch.Tensor, hidden: torch.Tensor, rows: torch.Tensor, places: torch.Tensor, top: int
    ) -> Predictions:
        """Every statistic of the predictions of the tokens at (rows, places), at least one token; as in `losses`.

        `top`: how many of the most probable tokens, at least 1; where the vocabulary is smaller, all.
        """
        from tamis.prediction.predictions import joined

        found = self._run(ids, hidden, rows, places, min(top, self.vocabulary))
        return joined([running.all(states.float().norm(dim=-1)) for running, states in found])

    def _run(
        self, ids: torch.Tensor, hidden: torch.Tensor, rows: torch.Tensor, places: torch.Tensor, top: int
    ) -> Iterator[tuple[Running, torch.Tensor]]:
        """Statistics of the predictions, and the hidden states that make them, some positions at a time."""
        from tamis.prediction.predictions import begin

        sliced = not self.whole and self._plain
        size = POSITIONS if sliced else max(LEAST, min(POSITIONS, _tile(ids) // (4 * self.vocabulary)))
        for batch, inside in self._calls(ids, rows):
            logits = self._called(ids[batch]) if self.whole else None
            for start in range(inside.start, inside.stop, size):
                part = slice(start, min(start + size, inside.stop))
                row, at = rows[part], places[part] - 1
                states, target = hidden[row, at], ids[row, at + 1]
                if sliced:
                    running = begin(self._gold(states, target), target, top)
                    for first, block in self._blocks(states):
                        running.take(block, first)
                else:
                    block = self.logits(states) if logits is None else logits[row - batch.start, at].float()
                    running = begin(block.gather(1, target[:, None])[:, 0], target, top)
                    running.take(block, 0)
                yield running, states

    def _calls(self, ids: torch.Tensor, rows: torch.Tensor) -> Iterator[tuple[slice, slice]]:
        """Sequences, and their places among the positions: all at once, or so many that their logits are bounded."""
        import torch

        count = len(ids)
        if self.whole:
            count = max(1, WHOLE_BYTES // (4 * ids.shape[1] * self.vocabulary))
        for start in range(0, len(ids), count):
            edges = torch.searchsorted(rows, torch.tensor([start, start + count], device=rows.device)).tolist()
            if edges[0] < edges[1]:
                yield slice(start, start + count), slice(*edges)

    def _called(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits

    @property
    def _plain(self) -> bool:
        """Whether the head is one matrix whose rows may be taken apart."""
        import torch

        head = self.head
        return type(head) is torch.nn.Linear and not head._forward_hooks and not head._forward_pre_hooks

    def _blocks(self, states: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Logits of hidden states (p, d) by tiles of the vocabulary: first token, (p, tokens) float32.

        Where no gradient is taken a tile lies in the memory of the one before: read it before the next is asked for.
        """
        import torch

        weight, bias = self.head.weight, self.head.bias
        width = min(len(weight), max(1, _tile(states) // (4 * len(states))))
        room = None if torch.is_grad_enabled() else states.new_empty(len(states) * width)
        for start in range(0, len(weight), width):
            part, shift = weight[start : start + width], None if bias is None else bias[start : start + width]
            if room is None:
                made = torch.nn.functional.linear(states, part, shift)
            else:  # memory that the system hands out anew costs a third of the product
                made = room[: len(states) * len(part)].view(len(states), len(part))
                multiply = torch.mm if shift is None else functools.partial(torch.addmm, shift)
                multiply(states, part.t(), out=made)
            yield start, self._adjusted(made.float())

    def _gold(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(p,) float32 logits of one token each, rounded as those of the head are."""
        import torch

        made = torch.linalg.vecdot(states.float(), self.head.weight[targets].float())
        if self.head.bias is not None:
            made = made + self.head.bias[targets].float()
        return self._adjusted(made.to(states.dtype).float())

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits of some hidden states (m, d), float32, scaled and capped as the configuration says."""
        return self._adjusted(self.head(states).float())

    def _adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        import torch

        config = self.model.config.get_text_config()
        if scale := getattr(config, "logit_scale", None):  # Cohere
            logits = logits * scale
        if scale := getattr(config, "logits_scaling", None):  # Granite
            logits = logits / scale
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
            logits = cap * torch.tanh(logits / cap)
        return logits


def _tile(on: torch.Tensor) -> int:
    return TILE_BYTES if on.device.type == "cpu" else TILE_BYTES_GPU


_FORWARDS: weakref.WeakKeyDictionary[Any, Forward] = weakref.WeakKeyDictionary()


def forward_of(model: PreTrainedModel) -> Forward:
    """Take the model apart; whether the parts make up the whole is tried on four tokens, once for each model."""
    found = _FORWARDS.get(model)
    if found is None:
        wrapped: Any = model
        inner = wrapped.get_base_model() if hasattr(model, "get_base_model") else wrapped  # PEFT wraps
        head, decoder = inner.get_output_embeddings(), inner.base_model
        found = Forward(weakref.proxy(inner), decoder, head, whole=False)
        if head is None or decoder is inner or not _adds_up(found, inner):
            found = Forward(weakref.proxy(inner), decoder, head, whole=True)
        _FORWARDS[model] = found
    return found


def _adds_up(parts: Forward, model: Any) -> bool:
    import torch

    with torch.inference_mode():
        ids = torch.arange(4, device=model.device)[None] % model.get_input_embeddings().weight.shape[0]
        real = torch.ones_like(ids, dtype=torch.bool)
        hidden = parts.hidden(ids, real)
        if hidden.ndim != 3 or hidden.shape[:2] != ids.shape:
            return False
        expected = model(input_ids=ids, attention_mask=real.long(), use_cache=False).logits[0].float()
        got = parts.logits(hidden[0])
        tolerance = 1e-4 if hidden.dtype == torch.float32 else 2e-2
        return got.shape == expected.shape and bool(
            torch.allclose(got, expected, rtol=tolerance, atol=tolerance * max(1.0, float(expected.abs().max())))
        )
