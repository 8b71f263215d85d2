"""Loss of the head at chosen positions, with its gradient, without ever holding the logits of a whole batch.

What the head gives back to the hidden states, softmax(logits) W - W[target], is formed while the logits are there,
block by block; they are gone before the backward pass begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from tamis.prediction.forward import Forward

LOGITS = 1 << 24  # logits held at once: 64 MiB in float32


def plain_head(forward: Forward) -> bool:
    """Whether the logits are W h + b and nothing else."""
    import torch

    config = forward.model.config.get_text_config()
    changes = ("logit_scale", "logits_scaling", "final_logit_softcapping")
    return (
        not forward.whole
        and type(forward.head) is torch.nn.Linear
        and not forward.head.weight.requires_grad
        and not any(getattr(config, name, None) for name in changes)
        and not forward.head._forward_hooks
        and not forward.head._forward_pre_hooks
    )


def head_losses(head: torch.nn.Linear, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(m,) negative log-likelihood (nats) of `targets` (m,) after hidden states (m, d), with its graph to the states.

    Float32, or float64 where the model is. The head is frozen.
    """
    import torch

    fixed = states.detach()
    wants = torch.is_grad_enabled() and states.requires_grad
    dtype = torch.float64 if fixed.dtype == torch.float64 else torch.float32
    nll = torch.empty(len(fixed), dtype=dtype, device=fixed.device)
    slopes = torch.empty_like(fixed) if wants else fixed
    size = max(1, LOGITS // head.out_features)
    with torch.no_grad():
        for start in range(0, len(fixed), size):
            part = slice(start, start + size)
            nll[part], slope = _block(head, fixed[part], targets[part], wants)
            if slope is not None:
                slopes[part] = slope
    return nll + ((states - fixed) * slopes).sum(-1, dtype=dtype) if wants else nll  # the second term is 0


def _block(head: Any, states: torch.Tensor, targets: torch.Tensor, wants: bool) -> tuple[torch.Tensor, Any]:
    import torch

    logits = head(states)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    chosen = wide.gather(-1, targets[:, None])
    top = wide.amax(-1, keepdim=True)
    weights = wide.sub_(top).exp_()
    total = weights.sum(-1, keepdim=True)
    nll = (total.log() + top - chosen)[:, 0]
    if not wants:
        return nll, None
    weight = head.weight
    slope = (weights.to(weight.dtype) @ weight).div_(total.to(weight.dtype)).sub_(weight[targets])
    return nll, slope
