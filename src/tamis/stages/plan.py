"""Plan: a dry run. Reads and tokenises the pool, measures a few rows on this machine, and trains nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tamis.catalogue import build
from tamis.pool import Pool
from tamis.protocols import Scorer
from tamis.recipe import Recipe, Stage, scorer_settings
from tamis.recipe.heading import rating_stems
from tamis.stages import standing
from tamis.stages.clean import runs_model
from tamis.stages.compare import method_name, told_apart
from tamis.stages.conduct import Conductor
from tamis.stages.estimates import (
    NOT_ESTIMATED,
    TRAINING_FORWARDS,
    Size,
    Step,
    bytes_of,
    forwards_of,
    load_step,
    pass_step,
    training_step,
)
from tamis.stages.footprint import Measured, Sizes, memory, peak_bytes, probe, sizes_of
from tamis.stages.measure import asked_of, measure_needs
from tamis.stages.recipe_needs import needs_of
from tamis.stages.signals import view_of
from tamis.stages.sources import ingest_source
from tamis.stages.workspace import Workspace
from tamis.values import Budget, Machine, Need
from tamis.views import PoolView

BASIS = (
    "memory: this process as measured, with the model and a batch; a backward pass adds its activations "
    "(Korthikanti et al. 2022), a training gradients and moments"
)


def plan(recipe: Recipe, work: Workspace) -> dict[str, Any]:
    """Passes, rows, tokens, arms, disk and hours of a recipe on this machine."""
    conductor = Conductor.of(recipe, work)
    conductor.ingest(cleaned=False)
    cleaning = list(_cleaning(conductor))
    view = conductor.view()
    measured, sizes = probe(view, conductor.work), sizes_of(conductor.work.model)
    steps = [*cleaning, *_steps(conductor, view)]
    lines = [line_of(step, measured, sizes, conductor.work.machine) for step in steps]
    needs = needs_of(recipe)
    ages = standing.ages(conductor, asked_of(view.pool, needs, conductor.work), _scorers_of(recipe))
    usable = int(view.usable.sum())
    unknown = [line["stage"] for line in lines if line["minutes"] == NOT_ESTIMATED]
    return {
        "rows": len(view),
        "usable": usable,
        "tokens": int(view.cost[view.usable].sum()),
        "steps": lines,
        **_totals(lines, conductor.work.machine),
        "not_estimated": unknown,
        "notes": [*notes_of(conductor.work, view, needs, _scorers_of(recipe)), *ages],
        "how": f"{measured.said(conductor.work.machine)}; training counted as {TRAINING_FORWARDS:g} forwards; {BASIS}",
    }


def plan_scores(pool: Pool, scorers: Mapping[str, Scorer], needs: Sequence[Need], work: Workspace) -> dict[str, Any]:
    """Passes that these scorers need over a pool, what of them is measured already, and time and disk of the rest.

    `scorers` in the order in which they are going to score, those that others read included; `needs`: all of theirs.
    """
    view = view_of(pool, measure_needs(pool, [], work))
    lines, how = [], []
    for step in pass_steps(view, needs, work):
        role = step.what.partition("@")[2] or "model"
        measured = Measured(0, 1.0, peak_bytes(), peak_bytes())
        if step.tokens and step.forwards:
            own = dataclasses.replace(work, model=work.model_of(role))  # type: ignore[arg-type]
            measured = probe(view, own)
            how.append(f"{step.what}: {measured.said(work.machine)}")
        lines.append(line_of(step, measured, sizes_of(work.model), work.machine))
    return {
        "rows": len(view),
        "usable": int(view.usable.sum()),
        "tokens": int(view.cost[view.usable].sum()),
        "scorers": list(scorers),
        "steps": lines,
        **_totals(lines, work.machine),
        "not_estimated": [],
        "notes": notes_of(work, view, needs, scorers),
        "how": "; ".join([*how, BASIS]),
    }


def line_of(step: Step, measured: Measured, sizes: Sizes, on: Machine) -> dict[str, Any]:
    """One line of a plan: the step with its minutes and its memory on this machine."""
    workers = on.workers or 1  # 0 under Ray: as many as the cluster has room for, which nobody knows yet
    kind = step.kind if step.forwards else "none"
    peak = memory(kind, step.used(workers), measured, sizes, on, step.trained)
    return {**step.line(measured.speed, workers), "memory_mb": round(peak / 1e6)}


def _totals(lines: Sequence[Mapping[str, Any]], on: Machine) -> dict[str, Any]:
    """Hours by the clock and of the device, disk, and the memory of the largest stage."""
    hours = sum(line["minutes"] for line in lines if line["minutes"] != NOT_ESTIMATED) / 60
    cuda = on.device.startswith("cuda")
    return {
        "hours": hours,
        "gpu_hours" if cuda else "cpu_hours": hours * (on.processes if cuda else max(1, on.workers)),
        "disk_mb": sum(line["disk_bytes"] for line in lines) / 1e6,
        "memory_mb": max((line["memory_mb"] for line in lines), default=0),
        "memory_of": "the GPU" if cuda else "all processes together",
    }


def disk_of(conductor: Conductor) -> int:
    """Bytes that the stages of a recipe are going to write; its pool has been read."""
    return sum(step.disk for step in _steps(conductor, conductor.view()))


def notes_of(work: Workspace, view: PoolView, needs: Iterable[Need], scorers: Mapping[str, Scorer]) -> list[str]:
    """What passes and scorers say of themselves before they run, one sentence each, behind their names."""
    named = {key: asked.component for key, asked in asked_of(view.pool, needs, work).items()} | dict(scorers)
    return [f"{name}: {sentence}" for name, one in named.items() if hasattr(one, "notes") for sentence in one.notes()]


def _scorers_of(recipe: Recipe) -> dict[str, Scorer]:
    stages = [stage for stage in recipe.stages if stage.verb == "score"]
    asked = [scorer_settings(stage.settings["score"]) for stage in stages]
    return {name: build("scorers", name, own) for scorers in asked for name, own in scorers.items()}


def _steps(conductor: Conductor, view: PoolView) -> Iterator[Step]:
    yield from pass_steps(view, needs_of(conductor.recipe), conductor.work)
    target = _target_size(conductor)
    asked = asked_of(view.pool, needs_of(conductor.recipe), conductor.work)
    for stage in conductor.recipe.stages:
        if stage.verb == "train":
            over = _size(conductor, view, stage.settings.get("on", "@pool"))
            hooks = stage.settings.get("hooks")
            sizes = sizes_of(conductor.work.model)
            step = training_step(stage.name, stage.component, stage.own, over, target, sizes, hooks=hooks)
            kept = standing.is_sampled(stage) and standing.look_at(conductor, stage, asked).how == "kept"
            yield dataclasses.replace(step, tokens=0, disk=0, done="kept") if kept else step
        elif stage.verb == "load":
            yield load_step(stage)
        elif stage.verb == "pass":
            over = _size(conductor, view, stage.settings.get("only", "@pool"))
            yield standing.left_of(conductor, stage, pass_step(conductor.recipe, stage, over, target), asked)
        elif stage.verb == "evaluate":
            yield _evaluation_step(conductor, stage.name, stage.component, stage.settings["on"], 1)
        elif stage.verb == "compare":
            yield from _arm_steps(conductor, view, stage, target)


def _cleaning(conductor: Conductor) -> Iterator[Step]:
    """Steps of `clean`: those before the first that runs a model are carried out, so that what follows is of the rows.

    Behind it the figures of the plan are of the rows that are there before it.
    """
    steps, known = conductor.recipe.clean, rating_stems(conductor.recipe.values)
    models = [number for number, step in enumerate(steps) if runs_model(step, known)]
    first = models[0] if models else len(steps)
    conductor.clean(steps[:first])
    for done in conductor.cleaned:
        changed = f", {done.changed:,} changed" if done.changed else ""
        what = f"{done.dropped:,} rows dropped{changed}"
        yield Step(f"clean: {done.step}", what, done.read, 0, 0.0, done=f"{done.read:,} of {done.read:,} rows")
    for step in steps[first:]:
        assert conductor.pool is not None
        yield Step(f"clean: {step.name}", "not carried out in a plan", len(conductor.pool), 0, 0.0, estimated=False)


def _target_size(conductor: Conductor) -> Size:
    if conductor.target is None:
        return Size(0, 0)
    pool = conductor.target
    return Size(len(pool), int(view_of(pool, measure_needs(pool, [], conductor.work)).cost.sum()))


def pass_steps(view: PoolView, needs: Iterable[Need], work: Workspace) -> Iterator[Step]:
    """One step for every pass that scorers and selectors share, whether its signal is in the store or not."""
    tokens = int(view.cost[view.usable].sum())
    for key, asked in asked_of(view.pool, needs, work).items():
        if key == "lengths":
            continue
        share = asked.rows_left / max(1, len(view))
        done = f"{len(view) - asked.rows_left:,} of {len(view):,} rows"
        disk = int(bytes_of(asked.component, len(view), tokens) * share)
        yield Step("passes", key, len(view), int(tokens * share), forwards_of(asked.component), disk, done)


def _size(conductor: Conductor, view: PoolView, on: Any) -> Size:
    """Rows and tokens that a stage is going to see, as far as can be said before selecting."""
    budget = None
    if isinstance(on, Mapping):
        budget = Budget.parse(on["budget"])
    elif on != "@pool":
        budget = Budget.parse(conductor.recipe.stage(str(on)[1:]).settings["budget"])
    return _budget_size(view, budget)


def _budget_size(view: PoolView, budget: Budget | None) -> Size:
    usable = int(view.usable.sum())
    tokens = int(view.cost[view.usable].sum())
    if budget is None:
        return Size(usable, tokens)
    rows, limit = budget.limits(usable)
    if limit is not None:
        return Size(round(usable * min(1.0, limit / max(1, tokens))), min(limit, tokens))
    assert rows is not None
    return Size(min(rows, usable), round(tokens * min(rows, usable) / max(1, usable)))


def _arm_steps(conductor: Conductor, view: PoolView, stage: Stage, target: Size) -> Iterator[Step]:
    recipe, given, sizes = conductor.recipe, stage.settings, sizes_of(conductor.work.model)
    trainer, settings = recipe.training_of(stage)
    method = recipe.stage(str(given["compare"])[1:])
    over = _budget_size(view, Budget.parse(method.settings["budget"]))
    runs = int(given.get("runs", 3))
    rates = len(given.get("learning_rates", ()))
    own_arm = method_name(method.component, method.settings.get("weigh"), given.get("hooks"))
    own_arm = told_apart(own_arm, given.get("with", ("random", "longest")))
    yield training_step(
        f"{stage.name}: {own_arm}", trainer, settings, over, target, sizes, runs=runs, hooks=given.get("hooks")
    )
    for name in given.get("with", ("random", "longest")):
        if name == "full":
            own = {"runs": 1, "epochs": 1, **given.get("full", {})}
            merged = {**settings, **{key: value for key, value in own.items() if key != "runs"}}
            yield training_step(
                f"{stage.name}: full", trainer, merged, _budget_size(view, None), target, sizes, runs=int(own["runs"])
            )
        else:
            yield training_step(f"{stage.name}: {name}", trainer, settings, over, target, sizes, runs=runs)
    if rates > 1:
        more = (rates - 1) * runs
        yield training_step(f"{stage.name}: learning rates", trainer, settings, over, target, sizes, runs=more)
    arms = runs * (1 + len(given.get("with", ("random", "longest")))) + 1
    metric = next(iter(scorer_settings(given.get("metric", "held-out-loss"))))
    yield _evaluation_step(conductor, f"{stage.name}: evaluation", metric, given["evaluate"], arms)


def _evaluation_step(conductor: Conductor, stage: str, metric: str, source: Any, models: int) -> Step:
    """Models measured on held-out rows: one forward each; what an evaluator generates comes on top."""
    held_out = ingest_source(source, conductor.work)
    cost = int(view_of(held_out, measure_needs(held_out, [], conductor.work)).cost.sum())
    what = f"{models} models" + (f" (generation {NOT_ESTIMATED})" if metric == "exact-match" else "")
    return Step(stage, what, len(held_out), cost * models, 1.0, lanes=models)
