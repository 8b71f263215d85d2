"""The curation flow: a recipe carried out stage by stage, each stage a Prefect task over plain functions."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_API_URL, temporary_settings

from tamis import recipe as recipes
from tamis import remote, runs
from tamis.engine import machine
from tamis.errors import TamisError
from tamis.flows.events import Told
from tamis.flows.server import server
from tamis.operations import deadline, locks, logs
from tamis.operations.endings import Watched
from tamis.ray_cluster import kept
from tamis.report import write_report
from tamis.stages.conduct import Conductor
from tamis.stages.room import check_room
from tamis.stages.workspace import Work, Workspace

# Conductors of this process by run folder: tasks are handed the path, never the data.
_CONDUCTED: dict[str, Conductor] = {}


def _reading_failed(task: Any, task_run: Any, state: Any) -> bool:
    """Retry what a network can do wrong; a file that is missing or wrong stays so."""
    error = state.result(raise_on_failure=False)
    if not isinstance(error, OSError) and isinstance(error, BaseException):
        error = error.__cause__  # a DataError that says what the hub answered
    if isinstance(error, FileNotFoundError):
        return False
    return isinstance(error, (ConnectionError, TimeoutError)) or (isinstance(error, OSError) and error.filename is None)


@task(
    name="ingest", cache_policy=NO_CACHE, retries=3, retry_delay_seconds=[1, 5, 20], retry_condition_fn=_reading_failed
)
def read_sources(run: str) -> int:
    """Read pool and target; returns the rows of the pool."""
    conductor = _CONDUCTED[run]
    with conductor.within_deadline():
        conductor.ingest()
        check_room(conductor)
    return len(conductor.pool or ())


@task(name="stage", cache_policy=NO_CACHE)
def carry_out(run: str, stage: str) -> str:
    """Carry out one stage of the recipe; returns what it did, in words. A model pass that fails is not retried."""
    conductor = _CONDUCTED[run]
    conductor.carry_out(conductor.recipe.stage(stage))
    return str(conductor.took[stage]["detail"])


@task(name="report", cache_policy=NO_CACHE)
def write_results(run: str, started: float) -> str:
    """Write run folder and report; returns the path of the report."""
    folder = Path(run)
    manifest = runs.finish(_CONDUCTED[run], folder, started)
    report = write_report(folder)
    create_markdown_artifact(_summary(manifest, report), key="tamis-report", description=f"{manifest['name']}: report")
    return str(report)


@task(name="publish", cache_policy=NO_CACHE)
def publish(run: str, to: str) -> str:
    """Send the finished run to remote storage; returns the address of its folder."""
    return remote.publish(Path(run), to)[-1].rpartition("/")[0]


@flow(name="curate", flow_run_name="{recipe}")
def curate(
    recipe: str,
    workspace: str = ".tamis",
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    wait_hours: float | None = None,
    max_hours: float | None = None,
) -> dict[str, Any]:
    """Carry out a recipe; returns the run folder, the report and the verdict. `options`: settings of the machine.

    `wait_hours`: how long to wait for another scheduled run on this workspace; None waits for none, and is not waited
    for. `max_hours`: when to stop, in a place where the next run goes on.
    """
    if logs.asked_for():
        logs.to_json()
        logs.take_over("prefect")
    checked = recipes.load(recipe, overrides)
    root = Path(workspace).resolve()
    mine = nullcontext() if wait_hours is None else locks.turn(root, checked.name, 3600 * wait_hours)
    with mine, deadline.within(max_hours):
        return _carry_out(checked, root, dict(options or {}))


def _carry_out(checked: recipes.Recipe, root: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out a recipe in its turn, and tell Prefect and the run folder what becomes of it."""
    started = time.time()
    folder = runs.start(checked, root / "runs")
    run = str(folder)
    with ExitStack() as inside:
        inside.enter_context(logs.within(run=folder.name, recipe=checked.name))
        inside.enter_context(Watched(folder, root))
        told = inside.enter_context(Told(checked.name, root, folder))
        inside.enter_context(kept())
        work = Work(events=folder / "events.jsonl")
        _CONDUCTED[run] = Conductor.of(
            checked, Workspace(root, machine(**{**checked.machine, **options}), checked.model, work)
        )
        inside.callback(_CONDUCTED.pop, run)
        read_sources(run)
        _tell_of_quarantine(told, _CONDUCTED[run])
        for stage in checked.stages:
            carry_out.with_options(name=stage.name)(run, stage.name)
        report = write_results(run, started)
        published = None if checked.publish is None else publish(run, checked.publish)
        outcome = _outcome(_CONDUCTED[run])
        facts = {key: outcome[key] for key in ("rows", "verdict")} | {"seconds": round(time.time() - started, 1)}
        told.tell("tamis.run.finished", report=report, subset=f"{run}/subset.parquet", **facts)
        return {"run": run, "report": report, "published": published, **outcome}


def _tell_of_quarantine(told: Told, conductor: Conductor) -> None:
    files = conductor.pool.files if conductor.pool is not None else ()
    bad, read = (sum(int(file[name]) for file in files) for name in ("quarantined", "rows"))
    if bad:
        told.tell("tamis.rows.quarantined", rows=bad, of=read)


class _OnPurpose(logging.Filter):
    """Leaves the traceback out where the error is one of tamis, which says what to do."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record."""
        if record.exc_info and isinstance(record.exc_info[1], TamisError):
            record.exc_info = record.exc_text = None
        return True


def run_here(recipe: str, workspace: Path, overrides: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Run the flow in this process, against the server at `PREFECT_API_URL` or one of our own."""
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        logging.getLogger(name).addFilter(_OnPurpose())
    with server(workspace) as url, temporary_settings({PREFECT_API_URL: url}):
        try:
            outcome: dict[str, Any] = curate(recipe, str(workspace), list(overrides), dict(options))
        except ValueError as error:
            if _hides_a_signal(error):  # Prefect trips over one that comes while it sets up a task run
                signal.raise_signal(signal.SIGTERM)
            raise
        finally:
            for handler in logging.getLogger("prefect.flow_runs").handlers:
                handler.flush()  # what the log still holds goes to the server before it stops
    return outcome


def _hides_a_signal(error: BaseException | None) -> bool:
    """Whether an error came out of handling a signal that ends the flow."""
    while error is not None and not isinstance(error, TerminationSignal):
        error = error.__cause__ or error.__context__
    return error is not None


def _outcome(conductor: Conductor) -> dict[str, Any]:
    compared = next((left for left in conductor.outcomes.values() if isinstance(left, dict) and "arms" in left), {})
    passes = conductor.work.work.passes
    chosen = conductor.main()
    return {
        "verdict": compared.get("verdict"),
        "rows": len(chosen.subset.positions) if chosen is not None else None,
        "shards_measured": int(sum(facts["made"] for facts in passes.values())),
        "stages": list(conductor.took.values()),
    }


def _summary(manifest: Mapping[str, Any], report: Path) -> str:
    lines = [f"# {manifest['name']}", "", f"Report: `{report}`", "", "| step | rows |", "|---|---|"]
    lines += [f"| {step['step']} | {step['rows']:,} |" for step in manifest["funnel"]]
    lines += ["", "| stage | seconds | |", "|---|---|---|"]
    lines += [f"| {stage['name']} | {stage['seconds']} | {stage['detail']} |" for stage in manifest["stages"]]
    return "\n".join(lines)
