"""Columns from outside: somebody's own ratings, joined to the rows of a pool by key, place or a field of theirs.

The counterpart of `tamis scores POOL --to scores.parquet`: what that file holds can come back, with more columns. A
column is named `file-stem.column` (`my_ratings.parquet` -> `my_ratings.rating`) and is from then on a column like any
other of this pool in this workspace. Rows without a rating are NaN with the reason "not measured".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import digests
from tamis.catalogue import SCORERS
from tamis.errors import DataError, RecipeError
from tamis.pool import Pool
from tamis.stages.score import registry
from tamis.stages.workspace import Workspace
from tamis.store import save_arrays, write_json
from tamis.values import Column, Reason

if TYPE_CHECKING:
    import pyarrow as pa

KEY, PLACE, POSITION = "key", "file+position", "position"
FORMATS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
UNIT = "as given"
_BESIDE = frozenset({"key", "file", "position", "source"})  # written by `tamis scores`; never ratings
_FIELDS = frozenset({"source", "kind", "file", "meta"})
_EXACT = 2**24  # whole numbers above this are rounded in float32


@dataclass(frozen=True)
class Ratings:
    """Columns read from one file. `on`: how rows were joined; `rated`: rows of the pool that the file names."""

    columns: Mapping[str, Column]
    on: str
    rated: int
    notes: tuple[str, ...] = ()


def add_columns(pool: Pool, file: str | Path, work: Workspace, on: str | None = None) -> Ratings:
    """Read a file of ratings and register its columns for this pool in this workspace; reading again replaces them."""
    ratings = read_ratings(pool, file, on)
    place = registry(pool, work)
    known = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    about = {"file": Path(file).name, "digest": digests.of_file(Path(file)), "on": ratings.on}
    for name, column in ratings.columns.items():
        known[name] = {"unit": column.unit, "scorer": stem_of(file), "settings": about, "folder": digests.of_json(name)}
        folder = place.parent / known[name]["folder"]
        folder.mkdir(parents=True, exist_ok=True)
        save_arrays(folder, {"values": column.values, "reasons": column.reasons})
    write_json(place, known)
    return ratings


def carry_over(columns: Mapping[str, Column], old: Pool, new: Pool, work: Workspace) -> None:
    """Register columns of a pool for the pool that cleaning left of it; `columns` have lost the rows that it lost."""
    listed = registry(old, work)
    about = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else {}
    place = registry(new, work)
    known = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    for name in columns.keys() & about.keys():
        known[name] = about[name]
        folder = place.parent / known[name]["folder"]
        folder.mkdir(parents=True, exist_ok=True)
        save_arrays(folder, {"values": columns[name].values, "reasons": columns[name].reasons})
    if known:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, known)


def sources_of(value: Any) -> list[tuple[str, str | None]]:
    """(file, on) of every entry of a recipe's `columns`: a name, `{file, on}`, or a list of these.

    Raises RecipeError for anything else.
    """
    entries = value if isinstance(value, (list, tuple)) else [value]
    found: list[tuple[str, str | None]] = []
    for entry in entries:
        if isinstance(entry, (str, Path)):
            found.append((str(entry), None))
            continue
        if not isinstance(entry, Mapping) or not isinstance(entry.get("file"), str) or not set(entry) <= {"file", "on"}:
            raise RecipeError(f"columns: expected a file, or {{file: my_ratings.parquet, on: key}}; got {entry!r}")
        found.append((entry["file"], None if entry.get("on") is None else str(entry["on"])))
    return found


def stem_of(file: str | Path) -> str:
    """First part of the names of a file's columns; characters that an expression cannot carry become `_`."""
    name = Path(file).name
    for suffix in (".gz", ".zst", *FORMATS):
        name = name.removesuffix(suffix)
    plain = re.sub(r"[^\w-]", "_", name)
    return f"_{plain}" if plain[:1].isdigit() else plain


def read_ratings(pool: Pool, file: str | Path, on: str | None = None) -> Ratings:
    """Columns of a Parquet, CSV or JSONL file beside the rows of `pool`: every column of numbers or booleans.

    `on`: `key`, `file+position`, `position` (pools of one file), or a field of the rows' own (`id`: the file's column
    `id` against `meta.id`); by default the first of key, file and position, position that the file has. Raises
    DataError for a file that cannot be read, ratings of one row twice, no common row, or values that are infinite.
    """
    table = _read(Path(file))
    stem = stem_of(file)
    if stem in SCORERS or stem in _FIELDS:
        raise DataError(f"{file}: columns would be named {stem}.…, which is taken; rename the file")
    way = on or _way(table, file)
    ours, theirs, used = _keys(pool, table, way, file)
    places, notes = _match(ours, theirs, way, file)
    columns: dict[str, Column] = {}
    skipped = []
    for name in table.column_names:
        if name in used or name in _BESIDE:
            continue
        if not _numeric(table.schema.field(name).type):
            skipped.append(name)
            continue
        full = _full_name(stem, name, file)
        if full in columns:
            raise DataError(f"{file}: two columns would be named {full}; rename one")
        columns[full] = _column(table.column(name), places, f"{file}: column {name}", notes)
    if skipped:
        notes.append(f"{file}: not numbers, left out: {', '.join(skipped)}")
    if not columns:
        raise DataError(f"{file} has no column of numbers beside {', '.join(used)}; it has {_listed(table)}")
    return Ratings(columns, way, int((places >= 0).sum()), tuple(notes))


def _read(file: Path) -> pa.Table:
    import pyarrow as pa

    kind = next((suffix for suffix in Path(file.name.removesuffix(".gz")).suffixes[-1:] if suffix in FORMATS), None)
    if kind is None:
        raise DataError(f"{file}: ratings are read from {', '.join(FORMATS)}")
    if file.exists() and not file.is_file():
        raise DataError(f"{file}: is no file (a folder, a pipe or a device); ratings are read from a file")
    try:
        if kind == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_table(file)
        if kind in (".csv", ".tsv"):
            from pyarrow import csv

            return csv.read_csv(file, parse_options=csv.ParseOptions(delimiter="," if kind == ".csv" else "\t"))
        from pyarrow import json as rows

        return rows.read_json(file)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {file}") from error
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{file} cannot be read as {kind[1:]}: {error}") from error


def _listed(table: pa.Table) -> str:
    return ", ".join(table.column_names) or "no column"


def _way(table: pa.Table, file: str | Path) -> str:
    names = set(table.column_names)
    if "key" in names:
        return KEY
    if {"file", "position"} <= names:
        return PLACE
    if "position" in names:
        return POSITION
    raise DataError(
        f"{file} has {_listed(table)}: nothing says which row is meant. Give a column key, or file and position "
        "(`tamis scores POOL --to scores.parquet` writes all three), or name a field of your rows with --on id"
    )


def _keys(pool: Pool, table: pa.Table, way: str, file: str | Path) -> tuple[pa.Array, pa.Array, tuple[str, ...]]:
    """Texts that identify the rows of the pool and those of the file, and the file's columns used for them."""
    import pyarrow.compute as pc

    used = ("file", "position") if way == PLACE else (way.removeprefix("meta."),)
    if missing := [name for name in used if name not in table.column_names]:
        raise DataError(f"{file} has no column {' and '.join(missing)} to join on; it has {_listed(table)}")
    if way == PLACE:
        ours = pool.table(["file", "position"])
        both = [pc.binary_join_element_wise(_texts(one["file"]), _texts(one["position"]), ":") for one in (ours, table)]
        return both[0], both[1], used
    if way == POSITION and len(pool.files) > 1:
        raise DataError(f"{file}: the pool has {len(pool.files)} files, so a position alone is ambiguous; add `file`")
    if way in (KEY, POSITION):
        return _texts(pool.table([way])[way]), _texts(table[way]), used
    ours = _meta(pool, used[0])
    if not ours.null_count < len(ours):
        raise DataError(f"{file}: no row of the pool has a field {used[0]!r} in meta; join on key or file+position")
    return ours, _texts(table[used[0]]), used


def _meta(pool: Pool, name: str) -> pa.Array:
    import pyarrow as pa

    found = [json.loads(text).get(name) for text in pool.table(["meta"]).column("meta").to_pylist()]
    return pa.array([None if value is None else _text(value) for value in found], pa.string())


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _texts(values: pa.ChunkedArray) -> pa.Array:
    """Values as text; numbers that are whole have no point (a CSV with a gap holds whole numbers as floats)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(values.type):
        return pa.array([None if value is None else _text(value) for value in values.to_pylist()], pa.string())
    return pc.cast(values, pa.string()).combine_chunks()


def _match(ours: pa.Array, theirs: pa.Array, way: str, file: str | Path) -> tuple[Any, list[str]]:
    """For every row of the pool its row in the file, -1 where there is none; and what did not fit."""
    import numpy as np
    import pyarrow.compute as pc

    counts = pc.value_counts(theirs.drop_null())
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise DataError(
            f"{file} rates {len(twice)} rows more than once, first {way} {twice[0]['values'].as_py()!r} "
            f"({twice[0]['counts'].as_py()} times); keep one rating a row"
        )
    found = pc.fill_null(pc.index_in(ours, value_set=theirs, skip_nulls=True), -1).to_numpy(zero_copy_only=False)
    known = len(np.unique(found[found >= 0]))
    if not known:
        raise DataError(
            f"{file}: none of its {len(theirs)} rows is a row of the pool by {way} (theirs: {_some(theirs)}; the "
            f"pool's: {_some(ours)})"
        )
    notes = []
    if known < len(theirs):
        notes.append(f"{file}: {len(theirs) - known} of its {len(theirs)} rows are in no row of the pool by {way}")
    if (rated := int((found >= 0).sum())) > known:
        notes.append(f"{file}: {rated - known} rows of the pool share their {way} with another and its rating")
    if rated < len(ours):
        notes.append(f"{file}: {len(ours) - rated} of {len(ours)} rows of the pool have no rating")
    return found, notes


def _some(values: pa.Array) -> str:
    shown = [value for value in values.slice(0, 3).to_pylist() if value is not None]
    return ", ".join(repr(value)[:40] for value in shown) or "none"


def _numeric(kind: pa.DataType) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def _full_name(stem: str, column: str, file: str | Path) -> str:
    """`stem.column`, which a filter can write; raises DataError for names that no filter can."""
    from tamis.column.expressions import names

    full = f"{stem}.{re.sub(r'[^A-Za-z0-9_.@+-]', '_', column)}"
    try:
        if names(f"{full} > 0") == {full}:
            return full
    except RecipeError:
        pass
    raise DataError(f"{file}: the column {column!r} would be named {full}, which no filter can write; rename it")


def _column(given: pa.ChunkedArray, places: Any, what: str, notes: list[str]) -> Column:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = pc.cast(given, pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    if len(bad := np.flatnonzero(np.abs(numbers) > np.finfo(np.float32).max)):
        raise DataError(f"{what} is {numbers[bad[0]]} in row {bad[0] + 1}; ratings must be finite 32-bit numbers")
    if pa.types.is_integer(given.type) and np.nanmax(np.abs(numbers), initial=0) > _EXACT:
        notes.append(f"{what} holds whole numbers above {_EXACT:,}, which are rounded")
    values = np.full(len(places), np.nan, np.float32)
    values[places >= 0] = numbers[places[places >= 0]].astype(np.float32)
    reasons = np.where(np.isnan(values), np.uint8(Reason.NOT_MEASURED), np.uint8(Reason.NONE))
    return Column(values=values, unit=UNIT, reasons=reasons)


def read_all(pool: Pool, files: Any, work: Workspace, on: str | None = None) -> tuple[dict[str, Column], Sequence[str]]:
    """Columns of several files, registered, and their notes; `files` as in a recipe, `on` where an entry says none."""
    columns: dict[str, Column] = {}
    notes: list[str] = []
    for file, own in sources_of(files):
        ratings = add_columns(pool, file, work, own or on)
        if twice := set(columns) & set(ratings.columns):
            raise DataError(f"two files of ratings give the column {sorted(twice)[0]}; rename one")
        columns |= dict(ratings.columns)
        notes += ratings.notes
    return columns, notes
