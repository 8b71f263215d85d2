"""The verbs of tamis for Python; each verb of the command line is a few lines over one of them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.catalogue import build
from tamis.errors import RecipeError
from tamis.models import ModelRef
from tamis.pool import MANIFEST, Pool
from tamis.stages.workspace import Workspace
from tamis.values import Budget, Seeds, Subset

if TYPE_CHECKING:
    from tamis.stages.measure import Signal
    from tamis.stages.score import Scored
    from tamis.stages.select import Selection
    from tamis.stages.train import Evaluated, Training
    from tamis.subsets import SubsetFile

Files = str | Sequence[str]
WARM_UP: Mapping[str, Any] = {"epochs": 4, "keep": "every-epoch"}


def workspace(root: str | Path | None = None, model: ModelRef | str = "tamis:tiny-lm", **machine: Any) -> Workspace:
    """A workspace (default: `TAMIS_WORKSPACE`, else `./.tamis`) on this machine (`machine`: device, workers…)."""
    from tamis import engine

    on = engine.machine(**machine)
    ref = ModelRef(name=model) if isinstance(model, str) else model
    place = Path(root or os.environ.get("TAMIS_WORKSPACE") or ".tamis").resolve()
    return Workspace(place, on, ref.resolved(on.device))


def open_pool(
    files: Files,
    work: Workspace | None = None,
    *,
    out: str | Path | None = None,
    sample: Mapping[str, int] | None = None,
    **settings: Any,
) -> Pool:
    """A pool from its folder, or from data files (paths, globs, hf:// names). `out`: folder to keep the pool in.

    `settings` are those of `tamis.ingest.ingest`: `mapping`, `source`, `shard_rows`.
    """
    from tamis.ingest import Sample, ingest
    from tamis.store import Store

    names = [files] if isinstance(files, str) else list(files)
    if len(names) == 1 and (Path(names[0]) / MANIFEST).is_file():
        return Pool.open(Path(names[0]))
    store = Store(Path(out)) if out is not None else (work or workspace()).store
    pool = ingest(names, store, sample=Sample(**sample) if sample else None, **settings)
    if out is not None:
        pool.save(Path(out) / MANIFEST)
    return pool


def keep_pool(pool: Pool, work: Workspace) -> Path:
    """Path of a `pool.json` for this pool in the workspace, so that a subset file can name it."""
    path = work.root / "pools" / pool.digest / MANIFEST
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        pool.save(path)
    return path


def score(
    pool: Pool, scorers: Files, work: Workspace, settings: Mapping[str, Mapping[str, Any]] | None = None
) -> Scored:
    """Columns of the scorers named (`"ifd,perplexity"`); all the passes they need run once each."""
    from tamis.recipe import scorer_settings
    from tamis.stages.measure import richest
    from tamis.stages.score import score as run

    given = dict(settings or {})
    built = {name: build("scorers", name, given.get(name, {})) for name in scorer_settings(scorers)}
    needs = [need for scorer in built.values() for need in scorer.needs]
    if any(need.name == "influence" for need in needs):
        raise RecipeError("gradient-similarity needs an influence pass: run it in a recipe (`tamis recipes less`)")
    return run(pool, built, dataclasses.replace(work, settings_of_passes=richest(needs)))


def filter(pool: Pool, where: str, work: Workspace) -> tuple[Selection, int]:  # noqa: A001 - the verb's name
    """All rows for which `where` holds, in pool order, and the number of rows that could not be judged."""
    from tamis.stages.score import known_columns
    from tamis.stages.select import select as run

    chosen = run(
        pool,
        build("selectors", "random", {"seed": 0}),
        Budget(share=1.0),
        work,
        name="filter",
        where=where,
        columns=known_columns(pool, work),
    )
    unscored = 0 if chosen.unscored is None else int(chosen.unscored.sum())
    return chosen, unscored


def select(
    pool: Pool,
    selector: str,
    budget: str | int | Budget,
    work: Workspace,
    *,
    target: Pool | None = None,
    where: str | None = None,
    mix: Any = None,
    settings: Mapping[str, Any] | None = None,
    warm_up: Mapping[str, Any] | None = None,
) -> Selection:
    """The rows that a selector picks. LESS first trains a warm-up on a random 5 % (`warm_up`: its settings)."""
    from tamis.stages.measure import measure_needs, richest
    from tamis.stages.score import known_columns
    from tamis.stages.select import mixer_of
    from tamis.stages.select import select as run

    built, limit = build("selectors", selector, dict(settings or {})), Budget.parse(budget)
    work = dataclasses.replace(work, settings_of_passes=richest(built.needs))
    given: dict[str, Signal] = measure_needs(pool, [], work)
    if any(need.side == "target" or need.name == "influence" for need in built.needs) and target is None:
        raise RecipeError(f"{selector} needs a target: give files with examples of what the model should get better at")
    if any(need.name == "influence" for need in built.needs):
        assert target is not None
        given["influence"] = _influence(pool, target, work, warm_up or {}, given)
    return run(
        pool,
        built,
        limit,
        work,
        target=target,
        where=where,
        mixer=mixer_of(mix),
        given=given,
        columns=known_columns(pool, work),
    )


def _influence(
    pool: Pool, target: Pool, work: Workspace, warm_up: Mapping[str, Any], given: Mapping[str, Signal]
) -> Signal:
    from tamis.stages.measure import measure
    from tamis.stages.select import select as run

    chosen = run(pool, build("selectors", "random", {"seed": 1}), Budget(share=0.05), work, given=given)
    trained = train(pool, chosen.subset, work, settings={**WARM_UP, **warm_up})
    component = build("passes", "influence", {"checkpoints": trained.checkpoints, "target": target})
    return measure(pool, "influence", component, work, given)


def mix(
    pool: Pool, mixer: str, budget: str | int | Budget, work: Workspace, settings: Mapping[str, Any] | None = None
) -> dict[str, Budget]:
    """What each group of the pool gets of a budget."""
    from tamis.stages.measure import measure_needs, view_of

    built, limit = build("mixers", mixer, dict(settings or {})), Budget.parse(budget)
    view = view_of(pool, measure_needs(pool, [], work))
    return dict(built.share(view, limit))


def train(
    pool: Pool,
    subset: Subset,
    work: Workspace,
    trainer: str = "lora",
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Training:
    """Fine-tune the workspace's model on a subset; a finished run is found, a killed one goes on."""
    from tamis.stages.train import TrainingJob, train_one

    weights = None if subset.weights is None else tuple(float(weight) for weight in subset.weights)
    return train_one(
        TrainingJob(
            store=work.store,
            trainer=trainer,
            settings=dict(settings or {}),
            model=work.model,
            rows_of=pool,
            positions=tuple(int(place) for place in subset.positions),
            seeds=Seeds(adapter=seed, order=seed),
            machine=work.machine,
            row_weights=weights,
        )
    )


def evaluate(
    held_out: Pool, work: Workspace, evaluator: str = "held-out-loss", settings: Mapping[str, Any] | None = None
) -> Evaluated:
    """The workspace's model measured on held-out rows, one result per row."""
    from tamis.stages.train import EvaluationJob, evaluate_one

    return evaluate_one(
        EvaluationJob(work.store, evaluator, dict(settings or {}), held_out, work.machine, model=work.model)
    )


def compare(
    pool: Pool,
    chosen: Selection,
    held_out: Pool,
    work: Workspace,
    *,
    method: str = "subset",
    trainer: str = "lora",
    settings: Mapping[str, Any] | None = None,
    **design: Any,
) -> dict[str, Any]:
    """Arms trained alike on equal tokens and measured on the same items; `design`: fields of `Design`."""
    from tamis.stages.compare import Design
    from tamis.stages.compare import compare as run
    from tamis.stages.measure import measure_needs, view_of

    view = view_of(pool, measure_needs(pool, [], work))
    plan = Design(method=method, trainer=trainer, settings=dict(settings or {}), **design)
    return run(view, chosen, held_out, plan, work, seconds=chosen.entry.seconds)


def compare_subset(file: SubsetFile, held_out: Pool, work: Workspace, **design: Any) -> dict[str, Any]:
    """`compare` for a subset file."""
    from tamis.stages.select import Selection
    from tamis.store import Entry

    subset = Subset(positions=file.positions, gains=file.gains, weights=file.weights)
    entry = Entry(file.path.parent, {}, file.path.stem)
    return compare(file.pool, Selection(file.path.stem, entry, subset), held_out, work, **design)


def export(pool: Pool, subset: Subset, form: str, out: str | Path, work: Workspace) -> Any:
    """Write a subset for a trainer: `jsonl`, `trl` (messages, token ids and label masks) or `parquet`."""
    from tamis.exporting import export as run
    from tamis.rendering import render

    return run(
        pool, subset.positions, Path(out), form, weights=subset.weights, render=lambda row: render(row, work.model)
    )


def run(
    recipe: str, overrides: Sequence[str] = (), *, root: str | Path | None = None, **machine: Any
) -> dict[str, Any]:
    """Carry out a recipe through Prefect; returns the run folder, the report and the verdict."""
    from tamis.flows.settings import set_defaults

    place = Path(root or os.environ.get("TAMIS_WORKSPACE") or ".tamis").resolve()
    set_defaults(place)
    from tamis.flows.curate import run_here

    result: dict[str, Any] = run_here(recipe, place, list(overrides), machine)
    return result
