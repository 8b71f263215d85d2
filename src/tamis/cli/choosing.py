"""Verbs that choose and use: select, mix, train, eval, compare, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tamis.cli import output
from tamis.cli.app import Device, Json, MaxTokens, Model, Place, Sets, Workers, app
from tamis.cli.pools import PoolName, open_workspace, settings_of

SubsetName = Annotated[Path, typer.Argument(help="A subset file that `tamis select` wrote, or a run folder.")]
Budgeted = Annotated[str, typer.Option("--budget", help='Rows (5000), a share (5%) or "2M tokens".')]
TARGET = typer.Option("--target", help="Data files with examples of the target; repeatable.")


@app.command()
def select(
    pool: PoolName,
    selector: Annotated[str, typer.Option("--with", help="Selector: less, rds-plus, top, random, …")],
    budget: Budgeted,
    target: Annotated[list[str] | None, TARGET] = None,
    where: Annotated[str | None, typer.Option("--where", help="Filter first: an expression over columns.")] = None,
    mixer: Annotated[str | None, typer.Option("--mix", help="Mixer over sources: equal, proportional.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Subset file to write.")] = None,
    model: Model = None,
    max_tokens: MaxTokens = 2048,
    sets: Sets = None,
    workspace: Place = Path(".tamis"),
    workers: Workers = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Choose rows of a pool within a budget; `--set warm_up.epochs=2` sets the warm-up of LESS."""
    output.use_json(json)
    from tamis.api import keep_pool, open_pool
    from tamis.api import select as run
    from tamis.catalogue import build
    from tamis.subsets import save

    settings = settings_of(sets)
    warm_up = settings.pop("warm_up", {})
    needs = build("selectors", selector, settings).needs
    dear = any(need.kind == "signal" and need.name != "lengths" for need in needs)
    work = open_workspace(workspace, model, max_tokens, workers, device, required=dear)
    opened = open_pool(pool, work)
    goal = open_pool(target, work) if target else None
    chosen = run(
        opened, selector, budget, work, target=goal, where=where, mix=mixer, settings=settings, warm_up=warm_up
    )
    path = out or work.root / "subsets" / f"{chosen.digest[:12]}.parquet"
    save(path, opened, keep_pool(opened, work), chosen.subset)
    facts = {"subset": str(path), **{key: chosen.entry.facts[key] for key in ("rows", "tokens", "usable", "unit")}}
    passes = [
        f"pass {name}: {int(one['made'])} of {int(one['shards'])} shards measured"
        for name, one in work.work.passes.items()
    ]
    line = f"{facts['rows']:,} of {facts['usable']:,} usable rows, {facts['tokens']:,} tokens: {path}"
    output.result({**facts, "passes": work.work.passes}, [*passes, line])


@app.command()
def mix(
    pool: PoolName,
    mixer: Annotated[str, typer.Option("--with", help="Mixer: equal, proportional.")],
    budget: Budgeted,
    sets: Sets = None,
    model: Model = None,
    max_tokens: MaxTokens = 2048,
    workspace: Place = Path(".tamis"),
    json: Json = False,
) -> None:
    """Show what each group of a pool gets of a budget."""
    output.use_json(json)
    from tamis.api import mix as run
    from tamis.api import open_pool

    work = open_workspace(workspace, model, max_tokens, 1, None, required=False)
    shares = run(open_pool(pool, work), mixer, budget, work, settings_of(sets))
    rows = [(name, share.rows if share.rows is not None else share.tokens) for name, share in shares.items()]
    unit = "rows" if all(share.rows is not None for share in shares.values()) else "tokens"
    output.result({"shares": dict(rows), "unit": unit}, output.table(rows, ["group", unit]))


@app.command()
def train(
    subset: SubsetName,
    trainer: Annotated[str, typer.Option("--with", help="Trainer: lora, full.")] = "lora",
    out: Annotated[Path | None, typer.Option("--out", help="Copy the final checkpoint here.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Adapter and order seed.")] = 0,
    sets: Sets = None,
    model: Model = None,
    max_tokens: MaxTokens = 2048,
    workspace: Place = Path(".tamis"),
    workers: Workers = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Fine-tune a model on a subset; goes on where a killed run stopped."""
    output.use_json(json)
    import shutil

    from tamis.api import train as run
    from tamis.subsets import read
    from tamis.values import Subset

    work = open_workspace(workspace, model, max_tokens, workers, device, required=True)
    file = read(subset)
    chosen = Subset(positions=file.positions, gains=file.gains, weights=file.weights)
    trained = run(file.pool, chosen, work, trainer, settings=settings_of(sets), seed=seed)
    path = trained.checkpoints[-1].path
    if out is not None:
        path = Path(shutil.copytree(path, out, dirs_exist_ok=True))
    facts = {"checkpoint": str(path), **trained.facts, "loss": trained.checkpoints[-1].facts.get("loss")}
    output.result(facts, [f"{facts['rows']:,} rows, {facts['tokens']:,} tokens, loss {facts['loss']:.4f}: {path}"])


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
    json: Json = False,
) -> None:
    """Measure a model on held-out rows."""
    output.use_json(json)
    import dataclasses

    from tamis.api import evaluate as run
    from tamis.api import open_pool

    work = open_workspace(workspace, model, max_tokens, 1, device, required=True)
    if adapter is not None:
        work = dataclasses.replace(work, model=dataclasses.replace(work.model, adapter=str(adapter)))
    items = run(open_pool(files, work), work, evaluator, settings_of(sets)).items
    value = float(items.values.sum() / items.weights.sum())
    facts: dict[str, Any] = {"metric": items.metric, "unit": items.unit, "value": value, "items": len(items.keys)}
    output.result(facts, [f"{items.metric}: {value:.4f} {items.unit} over {len(items.keys):,} items"])


@app.command()
def compare(
    subset: SubsetName,
    held_out: Annotated[list[str], typer.Option("--evaluate", help="Held-out data files; repeatable.")],
    baselines: Annotated[
        str, typer.Option("--against", help="random, longest, full; separated by commas.")
    ] = "random,longest",
    runs: Annotated[int, typer.Option("--runs", help="Runs of every arm.")] = 3,
    trainer: Annotated[str, typer.Option("--train", help="Trainer: lora, full.")] = "lora",
    to: Annotated[Path | None, typer.Option("--to", help="Write comparison.json here.")] = None,
    sets: Sets = None,
    model: Model = None,
    max_tokens: MaxTokens = 2048,
    workspace: Place = Path(".tamis"),
    workers: Workers = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Train a subset against baselines of as many tokens, and say with intervals whether it was better."""
    output.use_json(json)
    from tamis.api import compare_subset, open_pool
    from tamis.store import write_json
    from tamis.subsets import read

    work = open_workspace(workspace, model, max_tokens, workers, device, required=True)
    arms = tuple(name.strip() for name in baselines.split(",") if name.strip())
    found = compare_subset(
        read(subset),
        open_pool(held_out, work),
        work,
        method=subset.stem,
        trainer=trainer,
        settings=settings_of(sets),
        runs=runs,
        baselines=arms,
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
    form: Annotated[str, typer.Option("--to", help="jsonl, trl or parquet.")],
    out: Annotated[Path, typer.Option("--out", help="File to write.")],
    model: Model = None,
    max_tokens: MaxTokens = 2048,
    workspace: Place = Path(".tamis"),
    json: Json = False,
) -> None:
    """Write a subset for a trainer: jsonl, trl (messages, token ids and label masks) or parquet."""
    output.use_json(json)
    from tamis.api import export as run
    from tamis.subsets import read
    from tamis.values import Subset

    work = open_workspace(workspace, model, max_tokens, 1, None, required=form == "trl")
    file = read(subset)
    written = run(file.pool, Subset(positions=file.positions, gains=file.gains, weights=file.weights), form, out, work)
    facts = {"path": str(written.path), "rows": written.rows, "notes": list(written.notes)}
    output.result(facts, [f"{written.rows:,} rows: {written.path}", *[f"note: {note}" for note in written.notes]])
