"""The training loop that all trainers share: exact accumulation, length-bucketed batches, resumable at every step.

Devices and processes come from Accelerate: under `accelerate launch` the micro batches of a step are dealt out to the
processes and the gradients added up, so the result is that of one process up to the order of sums.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import TrainError
from tamis.operations import deadline
from tamis.trainers.hearing import Around, Hearing, acting
from tamis.trainers.keeping import LOG, Progress, load_state, moments_of, save_checkpoint, save_state, trim_log
from tamis.trainers.objective import Batch, Examples, labels_of
from tamis.trainers.schedule import Optimisation, epoch_order, learning_rates
from tamis.training.checkpoints import Checkpoint

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.models import ModelRef
    from tamis.protocols import Hook
    from tamis.training import TrainingRows
    from tamis.values import Machine, Seeds

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run: `model` with its trainable parameters on its device, and where and how it is saved.

    `moments`: whether checkpoints carry Adam's moments. `kind` and `base` go into the facts of the checkpoints.
    """

    model: Any
    base: ModelRef
    kind: Literal["lora", "full"]
    examples: Examples
    optimisation: Optimisation
    seeds: Seeds
    hooks: Sequence[Hook]
    out: Path
    on: Machine
    accelerator: Any
    save: Callable[[Path], None]
    moments: bool
    identity: str
    parameters: Mapping[str, torch.nn.Parameter] = field(default_factory=dict)

    @property
    def device(self) -> Any:
        """Where the model lies."""
        return next(self.model.parameters()).device

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; the last may have fewer rows."""
        return math.ceil(len(self.examples) / self.optimisation.batch_rows)


def device_of(accelerator: Any, on: Machine) -> str:
    """`on.device`, or the device that Accelerate gave this process where it is one of several."""
    return str(accelerator.device) if accelerator.num_processes > 1 else on.device


def start(on: Machine) -> Any:
    """Accelerate's view of the processes. Mixed precision is ours: its state cannot be changed within a process."""
    from accelerate import Accelerator

    from tamis.engine import set_threads

    accelerator = Accelerator(mixed_precision="no")
    if on.device == "cpu":
        set_threads(on.threads)
    return accelerator


def fit(run: Run) -> list[Checkpoint]:
    """Train, going on from what a killed run left in `run.out`; the checkpoints kept, the last one final."""
    import numpy as np
    import torch

    settings = run.optimisation
    parameters = list(run.parameters.values())
    optimizer = torch.optim.AdamW(
        parameters, lr=0.0, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay
    )
    resume = run.out / "resume"
    hearing = Hearing(run.hooks, Around(model=run.model, kind=run.kind, base=run.base, on=run.on))
    hearing.check(run.accelerator.num_processes)
    progress = load_state(resume, run.identity, run.parameters, optimizer, hearing.records)
    rates = learning_rates(
        run.steps_per_epoch * settings.epochs, settings.learning_rate, settings.schedule, settings.warmup
    )
    main = run.accelerator.is_main_process
    if main:
        run.out.mkdir(parents=True, exist_ok=True)
        trim_log(run.out / LOG, progress.step)
    devices = [run.device] if run.device.type == "cuda" else []
    run.model.train()
    with torch.random.fork_rng(devices=devices):
        if progress.step == 0 and run.hooks:
            hearing.prepare(run.examples.batch(np.arange(len(run.examples))))
        for step in range(progress.step, len(rates)):
            _advance(run, optimizer, float(rates[step]), progress, hearing)
            ends = progress.step % run.steps_per_epoch == 0
            if ends:
                _end_epoch(run, optimizer, progress)
            due = ends or progress.step % settings.save_steps == 0
            if due:  # also where nothing is saved: a run that goes on from here has nothing to remember
                hearing.forget()
            if main and due and progress.step < len(rates):
                save_state(resume, progress, run.identity, run.parameters, optimizer, hearing.records)
            # several processes would have to agree; what hooks remember is emptied where states are due, and only there
            if run.accelerator.num_processes == 1 and progress.step < len(rates) and deadline.is_up():
                if not due and not run.hooks:
                    save_state(resume, progress, run.identity, run.parameters, optimizer, hearing.records)
                raise deadline.TimeUp(f"a training stands at step {progress.step:,} of {len(rates):,}")
    run.model.eval()
    run.accelerator.wait_for_everyone()
    if main:
        hearing.write(run.out)
        shutil.rmtree(resume, ignore_errors=True)
    return [Checkpoint(run.out / name) for name in _names(settings)]


def _names(settings: Optimisation) -> list[str]:
    if settings.keep == "last":
        return ["final"]
    return [f"epoch-{number + 1}" for number in range(settings.epochs)]


def _advance(run: Run, optimizer: Any, rate: float, progress: Progress, hearing: Hearing) -> None:
    """One optimiser step; adds to `progress`, writes a line of the log and calls the hooks."""
    import torch

    epoch, number = divmod(progress.step, run.steps_per_epoch)
    order = epoch_order(len(run.examples), run.seeds.order, epoch)
    size = run.optimisation.batch_rows
    whole = run.examples.batch(order[number * size : (number + 1) * size])
    batch = hearing.left(whole, progress.step, rate)
    weight, labels = batch.weight, batch.labels
    loss = _backward(run, batch, weight, progress.step, hearing)
    hearing.watch(progress.step, epoch)
    bound = run.optimisation.max_grad_norm
    norm = float(torch.nn.utils.clip_grad_norm_(run.parameters.values(), math.inf if bound is None else bound))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainError(
            f"step {progress.step + 1}: loss {loss:g}, gradient norm {norm:g}; expected finite numbers. Lower the "
            "learning rate, or look at the rows of this batch"
        )
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    progress.step += 1
    progress.loss += loss * weight
    progress.weight += weight
    progress.rate += rate
    progress.trained_tokens += labels
    progress.tokens += int(batch.lengths.sum())
    line: dict[str, Any] = {
        "step": progress.step,
        "epoch": epoch + 1,
        "loss": loss,
        "learning_rate": rate,
        "gradient_norm": norm,
    }
    line |= hearing.about(batch)
    if run.accelerator.is_main_process:
        with (run.out / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    for hook in run.hooks:
        hook.after_step(progress.step, line)


def _backward(run: Run, batch: Batch, weight: float, step: int, hearing: Hearing) -> float:
    """Put the gradient of the mean loss of a batch into `.grad`, over micro batches and processes; the loss.

    A micro batch for which there is no memory is halved, and the step taken from its beginning: what the failed one had
    added to the gradients goes. Halves depend on the batch and the memory alone, so that a resumed run makes the same.
    """
    import torch

    from tamis.batching import batches, free_memory, out_of_memory, too_long

    accelerator = run.accelerator
    parts: list[tuple[NDArray[np.int64], tuple[int, ...]]] = [
        (places, (number,))
        for number, places in enumerate(batches(batch.lengths, run.on.tokens_per_batch))
        if number % accelerator.num_processes == accelerator.process_index
    ]
    total, done = torch.zeros((), dtype=torch.float32, device=run.device), 0
    while done < len(parts):
        places, path = parts[done]
        torch.manual_seed(_dropout_seed(run.seeds, step, *path))
        try:
            total = total + _micro(run, batch.some(places), weight, step, hearing)
            done += 1
            continue
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(places) == 1:
                raise too_long(error) from error
        log.warning("no memory for %d rows of step %d at once: halved", len(places), step + 1)
        middle = len(places) // 2
        parts[done : done + 1] = [(places[:middle], (*path, 0)), (places[middle:], (*path, 1))]
        for parameter in run.parameters.values():
            parameter.grad = None
        hearing.seen.clear()
        free_memory()
        total, done = torch.zeros_like(total), 0
    if accelerator.num_processes > 1:
        _add_up(run, total)
    return float(total)


def _micro(run: Run, micro: Batch, weight: float, step: int, hearing: Hearing) -> torch.Tensor:
    """Add the gradient of one micro batch; its part of the loss."""
    import torch

    ids, weights = micro.padded(run.device)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.base.dtype == "bfloat16"):
        labels = labels_of(run.model, ids, weights)
        loss = (hearing.weighed(labels, micro, step) * weights[labels.row, labels.place]).sum() / weight
    loss.backward()
    hearing.note(labels, micro)
    return loss.detach()


def _dropout_seed(seeds: Seeds, step: int, *path: int) -> int:
    """Seed of the dropout of one micro batch, a function of its place alone: a resumed run draws what it would have.

    `path`: its number in the step, and for a half of one that found no memory which of the two.
    """
    import numpy as np

    return int(np.random.SeedSequence([seeds.order, step, *path]).generate_state(1, np.uint64)[0] >> 1)


def _add_up(run: Run, total: torch.Tensor) -> None:
    """Sum gradients and loss over the processes."""
    for parameter in run.parameters.values():
        gradient = parameter.grad if parameter.grad is not None else parameter.new_zeros(parameter.shape)
        parameter.grad = run.accelerator.reduce(gradient, reduction="sum")
    total.copy_(run.accelerator.reduce(total.clone(), reduction="sum"))


def _end_epoch(run: Run, optimizer: Any, progress: Progress) -> None:
    settings = run.optimisation
    epoch = progress.step // run.steps_per_epoch
    if run.accelerator.is_main_process and (settings.keep == "every-epoch" or epoch == settings.epochs):
        name = f"epoch-{epoch}" if settings.keep == "every-epoch" else "final"
        moments = moments_of(run.parameters, optimizer) if run.moments else None
        save_checkpoint(run.out / name, run.save, _facts(run, epoch, progress), moments)
    progress.new_epoch()


def _facts(run: Run, epoch: int, progress: Progress) -> dict[str, Any]:
    return {
        "kind": run.kind,
        "base": asdict(run.base),
        "epoch": epoch,
        "step": progress.step,
        "learning_rate": progress.rate / run.steps_per_epoch,
        "betas": list(run.optimisation.betas),
        "eps": run.optimisation.eps,
        "seeds": asdict(run.seeds),
        "loss": progress.loss / progress.weight,
        "rows": len(run.examples),
        "tokens": progress.tokens,
        "trained_tokens": progress.trained_tokens,
    }


def identity_of(trainer: Any, model: ModelRef, rows: TrainingRows, seeds: Seeds, hooks: Sequence[Hook] = ()) -> str:
    """Digest of what must be equal for a run to go on from a saved state; hooks that act on steps are components."""
    from tamis import digests

    heard = {"hooks": found} if (found := acting(hooks)) else {}
    return digests.of_component(trainer, {"model": model, "rows": rows, "seeds": asdict(seeds), **heard})
