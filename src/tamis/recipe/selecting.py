"""Stages that select, checked: budget, mix and weights, and the columns that a selector or a filter reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tamis.catalogue import CATALOGUE, build, hint
from tamis.column.filtering import ROW_FIELDS
from tamis.errors import RecipeError
from tamis.recipe.components import SIDES, called, check_budget, check_component, check_reference, check_roles
from tamis.recipe.graph import Stage, scorer_settings
from tamis.recipe.heading import (
    rating_stems,
)
from tamis.recipe.marked import Marked
from tamis.recipe.measuring import check_columns, scorers_of
from tamis.values import Need


def check_select(marked: Marked, stage: Stage, stages: Mapping[str, Stage]) -> None:
    """Selector, budget, mix and weights fit, and every column that is read is there or can be made."""
    check_budget(marked, (stage.name,), stage.settings.get("budget"))
    for name, settings in scorer_settings(stage.settings.get("mix")).items():
        check_component(marked, stage, (stage.name, "mix"), "mixers", name, settings)
    _check_weigh(marked, stage)
    needs = _select_needs(stage)
    _check_select_needs(marked, stage, stages, needs)
    for column in _columns_used(marked, stage, needs):
        scorer = column.partition("@")[0].partition(".")[0]
        known = {*CATALOGUE["scorers"], *ROW_FIELDS, "meta", *rating_stems(marked.values)}
        if scorer not in known:
            marked.fault((stage.name,), f"uses the column {column!r}, which no scorer makes{hint('scorers', scorer)}")
        elif scorer in CATALOGUE["scorers"]:
            made = [scorers_of(other) for other in stages.values() if other.verb == "score"]
            own: dict[str, Any] = next((given[scorer] for given in made if scorer in given), {})
            check_columns(marked, (stage.name,), {scorer: own})


def _check_weigh(marked: Marked, stage: Stage) -> None:
    """One weigher at most: two sets of token weights would have to be multiplied, and no method says how."""
    given = scorer_settings(stage.settings.get("weigh"))
    if len(given) > 1:
        marked.fault((stage.name, "weigh"), f"names {len(given)} weighers; expected one: {', '.join(given)}")
    for name, settings in given.items():
        check_component(marked, stage, (stage.name, "weigh"), "weighers", name, settings)


def _select_needs(stage: Stage) -> dict[str, list[Need]]:
    """What a selector and its mixer need, by their names; nothing of one whose settings are wrong, which is said."""
    found: dict[str, list[Need]] = {}
    mixers, weighers = (scorer_settings(stage.settings.get(key)) for key in ("mix", "weigh"))
    for kind, name, own in (
        ("selectors", stage.component, stage.own),
        *(("mixers", name, own) for name, own in mixers.items()),
        *(("weighers", name, own) for name, own in weighers.items()),
    ):
        try:
            found.setdefault(name, []).extend(build(kind, name, own).needs)
        except RecipeError:
            continue
    return found


def _check_select_needs(
    marked: Marked, stage: Stage, stages: Mapping[str, Stage], needs: Mapping[str, Sequence[Need]]
) -> None:
    """A signal that is a stage of its own is named by `from`, and what reads the target needs one."""
    from tamis.stages.measure import SHARED

    for name, own in needs.items():
        check_roles(marked, (stage.name,), name, own)
        if any(need.kind == "signal" and need.side == "pool" and need.name not in SHARED for need in own):
            check_reference(marked, stage, "from", stages, "pass")
        for side, example in SIDES.items():
            if any(need.side == side for need in own) and side not in marked.values:
                marked.fault((stage.name,), f"{name} needs {called(side)}; add `{side}: {{files: [{example}]}}`")


def _columns_used(marked: Marked, stage: Stage, needs: Mapping[str, Sequence[Need]]) -> set[str]:
    from tamis.column.expressions import names

    used = {need.name for own in needs.values() for need in own if need.kind == "column"}
    if "where" in stage.settings:
        try:
            used |= names(str(stage.settings["where"]))
        except RecipeError as error:
            marked.fault((stage.name, "where"), str(error))
    return used
