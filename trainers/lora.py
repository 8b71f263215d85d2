"""LoRA fine-tuning (Hu et al. 2021) through PEFT, with the adapter of LESS (Xia et al. 2024) as default."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.errors import TrainError
from tamis.trainers.adapters import Targets, lora_config, save_adapter
from tamis.trainers.loop import Run, device_of, fit, identity_of, start
from tamis.trainers.objective import Examples
from tamis.trainers.schedule import Keep, Optimisation, Schedule
from tamis.training import Takes
from tamis.training.checkpoints import Checkpoint

if TYPE_CHECKING:
    from tamis.models import ModelRef
    from tamis.protocols import Hook
    from tamis.training import TrainingRows
    from tamis.values import Machine, Need, Seeds


@dataclass(frozen=True, kw_only=True)
class Lora:
    """LoRA fine-tuning on response tokens; keeps every epoch's adapter and Adam's moments if asked.

    Adapter: `rank`, `alpha` (the update is scaled by alpha / rank), `dropout`, `targets` (names of linear layers, or
    `all-linear`). AdamW with `learning_rate` at the end of the `warmup` share of the steps, then the `schedule`.
    `batch_rows` rows an optimiser step whatever fits on the device. The loss of a step is the mean over its trained
    tokens, weighted by row weight times token weight. `keep`: checkpoints `epoch-1`, … or `final` alone, with moments.
    `save_steps`: steps between states from which a killed run goes on, to the same bits.
    """

    revision: ClassVar[int] = 1
    takes: ClassVar[Takes] = "tokens"
    lets_hooks_choose: ClassVar[bool] = True

    rank: int = 128
    alpha: int = 512
    dropout: float = 0.1
    targets: Targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    epochs: int = 4
    learning_rate: float = 2e-4
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
        """Checkpoints in `out`, in order; errors: TrainError on settings, targets or a loss that is not finite."""
        optimisation = Optimisation(**{item.name: getattr(self, item.name) for item in fields(Optimisation)})
        optimisation.check()
        if model.adapter is not None:
            raise TrainError(f"{model.label} has an adapter already: train LoRA from a model without one")
        examples = Examples.of(rows)
        accelerator = start(on)
        device = device_of(accelerator, on)
        base = model.resolved(device)
        peft = self._wrap(base, seeds.adapter).to(device)
        run = Run(
            model=peft,
            base=base,
            kind="lora",
            examples=examples,
            optimisation=optimisation,
            seeds=seeds,
            hooks=hooks,
            out=out,
            on=on,
            accelerator=accelerator,
            save=lambda folder: save_adapter(peft, base.name, folder),
            moments=True,
            identity=identity_of(self, base, rows, seeds, hooks),
            parameters={name: value for name, value in peft.named_parameters() if value.requires_grad},
        )
        return fit(run)

    def _wrap(self, base: ModelRef, seed: int) -> Any:
        """Wrap the model with a fresh float32 adapter, drawn on the CPU so that it is the same for every device."""
        import torch
        from peft import get_peft_model

        from tamis.models import open_model

        config = lora_config(self.rank, self.alpha, self.dropout, self.targets)
        opened = open_model(base, "cpu")
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            torch.manual_seed(seed)
            try:
                peft = get_peft_model(opened, config, autocast_adapter_dtype=False)
            except ValueError as error:
                raise TrainError(f"LoRA targets {self.targets} do not fit {base.label}: {error}") from error
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return peft
