"""Logits at chosen positions only: the head of a language model is a third of a small model's cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tamis.errors import ModelError

if TYPE_CHECKING:
    import torch


def selected_logits(model: Any, ids: torch.Tensor, select: torch.Tensor) -> torch.Tensor:
    """(n, vocabulary) logits of the positions where `select` (rows, t) bool is True, in row-major order.

    `ids` (rows, t) int64, padded on the right: under causal attention no real token sees the padding, so no mask is
    needed. The hidden states are picked in front of the output embedding, so whatever the architecture does to logits
    after it (scaling, soft caps) is kept. The model's dtype; the caller casts.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(model).__name__} has no output embedding: not a causal language model")

    def pick(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][select].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(pick)
    try:
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    return logits[0]
