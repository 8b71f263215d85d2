"""What a stage works with: the workspace, the machine, the model, and a log of the work done."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tamis import digests
from tamis.errors import RecipeError
from tamis.models import ModelRef
from tamis.operations import logs, uses
from tamis.pins import Fit, Fitting, Refit
from tamis.pool import Pool
from tamis.store import Store
from tamis.values import Machine, Need, Role
from tamis.writing import append_line, left_behind

log = logging.getLogger(__name__)


@dataclass
class Work:
    """What this process did, as opposed to what it found done: for `plan`, tests and the report."""

    passes: dict[str, dict[str, float]] = field(default_factory=dict)
    events: Path | None = None
    fits: list[Fit] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    damages: int | None = None  # of the store that were seen before

    def note_pass(
        self, name: str, shards: int, made: int, seconds: float, seconds_all: float, *, rows: int = 0, tokens: int = 0
    ) -> None:
        """Add one pass over one pool: `made` of its `shards` were measured now, in `seconds`; ever in `seconds_all`.

        `rows` and `tokens` (before truncation by a pass, 0 where they were not counted) are those measured now.
        """
        entry = self.passes.setdefault(name, {"shards": 0, "made": 0, "seconds": 0.0, "seconds_all": 0.0})
        added = {"shards": shards, "made": made, "seconds": seconds, "seconds_all": seconds_all}
        for key, value in (added | {"rows": rows, "tokens": tokens}).items():
            entry[key] = entry.get(key, 0) + value

    def note_fit(self, fit: Fit) -> None:
        """Keep what became of a fit."""
        self.fits.append(fit)
        self.event("fit", **fit.facts())

    def event(self, kind: str, /, **facts: Any) -> None:
        """Append one line to `events.jsonl` of the run, if there is one; the log for machines gets it too."""
        logs.event(kind, facts)
        if self.events is not None:
            line = json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": kind, **facts}, ensure_ascii=False)
            append_line(self.events, line)

    def note_damage(self, store: Store) -> None:
        """What the store found damaged since it was asked last becomes an event and a warning of the run."""
        if self.damages is None:
            self.damages = len(store.damages())
        for found in store.damages(self.damages):
            self.damages += 1
            self.event("damaged", entry=found["identity"], entry_kind=found["kind"], what=found["what"])
            self.warnings.append(f"{found['what']}; it was removed and made anew where it was needed")


@dataclass(frozen=True)
class Workspace:
    """A folder with the store and the runs (default `./.tamis`), and the machine that works in it.

    `assumed`: nobody named the model; it may count tokens, and a verb that runs a model refuses. `judge` and
    `reference`: second models, where somebody named them. `settings_of_passes`: by `Need.key`. `refit`: when what was
    fitted on a pool is fitted again.
    """

    root: Path
    machine: Machine
    model: ModelRef
    work: Work = field(default_factory=Work)
    settings_of_passes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    assumed: bool = False
    judge: ModelRef | None = None
    reference: ModelRef | None = None
    refit: Refit = field(default_factory=Refit)

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
    def store(self) -> uses.NotedStore:
        """The content-addressed store; what is taken out of it is noted as used by the run, or by a verb."""
        events = self.work.events
        notes = self.root / uses.ENTRIES if events is None else events.with_name(uses.ENTRIES)
        return uses.NotedStore(self.root / "store", notes=notes)

    def sweep(self) -> None:
        """Remove temporary files that dead processes left; to be called before this one writes."""
        swept = self.store.sweep()
        for pattern in ("runs/*/.*.tmp", "passes/*/.*.tmp"):
            for file in self.root.glob(pattern):
                if left_behind(file):
                    file.unlink(missing_ok=True)
                    swept += 1
        if swept:
            log.info("removed %d unfinished files and folders of runs that were stopped", swept)

    def fitting(
        self, name: str, fitted: Any, kind: str, pool: Pool, inputs: Sequence[str] | None, **more: Any
    ) -> Fitting:
        """A fit over a pool that is kept where it may be. `fitted`: what is fitted, as it enters an identity."""
        about = {"fit": fitted, "models": [self.model, self.judge, self.reference]}
        return Fitting(name, digests.of_json(about), kind, pool, inputs, self.root, self.store, self.refit, **more)

    @property
    def runs(self) -> Path:
        """Folder of the runs."""
        return self.root / "runs"


def without(role: Role, component: str) -> str:
    """The fault of a component that needs a second model which nobody named."""
    return f"{component} needs a {role} model: give `{role}: {{name: …}}` in the recipe or --{role}"
