"""What the two trainers of TRL share: arguments, checkpoints of our own form, and seeds that do not leak out."""

from __future__ import annotations

import importlib.util
import math
import random
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.errors import TrainError
from tamis.training.checkpoints import Checkpoint

if TYPE_CHECKING:
    from tamis.models import ModelRef
    from tamis.protocols import Hook
    from tamis.training import TrainingPairs, TrainingRows
    from tamis.values import Machine, Seeds


def require_trl(name: str) -> None:
    """Raise TrainError with the line that installs TRL where it is missing."""
    if importlib.util.find_spec("trl") is None:
        raise TrainError(f"{name} needs TRL, which is not installed: pip install 'tamis[trl]'")


@contextmanager
def contained() -> Iterator[None]:
    """Put back every random state on leaving, and keep out bars and warnings that no user can do anything about."""
    import datasets
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        for name in ("is_gradient_checkpointing", "gradient_checkpointing"):
            warnings.filterwarnings("ignore", message=f"`{name}` is deprecated", category=FutureWarning)
        bars = datasets.is_progress_bar_enabled()
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            if bars:
                datasets.enable_progress_bars()
            random.setstate(states[0])
            np.random.set_state(states[1])


def check_weights(name: str, rows: TrainingRows | TrainingPairs) -> None:
    """Refuse weights, but masks of tokens: TRL's losses have none, and to leave them out would train something else.

    Row weights that are all the same, and token weights of 0 and one other value, say nothing more than a mask does.
    """
    import numpy as np

    weights = rows.row_weights
    tokens = getattr(rows, "token_weights", None)
    levels = 0 if tokens is None else len(np.unique(tokens[tokens > 0]))
    if levels > 1 or (weights is not None and (weights != weights[:1]).any()):
        raise TrainError(
            f"{name} cannot weigh rows or tokens, though it masks tokens: train with lora or full, or select without "
            "weights"
        )


def micro_rows(batch_rows: int, longest: int, on: Machine) -> int:
    """Rows of a micro batch: a divisor of `batch_rows` whose padded tokens stay within the machine's bound."""
    fits = max(1, on.tokens_per_batch // max(1, longest))
    return max(size for size in range(1, batch_rows + 1) if batch_rows % size == 0 and size <= fits)


def arguments(trainer: Any, base: ModelRef, longest: int, seeds: Seeds, out: Path, on: Machine) -> dict[str, Any]:
    """TrainingArguments of a trainer's settings: nothing is saved, reported or evaluated by TRL itself."""
    if trainer.batch_rows < 1 or trainer.epochs < 1:
        raise TrainError(f"batch_rows {trainer.batch_rows} and epochs {trainer.epochs}: expected at least 1 of each")
    size = micro_rows(trainer.batch_rows, longest, on)
    return {
        "output_dir": str(out / "trl"),
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": trainer.batch_rows // size,
        "num_train_epochs": trainer.epochs,
        "learning_rate": trainer.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if trainer.schedule == "constant" else trainer.schedule,
        "warmup_steps": min(trainer.warmup, 1 - 1e-9),  # below 1: a share of the steps
        "weight_decay": trainer.weight_decay,
        "adam_beta1": trainer.betas[0],
        "adam_beta2": trainer.betas[1],
        "adam_epsilon": trainer.eps,
        "max_grad_norm": math.inf if trainer.max_grad_norm is None else trainer.max_grad_norm,
        "optim": "adamw_torch",
        "seed": seeds.adapter,
        "data_seed": seeds.order,
        "bf16": base.dtype == "bfloat16",
        "fp16": False,
        "gradient_checkpointing": False,
        "use_cpu": on.device == "cpu",
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": on.device != "cpu",
        "max_length": None,  # rows are cut already, as the model's max_tokens says
    }


@dataclass(frozen=True, kw_only=True)
class Keeper:
    """Writes checkpoints at the ends of epochs, as every trainer of tamis does, and tells the hooks of every step."""

    trainer: Any  # the component, with its settings
    base: ModelRef
    seeds: Seeds
    rows: TrainingRows | TrainingPairs
    hooks: Sequence[Hook]
    out: Path
    kept: list[Checkpoint] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def callback(self) -> Any:
        """The same as a callback of Hugging Face's Trainer."""
        from transformers import TrainerCallback

        keeper = self

        class Callback(TrainerCallback):
            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                keeper.rates.append(float(given["optimizer"].param_groups[0]["lr"]))

            def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                if "loss" in given["logs"]:
                    keeper.note(state.global_step, given["logs"])

            def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                keeper.end_epoch(round(state.epoch), state.global_step, given["model"], given["optimizer"])

        return Callback()

    def note(self, step: int, logs: Mapping[str, Any]) -> None:
        """Take down the loss of a step and tell the hooks; one that is not finite ends the training."""
        loss, norm = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainError(f"step {step}: loss {loss:g}, gradient norm {norm:g}: lower the learning rate")
        self.losses.append(loss)
        log = {"loss": loss, "learning_rate": self.rates[-1], "epoch": logs.get("epoch"), "gradient_norm": norm}
        for hook in self.hooks:
            hook.after_step(step, log)

    def end_epoch(self, epoch: int, step: int, model: Any, optimizer: Any) -> None:
        """Write a checkpoint with Adam's moments if one is due."""
        from tamis.trainers.adapters import save_adapter
        from tamis.trainers.keeping import moments_of, save_checkpoint

        every = self.trainer.keep == "every-epoch"
        if every or epoch == self.trainer.epochs:
            parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
            self.kept.append(
                save_checkpoint(
                    self.out / (f"epoch-{epoch}" if every else "final"),
                    lambda folder: save_adapter(model, self.base.name, folder),
                    self._facts(epoch, step),
                    moments_of(parameters, optimizer),
                )
            )
        self.rates.clear()
        self.losses.clear()

    def _facts(self, epoch: int, step: int) -> dict[str, Any]:
        return {
            "kind": "lora",
            "base": asdict(self.base),
            "epoch": epoch,
            "step": step,
            "learning_rate": sum(self.rates) / len(self.rates),
            "betas": list(self.trainer.betas),
            "eps": self.trainer.eps,
            "seeds": asdict(self.seeds),
            "loss": sum(self.losses) / len(self.losses),
            "rows": len(self.rows),
            "tokens": self.rows.tokens,
            "trained_tokens": self.rows.trained_tokens,
        }


def fit(made: Any, keeper: Keeper) -> list[Checkpoint]:
    """Train to the end; the checkpoints kept. Nothing of TRL's own is left in the folder."""
    from transformers import PrinterCallback

    made.remove_callback(PrinterCallback)
    made.add_callback(keeper.callback())
    made.train()
    shutil.rmtree(keeper.out / "trl", ignore_errors=True)
    return keeper.kept
