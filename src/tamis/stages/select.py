"""Select: a selector, its needs measured, over the rows that a trainer can use; the subset kept in the store."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import digests
from tamis.catalogue import SCORERS, build, nearest
from tamis.column.filtering import ROW_FIELDS, filter_rows, is_field, needs_of
from tamis.errors import RecipeError
from tamis.grouping import CLUSTERS, Centres, clusters_of
from tamis.pool import Pool
from tamis.protocols import Mixer, Scorer, Selector
from tamis.recipe import Stage, scorer_settings
from tamis.stages.fitting import fit
from tamis.stages.measure import measure_needs
from tamis.stages.score import score
from tamis.stages.signals import Signal, needs_on, view_of
from tamis.stages.weigh import Weighing, weigh
from tamis.stages.workspace import Workspace
from tamis.store import Entry, load_arrays, save_arrays
from tamis.values import Budget, Column, Need, Subset, TokenWeights
from tamis.views import PoolView

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUBSET = "subset"
TOKENS = "tokens."  # arrays of the token weights, in the store


@dataclass(frozen=True)
class Selection:
    """A subset in the store, with what it cost to choose it. `where`: rows that a filter left out, or None."""

    name: str
    entry: Entry
    subset: Subset
    filtered: NDArray[np.bool_] | None = None
    unscored: NDArray[np.bool_] | None = None
    kept: tuple[str, ...] = ()  # what a reader must know of what was fitted before the pool changed

    @property
    def digest(self) -> str:
        """Digest of the subset's content."""
        return self.entry.digest

    def about(self, stage: Stage) -> dict[str, Any]:
        """How the subset of a select stage came about, for manifests and cards."""
        counted = {key: self.entry.facts[key] for key in ("rows", "tokens", "usable")}
        budget = str(stage.settings["budget"])
        return {"stage": stage.name, "selector": stage.component, "budget": budget, "digest": self.digest, **counted}


def select(
    pool: Pool,
    selector: Selector,
    budget: Budget,
    work: Workspace,
    *,
    name: str = "subset",
    target: Pool | None = None,
    existing: Pool | None = None,
    where: str | None = None,
    mixer: Mixer | None = None,
    weighing: Weighing | None = None,
    given: Mapping[str, Signal] | None = None,
    columns: Mapping[str, Column] | None = None,
) -> Selection:
    """The rows that `selector` picks within `budget`, after the filter `where` and within the shares of `mixer`.

    `target` and `existing` are measured and shown to the selector where it needs them. `weighing` gives the rows
    chosen, or their response tokens, weights for training.
    """
    needs = [*needs_with(selector, mixer, weighing), *needs_of(where)]
    made = dict(columns or {}) | _score_needs(pool, needs, where, columns or {}, work, given)
    signals = measure_needs(pool, needs_on("pool", needs), work, given)
    views = {
        "target": _side_view(target, "target", needs, work),
        "existing": _side_view(existing, "existing", needs, work),
    }
    centres, kept = _centres(pool, signals, work, selector, mixer)
    sides = {"target": views["target"], "existing_pool": views["existing"]}
    view = view_of(pool, signals, columns=made, centres=centres, **sides)
    keep, unscored = _filter(view, where)
    view = dataclasses.replace(view, keep=keep)
    inputs = {
        "pool": pool.digest,
        "budget": budget,
        "where": where,
        "mixer": [type(mixer).__name__, type(mixer).revision, mixer] if mixer is not None else None,
        "signals": {key: signal.identities for key, signal in signals.items()},
        "columns": _column_digests(made, needs, where),
        **{side: None if one is None else one.pool.digest for side, one in views.items()},
        **({"centres": {by: digests.of_bytes(one.tobytes()) for by, one in centres.items()}} if centres else {}),
        **({"weighing": [*weighing.identity, work.model]} if weighing is not None else {}),
    }

    def make(folder: Path) -> dict[str, Any]:
        subset = _pick(view, selector, budget, mixer, work)
        if not len(subset.positions):
            raise RecipeError(f"{name}: no row of the pool can be selected{' after ' + repr(where) if where else ''}")
        if weighing is not None:
            subset = weigh(view, subset, weighing, work.model)
        save_arrays(folder, _arrays(subset))
        return {
            "rows": len(subset.positions),
            "tokens": int(view.cost[subset.positions].sum()),
            "unit": subset.unit,
            "usable": int(view.usable.sum()),
            "notes": list(subset.notes),
        }

    entry = work.store.get_or_make(SUBSET, digests.of_component(selector, inputs), make, about=selector)
    return Selection(name, entry, read_subset(entry), keep, unscored, kept)


def _centres(
    pool: Pool, signals: Mapping[str, Signal], work: Workspace, *asking: Any
) -> tuple[dict[str, NDArray[np.float32]], tuple[str, ...]]:
    """Centres of the clusters by which something groups the pool, kept where little of it is new; and notes on them."""
    found, notes = {}, []
    for by in sorted({by for one in asking if isinstance(by := getattr(one, "by", None), str)}):
        if by.startswith(CLUSTERS) and "tokens" in signals:
            own = {"tokens": signals["tokens"]}
            entry, outcome = fit(pool, Centres(count=clusters_of(by)), work, own, name=by)
            found[by] = load_arrays(entry.path)["centres"]
            notes += [f"{by}: {note}" for note in [outcome.note()] if note]
    return found, tuple(notes)


def _side_view(side: Pool | None, name: str, needs: Sequence[Need], work: Workspace) -> PoolView | None:
    """The view of the target or of existing data, where something needs it."""
    wanted = needs_on(name, needs)
    return view_of(side, measure_needs(side, wanted, work)) if side is not None and wanted else None


def needs_with(selector: Selector, mixer: Mixer | None, weighing: Weighing | None = None) -> list[Need]:
    """What a selector needs, and its mixer and weigher too."""
    weigher = () if weighing is None else weighing.weigher.needs
    return [*selector.needs, *(mixer.needs if mixer is not None else ()), *weigher]


def _arrays(subset: Subset) -> dict[str, NDArray[Any]]:
    """All arrays of a subset, those of its token weights by names of their own."""
    names = [field.name for field in dataclasses.fields(subset) if field.name not in ("unit", "notes", "tokens")]
    arrays = {name: array for name in names if (array := getattr(subset, name)) is not None}
    if subset.tokens is not None:
        for field in dataclasses.fields(subset.tokens):
            arrays[f"{TOKENS}{field.name}"] = getattr(subset.tokens, field.name)
    return arrays


def read_subset(entry: Entry) -> Subset:
    """The subset of a store entry."""
    facts, arrays = entry.facts, load_arrays(entry.path)
    own = {name.removeprefix(TOKENS): arrays.pop(name) for name in list(arrays) if name.startswith(TOKENS)}
    tokens = TokenWeights(**own) if own else None
    return Subset(**arrays, tokens=tokens, unit=facts["unit"], notes=tuple(facts.get("notes", ())))


def _pick(view: PoolView, selector: Selector, budget: Budget, mixer: Mixer | None, work: Workspace) -> Subset:
    if mixer is None:
        return selector.select(view, budget, work.machine)
    from tamis.mixes import select_by_mix

    return select_by_mix(view, mixer, selector, budget, work.machine)


def _score_needs(
    pool: Pool,
    needs: Sequence[Need],
    where: str | None,
    have: Mapping[str, Column],
    work: Workspace,
    given: Mapping[str, Signal] | None,
) -> dict[str, Column]:
    """Columns that a selector or a filter names and that nobody has made yet, with default settings."""
    scorers = missing_columns(needs, where, have)
    return dict(score(pool, scorers, work, given, have).columns) if scorers else {}


def missing_columns(needs: Iterable[Need], where: str | None, have: Mapping[str, Column]) -> dict[str, Scorer]:
    """Scorers, with their default settings, of the columns that `needs` and `where` name and `have` does not hold."""
    from tamis.column.expressions import names
    from tamis.views import resolve_column

    wanted = {need.name for need in needs if need.kind == "column" and not is_field(need.name)}
    wanted |= {name for name in (names(where) if where else set()) if not is_field(name)}
    scorers: dict[str, Scorer] = {}
    for column in sorted(wanted):
        try:
            resolve_column(column, list(have))
        except RecipeError as error:
            scorer = column.partition("@")[0].partition(".")[0]
            if scorer not in SCORERS and ":" not in scorer:
                hint = nearest(column, [*ROW_FIELDS, *SCORERS, *have])
                raise RecipeError(f"there is no column {column!r}, and no scorer named {scorer!r}{hint}") from error
            scorers[scorer] = build("scorers", scorer, {})
    return scorers


def _filter(view: PoolView, where: str | None) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]:
    if where is None:
        return None, None
    return filter_rows(view, where)


def _column_digests(columns: Mapping[str, Column], needs: Sequence[Need], where: str | None) -> dict[str, str]:
    import numpy as np

    if where is None and not any(need.kind == "column" for need in needs):
        return {}
    return {name: digests.of_bytes(np.ascontiguousarray(column.values).tobytes()) for name, column in columns.items()}


def mixer_of(value: Any) -> Mixer | None:
    """The mixer of a `mix` setting: a name, or a name with settings; None where there is none."""
    found = scorer_settings(value)
    if not found:
        return None
    name, settings = next(iter(found.items()))
    mixer: Mixer = build("mixers", name, settings)
    return mixer
