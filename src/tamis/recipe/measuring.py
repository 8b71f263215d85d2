"""Stages that measure, checked: passes and scorers, the signals that they read and the columns that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tamis.catalogue import build, load
from tamis.errors import RecipeError
from tamis.recipe.components import (
    SIDES,
    build_unfilled,
    called,
    check_component,
    check_reference,
    check_roles,
    must_be_given,
)
from tamis.recipe.graph import Stage, scorer_settings
from tamis.recipe.heading import (
    rating_stems,
)
from tamis.recipe.marked import Marked


def check_pass(marked: Marked, stage: Stage, stages: Mapping[str, Stage]) -> None:
    """What a run fills in must be there: checkpoints, a target, and the signals of other passes that it reads."""
    import dataclasses

    from tamis.stages.measure import SHARED

    try:
        cls = load("passes", stage.component)
        fields = {item.name for item in dataclasses.fields(cls)}
        built = build_unfilled(stage.component, stage.own)
    except RecipeError:
        return  # said already
    needs = built.needs
    check_roles(marked, (stage.name,), stage.component, needs)
    if "checkpoints" in fields and ("checkpoints" in stage.settings or must_be_given(cls, "checkpoints")):
        check_reference(marked, stage, "checkpoints", stages, "train", "load")
    for side, example in SIDES.items():
        if side in fields and getattr(built, f"reads_{side}", True) and side not in marked.values:
            marked.fault((stage.name,), f"{stage.component} needs {called(side)}; add `{side}: {{files: [{example}]}}`")
    if any(need.kind == "signal" and need.name not in SHARED for need in needs):
        check_reference(marked, stage, "from", stages, "pass")
    if "only" in stage.settings:
        check_reference(marked, stage, "only", stages, "select")
        if needs:
            reads = ", ".join(sorted(need.name for need in needs))
            marked.fault(
                (stage.name, "only"), f"{stage.component} reads {reads}: give `only` to the stage that measures that"
            )


def check_score(marked: Marked, stage: Stage, stages: Mapping[str, Stage]) -> None:
    """Scorers can be built, and what they read is there or can be made."""
    scorers = scorer_settings(stage.settings["score"])
    if not scorers:
        marked.fault((stage.name, "score"), "names no scorer; `tamis list scorers` has them all")
    for name, settings in scorers.items():
        check_component(marked, stage, (stage.name, "score"), "scorers", name, settings)
    _check_from(marked, stage, scorers, stages)
    before = list(stages)[: list(stages).index(stage.name)]
    earlier = [name for other in before if stages[other].verb == "score" for name in scorers_of(stages[other])]
    check_columns(marked, (stage.name, "score"), scorers, earlier)


def scorers_of(stage: Stage) -> dict[str, dict[str, Any]]:
    """The scorers of a stage that scores, and their settings."""
    return scorer_settings(stage.settings["score"])


def check_columns(
    marked: Marked, path: tuple[str, ...], scorers: Mapping[str, Mapping[str, Any]], earlier: Sequence[str] = ()
) -> None:
    """The columns that scorers read can be made, and every model that they or those need is named."""
    from tamis.stages.dependence import ordered

    try:
        built = {name: build("scorers", name, own) for name, own in scorers.items()}
    except RecipeError:
        return  # said already
    try:
        everything = ordered(built, [*earlier, *rating_stems(marked.values)])
    except RecipeError as error:
        for fault in error.faults:
            marked.fault(path, fault)
        return
    for name, scorer in everything.items():
        check_roles(marked, path, name, scorer.needs)


def _check_from(
    marked: Marked, stage: Stage, scorers: Mapping[str, Mapping[str, Any]], stages: Mapping[str, Stage]
) -> None:
    """A scorer that reads the signal of a stage names it by `from`."""
    from tamis.stages.measure import SHARED

    for name, settings in scorers.items():
        try:
            needs = build("scorers", name, settings).needs
        except RecipeError:
            continue  # said already
        if any(need.kind == "signal" and need.name not in SHARED for need in needs):
            check_reference(marked, stage, "from", stages, "pass")
            return
