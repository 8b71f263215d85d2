"""The verb publish: a finished run sent to remote storage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tamis.cli import output
from tamis.cli.app import Json, Place, app


@app.command()
def publish(
    to: Annotated[str, typer.Option("--to", help="s3://bucket/folder, gs://…, az://…, file:///…")],
    run: Annotated[str, typer.Argument(help="A run folder, part of its name, or latest.")] = "latest",
    workspace: Place = Path(".tamis"),
    json: Json = False,
) -> None:
    """Send a finished run to remote storage: subset, ledger, report, manifest last; not its checkpoints."""
    output.use_json(json)
    from tamis.remote import publish as send
    from tamis.runs import latest

    sent = send(latest(workspace / "runs", run), to)
    output.result({"files": sent}, [f"{len(sent)} files: {sent[-1].rpartition('/')[0]}"])
