"""Verbs that clean a pool: clean, dedup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tamis.cli import output
from tamis.cli.app import Device, Engine, Json, Judge, MaxTokens, Model, Place, Reference, Sets, Workers, app
from tamis.cli.pools import COLUMNS, On, PoolName, open_workspace, settings_of

SHOWN = 8  # entries of a fact with many
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write the clean pool to.")]
TARGET = typer.Option("--target", help="Data files that @target means; repeatable.")
EXISTING = typer.Option("--existing", help="Data files that @existing means; repeatable.")


@app.command()
def clean(
    pool: PoolName,
    steps: Annotated[str, typer.Option("--with", help="Steps in their order: repair-text,exact,near,where")],
    out: Out = None,
    target: Annotated[list[str] | None, TARGET] = None,
    existing: Annotated[list[str] | None, EXISTING] = None,
    columns: Annotated[list[str] | None, COLUMNS] = None,
    on: On = None,
    sets: Sets = None,
    model: Model = None,
    judge: Judge = None,
    reference: Reference = None,
    max_tokens: MaxTokens = 2048,
    workspace: Place = Path(".tamis"),
    workers: Workers = None,
    device: Device = None,
    engine: Engine = None,
    json: Json = False,
) -> None:
    """Take rows out of a pool or mend them, step by step; `--set where.keep="chars > 20"` is a step's setting."""
    output.use_json(json)
    second: dict[str, Any] = {"judge": judge, "reference": reference}
    work = open_workspace(workspace, model, max_tokens, workers, device, required=False, **second)
    given = {"target": target or None, "existing": existing or None, "columns": columns or (), "on": on}
    carry_out(pool, steps, out, work, sets, **given)


@app.command()
def dedup(
    pool: PoolName,
    steps: Annotated[str, typer.Option("--with", help="Steps: exact, near, semantic.")] = "exact,near",
    out: Out = None,
    columns: Annotated[list[str] | None, COLUMNS] = None,
    on: On = None,
    sets: Sets = None,
    model: Model = None,
    max_tokens: MaxTokens = 2048,
    workspace: Place = Path(".tamis"),
    workers: Workers = None,
    device: Device = None,
    engine: Engine = None,
    json: Json = False,
) -> None:
    """Keep one of every group of rows that say the same; `--set near.threshold=0.8` is a step's setting."""
    output.use_json(json)
    work = open_workspace(workspace, model, max_tokens, workers, device, required=False)
    carry_out(pool, steps, out, work, sets, columns=columns or (), on=on)


def carry_out(pool: str, steps: str, out: Path | None, work: Any, sets: list[str] | None, **given: Any) -> None:
    """Clean a pool and say what every step did. Without `out` it stays in the workspace, and its place is said."""
    from tamis.api import clean as run
    from tamis.api.handles import keep_pool

    done: list[Any] = []
    left = run(pool, steps, out=out, work=work, settings=settings_of(sets), say=done.append, **given)
    place = out if out is not None else keep_pool(left, work).parent
    rows = [[one.step, one.read, one.dropped, one.changed] for one in done]
    lines = output.table(rows, ["step", "rows in", "dropped", "changed"])
    for one in done:
        lines += ["", *_about(one)] if one.facts or one.notes else []
    lines += ["", f"{done[0].read:,} rows in, {len(left):,} left: {place}"]
    about = [{**one.about(), "made": one.made, "seconds": one.seconds} for one in done]
    output.result({"pool": str(place), "rows": len(left), "steps": about}, lines)


def _about(done: Any) -> Iterator[str]:
    """Facts and notes of a step in lines."""
    for name, value in done.facts.items():
        yield f"{done.step}: {name.replace('_', ' ')} {_plain(value)}"
    for note in done.notes:
        yield f"{done.step}: note: {note}"


def _plain(value: Any) -> str:
    """A fact in few words: numbers as they are, a table by its largest entries."""
    if isinstance(value, Mapping):
        parts = [f"{name or '(none)'} {_plain(one)}" for name, one in list(value.items())[:SHOWN]]
        return ", ".join(parts) + (f" and {len(value) - SHOWN} more" if len(value) > SHOWN else "")
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(one) for one in value[:SHOWN]) + (" …" if len(value) > SHOWN else "")
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
