"""Verbs over pools: ingest, columns, score, scores, filter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tamis.cli import output
from tamis.cli.app import (
    Device,
    Engine,
    Json,
    Judge,
    MaxHours,
    MaxTokens,
    Model,
    Place,
    Reference,
    Refit,
    Sets,
    Workers,
    app,
    machine_options,
)

PoolName = Annotated[str, typer.Argument(help="A pool folder that `tamis ingest` made, or a data file.")]
COLUMNS = typer.Option("--columns", help="Ratings of your own: a Parquet, CSV or JSONL file; repeatable.")
ADD = typer.Option("--add", metavar="FILE", help="Ratings of your own: Parquet, CSV or JSONL; repeatable.")
On = Annotated[
    str | None, typer.Option("--on", help="Join ratings on key, file+position, position or a field of your rows.")
]


def settings_of(sets: list[str] | None) -> dict[str, Any]:
    """`--set a=b` options as a mapping; values are read as YAML."""
    from tamis.errors import RecipeError
    from tamis.recipe.marked import Marked, apply_override

    marked = Marked("--set")
    for override in sets or []:
        apply_override(marked, override)
    if marked.faults:
        raise RecipeError(marked.faults)
    return marked.values


def open_workspace(
    place: Path,
    model: str | None,
    max_tokens: int,
    workers: int | None,
    device: str | None,
    *,
    required: bool,
    judge: str | None = None,
    reference: str | None = None,
    refit: bool = False,
) -> Any:
    """Workspace of a verb; `required`: a model is going to run, so `--model` must be said."""
    from tamis.api import workspace
    from tamis.errors import ModelError, RecipeError
    from tamis.models import folder_of

    if model is None and required:
        raise RecipeError("this needs a model: give --model FOLDER-OR-HUB-NAME (tamis:tiny-lm is shipped, for trying)")
    for role, name in (("model", model), ("judge", judge), ("reference", reference)):
        if name is not None:
            try:
                folder_of(name)
            except ModelError as error:
                raise RecipeError(f"--{role}: {error}") from error
    machine = machine_options(workers, device)
    settings = {"refit": "always"} if refit else {}
    return workspace(place, model, judge=judge, reference=reference, max_tokens=max_tokens, **settings, **machine)


@app.command()
def ingest(
    inputs: Annotated[list[str], typer.Argument(metavar="IN...", help="Paths, globs, folders, hf:// names, URLs.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write the pool to.")] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="NAME=FIELD", help="prompt=question,messages.role=who,role.bot=assistant"),
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="Source name of rows that name none.")] = None,
    preview: Annotated[int, typer.Option("--preview", help="Show this many rows as read, and write nothing.")] = 0,
    model: Annotated[
        str, typer.Option("--model", help="Whose template and tokens --preview shows: folder or hub name.")
    ] = "tamis:tiny-lm",
    max_tokens: MaxTokens = 2048,
    max_bad: Annotated[
        str | None, typer.Option("--max-bad", help="Exit with 3 above this share, for example 0.1%.")
    ] = None,
    json: Json = False,
) -> None:
    """Read data files into a pool; rows that cannot be used are quarantined with a reason."""
    output.use_json(json)
    from tamis.errors import RecipeError

    entries = dict(_pair(part) for item in mapping or [] for part in item.split(","))
    if preview:
        from tamis.cli.previewing import show

        show(inputs, preview, entries, model, max_tokens)
        return
    if out is None:
        raise RecipeError("ingest needs --out FOLDER for the pool (or --preview 5 to look first)")
    from tamis.api import open_pool
    from tamis.stages.sources import bound, check_quarantine

    if max_bad is not None:
        bound(max_bad)
    pool = open_pool(inputs, out=out, mapping=entries or None, source=source)
    names = ("name", "format", "rows", "kept", "quarantined", "dropped")
    files = [{name: file.get(name) for name in (*names, "notes") if name in file} for file in pool.files]
    lines = output.table([[file[name] for name in names] for file in files], list(names))
    reasons = _reasons(pool)
    lines += ["", *[f"quarantined {count:>7,}  {reason}" for reason, count in reasons.items()]] if reasons else []
    lines += [f"note: {note}" for note in dict.fromkeys(note for file in pool.files for note in file.get("notes", []))]
    lines += ["", f"{len(pool):,} rows in {out}"]
    output.result({"pool": str(out), "rows": len(pool), "files": files, "quarantine": reasons}, lines)
    if max_bad is not None:
        check_quarantine(pool, max_bad)


def _pair(text: str) -> tuple[str, str]:
    from tamis.errors import RecipeError

    name, equals, field = text.partition("=")
    if not equals or not name or not field:
        raise RecipeError(f"--map {text}: expected NAME=FIELD, for example prompt=question")
    return name.strip(), field.strip()


def _reasons(pool: Any) -> dict[str, int]:
    from collections import Counter

    from tamis.ledger import kind_of, quarantine
    from tamis.views import PoolView

    rows = quarantine(PoolView(pool)).to_pylist()
    counts = Counter(kind_of(row["reason"]) for row in rows if row["verdict"] == "quarantined")
    return dict(counts.most_common(12))


@app.command()
def score(
    pool: PoolName,
    scorers: Annotated[str, typer.Option("--with", help="Scorers, separated by commas: ifd,perplexity")],
    model: Model = None,
    judge: Judge = None,
    reference: Reference = None,
    max_tokens: MaxTokens = 2048,
    sets: Sets = None,
    workspace: Place = Path(".tamis"),
    workers: Workers = None,
    device: Device = None,
    engine: Engine = None,
    refit: Refit = False,
    max_hours: MaxHours = None,
    json: Json = False,
) -> None:
    """Score every row of a pool; passes that were run before are not run again."""
    output.use_json(json)
    from tamis.api import score as run
    from tamis.operations import deadline

    second: dict[str, Any] = {"judge": judge, "reference": reference}
    work = open_workspace(workspace, model, max_tokens, workers, device, required=False, refit=refit, **second)
    try:
        with deadline.within(max_hours):
            found = run(pool, with_settings(scorers, sets), work=work)
    except deadline.TimeUp as error:
        raise deadline.ended(error) from error
    facts, passes = column_facts(found), work.work.passes
    value = {"columns": facts, "passes": passes, "facts": found.facts, "notes": list(found.notes)}
    notes = [f"note: {note}" for note in found.notes]
    output.result(value, [*pass_lines(work), "", *_column_lines(facts), *notes])


def with_settings(scorers: str, sets: list[str] | None) -> dict[str, Any]:
    """Scorers of `--with` with their settings of `--set`: `ifd.form=ppl`, or `form=ppl` for all of them."""
    from tamis.recipe import scorer_settings

    given, names = settings_of(sets), list(scorer_settings(scorers))
    settings = given if set(given) <= set(names) else dict.fromkeys(names, given)
    return {name: settings.get(name) for name in names}


def pass_lines(work: Any) -> list[str]:
    """What passes measured now, and what they found measured."""
    return [
        f"pass {name}: {int(one['made'])} of {int(one['shards'])} shards measured"
        for name, one in work.work.passes.items()
    ]


def column_facts(scored: Any) -> dict[str, dict[str, Any]]:
    """Unit, counts and quantiles of every column."""
    from tamis.stages.score import statistics

    return {name: {"unit": column.unit, **statistics(column.values)} for name, column in scored.columns.items()}


def _column_lines(columns: dict[str, dict[str, Any]]) -> list[str]:
    names = ("unit", "rows", "scored", "mean", "p5", "p50", "p95")
    rows = [[name, *(facts.get(key, "") for key in names)] for name, facts in columns.items()]
    return output.table(rows, ["column", *names])


@app.command()
def columns(
    pool: PoolName,
    add: Annotated[list[str] | None, ADD] = None,
    on: On = None,
    workspace: Place = Path(".tamis"),
    json: Json = False,
) -> None:
    """List the columns that a pool has in this workspace; `--add` registers ratings of your own first."""
    output.use_json(json)
    from tamis.api import add_columns, open_pool
    from tamis.api import columns as look

    work = open_workspace(workspace, None, 2048, 1, None, required=False)
    opened = open_pool(pool, work)
    notes = list(add_columns(opened, add, on=on, work=work).notes) if add else []
    found = column_facts(look(opened, work=work))
    none = [f"no columns yet; make some with `tamis score {pool} --with perplexity,ifd --model …`"]
    lines = _column_lines(found) if found else none
    output.result({"columns": found, "notes": notes}, [*lines, *[f"note: {note}" for note in notes]])


@app.command()
def scores(
    pool: PoolName,
    to: Annotated[str, typer.Option("--to", help="Parquet (or .csv) file to write; also s3://… and the like.")],
    workspace: Place = Path(".tamis"),
    json: Json = False,
) -> None:
    """Write all columns of a pool beside key, file and position, for polars, pandas and SQL."""
    output.use_json(json)
    from tamis.api import columns as look

    found = look(pool, work=open_workspace(workspace, None, 2048, 1, None, required=False))
    facts = {"file": str(found.save(to)), "rows": len(found), "columns": list(found.columns)}
    output.result(facts, [f"{len(found):,} rows, {len(found.columns)} columns: {to}"])


@app.command(name="filter")
def filter_command(
    pool: PoolName,
    where: Annotated[str, typer.Option("--where", help='Expression: "ifd < 1 and perplexity.response < 50"')],
    add: Annotated[list[str] | None, COLUMNS] = None,
    on: On = None,
    out: Annotated[Path | None, typer.Option("--out", help="Subset file to write.")] = None,
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
    """Keep the rows for which an expression over columns holds; rows that were not scored are counted apart."""
    output.use_json(json)
    from tamis.api import filter as run

    second: dict[str, Any] = {"judge": judge, "reference": reference}
    work = open_workspace(workspace, model, max_tokens, workers, device, required=False, **second)
    chosen = run(pool, where, columns=add or (), on=on, work=work)
    path, rows = chosen.save(out), len(chosen.pool)
    facts = {"subset": str(path), "rows": rows, "kept": len(chosen), "not_scored": chosen.unscored}
    facts |= {"usable": chosen.facts["usable"], "notes": list(chosen.notes)}
    line = f"{len(chosen):,} of {rows:,} rows kept, {chosen.unscored:,} not scored: {path}"
    output.result(facts, [line, *[f"note: {note}" for note in chosen.notes]])
