"""Plan: a dry run. Reads and tokenises the pool, measures a few rows on this machine, and trains nothing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tamis.pool import Shard
from tamis.recipe import Recipe, Stage, scorer_settings
from tamis.stages.conduct import Conductor, needs_of
from tamis.stages.estimates import (
    NOT_ESTIMATED,
    TOKENS_FORWARDS,
    Size,
    Step,
    load_step,
    pass_step,
    training_step,
)
from tamis.stages.measure import SHARED, SIGNAL, identity_of, measure_needs, pass_for, view_of
from tamis.stages.sources import ingest_source
from tamis.stages.workspace import Workspace
from tamis.values import Budget
from tamis.views import PoolView

PROBE_ROWS = 48


def plan(recipe: Recipe, work: Workspace) -> dict[str, Any]:
    """Passes, rows, tokens, arms, disk and hours of a recipe on this machine."""
    conductor = Conductor.of(recipe, work)
    conductor.ingest()
    view = conductor.view()
    speed = _tokens_per_second(view, conductor.work)
    steps = list(_steps(conductor, view))
    lines = [step.line(speed) for step in steps]
    usable = int(view.usable.sum())
    unknown = [line["stage"] for line in lines if line["minutes"] == NOT_ESTIMATED]
    return {
        "rows": len(view),
        "usable": usable,
        "tokens": int(view.cost[view.usable].sum()),
        "steps": lines,
        "hours": sum(line["minutes"] for line in lines if line["minutes"] != NOT_ESTIMATED) / 60,
        "not_estimated": unknown,
        "disk_mb": sum(line["disk_bytes"] for line in lines) / 1e6,
        "how": f"{speed:,.0f} tokens a second forward, {work.machine.workers} workers, measured on {PROBE_ROWS} rows; "
        "training counted as 3 forwards",
    }


def _steps(conductor: Conductor, view: PoolView) -> Iterator[Step]:
    tokens = int(view.cost[view.usable].sum())
    yield from _pass_steps(conductor, view, tokens)
    target = _target_size(conductor)
    for stage in conductor.recipe.stages:
        if stage.verb == "train":
            over = _size(conductor, view, stage.settings.get("on", "@pool"))
            hooks = stage.settings.get("hooks")
            yield training_step(stage.name, stage.component, stage.own, over, target, hooks=hooks)
        elif stage.verb == "load":
            yield load_step(stage)
        elif stage.verb == "pass":
            over = _size(conductor, view, stage.settings.get("only", "@pool"))
            yield pass_step(conductor.recipe, stage, over, target)
        elif stage.verb == "evaluate":
            yield _evaluation_step(conductor, stage.name, stage.component, stage.settings["on"], 1)
        elif stage.verb == "compare":
            yield from _arm_steps(conductor, view, stage, target)


def _target_size(conductor: Conductor) -> Size:
    if conductor.target is None:
        return Size(0, 0)
    pool = conductor.target
    return Size(len(pool), int(view_of(pool, measure_needs(pool, [], conductor.work)).cost.sum()))


def _pass_steps(conductor: Conductor, view: PoolView, tokens: int) -> Iterator[Step]:
    seen: set[str] = set()
    for need in needs_of(conductor.recipe):
        if need.kind != "signal" or need.name in seen or need.name not in SHARED or need.name == "lengths":
            continue
        seen.add(need.name)
        component = pass_for(need, conductor.work)
        missing = [shard for shard in view.pool.shards if not _done(conductor, component, shard)]
        share = sum(shard.rows for shard in missing) / max(1, len(view))
        done = f"{len(view.pool.shards) - len(missing)} of {len(view.pool.shards)} shards"
        disk = int(tokens * 6 * share)
        yield Step("passes", need.name, len(view), int(tokens * share), TOKENS_FORWARDS, disk, done)


def _done(conductor: Conductor, component: Any, shard: Shard) -> bool:
    return conductor.work.store.get(SIGNAL, identity_of(component, shard)) is not None


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
    recipe, given = conductor.recipe, stage.settings
    trainer, settings = recipe.training_of(stage)
    method = recipe.stage(str(given["compare"])[1:])
    over = _budget_size(view, Budget.parse(method.settings["budget"]))
    runs = int(given.get("runs", 3))
    rates = len(given.get("learning_rates", ()))
    for name in (method.component, *given.get("with", ("random", "longest"))):
        if name == "full":
            own = {"runs": 1, "epochs": 1, **given.get("full", {})}
            merged = {**settings, **{key: value for key, value in own.items() if key != "runs"}}
            yield training_step(
                f"{stage.name}: full", trainer, merged, _budget_size(view, None), target, runs=int(own["runs"])
            )
        else:
            yield training_step(f"{stage.name}: {name}", trainer, settings, over, target, runs=runs)
    if rates > 1:
        yield training_step(f"{stage.name}: learning rates", trainer, settings, over, target, runs=(rates - 1) * runs)
    arms = runs * (1 + len(given.get("with", ("random", "longest")))) + 1
    metric = next(iter(scorer_settings(given.get("metric", "held-out-loss"))))
    yield _evaluation_step(conductor, f"{stage.name}: evaluation", metric, given["evaluate"], arms)


def _evaluation_step(conductor: Conductor, stage: str, metric: str, source: Any, models: int) -> Step:
    """Models measured on held-out rows: one forward each; what an evaluator generates comes on top."""
    held_out = ingest_source(source, conductor.work)
    cost = int(view_of(held_out, measure_needs(held_out, [], conductor.work)).cost.sum())
    what = f"{models} models" + (f" (generation {NOT_ESTIMATED})" if metric == "exact-match" else "")
    return Step(stage, what, len(held_out), cost * models, 1.0)


def _tokens_per_second(view: PoolView, work: Workspace) -> float:
    """Tokens a second of the token pass's forward over a few rows, times the workers."""
    from tamis.models import cached_model
    from tamis.rendering import render_all

    places = [int(place) for place in view.usable.nonzero()[0][:: max(1, int(view.usable.sum()) // PROBE_ROWS)]]
    rendered = render_all(view.pool.read(places[:PROBE_ROWS]), work.model)
    model = cached_model(work.model, work.machine.device)
    from tamis.likelihood import response_nll

    on = dataclasses.replace(work.machine, workers=1)
    response_nll(model, rendered[:4], on)  # the first call warms up
    started = time.perf_counter()
    response_nll(model, rendered, on)
    seconds = time.perf_counter() - started
    return sum(len(one.ids) for one in rendered) / max(seconds, 1e-6) * work.machine.workers
