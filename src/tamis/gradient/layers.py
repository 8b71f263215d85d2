"""Choice of the layers whose gradients count: all, the last blocks, or those whose weights have a name like this."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tamis.errors import ModelError, RecipeError

if TYPE_CHECKING:
    import torch

ALL = "all"
_LAST = re.compile(r"last (\d+(?:\.\d+)?) ?%")
_BLOCK = re.compile(r"\.(\d+)\.")  # the first number of a name is the block: model.layers.3.mlp.experts.5.w1.weight


def check_layers(layers: str) -> None:
    """Raise RecipeError where `layers` is neither `all` nor `last N%` (0 < N <= 100) nor a regular expression."""
    share = _LAST.fullmatch(layers)
    if share is not None and not 0 < float(share[1]) <= 100:
        raise RecipeError(f"layers {layers!r}: the share must lie in (0 %, 100 %]")
    if layers.startswith("last ") and share is None:
        raise RecipeError(f"layers {layers!r} is not understood: write 'last 25%'")
    try:
        re.compile(layers)
    except re.error as error:
        raise RecipeError(
            f"layers {layers!r} is neither `all` nor 'last 25%' nor a regular expression ({error})"
        ) from error


def choose_layers(found: Mapping[str, torch.nn.Linear], layers: str) -> dict[str, torch.nn.Linear]:
    """Return those of `found` (by name of their weight) that `layers` means, in their order.

    `all`; `last 25%`: the last quarter, rounded up, of the blocks that hold such weights; otherwise a regular
    expression that is searched in the names. ModelError where none is left.
    """
    if layers == ALL:
        return dict(found)
    share = _LAST.fullmatch(layers)
    if share is None:
        chosen = {name: layer for name, layer in found.items() if re.search(layers, name)}
    else:
        blocks = {name: int(match[1]) for name in found if (match := _BLOCK.search(name))}
        numbers = sorted(set(blocks.values()))
        last = set(numbers[len(numbers) - math.ceil(len(numbers) * float(share[1]) / 100) :])
        chosen = {name: found[name] for name, number in blocks.items() if number in last}
    if not chosen:
        raise ModelError(f"layers {layers!r} fits none of the {len(found)} weights, such as {next(iter(found))}")
    return chosen
