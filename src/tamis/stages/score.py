"""Score: signals to columns. A scorer is pure, so its columns are made shard by shard and kept beside the pool."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import digests
from tamis.errors import DataError, RecipeError
from tamis.pool import Pool
from tamis.protocols import Scorer
from tamis.stages.measure import Signal, measure_needs
from tamis.stages.workspace import Workspace
from tamis.store import load_arrays, save_arrays, write_json
from tamis.values import Column
from tamis.views import ShardSignals

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

COLUMNS = "columns"
_SAFE = re.compile(r"[^A-Za-z0-9_.+-]")


@dataclass(frozen=True)
class Scored:
    """Columns by full name (`scorer.view@model`), and the signals they were made from."""

    columns: Mapping[str, Column]
    signals: Mapping[str, Signal]


def score(
    pool: Pool, scorers: Mapping[str, Scorer], work: Workspace, given: Mapping[str, Signal] | None = None
) -> Scored:
    """All columns of `scorers` (name -> component); passes that are needed are run first, each once."""
    needs = [need for scorer in scorers.values() for need in scorer.needs]
    signals = measure_needs(pool, needs, work, given)
    columns: dict[str, Column] = {}
    for name, scorer in scorers.items():
        made = _columns(pool, name, scorer, signals, work)
        if twice := sorted(columns.keys() & made.keys()):
            raise RecipeError(f"two scorers make the column {twice[0]!r}; give their classes different names")
        columns |= made
        _register(pool, made, name, scorer, work)
    return Scored(columns, signals)


def full_name(scorer: str, view: str, model: str) -> str:
    """`scorer.view@model`, with characters that files and expressions cannot carry replaced.

    A third party's scorer `my_package.scoring:Surprise` is called by its class: filters can name `Surprise`.
    """
    return f"{scorer.rpartition(':')[2]}.{_SAFE.sub('_', view)}@{_SAFE.sub('_', model)}"


def _columns(
    pool: Pool, name: str, scorer: Scorer, signals: Mapping[str, Signal], work: Workspace
) -> dict[str, Column]:
    import numpy as np

    parts: dict[str, list[Column]] = {}
    used = [need.name for need in scorer.needs if need.kind == "signal"]
    for number, shard in enumerate(pool.shards):
        inputs = {"shard": shard.digest, **{key: signals[key].identities[number] for key in sorted(used)}}
        have = ShardSignals(shard, {key: signal.folders[number] for key, signal in signals.items()})
        make = functools.partial(_make_columns, scorer, have)
        entry = work.store.get_or_make(COLUMNS, digests.of_component(scorer, inputs), make)
        arrays = load_arrays(entry.path)
        for view, unit in entry.facts["units"].items():
            values, reasons = arrays[f"{view}.values"], arrays[f"{view}.reasons"]
            parts.setdefault(view, []).append(Column(values=values, unit=unit, reasons=reasons))
    return {
        full_name(name, view, work.model.label): _checked(
            f"{name}.{view}",
            Column(
                values=np.concatenate([part.values for part in found]),
                unit=found[0].unit,
                reasons=np.concatenate([part.reasons for part in found]),
            ),
        )
        for view, found in parts.items()
    }


def _make_columns(scorer: Scorer, have: ShardSignals, folder: Path) -> dict[str, Any]:
    columns = scorer.score(have)
    arrays: dict[str, NDArray[Any]] = {}
    for view, column in columns.items():
        arrays[f"{view}.values"] = column.values
        arrays[f"{view}.reasons"] = column.reasons
    save_arrays(folder, arrays)
    return {"units": {view: column.unit for view, column in columns.items()}}


def _checked(name: str, column: Column) -> Column:
    """A column in which every value is finite, or NaN with a reason; anything else is an error (DESIGN §6)."""
    import numpy as np

    bad = ~np.isfinite(column.values) & (column.reasons == 0)
    if bad.any() or np.isinf(column.values).any():
        place = int(np.flatnonzero(bad | np.isinf(column.values))[0])
        raise DataError(
            f"column {name} is {column.values[place]} at row {place} without a reason: a fault of the scorer"
        )
    return column


def _register(pool: Pool, columns: Mapping[str, Column], by: str, scorer: Scorer, work: Workspace) -> None:
    """Note which columns a pool has, for `tamis columns`, `scores` and `filter`."""
    file = registry(pool, work)
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for name, column in columns.items():
        known[name] = {
            "unit": column.unit,
            "scorer": by,
            "settings": digests.canonical(scorer),
            "folder": digests.of_json(name),
        }
        folder = file.parent / known[name]["folder"]
        folder.mkdir(parents=True, exist_ok=True)
        save_arrays(folder, {"values": column.values, "reasons": column.reasons})
    write_json(file, known)


def registry(pool: Pool, work: Workspace) -> Path:
    """File that lists the columns of a pool in this workspace."""
    return work.root / "pools" / pool.digest / "columns.json"


def known_columns(pool: Pool, work: Workspace) -> dict[str, Column]:
    """Every column made for this pool in this workspace."""
    file = registry(pool, work)
    if not file.is_file():
        return {}
    found: dict[str, Column] = {}
    for name, facts in json.loads(file.read_text(encoding="utf-8")).items():
        arrays = load_arrays(file.parent / facts["folder"])
        found[name] = Column(values=arrays["values"], unit=facts["unit"], reasons=arrays["reasons"])
    return found


def statistics(values: NDArray[np.float32], shares: Sequence[float] = (0.05, 0.5, 0.95)) -> dict[str, float | int]:
    """Counts and quantiles of a column, NaN left out."""
    import numpy as np

    good = np.asarray(values[np.isfinite(values)], dtype=np.float64)
    facts: dict[str, float | int] = {"rows": len(values), "scored": len(good)}
    if len(good):
        facts |= {"mean": float(good.mean())}
        facts |= {
            f"p{round(share * 100)}": float(value)
            for share, value in zip(shares, np.quantile(good, shares), strict=True)
        }
    return facts


def columns_table(pool: Pool, columns: Mapping[str, Column]) -> pa.Table:
    """Key, file, position, source and all columns, one record a row in the order of the pool; NaN where not scored."""
    import pyarrow as pa

    table = pool.table(["key", "file", "position", "source"])
    for name, column in columns.items():
        table = table.append_column(name, pa.array(column.values))
    return table


def write_columns(pool: Pool, columns: Mapping[str, Column], to: Path) -> list[str]:
    """Write `columns_table` as Parquet or CSV, by the ending; returns the names. RecipeError for another ending."""
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    if to.suffix not in (".parquet", ".csv"):
        raise RecipeError(f"{to}: columns are written as .parquet or .csv; name the file so")
    table = columns_table(pool, columns)
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.suffix == ".csv":
        csv.write_csv(table, to)
    else:
        pq.write_table(table, to)
    return list(columns)
