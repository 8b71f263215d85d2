"""Verbs behind a subset: train, evaluate, compare, export; and a whole recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.api.choosing import chosen_of
from tamis.api.handles import Chosen, Comparison, Measured, Trained
from tamis.api.places import Files, Model, Place, Rows, Settings, pool_of, work_of
from tamis.errors import RecipeError
from tamis.pool import Pool
from tamis.values import Seeds

if TYPE_CHECKING:
    from tamis.exporting import Export
    from tamis.stages.select import Selection
    from tamis.training.foreign import Take


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

    `model`: by default the one that the subset was chosen with. `seed`: adapter and order. Weights of the subset's
    rows and tokens are used. `hooks`: `{"dft": {}}`, or `{"greats": {"keep": "50%"}}`, which reads `target`. Raises
    RecipeError for unknown settings, DataError for rows that the trainer cannot use.
    """
    from tamis.stages.train import TrainingJob, row_weights_of, train_one

    chosen = chosen_of(subset, work, model, "train")
    job = TrainingJob(
        store=chosen.work.store,
        trainer=trainer,
        settings={**(settings or {}), **more},
        model=chosen.work.model,
        rows_of=chosen.pool,
        positions=tuple(int(place) for place in chosen.subset.positions),
        seeds=Seeds(adapter=seed, order=seed),
        machine=chosen.work.machine,
        row_weights=row_weights_of(chosen.subset),
        token_weights=chosen.subset.tokens,
        hooks=hooks or {},
        target=None if target is None else pool_of(target, chosen.work),
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

    at = work_of(work, model, why="load_checkpoints")
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
    from tamis.stages.train import EvaluationJob
    from tamis.stages.train import evaluate as run

    at = work_of(work, model, why="evaluate")
    own = {**(settings or {}), **more}
    job = EvaluationJob(at.store, evaluator, own, pool_of(held_out, at), at.machine, model=at.model)
    return Measured(run(job).items)


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
    hooks: Mapping[str, Mapping[str, Any]] | None = None,
    model: Model = None,
    work: Place = None,
    settings: Settings = None,
    **more: Any,
) -> Comparison:
    """Arms trained alike on equal tokens and measured on the same items, with intervals and a verdict.

    `against`: random, longest, full, or plain: the subset without its weights and without `hooks`, which are heard in
    its own arm alone. `learning_rates`: tried on the random arm, the best serves all. `full`: `runs`
    and settings of the arm that trains on everything (default one run of one epoch). `settings` and keywords: those of
    the trainer. Raises RecipeError for unknown settings, DataError for held-out files without a usable row.
    """
    from tamis.errors import DataError
    from tamis.stages.compare import Design, method_name
    from tamis.stages.compare import compare as run
    from tamis.stages.measure import measure_needs
    from tamis.stages.signals import view_of

    chosen = chosen_of(subset, work, model, "compare")
    goal = pool_of(held_out, chosen.work)
    if not len(goal):
        raise DataError("the held-out files hold no usable row")
    design = Design(
        method=method_name(chosen.name, None, hooks),
        trainer=trainer,
        settings={**(settings or {}), **more},
        runs=runs,
        baselines=tuple(against),
        full=dict(full) if full is not None else {"runs": 1, "epochs": 1},
        learning_rates=tuple(learning_rates),
        metric=metric,
        hooks=dict(hooks or {}),
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
    from tamis.exporting.provenance import of_run

    chosen = chosen_of(subset, work, model, "")
    trained = None if chosen.work.assumed else chosen.work.model
    if scored_with is not None:
        scored_with = work_of(chosen.work, scored_with).model
    elif isinstance(subset, Chosen) and not subset.work.assumed:
        scored_with = subset.work.model
    rows = chosen.subset
    return run(
        *(chosen.pool, rows.positions, out, to),
        weights=rows.weights,
        tokens=rows.tokens,
        model=trained,
        scored_with=scored_with,
        about=None if isinstance(subset, Chosen) else of_run(_run_of(Path(subset))),
    )


def _run_of(subset: Path) -> Path:
    """The run folder of a subset: itself, or the one that its file lies in."""
    return subset if subset.is_dir() else subset.parent


def run(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    *,
    work: str | Path | None = None,
    max_hours: float | None = None,
    disk_check: bool = True,
    **machine: Any,
) -> dict[str, Any]:
    """Carry out a recipe through Prefect; returns the run folder, the report and the verdict.

    `recipe`: a file, or the name of a shipped one. `overrides`: `["subset.budget=10%"]`. `machine`: as for `workspace`.
    After `max_hours` it stops where it can go on, with a `tamis.operations.deadline.TimeUp`. Raises GateError where the
    disk is too small for the run, unless `disk_check` is off.
    """
    from tamis.flows.settings import set_defaults
    from tamis.operations import deadline

    place = Path(work or os.environ.get("TAMIS_WORKSPACE") or ".tamis").resolve()
    set_defaults(place)
    from tamis.flows.curate import run_here
    from tamis.stages.room import check_kept

    with deadline.within(max_hours), check_kept(disk_check):
        result: dict[str, Any] = run_here(str(recipe), place, list(overrides), machine)
    return result


def _selection(chosen: Chosen) -> Selection:
    from tamis.stages.select import Selection
    from tamis.store import Entry

    return Selection(chosen.name, Entry(chosen.work.root, chosen.facts, chosen.digest, chosen.seconds), chosen.subset)
