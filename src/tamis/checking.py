"""A recipe checked in full before anything runs: every stage, every reference, every budget; all faults at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tamis.catalogue import CATALOGUE, build, load, nearest
from tamis.cleaning.faults import check_clean
from tamis.errors import RecipeError
from tamis.filtering import ROW_FIELDS
from tamis.graph import STAGE_SETTINGS, VERBS, Recipe, Stage, references, scorer_settings
from tamis.grouping import FIELDS
from tamis.heading import check_engine, check_model, check_publish, check_refit, check_role, check_source, rating_stems
from tamis.marked import Marked
from tamis.models import ModelRef
from tamis.values import Budget, Need

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
SIDES = {"target": "few_shot.jsonl", "existing": "trained_on.jsonl"}
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
            _check_training(marked, recipe, stage)
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
        _check_component(marked, stage, (stage.name,), _KIND[stage.verb], stage.settings[stage.verb], stage.own)
    else:
        for key in stage.own:
            known = STAGE_SETTINGS[stage.verb]
            marked.fault((stage.name, key), f"unknown setting{nearest(key, list(known))} Known: {', '.join(known)}")
    checks = {"train": _check_train, "score": _check_score, "select": _check_select, "compare": _check_compare}
    if stage.verb in checks:
        checks[stage.verb](marked, stage, stages)
    elif stage.verb == "pass":
        _check_pass(marked, stage, stages)
    elif stage.verb == "load":
        _check_load(marked, stage)
    elif stage.verb == "evaluate":
        check_source(marked, (stage.name, "on"), stage.settings.get("on"))
    elif stage.verb == "export":
        _check_reference(marked, stage, "subset", stages, "select")
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


def _check_component(
    marked: Marked, stage: Stage, path: tuple[str, ...], kind: str, name: Any, own: Mapping[str, Any]
) -> None:
    if not isinstance(name, str):
        marked.fault(path, f"expected the name of a component of {kind}, got {name!r}")
        return
    settings = _plain(own)
    if kind in ("passes", "hooks"):
        settings |= _stand_ins(kind, name)
    try:
        build(kind, name, settings)
    except RecipeError as error:
        for fault in error.faults:
            marked.fault(path, fault)


def needs_of_pass(name: str, own: Mapping[str, Any]) -> frozenset[Need]:
    """What a pass with these settings needs. RecipeError where they are wrong."""
    needs: frozenset[Need] = build_unfilled(name, own).needs
    return needs


def build_unfilled(name: str, own: Mapping[str, Any], kind: str = "passes") -> Any:
    """A pass or a hook with stand-ins for what only a run can fill. RecipeError where the settings are wrong."""
    return build(kind, name, {**_plain(own), **_stand_ins(kind, name)})


def _stand_ins(kind: str, name: str) -> dict[str, Any]:
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


def _check_reference(marked: Marked, stage: Stage, key: str, stages: Mapping[str, Stage], *verbs: str) -> None:
    value = stage.settings.get(key)
    if not (isinstance(value, str) and value.startswith("@")):
        marked.fault((stage.name,), f'needs `{key}: "@stage"`, a reference to a stage that has {" or ".join(verbs)}')
        return
    other = stages.get(value[1:])
    if other is not None and other.verb not in verbs:
        marked.fault((stage.name, key), f"{value} is a {other.verb} stage; expected one that has {' or '.join(verbs)}")


def _check_budget(marked: Marked, path: tuple[str, ...], value: Any) -> None:
    if value is None:
        marked.fault(path, "needs a `budget`: rows (5000), a share (5%) or '2M tokens'")
        return
    try:
        Budget.parse(value)
    except RecipeError as error:
        marked.fault((*path, "budget"), str(error))


def _check_train(marked: Marked, stage: Stage, stages: Mapping[str, Stage]) -> None:
    if "hooks" in stage.settings:
        _check_hooks(marked, stage, stage.component)
    on = stage.settings.get("on")
    if isinstance(on, Mapping):
        inner = Stage(stage.name, "select", dict(on), ())
        if "select" not in on:
            marked.fault((stage.name, "on"), "expected `{select: random, budget: 5%}` or a reference to a select stage")
            return
        _check_component(marked, stage, (stage.name, "on"), "selectors", on["select"], inner.own)
        _check_budget(marked, (stage.name, "on"), on.get("budget"))
    elif on != "@pool":
        _check_reference(marked, stage, "on", stages, "select")


def _check_hooks(marked: Marked, stage: Stage, trainer: str) -> None:
    """Hooks are components; one that acts on steps needs a trainer that hears it, and may need a target."""
    from tamis.stages.train import not_heard

    hooks = scorer_settings(stage.settings["hooks"])
    for name, own in hooks.items():
        _check_component(marked, stage, (stage.name, "hooks"), "hooks", name, own)
        if "target" in _stand_ins("hooks", name) and "target" not in marked.values:
            marked.fault((stage.name, "hooks"), f"{name} needs a target; add `target: {{files: [few_shot.jsonl]}}`")
    try:
        fault = not_heard(load("trainers", trainer), hooks)
    except RecipeError:
        return  # said already
    if fault:
        marked.fault((stage.name, "hooks"), fault)


def _check_pass(marked: Marked, stage: Stage, stages: Mapping[str, Stage]) -> None:
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
    _check_roles(marked, (stage.name,), stage.component, needs)
    if "checkpoints" in fields and ("checkpoints" in stage.settings or _must_be_given(cls, "checkpoints")):
        _check_reference(marked, stage, "checkpoints", stages, "train", "load")
    for side, example in SIDES.items():
        if side in fields and getattr(built, f"reads_{side}", True) and side not in marked.values:
            marked.fault(
                (stage.name,), f"{stage.component} needs {_called(side)}; add `{side}: {{files: [{example}]}}`"
            )
    if any(need.kind == "signal" and need.name not in SHARED for need in needs):
        _check_reference(marked, stage, "from", stages, "pass")
    if "only" in stage.settings:
        _check_reference(marked, stage, "only", stages, "select")
        if needs:
            reads = ", ".join(sorted(need.name for need in needs))
            marked.fault(
                (stage.name, "only"), f"{stage.component} reads {reads}: give `only` to the stage that measures that"
            )


def _called(side: str) -> str:
    return "a target" if side == "target" else "existing data"


def _plain(own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are no references."""
    return {key: value for key, value in own.items() if not (isinstance(value, str) and value.startswith("@"))}


def _check_score(marked: Marked, stage: Stage, stages: Mapping[str, Stage]) -> None:
    scorers = scorer_settings(stage.settings["score"])
    if not scorers:
        marked.fault((stage.name, "score"), f"names no scorer. Known: {', '.join(sorted(CATALOGUE['scorers']))}")
    for name, settings in scorers.items():
        _check_component(marked, stage, (stage.name, "score"), "scorers", name, settings)
    _check_from(marked, stage, scorers, stages)
    before = list(stages)[: list(stages).index(stage.name)]
    earlier = [name for other in before if stages[other].verb == "score" for name in _scorers_of(stages[other])]
    _check_columns(marked, (stage.name, "score"), scorers, earlier)


def _scorers_of(stage: Stage) -> dict[str, dict[str, Any]]:
    return scorer_settings(stage.settings["score"])


def _check_columns(
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
        _check_roles(marked, path, name, scorer.needs)


def _check_roles(marked: Marked, path: tuple[str, ...], name: str, needs: Iterable[Need]) -> None:
    """A judge or a reference model that is needed must be named."""
    from tamis.stages.workspace import without

    for role in sorted({need.by for need in needs if need.by != "model"}):
        if role not in marked.values:
            marked.fault(path, without(role, name))


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
            _check_reference(marked, stage, "from", stages, "pass")
            return


def _must_be_given(cls: type[Any], name: str) -> bool:
    import dataclasses

    return any(
        item.name == name and item.default is item.default_factory is dataclasses.MISSING
        for item in dataclasses.fields(cls)
    )


def _check_select(marked: Marked, stage: Stage, stages: Mapping[str, Stage]) -> None:
    _check_budget(marked, (stage.name,), stage.settings.get("budget"))
    for name, settings in scorer_settings(stage.settings.get("mix")).items():
        _check_component(marked, stage, (stage.name, "mix"), "mixers", name, settings)
    _check_weigh(marked, stage)
    needs = _select_needs(stage)
    _check_select_needs(marked, stage, stages, needs)
    for column in _columns_used(marked, stage, needs):
        scorer = column.partition("@")[0].partition(".")[0]
        known = {*CATALOGUE["scorers"], *ROW_FIELDS, "meta", *rating_stems(marked.values)}
        if scorer not in known:
            marked.fault((stage.name,), f"uses the column {column!r}, which no scorer makes{_near_scorer(scorer)}")
        elif scorer in CATALOGUE["scorers"]:
            made = [_scorers_of(other) for other in stages.values() if other.verb == "score"]
            own: dict[str, Any] = next((given[scorer] for given in made if scorer in given), {})
            _check_columns(marked, (stage.name,), {scorer: own})


def _check_weigh(marked: Marked, stage: Stage) -> None:
    """One weigher at most: two sets of token weights would have to be multiplied, and no method says how."""
    given = scorer_settings(stage.settings.get("weigh"))
    if len(given) > 1:
        marked.fault((stage.name, "weigh"), f"names {len(given)} weighers; expected one: {', '.join(given)}")
    for name, settings in given.items():
        _check_component(marked, stage, (stage.name, "weigh"), "weighers", name, settings)


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
        _check_roles(marked, (stage.name,), name, own)
        if any(need.kind == "signal" and need.side == "pool" and need.name not in SHARED for need in own):
            _check_reference(marked, stage, "from", stages, "pass")
        for side, example in SIDES.items():
            if any(need.side == side for need in own) and side not in marked.values:
                marked.fault((stage.name,), f"{name} needs {_called(side)}; add `{side}: {{files: [{example}]}}`")


def _near_scorer(name: str) -> str:
    return f"{nearest(name, CATALOGUE['scorers'])} Known: {', '.join(sorted(CATALOGUE['scorers']))}"


def _columns_used(marked: Marked, stage: Stage, needs: Mapping[str, Sequence[Need]]) -> set[str]:
    from tamis.expressions import names

    used = {need.name for own in needs.values() for need in own if need.kind == "column"}
    if "where" in stage.settings:
        try:
            used |= names(str(stage.settings["where"]))
        except RecipeError as error:
            marked.fault((stage.name, "where"), str(error))
    return used


GATES = ("warn", "fail", "ignore")


def _check_compare(marked: Marked, stage: Stage, stages: Mapping[str, Stage]) -> None:
    _check_reference(marked, stage, "compare", stages, "select")
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
    _check_component(marked, stage, (stage.name, "metric"), "evaluators", name, settings)


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


def _check_training(marked: Marked, recipe: Recipe, stage: Stage) -> None:
    try:
        trainer, settings = recipe.training_of(stage)
    except RecipeError as error:
        marked.fault((stage.name,), str(error))
        return
    _check_component(marked, stage, (stage.name, "train"), "trainers", trainer, settings)
    if "hooks" in stage.settings:
        _check_hooks(marked, stage, trainer)
