"""The loss whose gradients count, and rows made into what it is computed on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tamis.values import Reason

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.models import ModelRef
    from tamis.values import Row

Loss = Literal["sft", "dpo"]
Tokens = tuple["NDArray[np.int32]", "NDArray[np.bool_]"]
Example = Tokens | tuple[Tokens, Tokens]  # a row, or the chosen and the rejected side of a pair


@dataclass(frozen=True)
class Opened:
    """A checkpoint's model, frozen, with the layers whose gradients count, by the name of their weight."""

    model: Any
    layers: Mapping[str, torch.nn.Linear]
    device: str

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """(out, in) of every layer."""
        return {name: tuple(layer.weight.shape) for name, layer in self.layers.items()}

    @property
    def parameters(self) -> int:
        """Length of one gradient: weights of all these layers."""
        return sum(layer.weight.numel() for layer in self.layers.values())


@dataclass(frozen=True)
class Objective:
    """The loss whose gradient counts: of answers (mean per token), or of preferences (DPO, at the reference).

    Examples are (ids, labels) for `sft`, and the two sides ((ids, labels), (ids, labels)) of a pair for `dpo`.
    """

    loss: Loss = "sft"
    beta: float = 0.1

    def length(self, example: Any) -> int:
        """Tokens that an example takes up in a batch."""
        return len(example[0]) if self.loss == "sft" else 2 * max(len(side[0]) for side in example)

    def examples(self, rows: Sequence[Row], ref: ModelRef) -> tuple[list[Example], NDArray[np.uint8]]:
        """(ids, labels) of every row, of both sides where the loss is DPO's, and the reason why a row has no label."""
        import numpy as np

        from tamis.rendering import render_all

        def tokens(side: Literal["chosen", "rejected"]) -> tuple[list[Tokens], NDArray[np.uint8]]:
            rendered = render_all(rows, ref, side=side)
            reasons = np.array([int(one.reason) for one in rendered], np.uint8)
            return [(one.ids, one.turn >= 0) for one in rendered], reasons

        chosen, reason = tokens("chosen")
        if self.loss == "sft":
            return list(chosen), reason
        rejected, other = tokens("rejected")
        reason = np.where(reason > 0, reason, other)
        reason[[row.kind != "pair" for row in rows]] = Reason.WRONG_KIND
        return list(zip(chosen, rejected, strict=True)), reason

    def gradients(
        self, opened: Opened, examples: Sequence[Any], consume: Callable[[str, torch.Tensor], None]
    ) -> torch.Tensor:
        """(b,) losses; `consume(name, gradient)` gets (b, out, in) of every layer."""
        from tamis.gradient.per_example import formed

        return self.factors(opened, examples, formed(consume))

    def factors(
        self, opened: Opened, examples: Sequence[Any], hand: Callable[[str, torch.Tensor, torch.Tensor], None]
    ) -> torch.Tensor:
        """(b,) losses; `hand(name, delta, seen)` gets (b, t, out) and (b, t, in) of every layer, see `tapped`."""
        from tamis.gradient.per_example import example_factors, pad, pair_factors

        if self.loss == "sft":
            return example_factors(opened.model, opened.layers, *pad(list(examples), opened.device), hand)
        sides = [pair[side] for side in (0, 1) for pair in examples]
        return pair_factors(opened.model, opened.layers, *pad(sides, opened.device), self.beta, hand)


SFT = Objective()
