"""A recipe checked in full before anything runs: every stage, every reference, every budget; all faults at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tamis.catalogue import nearest
from tamis.cleaning.faults import check_clean
from tamis.errors import RecipeError
from tamis.recipe.components import SIDES, check_component, check_reference
from tamis.recipe.graph import STAGE_SETTINGS, VERBS, Recipe, Stage, references
from tamis.recipe.heading import (
    check_engine,
    check_model,
    check_publish,
    check_refit,
    check_role,
    check_source,
)
from tamis.recipe.marked import Marked
from tamis.recipe.measuring import check_pass, check_score
from tamis.recipe.proving import check_compare, check_train, check_training
from tamis.recipe.selecting import check_select

HEAD = (
    "name",
    "about",
    "model",
    "judge",
    "reference",
    "pool",
    "target",
    "existing",
    "refit",
    "clean",
    "engine",
    "publish",
)
GIVEN = ("pool", "target", "existing", "model")
_KIND = {"train": "trainers", "pass": "passes", "select": "selectors", "evaluate": "evaluators"}


def assemble(path: Path, marked: Marked) -> Recipe | None:
    """The recipe of a document, or None where it has faults; every fault is noted in `marked`."""
    values = marked.values
    model = check_model(marked)
    judge, reference = (check_role(marked, role) for role in ("judge", "reference"))
    for side in ("pool", "target", "existing"):
        if side in values:
            check_source(marked, (side,), values[side])
    if "pool" not in values:
        marked.fault((), "no pool is given; add `pool: {files: [my_data.jsonl]}`")
    refit = check_refit(marked)
    steps, engine, publish = check_clean(marked), check_engine(marked), check_publish(marked)
    stages = [stage for name, value in values.items() if name not in HEAD and (stage := _stage(marked, name, value))]
    ordered = _order(marked, stages)
    for stage in stages:
        _check_stage(marked, stage, {other.name: other for other in stages})
    if marked.faults:
        return None
    recipe = Recipe(
        name=str(values.get("name") or path.stem),
        path=path,
        model=model,
        pool=values["pool"],
        target=values.get("target"),
        existing=values.get("existing"),
        stages=tuple(ordered),
        values=values,
        judge=judge,
        reference=reference,
        refit=refit,
        clean=steps,
        engine=engine,
        publish=publish,
    )
    for stage in ordered:
        if stage.verb == "compare":
            check_training(marked, recipe, stage)
    return recipe


def _stage(marked: Marked, name: str, value: Any) -> Stage | None:
    if not isinstance(value, Mapping):
        marked.fault(
            (name,), f"expected a stage with one of {', '.join(VERBS)}; got {value!r}{nearest(name, list(HEAD))}"
        )
        return None
    verbs = [verb for verb in VERBS if verb in value]
    # `compare` has settings of its own named `train` and `evaluate`.
    verb = "compare" if "compare" in verbs else verbs[0] if len(verbs) == 1 else None
    if verb is None:
        what = " and ".join(verbs) if verbs else "none of them" + nearest(next(iter(value), ""), list(VERBS))
        marked.fault((name,), f"a stage has exactly one of {', '.join(VERBS)}; this has {what}")
        return None
    return Stage(name, verb, dict(value), tuple(dict.fromkeys(references(value))))


def _order(marked: Marked, stages: Sequence[Stage]) -> list[Stage]:
    """Topological order, keeping the order written where it is free; unknown references and cycles are faults."""
    known = {stage.name: stage for stage in stages}
    for stage in stages:
        for name in stage.references:
            if name not in known and name not in GIVEN:
                marked.fault((stage.name,), f"refers to @{name}, which is no stage{nearest(name, list(known))}")
            elif name in SIDES and name not in marked.values:
                marked.fault(
                    (stage.name,), f"refers to @{name}, but the recipe has no {name}; add `{name}: {{files: […]}}`"
                )
    done: list[Stage] = []
    placed: set[str] = set()
    left = list(stages)
    while left:
        ready = [stage for stage in left if all(name in placed or name not in known for name in stage.references)]
        if not ready:
            marked.fault((left[0].name,), f"a cycle of references: {' -> '.join(stage.name for stage in left)}")
            return list(stages)
        done.append(ready[0])
        placed.add(ready[0].name)
        left.remove(ready[0])
    return done


def _check_stage(marked: Marked, stage: Stage, stages: Mapping[str, Stage]) -> None:
    if stage.verb in _KIND:
        check_component(marked, stage, (stage.name,), _KIND[stage.verb], stage.settings[stage.verb], stage.own)
    else:
        for key in stage.own:
            known = STAGE_SETTINGS[stage.verb]
            marked.fault((stage.name, key), f"unknown setting{nearest(key, list(known))} Known: {', '.join(known)}")
    checks = {"train": check_train, "score": check_score, "select": check_select, "compare": check_compare}
    if stage.verb in checks:
        checks[stage.verb](marked, stage, stages)
    elif stage.verb == "pass":
        check_pass(marked, stage, stages)
    elif stage.verb == "load":
        _check_load(marked, stage)
    elif stage.verb == "evaluate":
        check_source(marked, (stage.name, "on"), stage.settings.get("on"))
    elif stage.verb == "export":
        check_reference(marked, stage, "subset", stages, "select")
        _check_form(marked, stage)


def _check_load(marked: Marked, stage: Stage) -> None:
    from tamis.stages.load import check

    for fault in check(stage.settings):
        marked.fault((stage.name,), fault)


def _check_form(marked: Marked, stage: Stage) -> None:
    from tamis.exporting import check_form

    try:
        check_form(stage.settings["export"])
    except RecipeError as error:
        for fault in error.faults:
            marked.fault((stage.name, "export"), fault)
