"""Stages that train and compare, checked: what is trained on, hooks, baselines, metric and gates."""

from __future__ import annotations

from collections.abc import Mapping

from tamis.catalogue import CATALOGUE, load, nearest
from tamis.errors import RecipeError
from tamis.grouping import FIELDS
from tamis.recipe.components import check_budget, check_component, check_reference, stand_ins
from tamis.recipe.graph import Recipe, Stage, scorer_settings
from tamis.recipe.heading import (
    check_source,
)
from tamis.recipe.marked import Marked

GATES = ("warn", "fail", "ignore")


def check_train(marked: Marked, stage: Stage, stages: Mapping[str, Stage]) -> None:
    """A training has rows: those of a selection, of a baseline or of the whole pool; and its hooks fit it."""
    if "hooks" in stage.settings:
        _check_hooks(marked, stage, stage.component)
    on = stage.settings.get("on")
    if isinstance(on, Mapping):
        inner = Stage(stage.name, "select", dict(on), ())
        if "select" not in on:
            marked.fault((stage.name, "on"), "expected `{select: random, budget: 5%}` or a reference to a select stage")
            return
        check_component(marked, stage, (stage.name, "on"), "selectors", on["select"], inner.own)
        check_budget(marked, (stage.name, "on"), on.get("budget"))
    elif on != "@pool":
        check_reference(marked, stage, "on", stages, "select")


def _check_hooks(marked: Marked, stage: Stage, trainer: str) -> None:
    """Hooks are components; one that acts on steps needs a trainer that hears it, and may need a target."""
    from tamis.stages.train import not_heard

    hooks = scorer_settings(stage.settings["hooks"])
    for name, own in hooks.items():
        check_component(marked, stage, (stage.name, "hooks"), "hooks", name, own)
        if "target" in stand_ins("hooks", name) and "target" not in marked.values:
            marked.fault((stage.name, "hooks"), f"{name} needs a target; add `target: {{files: [few_shot.jsonl]}}`")
    try:
        fault = not_heard(load("trainers", trainer), hooks)
    except RecipeError:
        return  # said already
    if fault:
        marked.fault((stage.name, "hooks"), fault)


def check_compare(marked: Marked, stage: Stage, stages: Mapping[str, Stage]) -> None:
    """A comparison has a subset, items to judge by, baselines that exist and a metric."""
    check_reference(marked, stage, "compare", stages, "select")
    if "evaluate" not in stage.settings:
        marked.fault((stage.name,), "needs `evaluate: {files: [held_out.jsonl]}`")
    else:
        check_source(marked, (stage.name, "evaluate"), stage.settings["evaluate"])
    arms = stage.settings.get("with", ["random", "longest"])
    known = ["full", "plain", *CATALOGUE["selectors"]]
    for arm in arms if isinstance(arms, list) else [arms]:
        if arm not in ("random", "longest", "full", "plain"):
            marked.fault(
                (stage.name, "with"),
                f"{arm!r} is no baseline{nearest(str(arm), known)} Use random, longest, full, or plain (the same rows "
                "without weights and hooks)",
            )
    runs = stage.settings.get("runs", 3)
    if not isinstance(runs, int) or runs < 1:
        marked.fault((stage.name, "runs"), f"expected a whole number of at least 1, got {runs!r}")
    _check_composition(marked, stage)
    leaks = stage.settings.get("contamination", "warn")
    if leaks not in GATES:
        fault = f"expected {', '.join(GATES)} for evaluation items that stand in the rows; got {leaks!r}"
        marked.fault((stage.name, "contamination"), fault)
    metric = stage.settings.get("metric", "held-out-loss")
    name, settings = next(iter(scorer_settings(metric).items()), ("", {}))
    check_component(marked, stage, (stage.name, "metric"), "evaluators", name, settings)


def _check_composition(marked: Marked, stage: Stage) -> None:
    """The report counts arms by fields of the rows, which need no pass."""
    asked = stage.settings.get("composition", [])
    if not isinstance(asked, list):
        marked.fault((stage.name, "composition"), f"expected a list, as [source, meta.skill]; got {asked!r}")
        return
    for by in asked:
        if by not in FIELDS and not str(by).startswith("meta."):
            hint = nearest(str(by), list(FIELDS))
            marked.fault((stage.name, "composition"), f"cannot go by {by!r}{hint} Use source, kind, file or meta.NAME")


def check_training(marked: Marked, recipe: Recipe, stage: Stage) -> None:
    """What a comparison trains its arms with can be told from the recipe, and is right."""
    try:
        trainer, settings = recipe.training_of(stage)
    except RecipeError as error:
        marked.fault((stage.name,), str(error))
        return
    check_component(marked, stage, (stage.name, "train"), "trainers", trainer, settings)
    if "hooks" in stage.settings:
        _check_hooks(marked, stage, trainer)
