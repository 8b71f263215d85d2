"""Verbs that look: list, doctor, report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from tamis.cli import listing, output
from tamis.cli.app import Json, MaxTokens, Model, Place, app


@app.command(name="list", help=listing.ABOUT)
def list_command(kind: Annotated[str | None, typer.Argument(help=listing.KIND)] = None, json: Json = False) -> None:
    """List the components; `main` answers this verb itself, here it stands for `--help`."""
    output.use_json(json)
    listing.print_components(kind)


@app.command()
def doctor(
    masks: Annotated[str | None, typer.Option("--masks", help="Lint the label masks of this pool or subset.")] = None,
    model: Model = None,
    scored_with: Annotated[
        str | None, typer.Option("--scored-with", help="Compare the template with that of this model.")
    ] = None,
    max_tokens: MaxTokens = 2048,
    workspace: Place = Path(".tamis"),
    json: Json = False,
) -> None:
    """Say what this machine can do, and what is missing; with --masks, what is wrong with the labels of rows."""
    output.use_json(json)
    if masks is not None:
        _lint_masks(masks, model, scored_with, max_tokens)
        return
    from tamis.operations.diagnosis import diagnose

    found = diagnose(workspace)
    lines = [f"{'ok ' if check['ok'] else '!! '} {check['what']:<22}{check['found']}" for check in found["checks"]]
    output.result(found, lines)
    if not all(check["ok"] or check["optional"] for check in found["checks"]):
        raise typer.Exit(1)


def _lint_masks(name: str, model: str | None, scored_with: str | None, max_tokens: int) -> None:
    import dataclasses

    from tamis.errors import RecipeError
    from tamis.masks import lint
    from tamis.models import ModelRef

    if model is None:
        raise RecipeError("doctor --masks needs the model that will be trained: --model FOLDER-OR-HUB-NAME")
    other = None if scored_with is None else ModelRef(name=scored_with, max_tokens=max_tokens)
    found = lint(_rows(name), ModelRef(name=model, max_tokens=max_tokens), scored_with=other)
    lines = [f"{'!! ' if one.level == 'fault' else 'ok?'} {one.code:<21}{one}" for one in found.findings]
    lines.append(f"{found.rows:,} rows: {len(found.faults)} kinds of faults" if lines else f"{found.rows:,} rows: ok")
    output.result({"rows": found.rows, "findings": [dataclasses.asdict(one) for one in found.findings]}, lines)
    if found.faults:
        raise typer.Exit(1)


def _rows(name: str) -> Iterator[Any]:
    """Rows of a subset file or run folder in the order picked, of a pool, or of data files ingested for a look."""
    import tempfile

    from tamis.ingest import ingest
    from tamis.pool import MANIFEST, Pool
    from tamis.store import Store
    from tamis.subsets import read

    path = Path(name)
    if _is_subset(path):
        file = read(path)
        for start in range(0, len(file.positions), 1024):
            yield from file.pool.read(file.positions[start : start + 1024].tolist())
    elif path.name == MANIFEST or (path / MANIFEST).is_file():
        yield from Pool.open(path)
    else:
        with tempfile.TemporaryDirectory(prefix="tamis-masks-") as folder:
            yield from ingest([name], Store(Path(folder)))


def _is_subset(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = path / "subset.parquet" if path.is_dir() else path
    try:
        return b"tamis.pool" in (pq.read_schema(file).metadata or {})
    except (OSError, pa.ArrowInvalid):
        return False


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="A run folder, part of its name, or latest.")] = "latest",
    workspace: Place = Path(".tamis"),
    json: Json = False,
) -> None:
    """Write the HTML report of a run again, and say where it lies."""
    output.use_json(json)
    from tamis.report import write_report
    from tamis.runs import latest

    path = write_report(latest(workspace / "runs", run))
    output.result({"report": str(path)}, [f"Report: {path}"])
