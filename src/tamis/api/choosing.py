"""Verbs that choose rows: filter, select, mix, and subsets that were chosen before."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.api.handles import Chosen, Shares, Trained
from tamis.api.places import Model, Place, Rows, Settings, pool_of, reads_rows, work_of
from tamis.catalogue import build
from tamis.errors import RecipeError
from tamis.pool import Pool
from tamis.stages.workspace import Workspace
from tamis.values import Budget, Need, Subset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.stages.select import Selection
    from tamis.stages.signals import Signal
    from tamis.stages.train import Training

WARM_UP: Mapping[str, Any] = {"epochs": 4, "keep": "every-epoch"}
OVER_WARM_UP: Mapping[str, Mapping[str, Any]] = {  # passes over its checkpoints that read no target
    "trajectories": {"start": True},
    "gradients": {"profile": "tracin", "use": "last", "dim": 4096},
}
NO_TARGET = "{} needs a target: give files with examples of what the model should get better at"


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
    existing: Rows | None = None,
    where: str | None = None,
    mix: Any = None,
    weigh: Any = None,
    columns: Any = (),
    on: str | None = None,
    warm_up: Settings | Trained = None,
    utility: Settings = None,
    only: Chosen | str | Path | None = None,
    model: Model = None,
    work: Place = None,
    settings: Settings = None,
    **more: Any,
) -> Chosen:
    """The rows that a selector picks within a budget: rows (5000), a share ("5%") or tokens ("2M tokens").

    `target`: examples of what the model should get better at. `where` filters first; `mix` shares the budget among
    groups. `weigh`: a weigher, or `{name: settings}`: training weights of the chosen rows or of their tokens.
    `columns`, `on`: files of ratings, as for `add_columns`. LESS, S2L and BADGE first train a warm-up on a random 5 %
    (`warm_up`: settings of `lora`); with `only` (an earlier selection, or its file) influence is measured on those rows
    alone, and no other row is picked. `existing`: data that the model has been trained on, for what complements it.
    DELIFT measures in-context utility first (`utility`: settings of the pass of that name). Raises RecipeError where a
    setting is wrong or something needed is not given.
    """
    from tamis.stages.select import mixer_of

    built = build("selectors", selector, {**(settings or {}), **more})
    if only is not None and not any(need.name == "influence" for need in built.needs):
        raise RecipeError(f"{selector} measures no influence, so `only` has no meaning; filter its rows with `where`")
    if target is None and any(need.side == "target" or need.name == "influence" for need in built.needs):
        raise RecipeError(NO_TARGET.format(selector))
    if target is None and (blend := mixer_of(mix)) is not None and any(need.side == "target" for need in blend.needs):
        raise RecipeError(NO_TARGET.format("the mix"))
    if existing is None and any(need.side == "existing" for need in built.needs):
        raise RecipeError(f"{selector} needs existing data: give files with what the model has been trained on")
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
        weigh=weigh,
        target=target,
        existing=existing,
        warm_up=warm_up,
        utility=utility,
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
    weigh: Any = None,
    target: Rows | None = None,
    existing: Rows | None = None,
    warm_up: Settings | Trained = None,
    utility: Settings = None,
    only: Chosen | str | Path | None = None,
) -> Chosen:
    from tamis.stages.columns_io import read_all
    from tamis.stages.compare import method_name
    from tamis.stages.dependence import needs_of_scorers, ordered
    from tamis.stages.measure import measure_needs, richest
    from tamis.stages.score import known_columns
    from tamis.stages.select import missing_columns, mixer_of, needs_with
    from tamis.stages.select import select as run
    from tamis.stages.weigh import weigher_of

    at, mixer = work_of(work), mixer_of(mix)
    rows = pool_of(pool, at)
    _, notes = read_all(rows, files, at, on)
    have = known_columns(rows, at)
    weighing = weigher_of(weigh)
    asked = needs_with(selector, mixer, weighing)
    scorers = missing_columns(asked, where, have)
    everything = ordered(scorers, have)
    needs = [*asked, *needs_of_scorers(everything)]
    at = work_of(at, model, why=_why(name, scorers, needs, budget))
    _check_roles(at, name, asked, everything)
    at = dataclasses.replace(at, settings_of_passes=richest(needs))
    goal = pool_of(target, at) if target is not None else None
    known = pool_of(existing, at) if existing is not None else None
    given: dict[str, Signal] = measure_needs(rows, [], at)
    if goal is not None and any(need.name == "influence" for need in selector.needs):
        places = None if only is None else _places(rows, chosen_of(only, at, None, "select"))
        given["influence"] = _influence(rows, goal, at, warm_up or {}, given, places)
        notes = [*notes, *given["influence"].caveats]
    for need in (need for need in selector.needs if need.name in OVER_WARM_UP):
        given[need.name] = _over_warm_up(rows, need.name, at, warm_up or {}, given)
        notes = [*notes, *given[need.name].caveats]
    for need in (need for need in selector.needs if need.name == "utility"):
        own = {**dict(need.settings), **(utility or {}), "target": goal, "existing": known}
        given["utility"] = _utility(rows, own, at, given)
        notes = [*notes, *given["utility"].caveats]
    chosen = run(
        *(rows, selector, budget, at),
        target=goal,
        existing=known,
        where=where,
        mixer=mixer,
        weighing=weighing,
        given=given,
        columns=have,
    )
    return handle_of(rows, chosen, at, method_name(name, weigh, None), tuple(notes))


def _why(name: str, scorers: Mapping[str, Any], needs: Sequence[Need], budget: Budget) -> str:
    """What of a selection runs a model; empty where nothing does."""
    if reads_rows(needs):
        return ", ".join(scorers) or name
    return "a budget of tokens" if budget.tokens is not None else ""


def _check_roles(at: Workspace, name: str, asked: Iterable[Need], scorers: Mapping[str, Any]) -> None:
    """RecipeError where a second model is needed and nobody named it."""
    at.check_roles(name, asked)
    for scorer, built in scorers.items():
        at.check_roles(scorer, built.needs)


def handle_of(pool: Pool, chosen: Selection, work: Workspace, name: str, notes: tuple[str, ...]) -> Chosen:
    """What a verb hands back of a selection."""
    unscored = 0 if chosen.unscored is None else int(chosen.unscored.sum())
    seconds, notes = chosen.entry.seconds, (*notes, *chosen.subset.notes)
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

    warmed = _warmed_up(pool, work, warm_up, given)
    component = build("passes", "influence", {"checkpoints": warmed.checkpoints, "target": target})
    if only is not None:
        return _noted(measure_only(pool, only, "influence", component, work), warmed)
    return _noted(measure(pool, "influence", component, work, given), warmed)


def _over_warm_up(
    pool: Pool, name: str, work: Workspace, warm_up: Mapping[str, Any] | Trained, given: Mapping[str, Signal]
) -> Signal:
    """Losses of every row over a warm-up, those of the untouched model first; or gradients on its last checkpoint."""
    from tamis.stages.measure import measure

    warmed = _warmed_up(pool, work, warm_up, given)
    component = build("passes", name, {"checkpoints": warmed.checkpoints, **OVER_WARM_UP[name]})
    return _noted(measure(pool, name, component, work, given), warmed)


def _noted(signal: Signal, warmed: Training) -> Signal:
    """The signal with what a reader must know of the warm-up under it."""
    return dataclasses.replace(signal, notes=(*(f"warm-up: {note}" for note in warmed.notes), *signal.notes))


def _warmed_up(
    pool: Pool, work: Workspace, warm_up: Mapping[str, Any] | Trained, given: Mapping[str, Signal]
) -> Training:
    """The warm-up given, or `lora` with these settings on a random 5 % of the pool, or of what the pool once was."""
    from tamis.recipe.graph import Stage
    from tamis.stages.sampled import job_of, train_on_sample

    if isinstance(warm_up, Trained):
        return warm_up.training
    on = {"select": "random", "seed": 1, "budget": "5%"}
    stage = Stage("warm-up", "train", {"train": "lora", "on": on, **WARM_UP, **warm_up}, ())
    return train_on_sample(stage, pool, None, work, given, {}, functools.partial(job_of, stage, pool, None, work))


def _utility(pool: Pool, settings: Mapping[str, Any], work: Workspace, given: Mapping[str, Signal]) -> Signal:
    """In-context utility with the settings of its pass; the model and the sides are the run's."""
    from tamis.stages.measure import measure, measure_needs

    component = build("passes", "utility", {**settings, "model": work.model})
    return measure(pool, "utility", component, work, measure_needs(pool, component.needs, work, given))


def mix(
    pool: Rows,
    mixer: str,
    budget: str | int | Budget,
    *,
    target: Rows | None = None,
    columns: Any = (),
    on: str | None = None,
    model: Model = None,
    work: Place = None,
    settings: Settings = None,
    **more: Any,
) -> Shares:
    """What each group of the pool gets of a budget. A budget of tokens counts those of `model`.

    `target`: for mixers that compare groups with it. `columns`, `on`: files of ratings, as for `add_columns`.
    """
    from tamis.stages.columns_io import read_all
    from tamis.stages.dependence import needs_of_scorers, ordered
    from tamis.stages.measure import measure_needs, richest
    from tamis.stages.score import known_columns, score
    from tamis.stages.select import missing_columns
    from tamis.stages.signals import needs_on, view_of

    built = build("mixers", mixer, {**(settings or {}), **more})
    if target is None and any(need.side == "target" for need in built.needs):
        raise RecipeError(NO_TARGET.format(mixer))
    limit, at = Budget.parse(budget), work_of(work)
    rows = pool_of(pool, at)
    read_all(rows, columns, at, on)
    have = known_columns(rows, at)
    scorers = missing_columns(built.needs, None, have)
    everything = ordered(scorers, have)
    needs = [*built.needs, *needs_of_scorers(everything)]
    at = work_of(at, model, why=_why(mixer, scorers, needs, limit))
    _check_roles(at, mixer, built.needs, everything)
    at = dataclasses.replace(at, settings_of_passes=richest(needs))
    signals = measure_needs(rows, needs_on("pool", needs), at)
    made = score(rows, scorers, at, signals, have).columns if scorers else {}
    goal = None
    if target is not None:
        read = pool_of(target, at)
        goal = view_of(read, measure_needs(read, needs_on("target", needs), at))
    view = view_of(rows, signals, columns={**have, **made}, target=goal)
    return Shares(built.share(view, limit))


def open_subset(path: str | Path, *, model: Model = None, work: Place = None) -> Chosen:
    """A subset file that `Chosen.save` or `tamis select` wrote, or the subset of a run folder.

    Raises DataError where it is none, or where its pool has changed since.
    """
    from tamis.subsets import read

    file = read(Path(path))
    subset = Subset(positions=file.positions, gains=file.gains, weights=file.weights, tokens=file.tokens)
    name = file.path.stem if file.path.stem != "subset" else file.path.parent.name
    return Chosen(file.pool, subset, work_of(work, model), name)


def chosen_of(subset: Chosen | Pool | str | Path, work: Place, model: Model, why: str) -> Chosen:
    """The subset with the workspace and model that the verb was given, else its own."""
    if isinstance(subset, Chosen):
        own = work if work is not None else subset.work
        return dataclasses.replace(subset, work=work_of(own, model, why=why))
    at = work_of(work, model, why=why)
    if not isinstance(subset, Pool):
        return open_subset(subset, work=at)
    import numpy as np

    from tamis.stages.measure import measure_needs
    from tamis.stages.signals import view_of

    usable = np.flatnonzero(view_of(subset, measure_needs(subset, [], at)).usable)
    return Chosen(subset, Subset(positions=usable, gains=np.zeros(len(usable), np.float32)), at, "pool")
