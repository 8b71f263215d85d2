"""Full fine-tuning: every parameter of the model is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.trainers.loop import Run, device_of, fit, identity_of, start
from tamis.trainers.objective import Examples
from tamis.trainers.schedule import Keep, Optimisation, Schedule
from tamis.training import Takes
from tamis.training.checkpoints import Checkpoint
from tamis.training.foreign import copy_tokenizer

if TYPE_CHECKING:
    from tamis.models import ModelRef
    from tamis.protocols import Hook
    from tamis.training import TrainingRows
    from tamis.values import Machine, Need, Seeds


@dataclass(frozen=True, kw_only=True)
class Full:
    """Full fine-tuning of all parameters on response tokens.

    AdamW with `learning_rate` at the end of the `warmup` share of the steps, then the `schedule`. `batch_rows` rows an
    optimiser step whatever fits on the device. The loss of a step is the mean over its trained tokens, weighted by row
    weight times token weight. Master weights are float32. `keep`: checkpoints `epoch-1`, … with Adam's moments, or
    `final` alone without. `save_steps`: steps between states from which a killed run goes on, to the same bits.
    """

    revision: ClassVar[int] = 1
    takes: ClassVar[Takes] = "tokens"
    lets_hooks_choose: ClassVar[bool] = True

    epochs: int = 4
    learning_rate: float = 2e-5
    schedule: Schedule = "linear"
    warmup: float = 0.03
    batch_rows: int = 32
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float | None = 1.0
    keep: Keep = "last"
    save_steps: int = 50

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def train(
        self, model: ModelRef, rows: TrainingRows, seeds: Seeds, hooks: Sequence[Hook], out: Path, on: Machine, /
    ) -> Sequence[Checkpoint]:
        """Checkpoints in `out`, in order; errors: TrainError on settings or a loss that is not finite."""
        from tamis.models import open_model

        optimisation = Optimisation(**{item.name: getattr(self, item.name) for item in fields(Optimisation)})
        optimisation.check()
        examples = Examples.of(rows)
        accelerator = start(on)
        device = device_of(accelerator, on)
        base = model.resolved(device)
        opened: Any = open_model(dataclasses.replace(base, dtype="float32"), device)
        if model.adapter is not None:
            opened = opened.merge_and_unload()
        opened.requires_grad_(True)
        run = Run(
            model=opened,
            base=dataclasses.replace(base, adapter=None),
            kind="full",
            examples=examples,
            optimisation=optimisation,
            seeds=seeds,
            hooks=hooks,
            out=out,
            on=on,
            accelerator=accelerator,
            save=lambda folder: _save_model(opened, base, folder),
            moments=self.keep == "every-epoch",
            identity=identity_of(self, base, rows, seeds, hooks),
            parameters=dict(opened.named_parameters()),
        )
        return fit(run)


def _save_model(model: Any, base: ModelRef, folder: Path) -> None:
    """Weights in the dtype in which the model is run, and the tokenizer's files, so that the folder is a model."""
    import torch

    dtype = getattr(torch, base.dtype)
    weights = {name: value.detach().to(dtype) for name, value in model.state_dict().items()}
    model.config.use_cache = True
    try:
        model.save_pretrained(str(folder), state_dict=weights)
    finally:
        model.config.use_cache = False
    copy_tokenizer(base, folder)
