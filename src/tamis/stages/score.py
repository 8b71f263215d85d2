"""Score: signals to columns. A scorer is pure, so its columns are made shard by shard and kept beside the pool."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import digests
from tamis.catalogue import SCORERS, load
from tamis.errors import DataError, RecipeError
from tamis.pool import Pool
from tamis.protocols import Scorer
from tamis.stages.dependence import META, columns_needed, needs_of_scorers, ordered, stem_of
from tamis.stages.fitting import FIT, digests_of, fit
from tamis.stages.measure import measure_needs
from tamis.stages.serving import has_model
from tamis.stages.signals import Signal, view_of
from tamis.stages.workspace import Workspace
from tamis.store import load_arrays, save_arrays, write_json
from tamis.values import Column
from tamis.views import ShardSignals, parts_of, resolve_column

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

COLUMNS = "columns"
_SAFE = re.compile(r"[^A-Za-z0-9_.+-]")


@dataclass(frozen=True)
class Scored:
    """Columns by full name (`scorer.view@model`), and the signals they were made from.

    `added`: scorers that nobody listed and whose columns others read. `notes`: what a reader of the columns must know,
    in sentences. `facts`: what fitted scorers say of the pool, by scorer.
    """

    columns: Mapping[str, Column]
    signals: Mapping[str, Signal]
    added: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def score(
    pool: Pool,
    scorers: Mapping[str, Scorer],
    work: Workspace,
    given: Mapping[str, Signal] | None = None,
    columns: Mapping[str, Column] | None = None,
    *,
    lengths: bool = True,
) -> Scored:
    """All columns of `scorers` (name -> component); passes that are needed are run first, each once.

    `columns`: what scorers may read beside each other's (ratings, columns of earlier stages). A scorer whose columns
    are read and that is not listed is added, with its default settings. Raises RecipeError, before anything runs, where
    a model that is needed was not named, a column cannot be had, or scorers read each other in a circle.
    """
    everything = ordered(scorers, columns or {})
    for name, scorer in everything.items():
        work.check_roles(name, scorer.needs)
    signals = measure_needs(pool, needs_of_scorers(everything), work, given, lengths=lengths)
    found = _Found(pool, work, signals, dict(columns or {}))
    for name, scorer in everything.items():
        found.score(name, scorer, listed=name in scorers)
    added = tuple(name for name in everything if name not in scorers)
    caveats = [sentence for signal in signals.values() for sentence in signal.caveats]
    notes = tuple(dict.fromkeys([*caveats, *found.notes]))
    return Scored(found.made, signals, added, notes, found.facts)


@dataclass
class _Found:
    """What has been made so far. `there`: columns that may be read, made or given."""

    pool: Pool
    work: Workspace
    signals: Mapping[str, Signal]
    there: dict[str, Column]
    made: dict[str, Column] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def score(self, name: str, scorer: Scorer, *, listed: bool) -> None:
        """Add the columns of one scorer, fitted on the pool first where it must be."""
        read = {key: self.signals[key] for key in signals_needed(scorer)}
        columns = {column: self._column(column) for column in columns_needed(scorer)}
        notes = list(scorer.notes()) if hasattr(scorer, "notes") else []
        if hasattr(scorer, "fit"):
            entry, outcome = fit(self.pool, scorer, self.work, read, columns, name=name)
            shards = len(self.pool.shards)
            read[FIT] = Signal(FIT, (entry.path,) * shards, 0, entry.seconds, (entry.digest,) * shards)
            notes += [note for note in (entry.facts.get("note"), outcome.note()) if note]
            self.facts[name] = entry.facts
        made = _columns(self.pool, name, scorer, read, columns, self.work)
        if twice := sorted(self.made.keys() & made.keys()):
            raise RecipeError(f"two scorers make the column {twice[0]!r}; give their classes different names")
        self.made |= made
        self.there |= made
        self.notes += [f"{name}: {sentence}" for sentence in notes]
        _register(self.pool, made, name, scorer, self.work, facts=self.facts.get(name), notes=notes, over=listed)

    def _column(self, name: str) -> Column:
        if name.startswith(META):
            return view_of(self.pool, {}).column(name)
        known = list(self.made) if _resolves(name, list(self.made)) else list(self.there)
        return self.there[resolve_column(name, known)]


def signals_needed(scorer: Scorer) -> list[str]:
    """Keys of the signals that a scorer reads, sorted."""
    return sorted({need.key for need in scorer.needs if need.kind == "signal"})


def _resolves(name: str, known: Sequence[str]) -> bool:
    try:
        resolve_column(name, known)
    except RecipeError:
        return False
    return True


def full_name(scorer: str, view: str, model: str) -> str:
    """`scorer.view@model`, with characters that files and expressions cannot carry replaced; no `@` without a model.

    A third party's scorer `my_package.scoring:Surprise` is called by its class: filters can name `Surprise`.
    """
    name = f"{scorer.rpartition(':')[2]}.{_SAFE.sub('_', view)}"
    return f"{name}@{_SAFE.sub('_', model)}" if model else name


def _columns(
    pool: Pool,
    name: str,
    scorer: Scorer,
    read: Mapping[str, Signal],
    columns: Mapping[str, Column],
    work: Workspace,
) -> dict[str, Column]:
    import numpy as np

    parts: dict[str, list[Column]] = {}
    for number, shard in enumerate(pool.shards):
        here = parts_of(pool, columns, number)
        inputs: dict[str, Any] = {"shard": shard.digest, **{key: one.identities[number] for key, one in read.items()}}
        if here:
            inputs["columns"] = digests_of(here)
        have = ShardSignals(shard, {key: signal.folders[number] for key, signal in read.items()}, here)
        make = functools.partial(_make_columns, scorer, have)
        entry = work.store.get_or_make(COLUMNS, digests.of_component(scorer, inputs), make)
        arrays = load_arrays(entry.path)
        for view, unit in entry.facts["units"].items():
            values, reasons = arrays[f"{view}.values"], arrays[f"{view}.reasons"]
            parts.setdefault(view, []).append(Column(values=values, unit=unit, reasons=reasons))
    label = _label(scorer, work)
    return {
        full_name(name, view, label): _checked(
            f"{name}.{view}",
            Column(
                values=np.concatenate([part.values for part in found]),
                unit=found[0].unit,
                reasons=np.concatenate([part.reasons for part in found]),
            ),
        )
        for view, found in parts.items()
    }


def _label(scorer: Scorer, work: Workspace) -> str:
    """Label of the model that a column comes from, empty where none had a part in it.

    That is a second model's where a scorer reads nothing of the run's own.
    """
    needs = [need for need in scorer.needs if need.kind == "signal"]
    if not columns_needed(scorer) and not any(has_model(load("passes", need.name)) for need in needs):
        return ""
    roles = {need.by for need in needs}
    return work.model_of(roles.pop()).label if len(roles) == 1 else work.model.label


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


def _register(
    pool: Pool,
    columns: Mapping[str, Column],
    by: str,
    scorer: Scorer,
    work: Workspace,
    *,
    facts: Mapping[str, Any] | None,
    notes: Sequence[str],
    over: bool,
) -> None:
    """Note which columns a pool has, for `tamis columns`, `scores` and `filter`.

    Without `over`, columns that were made before with settings that somebody chose stay as they are.
    """
    file = registry(pool, work)
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    settings = digests.canonical(scorer)
    for name, column in columns.items():
        if not over and known.get(name, {}).get("settings", settings) != settings:
            continue
        known[name] = {"unit": column.unit, "scorer": by, "settings": settings, "folder": digests.of_json(name)}
        known[name] |= {"facts": dict(facts)} if facts else {}
        known[name] |= {"notes": list(notes)} if notes else {}
        folder = file.parent / known[name]["folder"]
        folder.mkdir(parents=True, exist_ok=True)
        save_arrays(folder, {"values": column.values, "reasons": column.reasons})
    write_json(file, known)


def registry(pool: Pool, work: Workspace) -> Path:
    """File that lists the columns of a pool in this workspace; who asks for it uses them."""
    work.store.note("pools", pool.digest)
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


def readable_columns(pool: Pool, work: Workspace, scorers: Iterable[Scorer]) -> dict[str, Column]:
    """Columns of this pool that scorers may read as they are.

    Those are ratings and others that no scorer of the catalogue makes, and those of another model that one of `scorers`
    calls by the full name. What a scorer of the catalogue makes is made anew, or found.
    """
    wanted = {name for scorer in scorers for name in columns_needed(scorer)}
    return {
        name: column
        for name, column in known_columns(pool, work).items()
        if stem_of(name) not in SCORERS
        or ("@" in name and name in wanted and not name.endswith(f"@{work.model.label}"))
    }


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
