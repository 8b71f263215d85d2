"""Forward passes that never hold logits of a whole batch: hidden states first, then the head on chosen positions."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BLOCK = 1024  # positions whose logits are held at once


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

    def hidden(self, ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Last hidden states after the final norm, (b, t, d), in the model's dtype. Padding is on the right."""
        hidden: torch.Tensor = self.decoder(input_ids=ids, attention_mask=real.long(), use_cache=False)[0]
        return hidden

    def losses(
        self, ids: torch.Tensor, real: torch.Tensor, hidden: torch.Tensor, rows: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Negative log-likelihood of the tokens at (rows, places) and entropy of their predictions, (m,) float32 nats.

        `places` are at least 1: a token is predicted from the one before it.
        """
        import torch

        if self.whole:
            states = self.model(input_ids=ids, attention_mask=real.long(), use_cache=False).logits
        else:
            states = hidden
        nll = torch.empty(len(rows), dtype=torch.float32, device=ids.device)
        entropy = torch.empty_like(nll)
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            chosen = states[rows[part], places[part] - 1]
            logits = chosen.float() if self.whole else self.logits(chosen)
            nll[part], entropy[part] = _losses(logits, ids[rows[part], places[part]])
        return nll, entropy

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits of some hidden states (m, d), float32, scaled and capped as the configuration says."""
        import torch

        logits: torch.Tensor = self.head(states).float()
        config = self.model.config.get_text_config()
        if scale := getattr(config, "logit_scale", None):  # Cohere
            logits = logits * scale
        if scale := getattr(config, "logits_scaling", None):  # Granite
            logits = logits / scale
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
            logits = cap * torch.tanh(logits / cap)
        return logits


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


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood and entropy from float32 logits (m, v), which are overwritten."""
    import torch

    logits = logits.sub_(logits.amax(-1, keepdim=True))
    weights = logits.exp()
    total = weights.sum(-1)
    log_total = total.log()
    nll = log_total - logits.gather(-1, targets[:, None])[:, 0]
    mean = torch.linalg.vecdot(weights, logits) / total
    if not bool(torch.isfinite(mean).all()):  # logits of -inf: excluded tokens count nothing
        mean = torch.linalg.vecdot(weights, logits.clamp(min=-1e4)) / total
    return nll, log_total - mean
