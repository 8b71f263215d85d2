"""Attention weights of one layer, read where they are made, on a model that is run with eager attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tamis.errors import ModelError

if TYPE_CHECKING:
    import torch

    from tamis.prediction.forward import Forward


class _Reached(Exception):
    """The layer has been read; the layers behind it need not run."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = weights


def half_depth(layers: int) -> int:
    """The probe layer of a model of so many: 15 of 32, counted from 0.

    >>> half_depth(32), half_depth(6), half_depth(1)
    (15, 2, 0)
    """
    return (layers - 1) // 2


def attention_layers(model: Any) -> list[Any]:
    """The attention modules of a decoder, first to last. ModelError where they cannot be told.

    transformers names their classes …Attention, and every decoder layer has one.
    """
    found = [module for module in model.modules() if type(module).__name__.endswith("Attention")]
    layers = int(model.config.get_text_config().num_hidden_layers)
    if len(found) != layers:
        raise ModelError(
            f"{type(model).__name__} has {len(found)} attention modules in {layers} layers: not an attention decoder"
        )
    return found


def attention_weights(forward: Forward, layer: Any, ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """(b, heads, t, t) weights of one module of `attention_layers`: from the token of a row to that of a column.

    Rows sum to 1. `ids` (b, t) padded on the right as `real` (b, t) says. The model runs up to that layer only.
    ModelError where the module gives no weights: the model must run with eager attention.
    """
    import torch

    def read(_: Any, given: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, torch.Tensor) or weights.dim() != 4:
            raise ModelError(f"{type(layer).__name__} gives no attention weights: run it with `attention: eager`")
        raise _Reached(weights)

    handle = layer.register_forward_hook(read)
    try:
        with torch.inference_mode():
            forward.decoder(input_ids=ids, attention_mask=real.long(), use_cache=False)
    except _Reached as reached:
        return reached.weights
    finally:
        handle.remove()
    raise ModelError(f"{type(layer).__name__} was never run: not a layer of the decoder")
