"""What a stage works with: the workspace, the machine, the model, and a log of the work done."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tamis.errors import RecipeError
from tamis.models import ModelRef
from tamis.store import Store
from tamis.values import Machine, Need, Role


@dataclass
class Work:
    """What this process did, as opposed to what it found done: for `plan`, tests and the report."""

    passes: dict[str, dict[str, float]] = field(default_factory=dict)
    events: Path | None = None

    def note_pass(self, name: str, shards: int, made: int, seconds: float, seconds_all: float) -> None:
        """Add one pass over one pool: `made` of its `shards` were measured now, in `seconds`; ever in `seconds_all`."""
        entry = self.passes.setdefault(name, {"shards": 0, "made": 0, "seconds": 0.0, "seconds_all": 0.0})
        for key, value in (("shards", shards), ("made", made), ("seconds", seconds), ("seconds_all", seconds_all)):
            entry[key] += value

    def event(self, kind: str, /, **facts: Any) -> None:
        """Append one line to `events.jsonl` of the run, if there is one."""
        if self.events is not None:
            line = json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": kind, **facts}, ensure_ascii=False)
            with self.events.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


@dataclass(frozen=True)
class Workspace:
    """A folder with the store and the runs (default `./.tamis`), and the machine that works in it.

    `assumed`: nobody named the model; it may count tokens, and a verb that runs a model refuses. `judge` and
    `reference`: second models, where somebody named them. `settings_of_passes`: by `Need.key`.
    """

    root: Path
    machine: Machine
    model: ModelRef
    work: Work = field(default_factory=Work)
    settings_of_passes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    assumed: bool = False
    judge: ModelRef | None = None
    reference: ModelRef | None = None

    def model_of(self, role: Role) -> ModelRef:
        """The model of a role. RecipeError where nobody named it."""
        found = {"model": self.model, "judge": self.judge, "reference": self.reference}[role]
        if found is None:
            raise RecipeError(without(role, "this"))
        return found

    def check_roles(self, component: str, needs: Iterable[Need]) -> None:
        """RecipeError with every second model that is needed and that nobody named."""
        missing = {need.by for need in needs if need.by != "model" and getattr(self, need.by) is None}
        if missing:
            raise RecipeError([without(role, component) for role in sorted(missing)])

    @property
    def store(self) -> Store:
        """The content-addressed store."""
        return Store(self.root / "store")

    @property
    def runs(self) -> Path:
        """Folder of the runs."""
        return self.root / "runs"


def without(role: Role, component: str) -> str:
    """The fault of a component that needs a second model which nobody named."""
    return f"{component} needs a {role} model: give `{role}: {{name: …}}` in the recipe or --{role}"
