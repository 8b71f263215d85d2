"""The verbs of tamis for Python; each verb of the command line is a few lines over one of them.

All take `work` (a workspace, or its folder; default `TAMIS_WORKSPACE`, else `./.tamis`) and, where a model reads the
rows, `model` (a folder, a hub name, or a ModelRef with `max_tokens` and dtype). Settings of a component are keywords:
`select(pool, "top", 100, by="ifd")`; `settings` takes the same as a mapping. What was done before is found, not redone.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.catalogue import build
from tamis.errors import RecipeError
from tamis.handles import Chosen, Comparison, Measured, Scored, Shares, Trained
from tamis.models import ModelRef
from tamis.pool import MANIFEST, Pool
from tamis.stages.workspace import Workspace
from tamis.values import Budget, Need, Seeds, Subset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.exporting import Export
    from tamis.foreign import Take
    from tamis.stages.measure import Signal
    from tamis.stages.select import Selection

Files = str | Sequence[str]
Rows = Pool | Files
Place = Workspace | str | Path | None
Model = ModelRef | str | None
Settings = Mapping[str, Any] | None
TRIAL_MODEL = "tamis:tiny-lm"
WARM_UP: Mapping[str, Any] = {"epochs": 4, "keep": "every-epoch"}


def workspace(
    root: str | Path | None = None, model: Model = None, *, max_tokens: int = 2048, **machine: Any
) -> Workspace:
    """A workspace (default: `TAMIS_WORKSPACE`, else `./.tamis`) with its model and this machine.

    `model`: what reads the rows. Without one the shipped tamis:tiny-lm counts tokens, and what runs a model refuses.
    `max_tokens`: rows are cut there. `machine`: `device`, `workers`, `threads`, `tokens_per_batch`.
    """
    from tamis import engine

    on = engine.machine(**machine)
    ref = model if isinstance(model, ModelRef) else ModelRef(name=model or TRIAL_MODEL, max_tokens=max_tokens)
    place = Path(root or os.environ.get("TAMIS_WORKSPACE") or ".tamis").resolve()
    return Workspace(place, on, ref.resolved(on.device), assumed=model is None)


def open_pool(
    files: Files | Path,
    work: Place = None,
    *,
    out: str | Path | None = None,
    sample: Mapping[str, int] | None = None,
    **settings: Any,
) -> Pool:
    """A pool from its folder, or from data files (paths, globs, hf:// names). `out`: folder to keep the pool in.

    `settings` are those of `tamis.ingest.ingest`: `mapping`, `source`, `shard_rows`. Rows that cannot be used are
    quarantined with a reason, never lost. Raises DataError for files that are missing or cannot be read.
    """
    from tamis.ingest import Sample, ingest
    from tamis.store import Store

    names = [str(files)] if isinstance(files, (str, Path)) else [str(name) for name in files]
    if len(names) == 1 and (Path(names[0]) / MANIFEST).is_file():
        return Pool.open(Path(names[0]))
    store = Store(Path(out)) if out is not None else _work(work).store
    pool = ingest(names, store, sample=Sample(**sample) if sample else None, **settings)
    if out is not None:
        pool.save(Path(out) / MANIFEST)
    return pool


def score(pool: Rows, scorers: Files | Mapping[str, Settings], *, model: Model = None, work: Place = None) -> Scored:
    """Columns of the scorers named: `"ifd,perplexity"`, a list, or `{"ifd": {"form": "ppl"}}` with their settings.

    All the passes that they need run once each. Raises RecipeError for unknown names and settings, and where a pass
    over a model is needed and none is given.
    """
    from tamis.recipe import scorer_settings
    from tamis.stages.measure import richest
    from tamis.stages.score import score as run

    built = {name: build("scorers", name, given) for name, given in scorer_settings(scorers).items()}
    needs = [need for scorer in built.values() for need in scorer.needs]
    if any(need.name == "influence" for need in needs):
        raise RecipeError("gradient-similarity needs an influence pass: run it in a recipe (`tamis recipes less`)")
    at = _work(work, model, why=", ".join(built) if _reads_rows(needs) else "")
    rows = _pool(pool, at)
    found = run(rows, built, dataclasses.replace(at, settings_of_passes=richest(needs)))
    return Scored(rows, found.columns, at)


def columns(pool: Rows, *, work: Place = None) -> Scored:
    """Every column that this pool has in the workspace: those of `score`, and those of `add_columns`."""
    from tamis.stages.score import known_columns

    at = _work(work)
    rows = _pool(pool, at)
    return Scored(rows, known_columns(rows, at), at)


def add_columns(pool: Rows, files: Any, *, on: str | None = None, work: Place = None) -> Scored:
    """Columns from files of your own (Parquet, CSV, JSONL), named `file-stem.column`, joined to the rows of the pool.

    `on`: `key`, `file+position`, `position`, or a field of your rows (`id`); by default what the file has. Rows
    without a rating are NaN ("not measured"); what did not fit is in `notes`. Raises DataError for two ratings of one
    row and for files that name no row of the pool.
    """
    from tamis.columns_io import read_all

    at = _work(work)
    rows = _pool(pool, at)
    found, notes = read_all(rows, files, at, on)
    return Scored(rows, found, at, tuple(notes))


def filter(  # noqa: A001 - the verb's name
    pool: Rows, where: str, *, columns: Any = (), on: str | None = None, model: Model = None, work: Place = None
) -> Chosen:
    """All rows for which `where` holds, in the order of the pool; `unscored` counts those that it could not judge.

    `where`: `"ifd < 1 and source != 'web'"`. `columns`, `on`: files of ratings, as for `add_columns`. Columns that
    nobody has made yet are made with the default settings of their scorer. Raises RecipeError for a wrong expression.
    """
    import numpy as np

    everything = build("selectors", "random", {"seed": 0})
    chosen = _choose(pool, everything, "filter", Budget(share=1.0), columns, on, model, work, where=where)
    positions = np.sort(chosen.subset.positions)
    kept = Subset(positions=positions, gains=np.zeros(len(positions), np.float32))
    return dataclasses.replace(chosen, subset=kept)


def select(
    pool: Rows,
    selector: str,
    budget: str | int | Budget,
    *,
    target: Rows | None = None,
    where: str | None = None,
    mix: Any = None,
    columns: Any = (),
    on: str | None = None,
    warm_up: Settings | Trained = None,
    only: Chosen | str | Path | None = None,
    model: Model = None,
    work: Place = None,
    settings: Settings = None,
    **more: Any,
) -> Chosen:
    """The rows that a selector picks within a budget: rows (5000), a share ("5%") or tokens ("2M tokens").

    `target`: examples of what the model should get better at. `where` filters first; `mix` shares the budget among
    groups. `columns`, `on`: files of ratings, as for `add_columns`. LESS first trains a warm-up on a random 5 %
    (`warm_up`: settings of `lora`); with `only` (an earlier selection, or its file) influence is measured on those rows
    alone, and no other row is picked. Raises RecipeError where a setting is wrong or something needed is not given.
    """
    built = build("selectors", selector, {**(settings or {}), **more})
    if only is not None and not any(need.name == "influence" for need in built.needs):
        raise RecipeError(f"{selector} measures no influence, so `only` has no meaning; filter its rows with `where`")
    if target is None and any(need.side == "target" or need.name == "influence" for need in built.needs):
        raise RecipeError(f"{selector} needs a target: give files with examples of what the model should get better at")
    return _choose(
        pool,
        built,
        selector,
        Budget.parse(budget),
        columns,
        on,
        model,
        work,
        where=where,
        mix=mix,
        target=target,
        warm_up=warm_up,
        only=only,
    )


def _choose(
    pool: Rows,
    selector: Any,
    name: str,
    budget: Budget,
    files: Any,
    on: str | None,
    model: Model,
    work: Place,
    *,
    where: str | None = None,
    mix: Any = None,
    target: Rows | None = None,
    warm_up: Settings | Trained = None,
    only: Chosen | str | Path | None = None,
) -> Chosen:
    from tamis.columns_io import read_all
    from tamis.stages.measure import measure_needs, richest
    from tamis.stages.score import known_columns
    from tamis.stages.select import missing_columns, mixer_of
    from tamis.stages.select import select as run

    at, mixer = _work(work), mixer_of(mix)
    rows = _pool(pool, at)
    _, notes = read_all(rows, files, at, on)
    have = known_columns(rows, at)
    scorers = missing_columns(selector.needs, where, have)
    needs = [*selector.needs, *(need for scorer in scorers.values() for need in scorer.needs)]
    at = _work(at, model, why=_why(name, scorers, needs, budget))
    at = dataclasses.replace(at, settings_of_passes=richest(needs))
    goal = _pool(target, at) if target is not None else None
    given: dict[str, Signal] = measure_needs(rows, [], at)
    if goal is not None and any(need.name == "influence" for need in selector.needs):
        places = None if only is None else _places(rows, _chosen(only, at, None, "select"))
        given["influence"] = _influence(rows, goal, at, warm_up or {}, given, places)
        notes = [*notes, *given["influence"].caveats]
    chosen = run(rows, selector, budget, at, target=goal, where=where, mixer=mixer, given=given, columns=have)
    return _handle(rows, chosen, at, name, tuple(notes))


def _why(name: str, scorers: Mapping[str, Any], needs: Sequence[Need], budget: Budget) -> str:
    """What of a selection runs a model; empty where nothing does."""
    if _reads_rows(needs):
        return ", ".join(scorers) or name
    return "a budget of tokens" if budget.tokens is not None else ""


def _handle(pool: Pool, chosen: Selection, work: Workspace, name: str, notes: tuple[str, ...]) -> Chosen:
    unscored = 0 if chosen.unscored is None else int(chosen.unscored.sum())
    seconds = chosen.entry.seconds
    return Chosen(pool, chosen.subset, work, name, chosen.entry.facts, chosen.digest, seconds, unscored, notes)


def _places(pool: Pool, chosen: Chosen) -> NDArray[np.int64]:
    """Places in `pool` of the rows of an earlier selection, which must have been made from the same rows."""
    if chosen.pool.digest != pool.digest:
        raise RecipeError("`only` was chosen from another pool (or this one has changed since): select again")
    return chosen.subset.positions


def _influence(
    pool: Pool,
    target: Pool,
    work: Workspace,
    warm_up: Mapping[str, Any] | Trained,
    given: Mapping[str, Signal],
    only: NDArray[np.int64] | None = None,
) -> Signal:
    from tamis.stages.measure import measure
    from tamis.stages.only import measure_only
    from tamis.stages.select import select as run

    if not isinstance(warm_up, Trained):
        chosen = run(pool, build("selectors", "random", {"seed": 1}), Budget(share=0.05), work, given=given)
        warm_up = train(_handle(pool, chosen, work, "warm-up", ()), settings={**WARM_UP, **warm_up})
    checkpoints = warm_up.training.checkpoints
    component = build("passes", "influence", {"checkpoints": checkpoints, "target": target})
    if only is not None:
        return measure_only(pool, only, "influence", component, work)
    return measure(pool, "influence", component, work, given)


def mix(
    pool: Rows,
    mixer: str,
    budget: str | int | Budget,
    *,
    model: Model = None,
    work: Place = None,
    settings: Settings = None,
    **more: Any,
) -> Shares:
    """What each group of the pool gets of a budget. A budget of tokens counts those of `model`."""
    from tamis.stages.measure import measure_needs, view_of

    built = build("mixers", mixer, {**(settings or {}), **more})
    limit = Budget.parse(budget)
    at = _work(work, model, why="a budget of tokens" if limit.tokens is not None else "")
    rows = _pool(pool, at)
    return Shares(built.share(view_of(rows, measure_needs(rows, [], at)), limit))


def open_subset(path: str | Path, *, model: Model = None, work: Place = None) -> Chosen:
    """A subset file that `Chosen.save` or `tamis select` wrote, or the subset of a run folder.

    Raises DataError where it is none, or where its pool has changed since.
    """
    from tamis.subsets import read

    file = read(Path(path))
    subset = Subset(positions=file.positions, gains=file.gains, weights=file.weights)
    name = file.path.stem if file.path.stem != "subset" else file.path.parent.name
    return Chosen(file.pool, subset, _work(work, model), name)


def train(
    subset: Chosen | Pool | str | Path,
    trainer: str = "lora",
    *,
    seed: int = 0,
    hooks: Mapping[str, Mapping[str, Any]] | None = None,
    target: Rows | None = None,
    model: Model = None,
    work: Place = None,
    settings: Settings = None,
    **more: Any,
) -> Trained:
    """Fine-tune a model on a subset (or on every usable row of a pool); a killed run goes on where it stopped.

    `model`: by default the one that the subset was chosen with. `seed`: adapter and order. Row weights of the subset
    are used. `hooks`: `{"greats": {"keep": "50%"}}`, which reads `target`. Raises RecipeError for unknown settings,
    DataError for rows that the trainer cannot use.
    """
    from tamis.stages.train import TrainingJob, train_one

    chosen = _chosen(subset, work, model, "train")
    weights = chosen.subset.weights
    job = TrainingJob(
        store=chosen.work.store,
        trainer=trainer,
        settings={**(settings or {}), **more},
        model=chosen.work.model,
        rows_of=chosen.pool,
        positions=tuple(int(place) for place in chosen.subset.positions),
        seeds=Seeds(adapter=seed, order=seed),
        machine=chosen.work.machine,
        row_weights=None if weights is None else tuple(float(weight) for weight in weights),
        hooks=hooks or {},
        target=None if target is None else _pool(target, chosen.work),
    )
    return Trained(train_one(job))


def load_checkpoints(
    folders: Files | Path, *, learning_rates: Any = None, moments: str = "auto", model: Model = None, work: Place = None
) -> Trained:
    """Checkpoints of `model` that Hugging Face's Trainer, PEFT or FSDP left, as a warm-up: `select(…, warm_up=…)`.

    `folders`: names in order, or a pattern (`runs/checkpoint-*`), each with an adapter or a model in safetensors.
    `optimizer.pt` and `optimizer.bin` give Adam's moments (`moments="none"`: leave them), without any the gradients are
    raw; `trainer_state.json` gives the mean learning rate of the epoch that a checkpoint ends, or `learning_rates` one
    for all, or one each. Raises RecipeError for folders that are none, TrainError for what does not fit the model.
    """
    from tamis.stages import load

    at = _work(work, model, why="load_checkpoints")
    given = str(folders) if isinstance(folders, (str, Path)) else [str(name) for name in folders]
    faults = load.check({"load": given, "learning_rates": learning_rates, "moments": moments})
    if faults:
        raise RecipeError(faults)
    take: Take = "none" if moments == "none" else "auto"
    found = load.folders_of(given)
    return Trained(load.load_checkpoints(found, at, learning_rates=learning_rates, moments=take))


def evaluate(
    held_out: Rows,
    evaluator: str = "held-out-loss",
    *,
    model: Model = None,
    work: Place = None,
    settings: Settings = None,
    **more: Any,
) -> Measured:
    """A model measured on held-out rows, one result per row."""
    from tamis.stages.train import EvaluationJob, evaluate_one

    at = _work(work, model, why="evaluate")
    own = {**(settings or {}), **more}
    job = EvaluationJob(at.store, evaluator, own, _pool(held_out, at), at.machine, model=at.model)
    return Measured(evaluate_one(job).items)


def compare(
    subset: Chosen | str | Path,
    held_out: Rows,
    *,
    against: Sequence[str] = ("random", "longest"),
    runs: int = 3,
    trainer: str = "lora",
    learning_rates: Sequence[float] = (),
    metric: Any = "held-out-loss",
    full: Settings = None,
    model: Model = None,
    work: Place = None,
    settings: Settings = None,
    **more: Any,
) -> Comparison:
    """Arms trained alike on equal tokens and measured on the same items, with intervals and a verdict.

    `against`: random, longest, full. `learning_rates`: tried on the random arm, the best serves all. `full`: `runs`
    and settings of the arm that trains on everything (default one run of one epoch). `settings` and keywords: those of
    the trainer. Raises RecipeError for unknown settings, DataError for held-out files without a usable row.
    """
    from tamis.errors import DataError
    from tamis.stages.compare import Design
    from tamis.stages.compare import compare as run
    from tamis.stages.measure import measure_needs, view_of

    chosen = _chosen(subset, work, model, "compare")
    goal = _pool(held_out, chosen.work)
    if not len(goal):
        raise DataError("the held-out files hold no usable row")
    design = Design(
        method=chosen.name,
        trainer=trainer,
        settings={**(settings or {}), **more},
        runs=runs,
        baselines=tuple(against),
        full=dict(full) if full is not None else {"runs": 1, "epochs": 1},
        learning_rates=tuple(learning_rates),
        metric=metric,
    )
    view = view_of(chosen.pool, measure_needs(chosen.pool, [], chosen.work))
    return Comparison(run(view, _selection(chosen), goal, design, chosen.work, seconds=chosen.seconds))


def export(
    subset: Chosen | str | Path,
    to: str,
    out: str | Path,
    *,
    model: Model = None,
    scored_with: Model = None,
    work: Place = None,
) -> Export:
    """Write a subset: trl, axolotl, llama-factory, hf, jsonl, parquet, or original (your rows, untouched).

    `model` is the one that will be trained, by default the one that the subset was chosen with: with it the forms carry
    turn and token masks, and the mask linter looks at the rows, against the template of `scored_with` (by default the
    model that chose). What a form cannot carry is in `notes`. Raises RecipeError for an unknown form, DataError for a
    form that can carry none of the rows.
    """
    from tamis.exporting import export as run

    chosen = _chosen(subset, work, model, "")
    trained = None if chosen.work.assumed else chosen.work.model
    if scored_with is not None:
        scored_with = _work(chosen.work, scored_with).model
    elif isinstance(subset, Chosen) and not subset.work.assumed:
        scored_with = subset.work.model
    rows = chosen.subset
    return run(chosen.pool, rows.positions, Path(out), to, weights=rows.weights, model=trained, scored_with=scored_with)


def run(
    recipe: str | Path, overrides: Sequence[str] = (), *, work: str | Path | None = None, **machine: Any
) -> dict[str, Any]:
    """Carry out a recipe through Prefect; returns the run folder, the report and the verdict.

    `recipe`: a file, or the name of a shipped one. `overrides`: `["subset.budget=10%"]`. `machine`: as for `workspace`.
    """
    from tamis.flows.settings import set_defaults

    place = Path(work or os.environ.get("TAMIS_WORKSPACE") or ".tamis").resolve()
    set_defaults(place)
    from tamis.flows.curate import run_here

    result: dict[str, Any] = run_here(str(recipe), place, list(overrides), machine)
    return result


def _work(work: Place = None, model: Model = None, *, why: str = "") -> Workspace:
    """The workspace of a verb. `why`: what runs a model; RecipeError where nobody has named one."""
    if isinstance(work, Workspace) and model is not None:
        ref = model if isinstance(model, ModelRef) else ModelRef(name=model, max_tokens=work.model.max_tokens)
        return dataclasses.replace(work, model=ref.resolved(work.machine.device), assumed=False)
    at = work if isinstance(work, Workspace) else workspace(work, model)
    if why and at.assumed:
        raise RecipeError(
            f"{why} needs a model that reads the rows: say `model` (--model on the command line), a folder or a hub "
            f"name; {TRIAL_MODEL} is shipped, for trying"
        )
    return at


def _reads_rows(needs: Sequence[Need]) -> bool:
    """Whether a model is run; counting lengths takes its tokenizer only."""
    return any(need.kind == "signal" and need.name != "lengths" for need in needs)


def _pool(rows: Rows | Path, work: Workspace) -> Pool:
    return rows if isinstance(rows, Pool) else open_pool(rows, work)


def _chosen(subset: Chosen | Pool | str | Path, work: Place, model: Model, why: str) -> Chosen:
    """The subset with the workspace and model that the verb was given, else its own."""
    if isinstance(subset, Chosen):
        own = work if work is not None else subset.work
        return dataclasses.replace(subset, work=_work(own, model, why=why))
    at = _work(work, model, why=why)
    if not isinstance(subset, Pool):
        return open_subset(subset, work=at)
    import numpy as np

    from tamis.stages.measure import measure_needs, view_of

    usable = np.flatnonzero(view_of(subset, measure_needs(subset, [], at)).usable)
    return Chosen(subset, Subset(positions=usable, gains=np.zeros(len(usable), np.float32)), at, "pool")


def _selection(chosen: Chosen) -> Selection:
    from tamis.stages.select import Selection
    from tamis.store import Entry

    return Selection(chosen.name, Entry(chosen.work.root, chosen.facts, chosen.digest, chosen.seconds), chosen.subset)
