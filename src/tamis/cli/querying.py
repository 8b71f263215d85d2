"""The verb ledger: what became of every row, by SQL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tamis.cli import output
from tamis.cli.app import Json, Place, app


@app.command()
def ledger(
    run: Annotated[str, typer.Argument(help="A run folder, part of its name, or latest.")] = "latest",
    sql: Annotated[
        str | None,
        typer.Option("--sql", help="A query over ledger, columns, subset, quarantine, rows; default: rows by reason."),
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Write the answer: .parquet, .csv or .jsonl.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="Lines shown at most.")] = 40,
    workspace: Place = Path(".tamis"),
    json: Json = False,
) -> None:
    """What became of every row of a run, by SQL over its ledger, scores, subset, quarantine and text."""
    output.use_json(json)
    from tamis.history.querying import SUMMARY, query, save
    from tamis.report.inert import clean
    from tamis.runs import latest

    found = query(latest(workspace / "runs", run), sql or SUMMARY)
    if to is not None:
        save(found, to)
        output.result({"path": str(to), "rows": len(found)}, [f"{len(found):,} rows: {to}"])
        return
    rows = [[clean(cell, 120) if isinstance(cell, str) else _plain(cell) for cell in row] for row in found.rows()]
    lines = output.table(rows[:limit], found.columns) if rows else ["no row"]
    lines += [f"and {len(rows) - limit:,} more; --limit shows them, --to writes them"] if len(rows) > limit else []
    output.result({"columns": found.columns, "rows": found.to_dicts()}, lines)


def _plain(cell: object) -> object:
    return cell if isinstance(cell, (int, float)) else "" if cell is None else str(cell)[:120]
