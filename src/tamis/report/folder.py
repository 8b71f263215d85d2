"""Reading a run folder: every file is optional, and one that cannot be read is named instead of ending the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError
from tamis.report.inert import clean, clean_tree

if TYPE_CHECKING:
    import pyarrow as pa

TABLES = ("ledger", "subset", "quarantine", "columns", "map")
# The ledger and the columns have a row for every row read; nothing else of them is needed here.
WANTED = {
    "ledger": ("source", "verdict", "step", "reason"),
    "subset": ("key",),
    "quarantine": ("file", "verdict", "step", "reason", "excerpt", "position"),
}


@dataclass(frozen=True)
class RunFolder:
    """What the files of a run folder hold, as plain values; absent files are empty values or None."""

    path: Path
    manifest: Mapping[str, Any]
    comparison: Mapping[str, Any] | None
    examples: Mapping[str, Any] | None
    recipe: str
    tables: Mapping[str, pa.Table]
    unreadable: Sequence[str] = field(default=())  # one sentence for each damaged file

    def table(self, name: str, *columns: str) -> pa.Table | None:
        """Table `name`, or None where it is absent, empty or lacks one of `columns`."""
        table = self.tables.get(name)
        if table is None or not table.num_rows or not set(columns) <= set(table.column_names):
            return None
        return table


def read_run_folder(path: Path) -> RunFolder:
    """Read the folder `path`. Raises DataError where it is no folder; damaged files are listed in `unreadable`."""
    if not path.is_dir():
        raise DataError(f"{path} is not a run folder: give a folder that `tamis run` left, such as .tamis/runs/…")
    unreadable: list[str] = []
    tables = {name: table for name in TABLES if (table := _table(path / f"{name}.parquet", unreadable)) is not None}
    return RunFolder(
        path=path,
        manifest=_json(path / "manifest.json", unreadable) or {},
        comparison=_json(path / "comparison.json", unreadable),
        examples=_json(path / "examples.json", unreadable),
        recipe=_text(path / "recipe.lock.yaml"),
        tables=tables,
        unreadable=tuple(unreadable),
    )


def _json(path: Path, unreadable: list[str]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except ValueError as error:
        unreadable.append(f"{path.name} is not JSON ({clean(error)}), and what it holds is left out.")
        return None
    if not isinstance(value, dict):
        unreadable.append(f"{path.name} holds no JSON object, and what it holds is left out.")
        return None
    tree: dict[str, Any] = clean_tree(value)
    return tree


def _table(path: Path, unreadable: list[str]) -> pa.Table | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    try:
        present = pq.read_schema(path).names
        return pq.read_table(path, columns=[name for name in WANTED.get(path.stem, present) if name in present])
    except (pa.ArrowException, OSError) as error:
        unreadable.append(f"{path.name} is not readable ({clean(error, 200)}), and what it holds is left out.")
        return None


def _text(path: Path) -> str:
    return clean(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else ""
