"""One component of a recipe checked: its settings, what it refers to, and what it needs that a run must give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tamis.catalogue import build, load
from tamis.errors import RecipeError
from tamis.models import ModelRef
from tamis.recipe.graph import Stage
from tamis.recipe.marked import Marked
from tamis.values import Budget, Need

SIDES = {"target": "few_shot.jsonl", "existing": "trained_on.jsonl"}


def needs_of_pass(name: str, own: Mapping[str, Any]) -> frozenset[Need]:
    """What a pass with these settings needs. RecipeError where they are wrong."""
    needs: frozenset[Need] = build_unfilled(name, own).needs
    return needs


def build_unfilled(name: str, own: Mapping[str, Any], kind: str = "passes") -> Any:
    """A pass or a hook with stand-ins for what only a run can fill. RecipeError where the settings are wrong."""
    return build(kind, name, {**_plain(own), **stand_ins(kind, name)})


def stand_ins(kind: str, name: str) -> dict[str, Any]:
    """Values for the settings of a pass or a hook that only a run can fill (model, checkpoints, sides)."""
    import dataclasses

    from tamis.pool import Pool

    given: dict[str, Any] = {"model": ModelRef(name="tamis:tiny-lm"), "checkpoints": ()}
    given |= {side: Pool(()) for side in ("pool", *SIDES)}
    try:
        fields = {item.name for item in dataclasses.fields(load(kind, name))}
    except RecipeError:
        return {}
    return {key: value for key, value in given.items() if key in fields}


def _plain(own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are no references."""
    return {key: value for key, value in own.items() if not (isinstance(value, str) and value.startswith("@"))}


def must_be_given(cls: type[Any], name: str) -> bool:
    """Has this setting of a component no default?"""
    import dataclasses

    return any(
        item.name == name and item.default is item.default_factory is dataclasses.MISSING
        for item in dataclasses.fields(cls)
    )


def check_component(
    marked: Marked, stage: Stage, path: tuple[str, ...], kind: str, name: Any, own: Mapping[str, Any]
) -> None:
    """A fault where there is no such component or one of its settings is wrong."""
    if not isinstance(name, str):
        marked.fault(path, f"expected the name of a component of {kind}, got {name!r}")
        return
    settings = _plain(own)
    if kind in ("passes", "hooks"):
        settings |= stand_ins(kind, name)
    try:
        build(kind, name, settings)
    except RecipeError as error:
        for fault in error.faults:
            marked.fault(path, fault)


def check_roles(marked: Marked, path: tuple[str, ...], name: str, needs: Iterable[Need]) -> None:
    """A judge or a reference model that is needed must be named."""
    from tamis.stages.workspace import without

    for role in sorted({need.by for need in needs if need.by != "model"}):
        if role not in marked.values:
            marked.fault(path, without(role, name))


def check_reference(marked: Marked, stage: Stage, key: str, stages: Mapping[str, Stage], *verbs: str) -> None:
    """A fault where `key` is no reference to a stage that has one of these verbs."""
    value = stage.settings.get(key)
    if not (isinstance(value, str) and value.startswith("@")):
        marked.fault((stage.name,), f'needs `{key}: "@stage"`, a reference to a stage that has {" or ".join(verbs)}')
        return
    other = stages.get(value[1:])
    if other is not None and other.verb not in verbs:
        marked.fault((stage.name, key), f"{value} is a {other.verb} stage; expected one that has {' or '.join(verbs)}")


def check_budget(marked: Marked, path: tuple[str, ...], value: Any) -> None:
    """A fault where a budget is missing or cannot be read."""
    if value is None:
        marked.fault(path, "needs a `budget`: rows (5000), a share (5%) or '2M tokens'")
        return
    try:
        Budget.parse(value)
    except RecipeError as error:
        marked.fault((*path, "budget"), str(error))


def called(side: str) -> str:
    """A side in words, for faults."""
    return "a target" if side == "target" else "existing data"
