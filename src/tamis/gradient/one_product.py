"""A LoRA module run as one linear map, and the gradients of its two matrices taken from the two ends of that map.

PEFT computes W x + s B (A x): three products and two sums, forward and backward. With W + s B A written out once a
batch needs one product each way; A x and s Bᵀ δ, which only the gradients of B and A read, are formed when the backward
pass arrives, and are gone before it moves on. In exact arithmetic the two are the same, and in float32 within its
rounding; a narrower W could not hold a small s B A, and a W much larger than the adapter would be doubled for little,
so such modules run as PEFT has them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LARGEST = 8  # entries of W for one of A and B, above which W is not written out a second time


@dataclass(frozen=True)
class OneProduct:
    """A module with vanilla LoRA, and the names under which the gradients of its A and B are asked for (or None)."""

    module: Any
    adapter: str
    first: str | None
    second: str | None

    @property
    def names(self) -> list[str]:
        """The names that are asked for."""
        return [name for name in (self.first, self.second) if name is not None]

    @property
    def matrices(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """W (out, in), A (r, in), B (out, r)."""
        module = self.module
        return (
            module.base_layer.weight.detach(),
            module.lora_A[self.adapter].weight.detach(),
            module.lora_B[self.adapter].weight.detach(),
        )

    def forward(
        self, hand: Callable[[str, torch.Tensor, torch.Tensor], None]
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """What stands in for the module's forward; its backward pass hands over the factors of both gradients."""
        import torch.nn.functional as functional

        scale = float(self.module.scaling[self.adapter])
        merged = _merged(self, scale)
        bias = self.module.base_layer.bias
        _, first, second = self.matrices

        def forward(inputs: torch.Tensor) -> torch.Tensor:
            output = functional.linear(inputs, merged, bias)
            if not output.requires_grad:
                output.requires_grad_(True)  # the first layers of the network: the backward pass ends here
            seen = inputs.detach()

            def backward(gradient: torch.Tensor) -> None:
                scaled = gradient * scale
                if self.second is not None:
                    hand(self.second, scaled, functional.linear(seen, first))
                if self.first is not None:
                    hand(self.first, scaled @ second, seen)

            output.register_hook(backward)
            return output

        return forward


def one_product_modules(model: Any, layers: Mapping[str, torch.nn.Linear]) -> list[OneProduct]:
    """Modules of the model that can run as one product, among those whose A or B is one of `layers` (by weight)."""
    from peft.tuners.lora.layer import Linear

    names = {id(layer): name for name, layer in layers.items()}
    found = []
    for module in model.modules():
        if type(module) is Linear and (adapter := _vanilla(module)) is not None:
            one = OneProduct(
                module, adapter, names.get(id(module.lora_A[adapter])), names.get(id(module.lora_B[adapter]))
            )
            if one.names and _worth_it(one):
                found.append(one)
    return found


def _vanilla(module: Any) -> str | None:
    """Name of the only adapter at work in a PEFT module, where it does what the paper says and nothing else."""
    import torch

    active = [name for name in module.active_adapters if name in module.lora_A]
    if len(active) != 1 or module.disable_adapters or module.merged or "forward" in vars(module):
        return None
    name = str(active[0])
    parts = (module.base_layer, module.lora_A[name], module.lora_B[name])
    plain = all(type(part) is torch.nn.Linear and not part.weight.requires_grad for part in parts)
    bare = parts[1].bias is None and parts[2].bias is None and not module.fan_in_fan_out
    idle = not module.training or isinstance(module.lora_dropout[name], torch.nn.Identity)
    return name if plain and bare and idle and name not in module.lora_variant else None


def _worth_it(one: OneProduct) -> bool:
    import torch

    whole, first, second = one.matrices
    same = whole.dtype == first.dtype == second.dtype
    wide = whole.dtype in (torch.float32, torch.float64)
    return same and wide and whole.numel() <= LARGEST * (first.numel() + second.numel())


_MERGED: weakref.WeakKeyDictionary[Any, tuple[Any, torch.Tensor]] = weakref.WeakKeyDictionary()


def _merged(one: OneProduct, scale: float) -> torch.Tensor:
    """W + s B A, kept with the module for as long as none of the three is written to."""
    import torch

    parts = (one.module.base_layer, one.module.lora_A[one.adapter], one.module.lora_B[one.adapter])
    stamp = (scale, *((part.weight.data_ptr(), part.weight._version) for part in parts))
    found = _MERGED.get(one.module)
    if found is not None and found[0] == stamp:
        return found[1]
    whole, first, second = one.matrices
    merged = torch.addmm(whole, second, first, alpha=scale)
    _MERGED[one.module] = (stamp, merged)
    return merged
