"""Where gradients come from: the checkpoints of a warm-up, the layers that count, and the loss; shared by passes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import DataError, TrainError
from tamis.gradient.formula import PROFILES, Formula, Profile
from tamis.gradient.layers import ALL, check_layers, choose_layers
from tamis.gradient.objective import SFT, Objective, Opened
from tamis.models import ModelRef
from tamis.training.checkpoints import MOMENTS, Checkpoint

if TYPE_CHECKING:
    from tamis.gradient.directions import Direction

Use = Literal["all", "last"]
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GradientSource:
    """What gradients are taken of, and by which formula. Light: models are opened by `open` alone.

    `asked`: the formula as the settings give it; `needs_moments`: the settings insist on the optimiser's moments.
    Errors: RecipeError on layers that mean nothing.
    """

    checkpoints: tuple[Checkpoint, ...]
    asked: Formula
    needs_moments: bool = False
    objective: Objective = SFT
    layers: str = ALL
    use: Use = "all"

    def __post_init__(self) -> None:
        check_layers(self.layers)

    @property
    def used(self) -> tuple[Checkpoint, ...]:
        """The checkpoints that count: all, or the last one."""
        return self.checkpoints[-1:] if self.use == "last" else self.checkpoints

    @property
    def bare(self) -> bool:
        """Whether some checkpoint holds no moments, so that gradients are taken as they are."""
        return self.asked.reads_moments and any(not (one.path / MOMENTS).is_file() for one in self.used)

    @property
    def formula(self) -> Formula:
        """The formula carried out: with raw gradients where the checkpoints hold no moments.

        Raises TrainError where the settings insist on moments.
        """
        if not self.bare:
            return self.asked
        if self.needs_moments:
            raise TrainError(
                f"{self.used[-1].path} holds no {MOMENTS}: train with `keep: every-epoch`, load checkpoints with their "
                "optimiser's state, or use raw gradients (`moments: raw`)"
            )
        return self.asked.but(moments="raw")

    @property
    def weights(self) -> list[float]:
        """Weight of every checkpoint used: the mean learning rate of its epoch, scaled to sum to 1 where shared."""
        if self.asked.weights == "share" and len(self.used) == 1:
            return [1.0]  # whatever its rate, which an outside trainer may not have told
        rates = [checkpoint.learning_rate for checkpoint in self.used]
        whole = sum(rates) if self.asked.weights == "share" else 1.0
        return [rate / whole for rate in rates]

    def base(self) -> ModelRef:
        """Return the model that all checkpoints were trained from."""
        if not self.checkpoints:
            raise DataError("influence needs at least one checkpoint: name a warm-up that keeps every epoch")
        bases = [ModelRef(**checkpoint.facts["base"]) for checkpoint in self.checkpoints]
        if any(base != bases[0] for base in bases):
            raise DataError("the checkpoints were not all trained from one model; influence cannot add them up")
        return bases[0]

    def open(self, number: int, device: str) -> Opened:
        """Open the model of the checkpoint `number` of those used."""
        return open_checkpoint(self.used[number], device, self.layers)

    def direction(self, number: int, opened: Opened) -> Direction:
        """Γ of that checkpoint."""
        from tamis.gradient.directions import Direction

        return Direction(self.formula, self.used[number], opened.device, opened.layers)

    def notes(self) -> list[str]:
        """What a reader of the scores must know: a fallback, and every approximation."""
        notes = []
        if self.bare and not self.needs_moments:
            notes.append("checkpoints hold no optimiser moments: gradients are raw, not preconditioned by Adam")
        if self.layers != ALL:
            notes.append(f"approximation: only layers {self.layers!r} count")
        if self.use == "last" and len(self.checkpoints) > 1 and self.asked.curvature == "none":
            notes.append(f"approximation: only the last of {len(self.checkpoints)} checkpoints counts")
        return notes


class Models:
    """Models of the checkpoints used, each opened when first asked for and kept: `models(number)`."""

    def __init__(self, source: GradientSource, device: str) -> None:
        self.source, self.device = source, device
        self._kept: dict[int, tuple[Opened, Direction]] = {}

    def __call__(self, number: int) -> tuple[Opened, Direction]:
        """The model of the checkpoint `number` of those used, and Γ on it."""
        if number not in self._kept:
            opened = self.source.open(number, self.device)
            self._kept[number] = (opened, self.source.direction(number, opened))
        return self._kept[number]


def open_checkpoint(checkpoint: Checkpoint, device: str, layers: str = ALL) -> Opened:
    """Open the model of a checkpoint, frozen: its LoRA matrices, or all linear layers of a full model but the head.

    `layers`: those of them that count, as `tamis.gradient.layers.choose_layers` takes it.
    """
    import warnings

    from tamis.gradient.per_example import linear_layers, lora_layers
    from tamis.models import open_model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        model: Any = open_model(checkpoint.model(), device)
    model.requires_grad_(False)
    found = lora_layers(model) if checkpoint.kind == "lora" else linear_layers(model)
    return Opened(model, choose_layers(found, layers), device)


def source_of(component: Any) -> GradientSource:
    """Read the source of a pass from its settings.

    Fields that every pass over gradients has: checkpoints, profile, moments, eps_mode, bias_correction, momentum,
    layers, use, loss, beta; and, where it compares with a target, similarity and subtask_agg. None leaves the choice
    to the profile: of checkpoints, `datainf` uses the last, every other all.
    """
    profile: Profile = component.profile
    names = ("moments", "eps_mode", "bias_correction", "momentum", "similarity", "subtask_agg")
    formula = PROFILES[profile].but(**{name: getattr(component, name, None) for name in names})
    return GradientSource(
        checkpoints=component.checkpoints,
        asked=formula,
        needs_moments=component.moments is not None or profile == "less-official",
        objective=Objective(component.loss, component.beta),
        layers=component.layers,
        use=component.use or ("last" if formula.curvature == "datainf" else "all"),
    )
