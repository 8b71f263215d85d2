"""Verbs over recipes: run, check, plan, recipes, serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tamis.cli import output
from tamis.cli.app import (
    Device,
    Engine,
    Json,
    Judge,
    LogFormat,
    MaxHours,
    MaxTokens,
    Model,
    Place,
    Reference,
    Refit,
    Sets,
    Workers,
    app,
    machine_options,
)

REFIT = ("refit=always",)
RecipeName = Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.")]


def with_roles(sets: list[str] | None, **roles: str | None) -> list[str]:
    """Overrides of a recipe, with the second models that options name: their other settings stay as written."""
    import json

    named = [f"{role}.name={json.dumps(name, ensure_ascii=False)}" for role, name in roles.items() if name is not None]
    return [*(sets or []), *named]


@app.command()
def run(
    recipe: RecipeName,
    sets: Sets = None,
    judge: Judge = None,
    reference: Reference = None,
    workspace: Place = Path(".tamis"),
    workers: Workers = None,
    device: Device = None,
    engine: Engine = None,
    refit: Refit = False,
    publish: Annotated[
        str | None, typer.Option("--publish", help="Send the finished run to s3://… and the like.")
    ] = None,
    max_hours: MaxHours = None,
    disk_check: Annotated[
        bool, typer.Option("--disk-check/--no-disk-check", help="Refuse where the disk is too small for the run.")
    ] = True,
    log_format: LogFormat = None,
    json: Json = False,
) -> None:
    """Carry out a whole recipe through Prefect; goes on where an earlier run stopped."""
    output.use_json(json)
    from tamis import recipe as recipes

    own = [*(REFIT if refit else ()), *([f"publish={publish}"] if publish else [])]
    overrides = with_roles([*(sets or []), *own], judge=judge, reference=reference)
    checked = recipes.load(recipe, overrides)  # all faults at once, before anything starts
    from tamis.api import run as carry_out

    given = machine_options(workers, device)
    found = carry_out(recipe, overrides, work=workspace, max_hours=max_hours, disk_check=disk_check, **given)
    lines = ["", str(found["verdict"])] if found["verdict"] else [""]
    if found["rows"] is not None:
        lines.append(f"{found['rows']:,} rows selected: {found['run']}/subset.parquet")
    lines.append(f"Report: {found['report']}")
    lines += [f"Published: {found['published']}"] if found["published"] else []
    output.result({"recipe": checked.name, **found}, lines)


@app.command()
def check(
    recipe: RecipeName, sets: Sets = None, judge: Judge = None, reference: Reference = None, json: Json = False
) -> None:
    """Check a recipe in full, and start nothing."""
    output.use_json(json)
    from tamis import recipe as recipes

    checked = recipes.load(recipe, with_roles(sets, judge=judge, reference=reference))
    stages = [{"name": stage.name, "verb": stage.verb, "component": stage.component} for stage in checked.stages]
    steps = [step.name for step in checked.clean]
    lines = [f"{checked.name}: {len(stages)} stages, no fault found"]
    lines += [f"  {'clean':<14} {', '.join(steps)}"] if steps else []
    lines += [f"  {stage['name']:<14} {stage['verb']:<9} {stage['component']}" for stage in stages]
    output.result({"recipe": checked.name, "clean": steps, "stages": stages, "faults": []}, lines)


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe; with --with, a pool folder or a data file.")],
    scorers: Annotated[str | None, typer.Option("--with", help="Scorers over a pool: ifd,perplexity")] = None,
    sets: Sets = None,
    model: Model = None,
    judge: Judge = None,
    reference: Reference = None,
    max_tokens: MaxTokens = 2048,
    workspace: Place = Path(".tamis"),
    workers: Workers = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Dry run of a recipe, or of scorers over a pool: passes, rows, tokens, what each arm costs, disk and hours."""
    output.use_json(json)
    second: dict[str, Any] = {"judge": judge, "reference": reference}
    if scorers is not None:
        from tamis.api import plan as plan_of_scorers
        from tamis.cli.pools import open_workspace, with_settings

        work = open_workspace(workspace, model, max_tokens, workers, device, required=False, **second)
        found = plan_of_scorers(recipe, with_settings(scorers, sets), work=work)
    else:
        found = _recipe_plan(recipe, with_roles(sets, model=model, **second), workspace, workers, device)
    lines = [f"{found['rows']:,} rows, {found['usable']:,} usable, {found['tokens']:,} tokens", ""]
    lines += [f"scorers, in order: {', '.join(found['scorers'])}", ""] if "scorers" in found else []
    steps = [
        [*(step[key] for key in ("stage", "what", "rows", "tokens", "done", "minutes")), *_sizes(step)]
        for step in found["steps"]
    ]
    lines += output.table(steps, ["stage", "what", "rows", "tokens to do", "done", "minutes", "disk MB", "memory MB"])
    device = "GPU" if "gpu_hours" in found else "CPU"
    lines += [
        "",
        f"about {found['hours']:.2f} hours ({found[f'{device.lower()}_hours']:.2f} {device} hours) and "
        f"{found['disk_mb']:.0f} MB of disk on this machine; at most {found['memory_mb']:,} MB of memory of "
        f"{found['memory_of']}",
    ]
    if found["not_estimated"]:
        lines += [f"not estimated, and not in the hours: {', '.join(found['not_estimated'])}"]
    lines += [f"({found['how']})", *[f"note: {note}" for note in found["notes"]]]
    output.result(found, lines)


def _sizes(step: dict[str, Any]) -> list[float | int]:
    return [step["disk_bytes"] / 1e6, step["memory_mb"]]


def _recipe_plan(
    recipe: str, overrides: list[str], place: Path, workers: int | None, device: str | None
) -> dict[str, Any]:
    from tamis import recipe as recipes
    from tamis.api import workspace
    from tamis.stages.plan import plan as make_plan

    checked = recipes.load(recipe, overrides)
    return make_plan(checked, workspace(place, checked.model, **machine_options(workers, device)))  # of this machine


@app.command(name="recipes")
def recipes_command(
    name: Annotated[
        str | None, typer.Argument(help="Print this recipe, to copy it: tamis recipes less > my.yaml")
    ] = None,
    json: Json = False,
) -> None:
    """List the shipped recipes, or print one."""
    output.use_json(json)
    from tamis import recipe as recipes

    known = recipes.shipped()
    if name is not None:
        path = recipes.find(name)
        text = path.read_text(encoding="utf-8")
        output.result({"name": path.stem, "text": text}, [text.rstrip("\n")])
        return
    about = {key: _about(path) for key, path in known.items()}
    output.result({"recipes": about}, [f"{key:<16} {text}" for key, text in about.items()])


def _about(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("about:"):
            return line.removeprefix("about:").strip().strip("\"'")
    return ""


@app.command()
def serve(
    recipe: RecipeName,
    cron: Annotated[str | None, typer.Option("--cron", help='Schedule, for example "0 3 * * *".')] = None,
    every: Annotated[str | None, typer.Option("--every", help="Interval: 20s, 15m, 1h or 1d.")] = None,
    sets: Sets = None,
    workspace: Place = Path(".tamis"),
    workers: Workers = None,
    device: Device = None,
    engine: Engine = None,
    log_format: LogFormat = None,
) -> None:
    """Run a recipe on a schedule, through Prefect, until stopped."""
    from tamis import recipe as recipes
    from tamis.errors import RecipeError

    recipes.load(recipe, sets or [])
    if (cron is None) == (every is None):
        raise RecipeError('serve needs one of --cron "0 3 * * *" and --every 1h')
    from tamis.flows.schedule import serve as start

    start(recipe, sets or [], workspace.resolve(), cron=cron, every=every, options=machine_options(workers, device))
