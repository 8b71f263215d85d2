"""Verbs of a service: deploy, gc, health."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from tamis.cli import output
from tamis.cli.app import Device, Engine, Json, MaxHours, Place, Sets, Workers, app, machine_options
from tamis.cli.running import RecipeName


@app.command()
def deploy(
    recipe: RecipeName,
    pool: Annotated[str, typer.Option("--pool", help="Work pool of type process, whose workers run it.")],
    cron: Annotated[str | None, typer.Option("--cron", help='Schedule, for example "0 3 * * *".')] = None,
    every: Annotated[str | None, typer.Option("--every", help="Interval: 20s, 15m, 1h or 1d.")] = None,
    timezone: Annotated[str, typer.Option("--timezone", help="Of --cron, for example Europe/Berlin.")] = "UTC",
    name: Annotated[str, typer.Option("--name", help="Name of the deployment (default: tamis-RECIPE).")] = "",
    create_pool: Annotated[bool, typer.Option("--create-pool", help="Make the work pool if it is not there.")] = False,
    wait_hours: Annotated[
        float, typer.Option("--wait-hours", help="Hours to wait for another run on the same workspace.")
    ] = 24.0,
    max_hours: MaxHours = None,
    to: Annotated[Path | None, typer.Option("--to", help="Write a prefect.yaml there, and ask no server.")] = None,
    sets: Sets = None,
    workspace: Place = Path(".tamis"),
    workers: Workers = None,
    device: Device = None,
    engine: Engine = None,
    json: Json = False,
) -> None:
    """Deploy a recipe to a Prefect work pool, on a schedule or on demand; again brings it up to date."""
    output.use_json(json)
    from tamis import recipe as recipes
    from tamis.errors import RecipeError

    recipes.load(recipe, sets or [])
    if cron is not None and every is not None:
        raise RecipeError("deploy takes one of --cron and --every, or neither: the deployment then runs on demand")
    from tamis.flows.settings import set_quiet

    set_quiet()
    from tamis.flows.deploy import Plan
    from tamis.flows.deploy import deploy as start

    plan = Plan(
        recipe=recipe,
        workspace=workspace.resolve(),
        pool=pool,
        name=name,
        overrides=tuple(sets or ()),
        cron=cron,
        every=every,
        timezone=timezone,
        wait_hours=wait_hours,
        max_hours=max_hours,
        options=machine_options(workers, device),
    )
    if to is not None:
        _write_plan(plan, to)
        return
    found = start(plan, create_pool=create_pool)
    when = " ".join(f"{key} {value}" for key, value in (found["schedule"] or {}).items()) or "on demand"
    lines = [f"made work pool {pool}"] if found["pool_made"] else []
    lines.append(f"{found['deployment']} at {found['server']}: {when}")
    lines.append(f"now:     prefect deployment run '{found['deployment']}'")
    lines.append(f"worker:  prefect worker start --pool {pool}")
    output.result(found, lines)


def _write_plan(plan: Any, to: Path) -> None:
    import yaml

    from tamis.flows.deploy import as_file
    from tamis.store import write_text

    value = as_file([plan])
    to.parent.mkdir(parents=True, exist_ok=True)
    write_text(to, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
    lines = [f"{to}: apply it with `prefect --no-prompt deploy --prefect-file {to} --all`"]
    output.result({"file": str(to), **value}, lines)


@app.command()
def gc(
    keep: Annotated[int, typer.Option("--keep", min=1, help="Finished runs of every recipe that stay.")] = 10,
    protect: Annotated[
        list[str] | None, typer.Option("--protect", help="A run with this in its name stays; repeatable.")
    ] = None,
    unused_days: Annotated[
        int | None,
        typer.Option("--unused-days", min=1, help="Entries that nothing has used for so many days go as well."),
    ] = None,
    history_days: Annotated[
        int, typer.Option("--history-days", min=1, help="Prefect's history in the workspace that stays.")
    ] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    workspace: Place = Path(".tamis"),
    json: Json = False,
) -> None:
    """Remove old run folders and what only they have used of the store; refuses while anybody works there."""
    output.use_json(json)
    from tamis.operations.retention import Rules, collect

    root = workspace.resolve()
    found = collect(root, Rules(keep, tuple(protect or ()), unused_days), dry_run=dry_run).facts()
    if not dry_run and (root / "prefect").is_dir():
        from tamis.flows.settings import set_defaults

        set_defaults(root)
        from tamis.flows.history import trim

        said = trim(root, history_days)
        found["notes"] = [*found["notes"], *([said] if said else [])]
    verb = "would go" if dry_run else "went"
    lines = [f"runs: {len(found['runs'])} {verb}, {found['runs_mb']:,.1f} MB; {len(found['kept_runs'])} stay"]
    lines += [f"  {name}" for name in found["runs"]]
    count = sum(one["count"] for one in found["entries"].values())
    lines.append(f"store: {count} entries {verb}, {found['entries_mb']:,.1f} MB; {found['kept_entries']} stay")
    lines += [f"  {kind:<10} {one['count']:>6}  {one['mb']:,.1f} MB" for kind, one in found["entries"].items()]
    lines += [f"others: {found['others']} {verb}, {found['others_mb']:,.1f} MB"] if found["others"] else []
    lines += [f"note: {note}" for note in found["notes"]]
    output.result({**found, "dry_run": dry_run}, lines)


@app.command()
def health(
    verify: Annotated[bool, typer.Option("--verify", help="Read the whole store and check its digests.")] = False,
    max_age: Annotated[
        float | None, typer.Option("--max-age", metavar="HOURS", help="The last finished run must be younger.")
    ] = None,
    free_gb: Annotated[float, typer.Option("--free-gb", help="Disk that must be free.")] = 2.0,
    workspace: Place = Path(".tamis"),
    json: Json = False,
) -> None:
    """Say whether a workspace is well: disk, store, last runs, Prefect, workers. Exit code 1 where something is not."""
    output.use_json(json)
    from tamis.operations.health import check_workspace

    root = workspace.resolve()
    checks = check_workspace(root, verify=verify, free_gb=free_gb, max_age_hours=max_age)
    checks += _prefect(root)
    lines = [f"{'ok ' if check['ok'] else '!! '} {check['what']:<22}{check['found']}" for check in checks]
    well = all(check["ok"] or check["optional"] for check in checks)
    output.result({"ok": well, "workspace": str(root), "checks": checks}, lines)
    if not well:
        raise typer.Exit(1)


def _prefect(root: Path) -> list[dict[str, Any]]:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        found = "PREFECT_API_URL is not set: runs start a server of their own"
        return [{"what": "prefect", "ok": True, "found": found, "optional": True}]
    from tamis.flows.settings import set_quiet

    set_quiet()
    from tamis.flows.probing import probe

    return probe(root, url)
