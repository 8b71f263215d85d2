"""The verb explain: everything that a run knows of one row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tamis.cli import output
from tamis.cli.app import Json, Place, app

SHOWN, WIDTH = 12, 160


@app.command()
def explain(
    run: Annotated[str, typer.Argument(help="A run folder, part of its name, or latest.")],
    row: Annotated[str, typer.Argument(help="Key (or its first characters), or FILE:POSITION.")],
    workspace: Place = Path(".tamis"),
    json: Json = False,
) -> None:
    """Say why a row is in or out: its verdict, its scores, its text."""
    output.use_json(json)
    from tamis.history.explanation import explain as look
    from tamis.runs import latest

    found = look(latest(workspace / "runs", run), row)
    lines = [f"{found['key']}  {found['file']}:{found['position']}  {found['source']}", "", _verdict(found), ""]
    lines += [f"  kept in its place: {found['winner']}"] if found.get("winner") else []
    if found["read_as"]:
        lines += [f"  text changed by {', '.join(found['changed_by'])}; read as {found['read_as']}"]
    lines += [f"  {name:<40} {value}" for name, value in found["columns"].items()]
    lines += _lineage(found)
    lines += _weights(found["weights"])
    lines += [f"  note: {sentence}" for sentence in found["notes"]]
    for message in found["messages"]:
        lines += ["", f"[{message['role']}]", str(message.get("content") or message.get("tool_calls") or "")]
    if found["excerpt"]:
        lines += ["", found["excerpt"]]
    output.result(found, lines)


def _weights(said: dict[str, Any]) -> list[str]:
    """What the training makes of a row that was selected, where it is weighed."""
    lines = [f"  training weight of the row: {said['row']:.4g}"] if said and said["row"] != 1 else []
    if "response_tokens" in said:
        kept, count = said["response_tokens_with_weight"], said["response_tokens"]
        lines.append(f"  {kept:,} of {count:,} response tokens are trained ({kept / max(1, count):.0%})")
    return lines


def _lineage(found: dict[str, Any]) -> list[str]:
    """Influence on the tasks of the target, the nearest kept row, and where the row leaked."""
    lines = [
        f"  influence on {task:<27} {'not measured' if value is None else f'{value:.5g}'}"
        for task, value in list(found["influence"].items())[:SHOWN]
    ]
    if len(found["influence"]) > SHOWN:
        lines.append(f"  and on {len(found['influence']) - SHOWN} more tasks (--json has all)")
    if (near := found["nearest_kept"]) is not None:
        lines.append(f"  nearest kept row: {near['key']}, cosine {near['cosine']:.3f} by {near['by']}")
        lines.append(f"    {near['text'][:WIDTH]}")
    for span in found["spans"][:SHOWN]:
        facts = ", ".join(f"{name} {value}" for name, value in span.items() if name not in ("step", "table", "key"))
        lines.append(f"  {span['step']}: {facts}")
    return lines


def _verdict(found: dict[str, Any]) -> str:
    if found["verdict"] == "selected":
        return f"SELECTED by {found['step']}, rank {found['rank']}, gain {found['gain']:.4g}"
    value = "" if found["value"] is None else f" (value {found['value']:.4g})"
    return f"{found['verdict'].upper()} by {found['step']}: {found['reason']}{value}"
