"""The verb that holds scores against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tamis.cli import output
from tamis.cli.app import Device, Engine, Json, Judge, MaxTokens, Model, Place, Reference, Workers, app
from tamis.cli.pools import PoolName, open_workspace


@app.command()
def calibrate(
    pool: PoolName,
    column: Annotated[str, typer.Option("--column", help="The score: a column, or meta.NAME.")],
    truth: Annotated[
        str, typer.Option("--truth", help="Whether a row is right: meta.correct, or a column of 0 and 1.")
    ],
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="High values speak against a row.")] = False,
    bins: Annotated[int, typer.Option("--bins", help="Bins of equal mass, for ECE.", min=1)] = 10,
    rising: Annotated[
        str | None, typer.Option("--rising", help="Columns at rising temperatures, by commas: adds TSU.")
    ] = None,
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
    """Hold a score against the truth: ECE, Brier, AUROC, AURC; with --rising TSU, which needs no truth."""
    output.use_json(json)
    from tamis.api import calibrate as run

    second: dict[str, Any] = {"judge": judge, "reference": reference}
    work = open_workspace(workspace, model, max_tokens, workers, device, required=False, **second)
    names = [name.strip() for name in (rising or "").split(",") if name.strip()]
    found = run(pool, column, truth, rising=names, bins=bins, uncertainty=uncertainty, work=work)
    output.result(found, [repr(found)])
