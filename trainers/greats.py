"""In-batch selection by gradients: GREATS (Wang et al., NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.errors import DataError, RecipeError
from tamis.pool import Pool

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.training import Candidates
    from tamis.values import Need

Example = tuple["NDArray[np.int32]", "NDArray[np.bool_]"]
VECTORS, MADE, ROWS = "vectors", "made", "rows"


@dataclass(frozen=True, kw_only=True)
class Greats:
    """Keeps the rows of every batch that help the target most and repeat each other least (GREATS).

    Greedily, row i adds η <g_i, g_target> - η² Σ <g_i, g_j> over the rows j kept so far, g the gradient of a row's mean
    loss per label, without dropout, η the learning rate of the step: what one step of gradient descent on the kept rows
    takes off the target's loss, with the identity for its Hessian. `keep`: share of a batch (`50%`, or 0.5), at least
    one row. `rows` of the `target`, drawn by `seed`, make g_target, anew every `every` steps and wherever a killed run
    may go on. Gradients are those of the LoRA matrices, or of all linear layers but the head.

    Costs a forward and backward pass over the batch and, every `every` steps, over `rows`. A batch within the machine's
    `tokens_per_batch` is done layer by layer; a larger one holds the gradients of its rows.
    """

    revision: ClassVar[int] = 1

    target: Pool
    keep: float | str = "50%"
    every: int = 1
    rows: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {value}: expected at least 1"
            for name, value in (("every", self.every), ("rows", self.rows))
            if value < 1
        ]
        try:
            self.share  # noqa: B018 - looked at for its errors
        except RecipeError as error:
            faults += error.faults
        if faults:
            raise RecipeError(faults)

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    @property
    def share(self) -> float:
        """Share of a batch that is kept, in (0, 1]. Raises RecipeError for what is none."""
        text = str(self.keep).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise RecipeError(f"keep {self.keep!r} is no share of a batch: write 50%, or 0.5")
        return share

    def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
        """Nothing: the choice is made before the step."""

    def choose(self, candidates: Candidates, /) -> NDArray[np.int64]:
        """Places of the kept rows. A row whose gradient is not finite comes last. Errors: DataError on a bad target."""
        import numpy as np

        with _frozen(candidates) as layers:
            vectors = self._target(candidates, layers)
            dots, gram = _products(candidates, layers, vectors)
        keep = max(1, round(self.share * len(candidates)))
        return np.sort(greedy(dots, gram, candidates.learning_rate, keep))

    def _target(self, candidates: Candidates, layers: Mapping[str, torch.nn.Linear]) -> dict[str, torch.Tensor]:
        """g_target by layer, (p,), from the memory of the run or made now."""
        memory = candidates.memory
        if VECTORS not in memory or candidates.step - memory[MADE] >= self.every:
            if ROWS not in memory:
                memory[ROWS] = _usable(self.target, candidates)
            memory[MADE], memory[VECTORS] = candidates.step, _mean(candidates, layers, self._draw(candidates))
        vectors: dict[str, torch.Tensor] = memory[VECTORS]
        return vectors

    def _draw(self, candidates: Candidates) -> list[Example]:
        """Draw the target rows of a step, by seed and step."""
        import numpy as np

        usable = candidates.memory[ROWS]
        draw = np.random.Generator(np.random.Philox(key=np.array([self.seed, candidates.step], np.uint64)))
        return [usable[place] for place in np.sort(draw.permutation(len(usable))[: self.rows])]


def greedy(dots: NDArray[np.float64], gram: NDArray[np.float64], rate: float, keep: int) -> NDArray[np.int64]:
    """Return (keep,) places in the order picked; ties go to the lower place.

    `dots` (n,): <g_i, g_target>; `gram` (n, n): <g_i, g_j>; a NaN in either puts its row last.

    >>> import numpy as np
    >>> gram = np.array([[9.0, 9.0, 0.0], [9.0, 9.0, 0.0], [0.0, 0.0, 1.0]])
    >>> greedy(np.array([3.0, 2.9, 1.0]), gram, 0.5, 2).tolist()
    [0, 2]
    """
    import numpy as np

    bad = ~(np.isfinite(dots) & np.isfinite(np.diagonal(gram)))
    gains = np.where(bad, -np.inf, rate * np.where(bad, 0, dots))
    inner = np.where(bad[:, None] | bad[None, :], 0, gram)
    left = np.ones(len(dots), bool)
    picked = []
    for _ in range(keep):
        places = np.flatnonzero(left)
        best = int(places[np.argmax(gains[places])])
        picked.append(best)
        left[best] = False
        gains -= rate**2 * inner[best]
    return np.array(picked, np.int64)


def _usable(target: Pool, candidates: Candidates) -> list[Example]:
    """The target's rows that have a label."""
    from tamis.rendering import render_all

    rendered = render_all(list(target), candidates.base)
    usable = [(one.ids, one.turn >= 0) for one in rendered if int(one.reason) == 0]
    if not usable:
        raise DataError(f"none of the {len(rendered)} target rows has an answer within max_tokens")
    return usable


@contextmanager
def _frozen(candidates: Candidates) -> Iterator[dict[str, torch.nn.Linear]]:
    """The layers whose gradients count, the model without dropout and with no parameter trainable; put back after."""
    import torch

    from tamis.gradient.per_example import linear_layers, lora_layers

    model = candidates.model
    trained = [value for value in model.parameters() if value.requires_grad]
    modes = [(module, module.training) for module in model.modules()]
    layers = lora_layers(model) if candidates.kind == "lora" else linear_layers(model)
    model.eval().requires_grad_(False)
    half = candidates.base.dtype == "bfloat16"
    try:
        with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=half):
            yield layers
    finally:
        for value in trained:
            value.requires_grad_(True)
        for module, mode in modes:
            module.training = mode


def _sweep(
    candidates: Candidates,
    layers: Mapping[str, torch.nn.Linear],
    examples: Sequence[Example],
    take: Callable[[NDArray[np.int64], str, torch.Tensor], None],
) -> None:
    """`take(places, layer, gradients (b, p))` over length-bucketed batches, float32 or wider."""
    import numpy as np
    import torch

    from tamis.batching import batches
    from tamis.gradient.per_example import pad, per_example

    device = next(candidates.model.parameters()).device
    lengths = np.array([len(ids) for ids, _ in examples], np.int64)
    for places in batches(lengths, candidates.on.tokens_per_batch):
        given = pad([examples[place] for place in places], device)

        def consume(name: str, gradient: torch.Tensor, places: NDArray[np.int64] = places) -> None:
            flat = gradient.detach().flatten(1)
            take(places, name, flat if flat.dtype == torch.float64 else flat.float())

        per_example(candidates.model, layers, *given, consume)


def _mean(
    candidates: Candidates, layers: Mapping[str, torch.nn.Linear], examples: Sequence[Example]
) -> dict[str, torch.Tensor]:
    """Mean gradient of some rows, (p,) by layer."""
    found: dict[str, torch.Tensor] = {}

    def take(places: NDArray[np.int64], name: str, gradients: torch.Tensor) -> None:
        part = gradients.sum(0) / len(examples)
        found[name] = found[name] + part if name in found else part

    _sweep(candidates, layers, examples, take)
    return found


def _products(
    candidates: Candidates, layers: Mapping[str, torch.nn.Linear], vectors: Mapping[str, torch.Tensor]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """<g_i, g_target> (n,) and <g_i, g_j> (n, n) of the candidates, summed over layers in float64."""
    import numpy as np

    count = len(candidates)
    dots, gram = np.zeros(count), np.zeros((count, count))
    seen: dict[str, list[tuple[NDArray[np.int64], torch.Tensor]]] = {}

    def take(places: NDArray[np.int64], name: str, gradients: torch.Tensor) -> None:
        dots[places] += (gradients @ vectors[name].to(gradients.dtype)).double().cpu().numpy()
        earlier = seen.setdefault(name, [])
        for others, there in [*earlier, (places, gradients)]:
            block = (gradients @ there.T).double().cpu().numpy()
            gram[np.ix_(places, others)] += block
            if others is not places:
                gram[np.ix_(others, places)] += block.T
        if len(places) < count:  # another batch of this step has yet to meet them
            earlier.append((places, gradients))

    _sweep(candidates, layers, candidates.examples, take)
    return dots, gram
