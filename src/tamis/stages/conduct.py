"""Conduct: one recipe carried out stage by stage, with what each stage left handed to those that refer to it."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tamis.catalogue import build, load
from tamis.cleaning.steps import Step
from tamis.errors import RecipeError
from tamis.operations import deadline
from tamis.operations.metering import rows_since
from tamis.pool import Pool
from tamis.recipe import Recipe, Stage, scorer_settings
from tamis.stages.clean import Done, clean
from tamis.stages.columns_io import read_all
from tamis.stages.compare import Design, compare, method_name
from tamis.stages.dependence import needs_of_scorers, ordered
from tamis.stages.load import detail, folders_of, load_checkpoints
from tamis.stages.measure import SHARED, measure, measure_needs, richest
from tamis.stages.only import measure_only
from tamis.stages.sampled import drawn_by, job_of, train_on_sample
from tamis.stages.score import Scored, known_columns, score
from tamis.stages.select import Selection, mixer_of, select
from tamis.stages.signals import Signal, view_of
from tamis.stages.sources import ingest_source
from tamis.stages.train import EvaluationJob, Training, TrainingJob, evaluate, train_one
from tamis.stages.weigh import weigher_of
from tamis.stages.workspace import Workspace
from tamis.values import Budget, Column, Need, Subset
from tamis.views import PoolView

if TYPE_CHECKING:
    from tamis.exporting.provenance import Provenance
from tamis.stages.recipe_needs import needs_of
from tamis.stages.timer import Timer

log = logging.getLogger(__name__)


@dataclass
class Conductor:
    """A recipe being carried out. `outcomes` maps stage names to what they left; `took` to (seconds now, made now)."""

    recipe: Recipe
    work: Workspace
    pool: Pool | None = None
    target: Pool | None = None
    existing: Pool | None = None
    outcomes: dict[str, Any] = field(default_factory=dict)
    took: dict[str, dict[str, Any]] = field(default_factory=dict)
    columns: dict[str, Column] = field(default_factory=dict)
    shared: dict[str, Signal] = field(default_factory=dict)
    cleaned: tuple[Done, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe, work: Workspace) -> Conductor:
        """A conductor whose passes serve everything that the recipe asks for, each signal once."""
        import dataclasses

        work.sweep()
        on = work.machine.device
        roles = {"model": recipe.model, "judge": recipe.judge, "reference": recipe.reference}
        named: dict[str, Any] = {role: model.resolved(on) for role, model in roles.items() if model is not None}
        settings = richest(needs_of(recipe))
        return cls(recipe, dataclasses.replace(work, **named, settings_of_passes=settings, refit=recipe.refit))

    def ingest(self, *, cleaned: bool = True) -> None:
        """Read the pool, the target and the existing data, and clean the pool as the recipe says."""
        with self._timed("ingest", "ingest") as timer:
            self.pool = ingest_source(self.recipe.pool, self.work)
            if self.recipe.target is not None:
                self.target = ingest_source(self.recipe.target, self.work)
            if self.recipe.existing is not None:
                self.existing = ingest_source(self.recipe.existing, self.work)
            timer.also(sum(rows_since(one.shards, timer.began) for one in (self.pool, *self.sides.values()) if one))
        if not len(self.pool):
            raise RecipeError("no row of the pool could be used; every row read is in the quarantine with its reason")
        self._read_ratings()
        self.took["ingest"]["detail"] = f"{len(self.pool):,} rows of {len(self.pool.files)} files"
        if cleaned and self.recipe.clean:
            self.clean()

    def clean(self, steps: Sequence[Step] | None = None) -> None:
        """Carry out the steps of the head `clean`, or some; everything after them sees the pool that they leave."""
        assert self.pool is not None
        steps = self.recipe.clean if steps is None else steps
        with self._timed("clean", ", ".join(step.name for step in steps)):
            found = clean(
                *(self.pool, steps, self.work),
                sides=self.sides,
                columns=self.columns,
                say=lambda done: self.work.work.event("cleaned", **done.about()),
            )
        left = "; ".join(done.said() for done in found.done)
        self.took["clean"] |= {"kind": "clean", "detail": f"{len(self.pool):,} to {len(found.pool):,} rows: {left}"}
        self.pool, self.columns, self.cleaned = found.pool, dict(found.columns), found.done

    def _read_ratings(self) -> None:
        """Columns that the recipe's pool brings along; what did not fit goes to the log and the events."""
        assert self.pool is not None
        if not (isinstance(self.recipe.pool, Mapping) and "columns" in self.recipe.pool):
            return
        columns, notes = read_all(self.pool, self.recipe.pool["columns"], self.work)
        self.columns |= columns
        for note in notes:
            log.warning("%s", note)
            self.work.work.event("note", note=note)

    def carry_out(self, stage: Stage) -> Any:
        """Carry out one stage; those that it refers to are done."""
        carry: Mapping[str, Callable[[Stage], Any]] = {
            "train": self._train,
            "load": self._load,
            "pass": self._pass,
            "score": self._score,
            "select": self._select,
            "compare": self._compare,
            "evaluate": self._evaluate,
            "export": self._export,
        }
        with self._timed(stage.name, f"{stage.verb} {stage.component}") as timer, self.within_deadline():
            left = self.outcomes[stage.name] = carry[stage.verb](stage)
            if isinstance(left, Training) and left.made and "rows" in left.facts:
                epochs = int(getattr(build("trainers", stage.component, stage.own), "epochs", 1))
                timer.also(left.facts["rows"] * epochs, left.facts["tokens"] * epochs)
        self.took[stage.name] |= {"kind": stage.verb, "detail": self._detail(stage)}
        log.info("%s: done in %.1f s, %s", stage.name, self.took[stage.name]["seconds"], self._detail(stage))
        return self.outcomes[stage.name]

    def view(self) -> PoolView:
        """The pool with the signals and columns made so far."""
        assert self.pool is not None
        return view_of(self.pool, self._signals(), columns=self.columns)

    @property
    def sides(self) -> dict[str, Pool | None]:
        """The target and the existing data, where the recipe names them."""
        return {"target": self.target, "existing": self.existing}

    def main(self) -> Selection | None:
        """The selection that the run is about."""
        name = self.recipe.main_subset()
        return self.outcomes.get(name) if name is not None else None

    def _signals(self, *needs: Need) -> dict[str, Signal]:
        assert self.pool is not None
        self.shared = measure_needs(self.pool, needs, self.work, self.shared)
        return self.shared

    def _train(self, stage: Stage) -> Training:
        assert self.pool is not None
        on = stage.settings.get("on", "@pool")
        if isinstance(on, Mapping):
            given = self._signals(*drawn_by(stage).needs)
            job = functools.partial(self._training_job, stage)
            return train_on_sample(stage, self.pool, self.target, self.work, given, self.columns, job)
        if on == "@pool":
            import numpy as np

            usable = np.flatnonzero(self.view().usable)
            subset = Subset(positions=usable, gains=np.zeros(len(usable), np.float32))
        else:
            subset = self.outcomes[on[1:]].subset
        return train_one(self._training_job(stage, subset))

    def _load(self, stage: Stage) -> Training:
        settings = stage.settings
        given = {key: settings[key] for key in ("learning_rates", "moments") if key in settings}
        return load_checkpoints(folders_of(settings["load"]), self.work, **given)

    def _training_job(self, stage: Stage, subset: Subset) -> TrainingJob:
        assert self.pool is not None
        return job_of(stage, self.pool, self.target, self.work, subset)

    def _pass(self, stage: Stage) -> Signal:
        assert self.pool is not None
        component = self.pass_component(stage)
        if "only" in stage.settings:
            chosen: Selection = self.outcomes[str(stage.settings["only"])[1:]]
            return measure_only(self.pool, chosen.subset.positions, stage.component, component, self.work)
        signals = dict(self._signals(*[need for need in component.needs if need.name in SHARED]))
        return measure(self.pool, stage.component, component, self.work, signals | self._from(stage))

    def _from(self, stage: Stage) -> dict[str, Signal]:
        """The signal that a stage names by `from`, by the name under which components read it."""
        if "from" not in stage.settings:
            return {}
        signal: Signal = self.outcomes[str(stage.settings["from"])[1:]]
        return {signal.name: signal}

    def pass_component(self, stage: Stage) -> Any:
        """The pass of a stage, with what the run and the stages before it fill in."""
        import dataclasses

        names = {item.name for item in dataclasses.fields(load("passes", stage.component))}
        settings: dict[str, Any] = {key: value for key, value in stage.own.items()}
        if "model" in names:
            settings["model"] = self.work.model
        if "target" in names:
            settings["target"] = self.target
        if "existing" in names:
            settings["existing"] = self.existing
        if "pool" in names:
            settings["pool"] = self.pool
        if "checkpoints" in names & stage.settings.keys():
            settings["checkpoints"] = self.outcomes[str(stage.settings["checkpoints"])[1:]].checkpoints
        return build("passes", stage.component, settings)

    def _score(self, stage: Stage) -> Scored:
        assert self.pool is not None
        scorers = {name: build("scorers", name, own) for name, own in scorer_settings(stage.settings["score"]).items()}
        needs = needs_of_scorers(ordered(scorers, self.columns))
        own = self._from(stage)
        asked = [need for need in needs if need.name in SHARED and need.key not in own]
        given = dict(self._signals(*asked)) | own
        scored = score(self.pool, scorers, self.work, given, self.columns)
        self.columns |= dict(scored.columns)
        return scored

    def _select(self, stage: Stage) -> Selection:
        assert self.pool is not None
        given = dict(self._signals()) | self._from(stage)
        return select(
            self.pool,
            build("selectors", stage.component, stage.own),
            Budget.parse(stage.settings["budget"]),
            self.work,
            name=stage.name,
            target=self.target,
            existing=self.existing,
            where=stage.settings.get("where"),
            mixer=mixer_of(stage.settings.get("mix")),
            weighing=weigher_of(stage.settings.get("weigh")),
            given=given,
            columns=self.columns or known_columns(self.pool, self.work),
        )

    def _compare(self, stage: Stage) -> dict[str, Any]:
        chosen: Selection = self.outcomes[str(stage.settings["compare"])[1:]]
        method = self.recipe.stage(str(stage.settings["compare"])[1:])
        held_out = ingest_source(stage.settings["evaluate"], self.work)
        if not len(held_out):
            raise RecipeError(f"{stage.name}: the evaluation set holds no usable row")
        trainer, settings = self.recipe.training_of(stage)
        given = stage.settings
        design = Design(
            method=method_name(method.component, method.settings.get("weigh"), given.get("hooks")),
            trainer=trainer,
            settings=settings,
            runs=int(given.get("runs", 3)),
            baselines=tuple(given.get("with", ("random", "longest"))),
            full=dict(given.get("full", {"runs": 1, "epochs": 1})),
            learning_rates=tuple(float(rate) for rate in given.get("learning_rates", ())),
            metric=given.get("metric", "held-out-loss"),
            draws=int(given.get("draws", 2000)),
            groups=tuple(given.get("composition", ("source",))),
            hooks=scorer_settings(given.get("hooks")),
            target=self.target,
            contamination=given.get("contamination", "warn"),
        )
        return compare(self.view(), chosen, held_out, design, self.work, seconds=self.cost_of(method))

    def cost_of(self, stage: Stage) -> float:
        """Seconds of work, ever, that choosing a subset took: the stage and all that it refers to."""
        seconds = 0.0
        for name in {stage.name, *self._ancestors(stage)}:
            left = self.outcomes[name]
            seconds += left.entry.seconds if isinstance(left, Selection) else float(getattr(left, "seconds", 0.0))
        return seconds

    def _ancestors(self, stage: Stage) -> Iterator[str]:
        for name in stage.references:
            if name in self.outcomes:
                yield name
                yield from self._ancestors(self.recipe.stage(name))

    def _evaluate(self, stage: Stage) -> dict[str, Any]:
        held_out = ingest_source(stage.settings["on"], self.work)
        reference = str(stage.settings.get("model", "@model"))[1:]
        model = self.work.model if reference == "model" else self.outcomes[reference].model
        job = EvaluationJob(self.work.store, stage.component, stage.own, held_out, self.work.machine, model=model)
        items = evaluate(job).items
        value = float(items.values.sum() / items.weights.sum())
        return {"metric": items.metric, "unit": items.unit, "value": value, "items": len(items.keys)}

    def _export(self, stage: Stage) -> Any:
        from tamis.stages.export import export_subset

        assert self.pool is not None
        chosen: Selection = self.outcomes[str(stage.settings["subset"])[1:]]
        out, about = str(stage.settings["to"]), self._provenance(str(stage.settings["subset"])[1:], chosen)
        return export_subset(self.pool, chosen, stage.component, out, self.work, about)

    def _provenance(self, name: str, chosen: Selection) -> Provenance:
        """How the rows of a select stage were chosen, for the card of what is exported."""
        from tamis import __version__
        from tamis.exporting.provenance import of_manifest

        assert self.pool is not None
        return of_manifest(
            {
                "name": self.recipe.name,
                "tamis": __version__,
                "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "model": {"name": self.work.model.name, "digest": self.work.model.digest},
                "subset": chosen.about(self.recipe.stage(name)),
                "pool": {"files": self.pool.files, "steps": self.pool.steps},
                "seeds": self.recipe.seeds,
            }
        )

    @contextmanager
    def within_deadline(self) -> Iterator[None]:
        """Begin no stage after the deadline; where it stops one, the error says which are done and which are left."""
        done = ", ".join(self.took)
        try:
            deadline.check("no stage is begun any more")
            yield
        except deadline.TimeUp as error:
            left = ", ".join(one.name for one in self.recipe.stages if one.name not in self.outcomes)
            raise deadline.ended(error, done, left) from error

    def _timed(self, name: str, kind: str) -> Timer:
        return Timer(self.work, self.took, name, kind)

    def _detail(self, stage: Stage) -> str:
        left = self.outcomes[stage.name]
        if stage.verb == "load":
            return detail(left)
        if isinstance(left, Training):
            return f"{stage.component} on {left.facts['rows']:,} rows, {left.facts['tokens']:,} tokens"
        if isinstance(left, Signal):
            return "; ".join([f"{left.made} of {len(left.folders)} shards measured", *left.caveats])
        if isinstance(left, Selection):
            return f"{stage.component}: {left.entry.facts['rows']:,} rows, {left.entry.facts['tokens']:,} tokens"
        if isinstance(left, Scored):
            return f"{len(left.columns)} columns"
        if isinstance(left, dict):
            return str(left.get("verdict") or f"{left.get('metric')} {left.get('value', 0):.4f} {left.get('unit')}")
        return str(left)
