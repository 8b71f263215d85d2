"""Plan: a dry run. Reads and tokenises the pool, measures a few rows on this machine, and trains nothing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tamis.catalogue import build
from tamis.pool import Shard
from tamis.recipe import Recipe, Stage
from tamis.stages.conduct import Conductor, needs_of
from tamis.stages.load import folders_of
from tamis.stages.measure import SHARED, SIGNAL, identity_of, measure_needs, pass_for, view_of
from tamis.stages.sources import ingest_source
from tamis.stages.workspace import Workspace
from tamis.values import Budget
from tamis.views import PoolView

PROBE_ROWS = 48
# Work relative to one forward over the same tokens: a backward costs two forwards, less without weight gradients.
TRAINING_FORWARDS = 3.0
INFLUENCE_FORWARDS = 3.0
TOKENS_FORWARDS = 1.7  # both views: prompt+response, and the response alone


@dataclass(frozen=True)
class Step:
    """One line of a plan. `forwards`: forward passes over `tokens` that are still to be done; `share` is done."""

    stage: str
    what: str
    rows: int
    tokens: int
    forwards: float
    disk: int = 0
    done: str = ""

    def line(self, tokens_per_second: float) -> dict[str, Any]:
        """The step for people and for `--json`."""
        minutes = self.tokens * self.forwards / tokens_per_second / 60
        facts = {"stage": self.stage, "what": self.what, "rows": self.rows, "tokens": self.tokens, "done": self.done}
        return {**facts, "minutes": round(minutes, 4), "disk_bytes": self.disk}


def plan(recipe: Recipe, work: Workspace) -> dict[str, Any]:
    """Passes, rows, tokens, arms, disk and hours of a recipe on this machine."""
    conductor = Conductor.of(recipe, work)
    conductor.ingest()
    view = conductor.view()
    speed = _tokens_per_second(view, conductor.work)
    steps = list(_steps(conductor, view))
    lines = [step.line(speed) for step in steps]
    usable = int(view.usable.sum())
    return {
        "rows": len(view),
        "usable": usable,
        "tokens": int(view.cost[view.usable].sum()),
        "steps": lines,
        "hours": sum(line["minutes"] for line in lines) / 60,
        "disk_mb": sum(line["disk_bytes"] for line in lines) / 1e6,
        "how": f"{speed:,.0f} tokens a second forward, {work.machine.workers} workers, measured on {PROBE_ROWS} rows; "
        "training counted as 3 forwards",
    }


def _steps(conductor: Conductor, view: PoolView) -> Iterator[Step]:
    tokens = int(view.cost[view.usable].sum())
    yield from _pass_steps(conductor, view, tokens)
    for stage in conductor.recipe.stages:
        if stage.verb == "train":
            rows, used = _size(conductor, view, stage.settings.get("on", "@pool"))
            yield _training_step(stage.name, stage.component, stage.own, rows, used, 1)
        elif stage.verb == "pass" and stage.component == "influence":
            kept = _checkpoints(conductor.recipe, stage)
            name = f"influence, {kept} checkpoints"
            yield Step(stage.name, name, len(view), tokens, INFLUENCE_FORWARDS * kept, 16 * len(view) * kept)
        elif stage.verb == "compare":
            yield from _arm_steps(conductor, view, stage)


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


def _size(conductor: Conductor, view: PoolView, on: Any) -> tuple[int, int]:
    """Rows and tokens that a train stage is going to see, as far as can be said before selecting."""
    budget = None
    if isinstance(on, Mapping):
        budget = Budget.parse(on["budget"])
    elif on != "@pool":
        budget = Budget.parse(conductor.recipe.stage(str(on)[1:]).settings["budget"])
    return _budget_size(view, budget)


def _budget_size(view: PoolView, budget: Budget | None) -> tuple[int, int]:
    usable = int(view.usable.sum())
    tokens = int(view.cost[view.usable].sum())
    if budget is None:
        return usable, tokens
    rows, limit = budget.limits(usable)
    if limit is not None:
        return round(usable * min(1.0, limit / max(1, tokens))), min(limit, tokens)
    assert rows is not None
    return min(rows, usable), round(tokens * min(rows, usable) / max(1, usable))


def _training_step(name: str, trainer: str, settings: Mapping[str, Any], rows: int, tokens: int, runs: int) -> Step:
    epochs = getattr(build("trainers", trainer, settings), "epochs", None) or 1  # a command may not say
    what = f"{trainer}, {epochs} epochs" + (f", {runs} runs" if runs > 1 else "")
    return Step(name, what, rows, tokens * epochs * runs, TRAINING_FORWARDS)


def _checkpoints(recipe: Recipe, stage: Stage) -> int:
    warm_up = recipe.stage(str(stage.settings["checkpoints"])[1:])
    if warm_up.verb == "load":
        return len(folders_of(warm_up.settings["load"]))
    trainer = build("trainers", warm_up.component, warm_up.own)
    return int(trainer.epochs) if getattr(trainer, "keep", "last") == "every-epoch" else 1


def _arm_steps(conductor: Conductor, view: PoolView, stage: Stage) -> Iterator[Step]:
    recipe, given = conductor.recipe, stage.settings
    trainer, settings = recipe.training_of(stage)
    method = recipe.stage(str(given["compare"])[1:])
    rows, tokens = _budget_size(view, Budget.parse(method.settings["budget"]))
    runs = int(given.get("runs", 3))
    rates = len(given.get("learning_rates", ()))
    for name in (method.component, *given.get("with", ("random", "longest"))):
        if name == "full":
            own = {"runs": 1, "epochs": 1, **given.get("full", {})}
            merged = {**settings, **{key: value for key, value in own.items() if key != "runs"}}
            yield _training_step(f"{stage.name}: full", trainer, merged, *_budget_size(view, None), int(own["runs"]))
        else:
            yield _training_step(f"{stage.name}: {name}", trainer, settings, rows, tokens, runs)
    if rates > 1:
        yield _training_step(f"{stage.name}: learning rates", trainer, settings, rows, tokens, rates - 1)
    held_out = ingest_source(given["evaluate"], conductor.work)
    cost = int(view_of(held_out, measure_needs(held_out, [], conductor.work)).cost.sum())
    arms = runs * (1 + len(given.get("with", ("random", "longest")))) + 1
    yield Step(f"{stage.name}: evaluation", f"{arms} models", len(held_out), cost * arms, 1.0)


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
