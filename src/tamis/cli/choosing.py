"""Verbs that choose and use: select, mix, train, eval, compare, export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from tamis.cli import output
from tamis.cli.app import Device, Engine, Json, Judge, MaxTokens, Model, Place, Reference, Refit, Sets, Workers, app
from tamis.cli.pools import COLUMNS, On, PoolName, open_workspace, pass_lines, settings_of

SubsetName = Annotated[Path, typer.Argument(help="A subset file that `tamis select` wrote, or a run folder.")]
Budgeted = Annotated[str, typer.Option("--budget", help='Rows (5000), a share (5%) or "2M tokens".')]
Hooks = Annotated[
    str | None, typer.Option("--hooks", help="Hooks of the steps: dft, iw-sft, q-tuning; --set hooks.dft.… is theirs.")
]
TARGET = typer.Option("--target", help="Data files with examples of the target; repeatable.")


@app.command()
def select(
    pool: PoolName,
    selector: Annotated[str, typer.Option("--with", help="Selector: less, rds-plus, top, random, …")],
    budget: Budgeted,
    target: Annotated[list[str] | None, TARGET] = None,
    existing: Annotated[
        list[str] | None, typer.Option("--existing", help="Data files that the model has been trained on; repeatable.")
    ] = None,
    where: Annotated[str | None, typer.Option("--where", help="Filter first: an expression over columns.")] = None,
    mixer: Annotated[str | None, typer.Option("--mix", help="Mixer over groups: equal, temperature, smart, …")] = None,
    weigher: Annotated[
        str | None, typer.Option("--weigh", help="Weigher of rows or tokens for training: stm, token-shift, dft, …")
    ] = None,
    columns: Annotated[list[str] | None, COLUMNS] = None,
    on: On = None,
    only: Annotated[
        Path | None, typer.Option("--only", help="Measure influence on the rows of this subset alone.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Subset file to write.")] = None,
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
    json: Json = False,
) -> None:
    """Choose rows of a pool within a budget; `--set` takes warm_up.… (LESS), utility.… (DELIFT), mix.… and weigh.…"""
    output.use_json(json)
    from tamis.api import select as run

    settings = settings_of(sets)
    warm_up, utility = (settings.pop(name, {}) for name in ("warm_up", "utility"))
    mixed, weighed = (_named(settings, name, one) for name, one in (("mix", mixer), ("weigh", weigher)))
    second: dict[str, Any] = {"judge": judge, "reference": reference}
    work = open_workspace(workspace, model, max_tokens, workers, device, required=False, refit=refit, **second)
    chosen = run(
        pool,
        selector,
        budget,
        target=target or None,
        existing=existing or None,
        where=where,
        mix=mixed,
        weigh=weighed,
        columns=columns or (),
        on=on,
        warm_up=warm_up,
        utility=utility,
        only=only,
        work=work,
        settings=settings,
    )
    path = chosen.save(out)
    facts = {"subset": str(path), **{key: chosen.facts[key] for key in ("rows", "tokens", "usable", "unit")}}
    line = f"{facts['rows']:,} of {facts['usable']:,} usable rows, {facts['tokens']:,} tokens: {path}"
    notes = [f"note: {note}" for note in chosen.notes]
    value = {**facts, "passes": work.work.passes, "notes": list(chosen.notes)}
    output.result(value, [*pass_lines(work), line, *notes])


def _named(settings: dict[str, Any], verb: str, name: str | None) -> dict[str, Any] | None:
    """A mixer or weigher with what `--set mix.…` or `--set weigh.…` says of it; None where there is none."""
    from tamis.errors import RecipeError

    own = settings.pop(verb, {})
    if own and name is None:
        what = "a mixer" if verb == "mix" else "a weigher"
        raise RecipeError(f"--set {verb}.{next(iter(own))} sets {what}, and none is named: add --{verb} NAME")
    return None if name is None else {name: own}


def _hooks(settings: dict[str, Any], names: str | None) -> dict[str, dict[str, Any]]:
    """The hooks named, each with what `--set hooks.NAME.…` says of it."""
    from tamis.errors import RecipeError

    own = settings.pop("hooks", {})
    asked = [name.strip() for name in (names or "").split(",") if name.strip()]
    if unknown := [name for name in own if name not in asked]:
        raise RecipeError(f"--set hooks.{unknown[0]} sets a hook that is not named: add --hooks {unknown[0]}")
    return {name: own.get(name, {}) for name in asked}


@app.command()
def mix(
    pool: PoolName,
    mixer: Annotated[str, typer.Option("--with", help="Mixer: equal, proportional, temperature, smart, …")],
    budget: Budgeted,
    target: Annotated[list[str] | None, TARGET] = None,
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
    """Show what each group of a pool gets of a budget."""
    output.use_json(json)
    from tamis.api import mix as run

    work = open_workspace(workspace, model, max_tokens, workers, device, required=False)
    shares = run(
        pool,
        mixer,
        budget,
        target=target or None,
        columns=columns or (),
        on=on,
        work=work,
        settings=settings_of(sets),
    )
    rows = [(name, share.rows if share.rows is not None else share.tokens) for name, share in shares.items()]
    unit = "rows" if all(share.rows is not None for share in shares.values()) else "tokens"
    output.result({"shares": dict(rows), "unit": unit}, output.table(rows, ["group", unit]))


@app.command()
def train(
    subset: SubsetName,
    trainer: Annotated[str, typer.Option("--with", help="Trainer: lora, full.")] = "lora",
    out: Annotated[Path | None, typer.Option("--out", help="Copy the final checkpoint here.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Adapter and order seed.")] = 0,
    hooks: Hooks = None,
    sets: Sets = None,
    model: Model = None,
    max_tokens: MaxTokens = 2048,
    workspace: Place = Path(".tamis"),
    workers: Workers = None,
    device: Device = None,
    engine: Engine = None,
    json: Json = False,
) -> None:
    """Fine-tune a model on a subset; goes on where a killed run stopped."""
    output.use_json(json)
    import shutil

    from tamis.api import train as run

    work = open_workspace(workspace, model, max_tokens, workers, device, required=True)
    settings = settings_of(sets)
    trained = run(subset, trainer, seed=seed, hooks=_hooks(settings, hooks), work=work, settings=settings)
    path = trained.path
    if out is not None:
        path = Path(shutil.copytree(path, out, dirs_exist_ok=True))
    facts = {"checkpoint": str(path), **trained.training.facts, "loss": trained.loss}
    loss = f", loss {trained.loss:.4f}" if trained.loss is not None else ""
    output.result(facts, [f"{facts['rows']:,} rows, {facts['tokens']:,} tokens{loss}: {path}"])


@app.command(name="eval")
def evaluate(
    files: Annotated[list[str], typer.Argument(help="Held-out data files.")],
    evaluator: Annotated[str, typer.Option("--with", help="Evaluator: held-out-loss, exact-match.")] = "held-out-loss",
    adapter: Annotated[Path | None, typer.Option("--adapter", help="LoRA checkpoint over the model.")] = None,
    sets: Sets = None,
    model: Model = None,
    max_tokens: MaxTokens = 2048,
    workspace: Place = Path(".tamis"),
    device: Device = None,
    engine: Engine = None,
    json: Json = False,
) -> None:
    """Measure a model on held-out rows."""
    output.use_json(json)
    from tamis.api import evaluate as run

    work = open_workspace(workspace, model, max_tokens, 1, device, required=True)
    if adapter is not None:
        work = dataclasses.replace(work, model=dataclasses.replace(work.model, adapter=str(adapter)))
    found = run(files, evaluator, work=work, settings=settings_of(sets))
    items = found.items
    facts: dict[str, Any] = {"metric": items.metric, "unit": items.unit, "value": found.value, "items": len(items.keys)}
    output.result(facts, [repr(found)])


@app.command()
def compare(
    subset: SubsetName,
    held_out: Annotated[list[str], typer.Option("--evaluate", help="Held-out data files; repeatable.")],
    baselines: Annotated[
        str,
        typer.Option("--against", help="random, longest, full, plain (no weights, no hooks); separated by commas."),
    ] = "random,longest",
    runs: Annotated[int, typer.Option("--runs", help="Runs of every arm.")] = 3,
    trainer: Annotated[str, typer.Option("--train", help="Trainer: lora, full.")] = "lora",
    hooks: Hooks = None,
    to: Annotated[Path | None, typer.Option("--to", help="Write comparison.json here.")] = None,
    sets: Sets = None,
    model: Model = None,
    max_tokens: MaxTokens = 2048,
    workspace: Place = Path(".tamis"),
    workers: Workers = None,
    device: Device = None,
    engine: Engine = None,
    json: Json = False,
) -> None:
    """Train a subset against baselines of as many tokens, and say with intervals whether it was better."""
    output.use_json(json)
    from tamis.api import compare as run
    from tamis.store import write_json

    work = open_workspace(workspace, model, max_tokens, workers, device, required=True)
    arms = tuple(name.strip() for name in baselines.split(",") if name.strip())
    settings = settings_of(sets)
    heard = _hooks(settings, hooks)
    found = run(
        *(subset, held_out), against=arms, runs=runs, trainer=trainer, hooks=heard, work=work, settings=settings
    )
    if to is not None:
        write_json(to, found)
    rows = [[arm["name"], arm["mean"], len(arm["runs"]), arm["rows"], arm["tokens"]] for arm in found["arms"]]
    lines = output.table(rows, ["arm", found["unit"], "runs", "rows", "tokens"])
    lines += ["", *[difference["verdict"] for difference in found["differences"]], "", found["verdict"]]
    output.result(found, lines)


@app.command()
def export(
    subset: SubsetName,
    out: Annotated[str, typer.Option("--out", help="File to write (hf: a folder); also s3://… and the like.")],
    form: Annotated[str | None, typer.Option("--to", help="trl, axolotl, llama-factory, jsonl, parquet or hf.")] = None,
    original: Annotated[bool, typer.Option("--original", help="The untouched input rows, byte for byte.")] = False,
    model: Model = None,
    scored_with: Annotated[
        str | None, typer.Option("--scored-with", help="Compare the template with that of this model.")
    ] = None,
    max_tokens: MaxTokens = 2048,
    workspace: Place = Path(".tamis"),
    json: Json = False,
) -> None:
    """Write a subset for a trainer, with weights, and with masks of --model; says what the form does not carry."""
    output.use_json(json)
    from tamis.api import export as run
    from tamis.errors import RecipeError

    if (form is None) != original:
        raise RecipeError("export needs one of --to FORM and --original")
    work = open_workspace(workspace, model, max_tokens, 1, None, required=form == "trl")
    written = run(subset, form or "original", out, scored_with=scored_with, work=work)
    masks = [] if written.masks is None else [dataclasses.asdict(finding) for finding in written.masks.findings]
    files = [str(file) for file in written.files]
    facts = {"path": str(written.path), "files": files, "rows": written.rows}
    lines = [f"{written.rows:,} rows: {', '.join(files)}", *[f"note: {note}" for note in written.notes]]
    output.result({**facts, "notes": list(written.notes), "masks": masks}, lines)
