"""Footprint: what a model takes, in memory and as checkpoints, and what was measured of it on a few rows."""

from __future__ import annotations

import dataclasses
import functools
import resource
import time
from dataclasses import dataclass
from typing import Any, Literal

from tamis.models import ModelRef, cached_model, folder_of, skeleton
from tamis.stages.workspace import Workspace
from tamis.views import PoolView

Work = Literal["none", "forward", "gradients", "training"]
PROBE_ROWS = 256
PROBE_SECONDS = 30.0  # a large model is measured on fewer rows
CHUNK = 32
# Activations kept for a backward pass, Korthikanti et al. 2022 (arXiv:2205.05198, table 2) without attention's part,
# which is not kept by the kernels of today: 34 bytes a token, layer and unit of width in half precision
ACTIVATION_BYTES = 34
ADAM_BYTES = 16  # of a trained parameter in float32: itself, its gradient and two moments
STATE_BYTES = 12  # of a trained parameter in the state from which a killed training goes on


@dataclass(frozen=True)
class Sizes:
    """A model in figures: parameters, bytes of one, width, layers, vocabulary, shapes of its linear layers by name."""

    parameters: int
    bytes_each: int
    width: int
    layers: int
    vocabulary: int
    linear: tuple[tuple[str, int, int], ...]

    @property
    def weights(self) -> int:
        """Bytes of the weights as they are run."""
        return self.parameters * self.bytes_each

    def activations(self, tokens: int) -> int:
        """Bytes kept for a backward pass over a batch of so many tokens, and of its logits."""
        kept = ACTIVATION_BYTES * self.bytes_each // 2 * self.width * self.layers
        return tokens * (kept + 8 * self.vocabulary)

    def trained(self, trainer: Any) -> int:
        """Parameters that a trainer trains: all, or those of an adapter of its `rank` and `targets`."""
        rank, targets = getattr(trainer, "rank", None), getattr(trainer, "targets", None)
        if rank is None:
            return self.parameters
        names = ("",) if isinstance(targets, str) or targets is None else tuple(targets)
        return sum(rank * (rows + width) for name, rows, width in self.linear if name.endswith(names))

    def checkpoints(self, trainer: Any) -> int:
        """Bytes that one training leaves: checkpoints, with Adam's moments where they are kept, and its state."""
        trained = self.trained(trainer)
        every = getattr(trainer, "keep", "last") == "every-epoch"
        kept = int(getattr(trainer, "epochs", None) or 1) if every else 1
        each = trained * 4 if getattr(trainer, "rank", None) is not None else self.weights
        return kept * (each + (8 * trained if every else 0)) + STATE_BYTES * trained


@functools.lru_cache(maxsize=8)
def sizes_of(model: ModelRef) -> Sizes:
    """Figures of a model from its configuration; no weight is read."""
    import torch

    made = skeleton(folder_of(model.name))
    config = made.config.get_text_config()
    head = made.get_output_embeddings()
    linear = tuple(
        (name, module.out_features, module.in_features)
        for name, module in made.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
    return Sizes(
        parameters=sum(value.numel() for value in made.parameters()),
        bytes_each=2 if "16" in str(model.dtype) else 4,
        width=int(config.hidden_size),
        layers=int(config.num_hidden_layers),
        vocabulary=int(config.vocab_size),
        linear=linear,
    )


@dataclass(frozen=True)
class Measured:
    """What was measured on `rows` rows: tokens a second of one worker, and bytes at the peak.

    `process`: this process with its libraries, before the model. `with_model`: with it and its batches, on the device
    that runs it.
    """

    rows: int
    speed: float
    process: int
    with_model: int

    def said(self, on: Any) -> str:
        """The figures as words."""
        where = f"{on.workers} workers" if on.device == "cpu" else f"{on.device}, {on.processes} in training"
        return f"{self.speed:,.0f} tokens a second forward and worker, {where}, measured on {self.rows} rows"


def probe(view: PoolView, work: Workspace) -> Measured:
    """Time the forward pass of the token pass over up to 256 rows, for 30 seconds at most, and look at the memory."""
    import torch

    from tamis.prediction.likelihood import response_nll
    from tamis.rendering import render_all

    usable = view.usable.nonzero()[0]
    places = [int(place) for place in usable[:: max(1, len(usable) // PROBE_ROWS)]][:PROBE_ROWS]
    rendered = render_all(view.pool.read(places), work.model)
    process = peak_bytes()
    cuda = work.machine.device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    on = dataclasses.replace(work.machine, workers=1)
    model = cached_model(work.model, on.device)
    response_nll(model, rendered[:4], on)  # the first call warms up
    started, done = time.perf_counter(), 0
    while done < len(rendered) and (not done or time.perf_counter() - started < PROBE_SECONDS):
        response_nll(model, rendered[done : done + CHUNK], on)
        done += CHUNK
    seconds = time.perf_counter() - started
    tokens = sum(len(one.ids) for one in rendered[:done])
    peak = int(torch.cuda.max_memory_allocated()) if cuda else peak_bytes()
    return Measured(min(done, len(rendered)), tokens / max(seconds, 1e-6), process, peak)


def peak_bytes() -> int:
    """Most resident memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory(kind: Work, lanes: int, measured: Measured, sizes: Sizes, on: Any, trained: int = 0) -> int:
    """Bytes at the peak of a stage: of the device where there is one, else of all processes together.

    `lanes`: workers that it can use at once. A stage without a model is this process as it was measured.
    """
    cuda = on.device.startswith("cuda")
    if kind == "none":
        return 0 if cuda else measured.process
    each = measured.with_model
    if kind != "forward":
        each += sizes.activations(on.tokens_per_batch)
    if kind == "training":
        each += ADAM_BYTES * trained
    return each if cuda else each * max(1, lanes) + (measured.process if lanes > 1 else 0)
