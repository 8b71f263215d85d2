"""Recipes: named stages whose settings refer to each other by `@stage`. The references are the graph.

A recipe is checked in full before anything runs: all faults are reported at once, with file, line and fix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tamis.catalogue import CATALOGUE, build, nearest
from tamis.errors import DataError, RecipeError
from tamis.marked import Marked, read
from tamis.models import ModelRef
from tamis.values import Budget

VERBS = ("train", "pass", "score", "select", "compare", "evaluate", "export")
HEAD = ("name", "about", "model", "pool", "target")
GIVEN = ("pool", "target", "model")
SOURCES = ("files", "map", "sample", "source", "shard_rows", "max_bad", "columns")
_KIND = {"train": "trainers", "pass": "passes", "select": "selectors", "evaluate": "evaluators"}
# Settings of a stage that belong to the stage, not to its component.
STAGE_SETTINGS: dict[str, tuple[str, ...]] = {
    "train": ("train", "on", "seed"),
    "pass": ("pass", "target", "checkpoints"),
    "score": ("score", "from"),
    "select": ("select", "from", "budget", "where", "mix"),
    "compare": (
        *("compare", "with", "evaluate", "runs", "train", "learning_rates", "full", "metric", "composition", "draws"),
    ),
    "evaluate": ("evaluate", "model", "on"),
    "export": ("export", "subset", "to"),
}


@dataclass(frozen=True)
class Stage:
    """One named stage: its verb, its settings as written, and the stages that it refers to."""

    name: str
    verb: str
    settings: Mapping[str, Any]
    references: tuple[str, ...]

    @property
    def component(self) -> str:
        """Name of the component that does the work (`lora`, `less`, …), or of what is compared."""
        value = self.settings[self.verb]
        return str(value) if not isinstance(value, (list, dict)) else ", ".join(map(str, value))

    @property
    def own(self) -> dict[str, Any]:
        """The settings that belong to the component."""
        return {key: value for key, value in self.settings.items() if key not in STAGE_SETTINGS[self.verb]}


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `stages` are in an order in which every stage comes after those that it refers to."""

    name: str
    path: Path
    model: ModelRef
    pool: Mapping[str, Any]
    target: Mapping[str, Any] | None
    stages: tuple[Stage, ...]
    values: Mapping[str, Any] = field(default_factory=dict)

    def stage(self, name: str) -> Stage:
        """A stage by name."""
        return next(stage for stage in self.stages if stage.name == name)

    def main_subset(self) -> str | None:
        """The select stage that the run is about: the one compared, else exported, else trained on."""
        selects = {stage.name for stage in self.stages if stage.verb == "select"}
        for verb, setting in (("compare", "compare"), ("export", "subset"), ("train", "on")):
            for stage in reversed(self.stages):
                value = str(stage.settings.get(setting, "")).removeprefix("@")
                if stage.verb == verb and value in selects:
                    return value
        return next((stage.name for stage in reversed(self.stages) if stage.verb == "select"), None)

    def training_of(self, stage: Stage) -> tuple[str, dict[str, Any]]:
        """Trainer and settings of a compare stage: its own `train`, else what the stage on its subset has."""
        own = stage.settings.get("train")
        if isinstance(own, Mapping):
            return str(own["train"]), {key: value for key, value in own.items() if key != "train"}
        for other in self.stages:
            if other.verb == "train" and other.settings.get("on") == stage.settings["compare"]:
                return other.component, other.own
        raise RecipeError(
            f"{stage.name}: nothing says how the arms are trained; add `train: {{train: lora, …}}`, or a stage that "
            f"trains on {stage.settings['compare']}"
        )


def find(name: str) -> Path:
    """A recipe file by path, or a shipped one by name."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise RecipeError(f"there is no recipe file {name}; shipped recipes: {', '.join(shipped())}")
        return path
    known = shipped()
    if name not in known:
        raise RecipeError(f"there is no recipe {name!r}{nearest(name, list(known))} Shipped: {', '.join(known)}")
    return known[name]


def shipped() -> dict[str, Path]:
    """Shipped recipes by name."""
    import importlib.resources

    folder = Path(str(importlib.resources.files("tamis"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe; raises one RecipeError with every fault found."""
    path = find(name)
    marked = read(path, overrides)
    recipe = _assemble(path, marked)
    if marked.faults or recipe is None:
        raise RecipeError(marked.faults)
    return recipe


def references(value: Any) -> Iterator[str]:
    """Names referred to by `@name` anywhere inside a setting."""
    if isinstance(value, str) and value.startswith("@"):
        yield value[1:]
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from references(item)


def _assemble(path: Path, marked: Marked) -> Recipe | None:
    values = marked.values
    model = _model(marked)
    for side in ("pool", "target"):
        if side in values:
            _source(marked, (side,), values[side])
    if "pool" not in values:
        marked.fault((), "no pool is given; add `pool: {files: [my_data.jsonl]}`")
    stages = [stage for name, value in values.items() if name not in HEAD and (stage := _stage(marked, name, value))]
    ordered = _order(marked, stages)
    for stage in stages:
        _check_stage(marked, stage, {other.name: other for other in stages})
    if marked.faults:
        return None
    recipe = Recipe(
        str(values.get("name") or path.stem), path, model, values["pool"], values.get("target"), tuple(ordered), values
    )
    for stage in ordered:
        if stage.verb == "compare":
            _check_training(marked, recipe, stage)
    return recipe


def _model(marked: Marked) -> ModelRef:
    given = marked.values.get("model", {"name": "tamis:tiny-lm"})
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, Mapping):
        marked.fault(("model",), f"expected a name or a mapping, got {given!r}")
        return ModelRef(name="tamis:tiny-lm")
    import dataclasses

    known = [item.name for item in dataclasses.fields(ModelRef)]
    for key in given:
        if key not in known:
            marked.fault(("model", key), f"unknown setting{nearest(key, known)} Known: {', '.join(known)}")
    if not isinstance(given.get("name"), str):
        marked.fault(("model",), "needs a `name`: a folder, a name on the Hugging Face hub, or tamis:tiny-lm")
        return ModelRef(name="tamis:tiny-lm")
    tokens = given.get("max_tokens", 2048)
    if not isinstance(tokens, int) or tokens < 2:
        marked.fault(("model", "max_tokens"), f"expected a whole number of at least 2, got {tokens!r}")
        return ModelRef(name=given["name"])
    _check_model_name(marked, given["name"])
    return ModelRef(**{key: value for key, value in given.items() if key in known})


def _check_model_name(marked: Marked, name: str) -> None:
    from tamis.models import SHIPPED
    from tamis.models import shipped as shipped_path

    if name.startswith(SHIPPED):
        try:
            shipped_path(name)
        except RecipeError as error:
            marked.fault(("model", "name"), str(error))
    elif name.startswith(("/", "./", "../")) and not Path(name).is_dir():
        marked.fault(("model", "name"), f"there is no folder {name!r}")


def _source(marked: Marked, path: tuple[str, ...], value: Any) -> None:
    """Check a pool: `{files: [...], map: {...}, sample: {rows, seed, skip}}`; every missing file is a fault.

    `files`: names as `tamis.ingest.sources` reads them; `map`: entries of `tamis.ingest.mappings`, flat or nested.
    """
    if isinstance(value, (str, list)):
        value = {"files": value}
    if not isinstance(value, Mapping):
        marked.fault(path, f"expected `{{files: [...]}}`, got {value!r}")
        return
    for key in value:
        if key not in SOURCES:
            marked.fault((*path, key), f"unknown setting{nearest(key, list(SOURCES))} Known: {', '.join(SOURCES)}")
    files = file_list(value)
    if not files:
        marked.fault(path, "needs `files`: a list of paths, globs or hf:// names")
    if "columns" in value:
        _check_ratings(marked, (*path, "columns"), value["columns"], path == ("pool",))
    from tamis.ingest.sources import resolve

    _mapping(marked, path, value.get("map"))
    for name in files:
        try:
            resolve([name], Path(), fetch=False)  # what is remote is looked at when the run starts
        except DataError as error:
            marked.fault((*path, "files"), str(error))


def _check_ratings(marked: Marked, path: tuple[str, ...], value: Any, of_pool: bool) -> None:
    from tamis.columns_io import sources_of

    if not of_pool:
        marked.fault(path, "ratings are columns of the pool; move them there")
        return
    try:
        given = sources_of(value)
    except RecipeError as error:
        marked.fault(path, str(error))
        return
    for file, _ in given:
        if not Path(file).is_file():
            marked.fault(path, f"there is no file {file}")


def rating_stems(values: Mapping[str, Any]) -> set[str]:
    """First parts of the names of columns that the recipe's pool brings along (`my_ratings` of its file)."""
    from tamis.columns_io import sources_of, stem_of

    pool = values.get("pool")
    given = pool.get("columns", ()) if isinstance(pool, Mapping) else ()
    try:
        return {stem_of(file) for file, _ in sources_of(given)}
    except RecipeError:
        return set()  # said where the pool is checked


def _mapping(marked: Marked, path: tuple[str, ...], value: Any) -> None:
    from tamis.ingest.mappings import check_mapping, flatten

    if value is not None and not isinstance(value, Mapping):
        marked.fault((*path, "map"), f"expected {{prompt: field, …}}, got {value!r}")
        return
    try:
        check_mapping(flatten(value))
    except RecipeError as error:
        for fault in error.faults:
            marked.fault((*path, "map"), fault.removeprefix("--map "))


def file_list(value: Any) -> list[str]:
    """The files of a source: one name, a list, or `{files: …}`."""
    files = value.get("files", []) if isinstance(value, Mapping) else value
    return [files] if isinstance(files, str) else [str(item) for item in files or []]


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
            elif name == "target" and "target" not in marked.values:
                marked.fault(
                    (stage.name,), "refers to @target, but the recipe has no target; add `target: {files: […]}`"
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
    elif stage.verb == "evaluate":
        _source(marked, (stage.name, "on"), stage.settings.get("on"))
    elif stage.verb == "export":
        _check_reference(marked, stage, "subset", stages, "select")
        _check_form(marked, stage)


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
    settings = {key: value for key, value in own.items() if not (isinstance(value, str) and value.startswith("@"))}
    if kind == "passes":
        settings |= _stand_ins(name)
    try:
        build(kind, name, settings)
    except RecipeError as error:
        for fault in error.faults:
            marked.fault(path, fault)


def _stand_ins(name: str) -> dict[str, Any]:
    """Values for the settings of a pass that only a run can fill (model, checkpoints, target)."""
    import dataclasses

    from tamis.catalogue import load as load_class
    from tamis.pool import Pool

    given = {"model": ModelRef(name="tamis:tiny-lm"), "checkpoints": (), "target": Pool(())}
    try:
        fields = {item.name for item in dataclasses.fields(load_class("passes", name))}
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


def _check_pass(marked: Marked, stage: Stage, stages: Mapping[str, Stage]) -> None:
    if stage.component == "influence":
        _check_reference(marked, stage, "checkpoints", stages, "train")
        if "target" not in marked.values:
            marked.fault((stage.name,), "influence needs a target; add `target: {files: [few_shot.jsonl]}`")


def scorer_settings(value: Any) -> dict[str, dict[str, Any]]:
    """Scorers of a score stage: a name, a list of names, or a mapping of names to settings."""
    if isinstance(value, str):
        return {name.strip(): {} for name in value.split(",") if name.strip()}
    if isinstance(value, Mapping):
        return {str(name): dict(settings or {}) for name, settings in value.items()}
    found: dict[str, dict[str, Any]] = {}
    for item in value or []:
        found |= scorer_settings(item)
    return found


def _check_score(marked: Marked, stage: Stage, stages: Mapping[str, Stage]) -> None:
    scorers = scorer_settings(stage.settings["score"])
    if not scorers:
        marked.fault((stage.name, "score"), f"names no scorer. Known: {', '.join(sorted(CATALOGUE['scorers']))}")
    for name, settings in scorers.items():
        _check_component(marked, stage, (stage.name, "score"), "scorers", name, settings)
        if name == "gradient-similarity":
            _check_reference(marked, stage, "from", stages, "pass")


def _check_select(marked: Marked, stage: Stage, stages: Mapping[str, Stage]) -> None:
    _check_budget(marked, (stage.name,), stage.settings.get("budget"))
    if stage.component == "less":
        _check_reference(marked, stage, "from", stages, "pass")
    if stage.component == "rds-plus" and "target" not in marked.values:
        marked.fault((stage.name,), "rds-plus needs a target; add `target: {files: [few_shot.jsonl]}`")
    for name, settings in scorer_settings(stage.settings.get("mix")).items():
        _check_component(marked, stage, (stage.name, "mix"), "mixers", name, settings)
    for column in _columns_used(marked, stage):
        scorer = column.partition("@")[0].partition(".")[0]
        known = {*CATALOGUE["scorers"], "source", "kind", "file", "meta", *rating_stems(marked.values)}
        if scorer not in known:
            marked.fault((stage.name,), f"uses the column {column!r}, which no scorer makes{_near_scorer(scorer)}")


def _near_scorer(name: str) -> str:
    return f"{nearest(name, CATALOGUE['scorers'])} Known: {', '.join(sorted(CATALOGUE['scorers']))}"


def _columns_used(marked: Marked, stage: Stage) -> set[str]:
    from tamis.expressions import names

    used = (
        {str(stage.settings["by"])}
        if stage.component in ("top", "bottom", "band") and "by" in stage.settings
        else set()
    )
    if "where" in stage.settings:
        try:
            used |= names(str(stage.settings["where"]))
        except RecipeError as error:
            marked.fault((stage.name, "where"), str(error))
    return used


def _check_compare(marked: Marked, stage: Stage, stages: Mapping[str, Stage]) -> None:
    _check_reference(marked, stage, "compare", stages, "select")
    if "evaluate" not in stage.settings:
        marked.fault((stage.name,), "needs `evaluate: {files: [held_out.jsonl]}`")
    else:
        _source(marked, (stage.name, "evaluate"), stage.settings["evaluate"])
    arms = stage.settings.get("with", ["random", "longest"])
    known = ["full", *CATALOGUE["selectors"]]
    for arm in arms if isinstance(arms, list) else [arms]:
        if arm not in ("random", "longest", "full"):
            marked.fault(
                (stage.name, "with"), f"{arm!r} is no baseline{nearest(str(arm), known)} Use random, longest, full"
            )
    runs = stage.settings.get("runs", 3)
    if not isinstance(runs, int) or runs < 1:
        marked.fault((stage.name, "runs"), f"expected a whole number of at least 1, got {runs!r}")
    metric = stage.settings.get("metric", "held-out-loss")
    name, settings = next(iter(scorer_settings(metric).items()), ("", {}))
    _check_component(marked, stage, (stage.name, "metric"), "evaluators", name, settings)


def _check_training(marked: Marked, recipe: Recipe, stage: Stage) -> None:
    try:
        trainer, settings = recipe.training_of(stage)
    except RecipeError as error:
        marked.fault((stage.name,), str(error))
        return
    _check_component(marked, stage, (stage.name, "train"), "trainers", trainer, settings)
