"""Checkpoint: what a trainer left, in safetensors and JSON."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import TrainError
from tamis.models import ModelRef, content_digest

if TYPE_CHECKING:
    import torch

FACTS = "tamis_checkpoint.json"
MOMENTS = "moments.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A folder: adapter or full model as PEFT/transformers save it, `moments.safetensors` and `tamis_checkpoint.json`.

    `moments.safetensors` holds Adam's state by parameter name: `exp_avg.<name>` and `exp_avg_sq.<name>` (float32).
    The facts: `kind` (lora | full), `base` (fields of the ModelRef it was trained from), `step` (optimiser steps done),
    `epoch`, `learning_rate` (mean over the steps of the epoch that it ends: η̄ of LESS), `betas`, `eps`, `seeds`,
    `loss` (mean training loss per token of that epoch).
    """

    path: Path

    @functools.cached_property
    def facts(self) -> Mapping[str, Any]:
        """What `tamis_checkpoint.json` says."""
        try:
            facts: dict[str, Any] = json.loads((self.path / FACTS).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrainError(f"{self.path} is not a checkpoint of tamis: {FACTS} cannot be read ({error})") from error
        return facts

    @property
    def kind(self) -> Literal["lora", "full"]:
        """Adapter or whole model."""
        return "lora" if self.facts["kind"] == "lora" else "full"

    @property
    def learning_rate(self) -> float:
        """Mean learning rate of the epoch that this checkpoint ends; TrainError where an outside trainer told none."""
        rate = self.facts["learning_rate"]
        if rate is None:
            raise TrainError(f"{self.path} does not say its learning rate: set `learning_rate` of the trainer")
        return float(rate)

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.facts["step"])

    @functools.cached_property
    def digest(self) -> str:
        """Digest of weights, moments and facts."""
        return content_digest(self.path)

    def model(self) -> ModelRef:
        """The trained model, run as the base was run."""
        base = ModelRef(**self.facts["base"])
        if self.kind == "lora":
            return dataclasses.replace(base, adapter=str(self.path))
        return dataclasses.replace(base, name=str(self.path))

    def moments(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Adam's (exp_avg, exp_avg_sq), float32, by the parameter name of the unwrapped model."""
        from safetensors.torch import load_file

        file = self.path / MOMENTS
        if not file.is_file():
            raise TrainError(f"{self.path} holds no {MOMENTS}: train with `keep: every-epoch`, or use raw gradients")
        tensors = load_file(str(file))
        names = [name.removeprefix("exp_avg.") for name in tensors if name.startswith("exp_avg.")]
        return {name: (tensors[f"exp_avg.{name}"], tensors[f"exp_avg_sq.{name}"]) for name in names}
