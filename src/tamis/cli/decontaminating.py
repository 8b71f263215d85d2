"""The verb decontaminate: evaluation items in a pool or a subset, reported, dropped, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tamis.cli import output
from tamis.cli.app import Device, Json, MaxTokens, Model, Place, Sets, Workers, app
from tamis.cli.cleaning import Out
from tamis.cli.pools import open_workspace, settings_of

SHOWN, WIDTH = 15, 60
Data = Annotated[str, typer.Argument(help="A pool folder, a data file, a subset file, or a run folder.")]
AGAINST = typer.Option("--against", metavar="FILE", help="Evaluation set; repeatable, or separated by commas.")
TO = typer.Option("--items", metavar="FILE", help="Write every item found, with its rows (Parquet, or CSV).")
SPANS = typer.Option("--spans", metavar="FILE", help="Write every span found: row, message, characters, item.")


@app.command()
def decontaminate(
    data: Data,
    against: Annotated[list[str], AGAINST],
    action: Annotated[
        Literal["report", "drop", "fail"], typer.Option("--action", help="fail: exit with 3 where anything is found.")
    ] = "report",
    out: Out = None,
    items: Annotated[Path | None, TO] = None,
    spans: Annotated[Path | None, SPANS] = None,
    sets: Sets = None,
    model: Model = None,
    max_tokens: MaxTokens = 2048,
    workspace: Place = Path(".tamis"),
    workers: Workers = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Find evaluation items in a pool or a subset; drop the rows that hold one, or stop with exit code 3."""
    output.use_json(json)
    from tamis.api import decontaminate as run
    from tamis.stages.contamination import write

    files = [name.strip() for one in against for name in one.split(",") if name.strip()]
    work = open_workspace(workspace, model, max_tokens, workers, device, required=False)
    found = run(data, files, action=action, out=out, work=work, **settings_of(sets))
    for table, to in ((found.items, items), (found.spans, spans)):
        if to is not None:
            write(table, to)
    value = {"rows": found.rows, "left": len(found.pool), "action": action, **found.facts}
    value |= {"rows": found.rows, "contaminated": found.facts["rows"], "per_item": found.items.to_pylist()}
    output.result(value | ({"pool": str(out)} if out is not None else {}), _lines(found, action, out))


def _lines(found: Any, action: str, out: Path | None) -> list[str]:
    facts = found.facts
    sets = [
        [name, one["looked_for"], one["found"], one["rows"], f"{one['found'] / max(1, one['looked_for']):.1%}"]
        for name, one in facts["sets"].items()
    ]
    lines = output.table(sets, ["evaluation set", "items", "found", "in rows", "share"])
    shown = found.items.slice(0, SHOWN).to_pylist()
    if shown:
        rows = [
            [
                one["set"],
                one["position"],
                one["part"],
                one["rows"],
                f"{one['score']:.2f}",
                one["kinds"],
                _cut(one["text"]),
            ]
            for one in shown
        ]
        lines += ["", *output.table(rows, ["set", "item", "part", "rows", "held", "by", "text"])]
    if len(found.items) > len(shown):
        lines.append(f"and {len(found.items) - len(shown):,} more items (--items FILE has all)")
    lines += ["", *facts["examples"]] if facts["examples"] else []
    lines += ["", f"{facts['rows']:,} of {found.rows:,} rows hold {facts['items']:,} of {facts['looked_for']:,} items"]
    for key, what in (("other_numbers", "an item with other numbers"), ("most", "most of an item, and not enough")):
        lines += [f"{facts[key]:,} rows hold {what}; they are not counted"] if facts[key] else []
    if action == "drop":
        place = out if out is not None else "the workspace; give --out to keep it"
        lines.append(f"{len(found.pool):,} rows left: {place}")
    return lines


def _cut(text: str) -> str:
    said = " ".join(text.split())
    return said if len(said) <= WIDTH else f"{said[: WIDTH - 2]} …"
