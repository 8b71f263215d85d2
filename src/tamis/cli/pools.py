"""Verbs over pools: ingest, columns, score, scores, filter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tamis.cli import output
from tamis.cli.app import Device, Json, MaxTokens, Model, Place, Sets, Workers, app
from tamis.cli.running import machine_options

PoolName = Annotated[str, typer.Argument(help="A pool folder that `tamis ingest` made, or a data file.")]


def settings_of(sets: list[str] | None) -> dict[str, Any]:
    """`--set a=b` options as a mapping; values are read as YAML."""
    from tamis.errors import RecipeError
    from tamis.marked import Marked, apply_override

    marked = Marked("--set")
    for override in sets or []:
        apply_override(marked, override)
    if marked.faults:
        raise RecipeError(marked.faults)
    return marked.values


def open_workspace(
    place: Path, model: str | None, max_tokens: int, workers: int | None, device: str | None, *, required: bool
) -> Any:
    """Workspace of a verb; `required`: a pass over a model is going to run, so `--model` must be said."""
    from tamis.api import workspace
    from tamis.errors import ModelError, RecipeError
    from tamis.models import ModelRef, folder_of

    if model is None and required:
        raise RecipeError("this needs a pass over a model: give --model FOLDER-OR-HUB-NAME (tamis:tiny-lm is shipped)")
    ref = ModelRef(name=model or "tamis:tiny-lm", max_tokens=max_tokens)
    if required:
        try:
            folder_of(ref.name)
        except ModelError as error:
            raise RecipeError(f"--model: {error}") from error
    return workspace(place, ref, **machine_options(workers, device))


@app.command()
def ingest(
    inputs: Annotated[list[str], typer.Argument(metavar="IN...", help="Paths, globs, folders, hf:// names, URLs.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write the pool to.")] = None,
    mapping: Annotated[
        list[str] | None, typer.Option("--map", metavar="ROLE=FIELD", help="prompt=question,response=a")
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="Source name of rows that name none.")] = None,
    preview: Annotated[int, typer.Option("--preview", help="Show this many rows as read, and write nothing.")] = 0,
    max_bad: Annotated[
        str | None, typer.Option("--max-bad", help="Exit with 3 above this share, for example 0.1%.")
    ] = None,
    json: Json = False,
) -> None:
    """Read data files into a pool; rows that cannot be used are quarantined with a reason."""
    output.use_json(json)
    from tamis.errors import RecipeError

    roles = dict(_pair(part) for item in mapping or [] for part in item.split(","))
    if preview:
        _preview(inputs, preview, roles)
        return
    if out is None:
        raise RecipeError("ingest needs --out FOLDER for the pool (or --preview 5 to look first)")
    from tamis.api import open_pool
    from tamis.stages.sources import check_quarantine

    pool = open_pool(inputs, out=out, mapping=roles or None, source=source)
    names = ("name", "format", "rows", "kept", "quarantined", "dropped")
    files = [{name: file[name] for name in names} for file in pool.files]
    lines = output.table([[file[name] for name in names] for file in files], list(names))
    reasons = _reasons(pool)
    lines += ["", *[f"quarantined {count:>7,}  {reason}" for reason, count in reasons.items()]] if reasons else []
    lines += ["", f"{len(pool):,} rows in {out}"]
    output.result({"pool": str(out), "rows": len(pool), "files": files, "quarantine": reasons}, lines)
    if max_bad is not None:
        check_quarantine(pool, max_bad)


def _pair(text: str) -> tuple[str, str]:
    from tamis.errors import RecipeError

    role, equals, name = text.partition("=")
    if not equals or not role or not name:
        raise RecipeError(f"--map {text}: expected ROLE=FIELD, for example prompt=question")
    return role.strip(), name.strip()


def _reasons(pool: Any) -> dict[str, int]:
    from collections import Counter

    from tamis.ledger import kind_of, quarantine
    from tamis.views import PoolView

    rows = quarantine(PoolView(pool)).to_pylist()
    counts = Counter(kind_of(row["reason"]) for row in rows if row["verdict"] == "quarantined")
    return dict(counts.most_common(12))


def _preview(inputs: list[str], rows: int, roles: dict[str, str]) -> None:
    import dataclasses

    from tamis.ingest import preview

    for name in inputs:
        seen = preview(name, rows, roles or None)
        lines = [f"{name}: {seen.format}", *(f"  {key} <- {value}" for key, value in seen.mapping.items())]
        for row in seen.rows:
            lines += ["", f"[{row.kind}] {row.source}"]
            for message in (*row.messages, *row.chosen):
                lines.append(f"  {message['role']}: {str(message.get('content'))[:400]}")
        lines += [f"  ! {fault}" for fault in seen.faults]
        value = {"file": name, "format": seen.format, "mapping": seen.mapping, "faults": seen.faults}
        output.result({**value, "rows": [dataclasses.asdict(row) for row in seen.rows]}, lines)


@app.command()
def score(
    pool: PoolName,
    scorers: Annotated[str, typer.Option("--with", help="Scorers, separated by commas: ifd,perplexity")],
    model: Model = None,
    max_tokens: MaxTokens = 2048,
    sets: Sets = None,
    workspace: Place = Path(".tamis"),
    workers: Workers = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Score every row of a pool; passes that were run before are not run again."""
    output.use_json(json)
    from tamis.api import open_pool
    from tamis.api import score as run
    from tamis.recipe import scorer_settings
    from tamis.stages.score import statistics

    work = open_workspace(workspace, model, max_tokens, workers, device, required=_needs_model(scorers))
    given = settings_of(sets)
    names = list(scorer_settings(scorers))
    settings = given if set(given) <= set(names) else {name: given for name in names}
    opened = open_pool(pool, work)
    scored = run(opened, scorers, work, settings)
    columns = {name: {"unit": column.unit, **statistics(column.values)} for name, column in scored.columns.items()}
    passes = [
        f"pass {name}: {int(one['made'])} of {int(one['shards'])} shards measured"
        for name, one in work.work.passes.items()
    ]
    output.result({"columns": columns, "passes": work.work.passes}, [*passes, "", *_column_lines(columns)])


def _needs_model(scorers: str) -> bool:
    from tamis.catalogue import build
    from tamis.recipe import scorer_settings

    return any(need.name != "lengths" for name in scorer_settings(scorers) for need in build("scorers", name, {}).needs)


def _column_lines(columns: dict[str, dict[str, Any]]) -> list[str]:
    names = ("unit", "rows", "scored", "mean", "p5", "p50", "p95")
    rows = [[name, *(facts.get(key, "") for key in names)] for name, facts in columns.items()]
    return output.table(rows, ["column", *names])


@app.command()
def columns(pool: PoolName, workspace: Place = Path(".tamis"), json: Json = False) -> None:
    """List the columns that a pool has in this workspace."""
    output.use_json(json)
    from tamis.api import open_pool
    from tamis.api import workspace as open_place
    from tamis.stages.score import known_columns, statistics

    work = open_place(workspace, workers=1)
    found = {
        name: {"unit": column.unit, **statistics(column.values)}
        for name, column in known_columns(open_pool(pool, work), work).items()
    }
    none = [f"no columns yet; make some with `tamis score {pool} --with perplexity,ifd --model …`"]
    output.result({"columns": found}, _column_lines(found) if found else none)


@app.command()
def scores(
    pool: PoolName,
    to: Annotated[Path, typer.Option("--to", help="Parquet (or .csv) file to write.")],
    workspace: Place = Path(".tamis"),
    json: Json = False,
) -> None:
    """Write all columns of a pool beside key, file and position, for polars, pandas and SQL."""
    output.use_json(json)
    from tamis.api import open_pool
    from tamis.api import workspace as open_place
    from tamis.stages.score import known_columns, write_columns

    work = open_place(workspace, workers=1)
    opened = open_pool(pool, work)
    names = write_columns(opened, known_columns(opened, work), to)
    output.result(
        {"file": str(to), "rows": len(opened), "columns": names}, [f"{len(opened):,} rows, {len(names)} columns: {to}"]
    )


@app.command(name="filter")
def filter_command(
    pool: PoolName,
    where: Annotated[str, typer.Option("--where", help='Expression: "ifd < 1 and perplexity.response < 50"')],
    out: Annotated[Path | None, typer.Option("--out", help="Subset file to write.")] = None,
    model: Model = None,
    max_tokens: MaxTokens = 2048,
    workspace: Place = Path(".tamis"),
    workers: Workers = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Keep the rows for which an expression over columns holds; rows that were not scored are counted apart."""
    output.use_json(json)
    from tamis.api import filter as run
    from tamis.api import keep_pool, open_pool
    from tamis.subsets import save

    work = open_workspace(workspace, model, max_tokens, workers, device, required=False)
    opened = open_pool(pool, work)
    chosen, unscored = run(opened, where, work)
    path = out or work.root / "subsets" / f"{chosen.digest[:12]}.parquet"
    save(path, opened, keep_pool(opened, work), chosen.subset)
    kept = len(chosen.subset.positions)
    facts = {"subset": str(path), "rows": len(opened), "kept": kept, "not_scored": unscored}
    line = f"{kept:,} of {len(opened):,} rows kept, {unscored:,} not scored: {path}"
    output.result({**facts, "usable": chosen.entry.facts["usable"]}, [line])
