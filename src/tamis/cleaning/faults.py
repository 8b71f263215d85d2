"""The `clean` head of a recipe checked: names, settings, columns, models, and data that the pool is held against."""

from __future__ import annotations

from typing import Any

from tamis.cleaning.steps import Step, steps_of
from tamis.errors import RecipeError
from tamis.recipe.marked import Marked

CLEAN = "clean"
SIDES = ("target", "existing")


def check_clean(marked: Marked) -> tuple[Step, ...]:
    """The steps of a recipe; every fault is noted at its line, and steps that have one are left out."""
    try:
        steps = steps_of(marked.values.get(CLEAN))
    except RecipeError as error:
        marked.fault((CLEAN,), str(error))
        return ()
    return tuple(step for step in steps if _is_sound(marked, step))


def _is_sound(marked: Marked, step: Step) -> bool:
    path = (CLEAN, *step.path)
    before = len(marked.faults)
    try:
        built = step.built()
    except RecipeError as error:
        for fault in error.faults:
            marked.fault(path, fault)
        return False
    _check_needs(marked, path, step.name, built)
    for source in built.sources() if hasattr(built, "sources") else ():
        _check_side(marked, path, source)
    return len(marked.faults) == before


def _check_needs(marked: Marked, path: tuple[str, ...], name: str, built: Any) -> None:
    """Columns can be made, and every second model that is needed is named."""
    from tamis.recipe.heading import rating_stems
    from tamis.stages.clean import needs_of_component
    from tamis.stages.workspace import without

    try:
        needs = needs_of_component(built, rating_stems(marked.values))
    except RecipeError as error:
        for fault in error.faults:
            marked.fault(path, fault)
        return
    for role in sorted({need.by for need in needs if need.by != "model"} - set(marked.values)):
        marked.fault(path, without(role, name))


def _check_side(marked: Marked, path: tuple[str, ...], source: Any) -> None:
    """Files are there, and a side that is named by `@` is in the recipe."""
    from tamis.recipe.heading import check_source

    if not (isinstance(source, str) and source.startswith("@")):
        check_source(marked, path, source)
    elif source[1:] not in SIDES:
        marked.fault(path, f"{source} is no data to hold a pool against: @target, @existing, or files")
    elif source[1:] not in marked.values:
        marked.fault(path, f"{source} is named, but the recipe has no {source[1:]}; add `{source[1:]}: {{files: […]}}`")
