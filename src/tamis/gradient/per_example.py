"""Exact per-example gradients of linear layers, many examples a batch, without a backward pass per example.

For y = W x the gradient of one example is `(dL/dy)ᵀ x` summed over its tokens. Both factors are there in one ordinary
batched backward pass: x as the layer's input, dL/dy as it flows through the layer's output. So every tapped layer hands
over (b, out, in) gradients the moment that the backward pass reaches it, and only one layer's are alive at a time. No
weight gradient is computed beside them, and the backward pass ends at the first tapped layer. The two matrices of a
LoRA module are two linear layers: G of B's output holds the scaling alpha / r already. Where it can be, such a module
runs as one (`tamis.gradient.one_product`).

Padding is on the right, where causal attention keeps it out of every real token; a token without a label starts no
gradient. So padding and masked tokens contribute exact zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tamis.errors import ModelError

if TYPE_CHECKING:
    import torch

Consume = Callable[[str, "torch.Tensor"], None]
Hand = Callable[[str, "torch.Tensor", "torch.Tensor"], None]


def lora_layers(model: Any) -> dict[str, torch.nn.Linear]:
    """Return the A and B matrices of every LoRA module, by the name of their weight as `named_parameters` gives it."""
    import torch

    found = {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and (".lora_A." in name or ".lora_B." in name)
    }
    if not found:
        raise ModelError(f"{type(model).__name__} holds no LoRA module on a linear layer")
    return found


def linear_layers(model: Any) -> dict[str, torch.nn.Linear]:
    """Every linear layer but the head (whose gradient is as large as the vocabulary), by the name of its weight."""
    import torch

    head = model.get_output_embeddings()
    found = {
        f"{name}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    if not found:
        raise ModelError(f"{type(model).__name__} holds no linear layer beside its head")
    return found


def formed(consume: Consume) -> Hand:
    """What multiplies the two factors that a layer hands over: `consume(name, gradient)` gets (b, out, in)."""

    def hand(name: str, delta: torch.Tensor, seen: torch.Tensor) -> None:
        consume(name, delta.transpose(1, 2) @ seen.to(delta.dtype))

    return hand


@contextmanager
def tapped(model: Any, layers: Mapping[str, torch.nn.Linear], hand: Hand) -> Iterator[None]:
    """Inside, every backward pass calls `hand(name, delta, seen)` once a layer.

    delta (b, t, out) is the gradient at the layer's output and seen (b, t, in) its input, each in its dtype; the
    layer's gradients are deltaᵀ seen, row by row. The layers, which are the model's, must not be used twice in a
    forward pass, and see (b, t, in) inputs: a ModelError says so.
    """
    from tamis.gradient.one_product import one_product_modules

    def tap(name: str, layer: torch.nn.Linear) -> Any:
        def forward(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            seen = inputs[0].detach()
            if seen.dim() != 3:
                raise ModelError(f"{name} sees inputs of shape {tuple(seen.shape)}, not (rows, tokens, width)")
            if not output.requires_grad:
                output.requires_grad_(True)  # the first layers of the network: the backward pass ends here

            def backward(gradient: torch.Tensor) -> None:
                hand(name, gradient, seen)

            output.register_hook(backward)

        return layer.register_forward_hook(forward)

    merged = one_product_modules(model, layers)
    done = {name for one in merged for name in one.names}
    handles = [tap(name, layer) for name, layer in layers.items() if name not in done]
    for one in merged:
        one.module.forward = one.forward(hand)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for one in merged:
            del one.module.forward


def example_sums(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(b,) summed negative log-likelihood (nats) of each row's label tokens, with its graph, and (b,) their number.

    `ids` (b, t) int64 padded on the right, `labels` (b, t) bool: whether token t is a label (the first of a row never
    is). Float32 or wider.
    """
    import torch
    import torch.nn.functional as functional

    from tamis.gradient.head_loss import head_losses, plain_head
    from tamis.prediction.forward import forward_of
    from tamis.prediction.logits import selected_logits

    labelled = labels[:, 1:]
    counts = labelled.sum(1)
    targets = ids[:, 1:][labelled]
    predicting = functional.pad(labelled, (0, 1))
    forward = forward_of(model)
    if plain_head(forward):
        hidden = forward.decoder(input_ids=ids, use_cache=False)[0]  # padding on the right needs no mask, see above
        nll = head_losses(forward.head, hidden[predicting], targets)
    else:
        logits = selected_logits(model, ids, predicting)
        nll = functional.cross_entropy(
            logits if logits.dtype == torch.float64 else logits.float(), targets, reduction="none"
        )
    rows = torch.repeat_interleave(torch.arange(len(ids), device=ids.device), counts)
    return torch.zeros(len(ids), dtype=nll.dtype, device=ids.device).index_add(0, rows, nll), counts


def example_losses(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(b,) mean negative log-likelihood (nats) over each row's label tokens, with its graph; see `example_sums`.

    Rows must have a label. The sum's backward pass gives every example the gradient of its own mean loss.
    """
    sums, counts = example_sums(model, ids, labels)
    return sums / counts


def pair_losses(model: Any, ids: torch.Tensor, labels: torch.Tensor, beta: float) -> torch.Tensor:
    """(b,) losses with the gradient of DPO's loss where the model is its own reference, from 2b rows.

    Rows 0 … b-1 are the chosen sides, b … 2b-1 the rejected ones. The loss of DPO, -log sigmoid(β m) with m the
    difference of the log-ratios, has the gradient -β sigmoid(-β m) ∇m; at the reference m = 0, so it is that of
    -(β / 2) (log π(chosen) - log π(rejected)), which is returned: exact in its gradient, not in its value (log 2).
    """
    sums, _ = example_sums(model, ids, labels)
    chosen, rejected = sums.chunk(2)
    return beta / 2 * (chosen - rejected)


def per_example(
    model: Any, layers: Mapping[str, torch.nn.Linear], ids: torch.Tensor, labels: torch.Tensor, consume: Consume
) -> torch.Tensor:
    """(b,) losses; `consume(name, gradient)` gets (b, out, in) of every layer, last layer first.

    All parameters must be frozen (`requires_grad_(False)`) and the model in eval mode.
    """
    return example_factors(model, layers, ids, labels, formed(consume))


def example_factors(
    model: Any, layers: Mapping[str, torch.nn.Linear], ids: torch.Tensor, labels: torch.Tensor, hand: Hand
) -> torch.Tensor:
    """Like `per_example`, but what a layer hands over are the factors of its gradients, as `tapped` says."""
    from tamis.prediction.forward import forward_of

    forward_of(model)  # takes the model apart before it is tapped
    with tapped(model, layers, hand):
        losses = example_losses(model, ids, labels)
        losses.sum().backward()
    return losses.detach()


def per_pair(
    model: Any,
    layers: Mapping[str, torch.nn.Linear],
    ids: torch.Tensor,
    labels: torch.Tensor,
    beta: float,
    consume: Consume,
) -> torch.Tensor:
    """Like `per_example`, for preference pairs: (b,) `pair_losses` of 2b rows, gradients (b, out, in)."""
    return pair_factors(model, layers, ids, labels, beta, formed(consume))


def pair_factors(
    model: Any,
    layers: Mapping[str, torch.nn.Linear],
    ids: torch.Tensor,
    labels: torch.Tensor,
    beta: float,
    hand: Hand,
) -> torch.Tensor:
    """Like `example_factors`, for preference pairs: a pair's tokens are those of both sides, (b, 2t, …)."""
    import torch

    from tamis.prediction.forward import forward_of

    def joined(name: str, delta: torch.Tensor, seen: torch.Tensor) -> None:
        hand(name, *(torch.cat(side.chunk(2), dim=1) for side in (delta, seen)))

    forward_of(model)
    with tapped(model, layers, joined):
        losses = pair_losses(model, ids, labels, beta)
        losses.sum().backward()
    return losses.detach()


def pad(rows: list[tuple[Any, Any]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad ragged (ids, labels) rows on the right: ids (b, t) int64, labels (b, t) bool; no first token is a label."""
    import numpy as np
    import torch

    width = max(len(ids) for ids, _ in rows)
    padded = np.zeros((len(rows), width), np.int64)
    marks = np.zeros((len(rows), width), np.bool_)
    for line, (ids, labels) in enumerate(rows):
        padded[line, : len(ids)] = ids
        marks[line, : len(ids)] = labels
    marks[:, 0] = False
    return torch.from_numpy(padded).to(device), torch.from_numpy(marks).to(device)
