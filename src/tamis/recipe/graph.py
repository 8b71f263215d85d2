"""The graph of a recipe: stages as values, what they refer to, and the recipe that holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tamis.cleaning.steps import Step
from tamis.errors import RecipeError
from tamis.models import ModelRef
from tamis.pins import Refit

VERBS = ("train", "load", "pass", "score", "select", "compare", "evaluate", "export")
# Settings of a stage that belong to the stage, not to its component.
STAGE_SETTINGS: dict[str, tuple[str, ...]] = {
    "train": ("train", "on", "seed", "hooks"),
    "load": ("load", "learning_rates", "moments"),
    "pass": ("pass", "target", "existing", "checkpoints", "from", "only"),
    "score": ("score", "from"),
    "select": ("select", "from", "budget", "where", "mix", "weigh"),
    "compare": (
        *("compare", "with", "evaluate", "runs", "train", "hooks", "learning_rates", "full", "metric", "composition"),
        *("draws", "contamination"),
    ),
    "evaluate": ("evaluate", "model", "on"),
    "export": ("export", "subset", "to"),
}


@dataclass(frozen=True)
class Stage:
    """One named stage: its verb, its settings as written, and the stages that it refers to."""

    name: str
    verb: str
    settings: Mapping[str, Any]
    references: tuple[str, ...]

    @property
    def component(self) -> str:
        """Name of the component that does the work (`lora`, `less`, …), or of what is compared."""
        value = self.settings[self.verb]
        return str(value) if not isinstance(value, (list, dict)) else ", ".join(map(str, value))

    @property
    def own(self) -> dict[str, Any]:
        """The settings that belong to the component."""
        return {key: value for key, value in self.settings.items() if key not in STAGE_SETTINGS[self.verb]}


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `stages` are in an order in which every stage comes after those that it refers to."""

    name: str
    path: Path
    model: ModelRef
    pool: Mapping[str, Any]
    target: Mapping[str, Any] | None
    stages: tuple[Stage, ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    existing: Mapping[str, Any] | None = None
    judge: ModelRef | None = None
    reference: ModelRef | None = None
    refit: Refit = field(default_factory=Refit)
    clean: tuple[Step, ...] = ()
    engine: str | None = None
    publish: str | None = None

    @property
    def machine(self) -> dict[str, str]:
        """Options of the machine that the recipe itself names; those of the command line come before them."""
        return {} if self.engine is None else {"engine": self.engine}

    def stage(self, name: str) -> Stage:
        """A stage by name."""
        return next(stage for stage in self.stages if stage.name == name)

    def main_subset(self) -> str | None:
        """The select stage that the run is about: the one compared, else exported, else trained on."""
        selects = {stage.name for stage in self.stages if stage.verb == "select"}
        for verb, setting in (("compare", "compare"), ("export", "subset"), ("train", "on")):
            for stage in reversed(self.stages):
                value = str(stage.settings.get(setting, "")).removeprefix("@")
                if stage.verb == verb and value in selects:
                    return value
        return next((stage.name for stage in reversed(self.stages) if stage.verb == "select"), None)

    @property
    def seeds(self) -> dict[str, Any]:
        """Seeds of the stages that name one."""
        return {stage.name: stage.settings["seed"] for stage in self.stages if "seed" in stage.settings}

    def training_of(self, stage: Stage) -> tuple[str, dict[str, Any]]:
        """Trainer and settings of a compare stage: its own `train`, else what the stage on its subset has."""
        own = stage.settings.get("train")
        if isinstance(own, Mapping):
            return str(own["train"]), {key: value for key, value in own.items() if key != "train"}
        for other in self.stages:
            if other.verb == "train" and other.settings.get("on") == stage.settings["compare"]:
                if "hooks" in other.settings and "hooks" not in stage.settings:
                    raise RecipeError(
                        f"{stage.name}: arms are trained without hooks, {other.name} with; give {stage.name} `hooks` "
                        "for the arm of the method, or a `train` of its own"
                    )
                return other.component, other.own
        raise RecipeError(
            f"{stage.name}: nothing says how the arms are trained; add `train: {{train: lora, …}}`, or a stage that "
            f"trains on {stage.settings['compare']}"
        )


def references(value: Any) -> Iterator[str]:
    """Names referred to by `@name` anywhere inside a setting."""
    if isinstance(value, str) and value.startswith("@"):
        yield value[1:]
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from references(item)


def scorer_settings(value: Any) -> dict[str, dict[str, Any]]:
    """Scorers of a score stage: a name, a list of names, or a mapping of names to settings."""
    if isinstance(value, str):
        return {name.strip(): {} for name in value.split(",") if name.strip()}
    if isinstance(value, Mapping):
        return {str(name): dict(settings or {}) for name, settings in value.items()}
    found: dict[str, dict[str, Any]] = {}
    for item in value or []:
        found |= scorer_settings(item)
    return found


def file_list(value: Any) -> list[str]:
    """The files of a source: one name, a list, or `{files: …}`."""
    files = value.get("files", []) if isinstance(value, Mapping) else value
    return [files] if isinstance(files, str) else [str(item) for item in files or []]
