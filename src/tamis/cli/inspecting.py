"""Verbs that look: list, doctor, explain, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tamis.cli import listing, output
from tamis.cli.app import Json, Place, app


@app.command(name="list", help=listing.ABOUT)
def list_command(kind: Annotated[str | None, typer.Argument(help=listing.KIND)] = None, json: Json = False) -> None:
    """List the components; `main` answers this verb itself, here it stands for `--help`."""
    output.use_json(json)
    listing.print_components(kind)


@app.command()
def doctor(workspace: Place = Path(".tamis"), json: Json = False) -> None:
    """Say what this machine can do, and what is missing."""
    output.use_json(json)
    from tamis.diagnosis import diagnose

    found = diagnose(workspace)
    lines = [f"{'ok ' if check['ok'] else '!! '} {check['what']:<22}{check['found']}" for check in found["checks"]]
    output.result(found, lines)
    if not all(check["ok"] or check["optional"] for check in found["checks"]):
        raise typer.Exit(1)


@app.command()
def explain(
    run: Annotated[str, typer.Argument(help="A run folder, part of its name, or latest.")],
    row: Annotated[str, typer.Argument(help="Key (or its first characters), or FILE:POSITION.")],
    workspace: Place = Path(".tamis"),
    json: Json = False,
) -> None:
    """Say why a row is in or out: its verdict, its scores, its text."""
    output.use_json(json)
    from tamis.explanation import explain as look
    from tamis.runs import latest

    found = look(latest(workspace / "runs", run), row)
    lines = [f"{found['key']}  {found['file']}:{found['position']}  {found['source']}", "", _verdict(found), ""]
    lines += [f"  {name:<40} {value}" for name, value in found["columns"].items()]
    for message in found["messages"]:
        lines += ["", f"[{message['role']}]", str(message.get("content") or message.get("tool_calls") or "")]
    if found["excerpt"]:
        lines += ["", found["excerpt"]]
    output.result(found, lines)


def _verdict(found: dict[str, Any]) -> str:
    if found["verdict"] == "selected":
        return f"SELECTED by {found['step']}, rank {found['rank']}, gain {found['gain']:.4g}"
    value = "" if found["value"] is None else f" (value {found['value']:.4g})"
    return f"{found['verdict'].upper()} by {found['step']}: {found['reason']}{value}"


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
