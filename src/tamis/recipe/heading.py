"""The head of a recipe checked: its model, and the files of its pools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tamis.catalogue import checked, nearest
from tamis.errors import DataError, RecipeError
from tamis.models import ModelRef
from tamis.pins import Refit
from tamis.recipe.graph import file_list
from tamis.recipe.marked import Marked

SHIPPED_MODEL = "tamis:tiny-lm"
SOURCES = ("files", "map", "sample", "source", "shard_rows", "max_bad", "columns")


def check_model(marked: Marked) -> ModelRef:
    """The model of a recipe (`tamis:tiny-lm` where none is named); faults are noted, and a stand-in returned."""
    return _check_ref(marked, "model", marked.values.get("model", {"name": SHIPPED_MODEL}))


def check_role(marked: Marked, role: str) -> ModelRef | None:
    """The judge or the reference model of a recipe, or None; faults are noted."""
    return _check_ref(marked, role, marked.values[role]) if role in marked.values else None


def check_refit(marked: Marked) -> Refit:
    """When what is fitted on the pool is fitted again; a fault is noted, and the default returned."""
    try:
        return Refit.parse(marked.values.get("refit", Refit()))
    except RecipeError as error:
        marked.fault(("refit",), str(error))
        return Refit()


def check_engine(marked: Marked) -> str | None:
    """Who maps passes and arms over workers, where the recipe says; a fault is noted."""
    from tamis.engine import checked_engine

    if "engine" not in marked.values:
        return None
    try:
        checked_engine(marked.values["engine"])
    except RecipeError as error:
        marked.fault(("engine",), str(error))
    return str(marked.values["engine"])


def check_publish(marked: Marked) -> str | None:
    """The address that the run is sent to when it is finished, if the recipe names one; faults are noted."""
    from tamis import remote

    if "publish" not in marked.values:
        return None
    address = str(marked.values["publish"])
    if not remote.is_remote(address):
        marked.fault(("publish",), f"expected an address such as s3://bucket/runs, or file:///folder; got {address!r}")
        return None
    try:
        remote.check(address)
    except DataError as error:
        marked.fault(("publish",), str(error))
    return address


def _check_ref(marked: Marked, role: str, given: Any) -> ModelRef:
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        marked.fault((role,), "needs a `name`: a folder, a name on the Hugging Face hub, or tamis:tiny-lm")
        return ModelRef(name=SHIPPED_MODEL)
    values, faults = checked(ModelRef, role, given)
    for fault in faults:
        marked.fault((role, fault.setting), fault.text)
    tokens = values.get("max_tokens", 2048)
    if tokens < 2:
        marked.fault((role, "max_tokens"), f"expected a whole number of at least 2, got {tokens}")
    _check_model_name(marked, role, given["name"])
    return ModelRef(**values)


def _check_model_name(marked: Marked, role: str, name: str) -> None:
    from tamis.models import SHIPPED
    from tamis.models import shipped as shipped_path

    if name.startswith(SHIPPED):
        try:
            shipped_path(name)
        except RecipeError as error:
            marked.fault((role, "name"), str(error))
    elif name.startswith(("/", "./", "../")) and not Path(name).is_dir():
        marked.fault((role, "name"), f"there is no folder {name!r}")


def check_source(marked: Marked, path: tuple[str, ...], value: Any) -> None:
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
    from tamis.stages.columns_io import sources_of

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
    from tamis.stages.columns_io import sources_of, stem_of

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
