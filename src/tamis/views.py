"""What scorers and selectors see of a pool: signals of one shard, and a lazy view of the whole."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.errors import RecipeError
from tamis.pool import Pool, Shard
from tamis.values import Column, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


META = "meta."


@dataclass(frozen=True)
class ShardSignals:
    """The signals of one shard, memory-mapped: `have["tokens"]["nll"]`. `shard` gives the rows themselves.

    A signal that another model of the run measured is `have["tokens@judge"]`; what a component learnt from the whole
    pool is `have["fit"]`. `columns`: parts of columns, by the names under which they may be asked for.
    """

    shard: Shard
    folders: Mapping[str, Path]
    columns: Mapping[str, Column] = field(default_factory=dict)

    @functools.cached_property
    def _loaded(self) -> dict[str, dict[str, NDArray[Any]]]:
        return {}

    def __getitem__(self, name: str) -> Mapping[str, NDArray[Any]]:
        from tamis.store import load_arrays

        if name not in self.folders:
            raise RecipeError(f"the signal {name!r} was not measured; have: {', '.join(self.folders) or 'none'}")
        if name not in self._loaded:
            self._loaded[name] = load_arrays(self.folders[name])
        return self._loaded[name]

    def array(self, name: str, array: str) -> NDArray[Any]:
        """One array of a signal; the files of the others are not opened."""
        import numpy as np

        file = self.folders.get(name, Path()) / f"{array}.npy"
        if name in self._loaded or name not in self.folders or not file.is_file():
            return self[name][array]
        found: NDArray[Any] = np.load(file, mmap_mode="r" if file.stat().st_size > 4096 else None, allow_pickle=False)
        return found

    def __len__(self) -> int:
        return self.shard.rows

    def column(self, name: str) -> Column:
        """The shard's part of a column that the component needs: a scorer's, one of ratings, or `meta.NAME`."""
        if name.startswith(META):
            return meta_column(self.shard.table(["meta"]).column("meta").to_pylist(), name.removeprefix(META))
        return self.columns[resolve_column(name, list(self.columns))]


@dataclass(frozen=True)
class PoolView:
    """A pool with its signals and columns, by shard and lazily.

    `signal_folders[name][i]` is the folder of shard i's signal. `columns` maps full column names
    (`perplexity.response@base-4m`) to whole-pool columns. `target` is the view of the target pool, or None.
    `existing`: places of rows already chosen. `existing_pool`: the view of data that the model has been trained on, or
    None.
    """

    pool: Pool
    signal_folders: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    columns: Mapping[str, Column] = field(default_factory=dict)
    target: PoolView | None = None
    existing: Sequence[int] = ()
    existing_pool: PoolView | None = None
    keep: NDArray[np.bool_] | None = None  # rows a `where` has left; None: all
    centres: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # of `clusters:K` that were fitted before
    against: tuple[PoolView, ...] = ()  # data that a cleaner holds the pool against
    indexes: Path | None = None  # folder of the named indexes of a workspace; None outside of one

    def __len__(self) -> int:
        return len(self.pool)

    def shards(self) -> Iterator[ShardSignals]:
        """The shards in order, each with its signals."""
        for number, shard in enumerate(self.pool.shards):
            folders = {name: folders[number] for name, folders in self.signal_folders.items()}
            yield ShardSignals(shard, folders, parts_of(self.pool, self.columns, number))

    def signal(self, name: str, array: str) -> NDArray[Any]:
        """One array of a signal over the whole pool (first axis rows): only for what fits in memory."""
        import numpy as np

        parts = [shard.array(name, array) for shard in self.shards()]
        if not parts:
            return np.zeros((0,), np.float32)
        return np.concatenate(parts)

    def column(self, name: str) -> Column:
        """A column by full or unambiguous short name; otherwise the error lists the candidates.

        `meta.NAME` is a number, or text that reads as one, in the rows' `meta`; NaN where a row has none.
        """
        if name.startswith(META):
            return meta_column(self.pool.table(["meta"]).column("meta").to_pylist(), name.removeprefix(META))
        return self.columns[resolve_column(name, list(self.columns))]

    @functools.cached_property
    def cost(self) -> NDArray[np.int64]:
        """(n,) training tokens of every row: template, tokenizer and truncation of the model in use."""
        import numpy as np

        return self.signal("lengths", "tokens").astype(np.int64)

    @functools.cached_property
    def usable(self) -> NDArray[np.bool_]:
        """(n,) rows that a trainer can use: at least one trained token is left, and no `where` took them out."""
        import numpy as np

        good: NDArray[np.bool_] = self.signal("lengths", "reason") == 0
        if self.keep is not None:
            good = good & self.keep
        if len(self.existing):
            good = good.copy()
            good[np.asarray(self.existing, dtype=np.int64)] = False
        return good

    def groups(self, by: str = "source") -> NDArray[np.str_]:
        """(n,) group name of every row: `source`, `kind`, `file`, `meta.NAME`, `clusters:K`, or a column in bands.

        Names are "" for rows that have no such thing; `tamis.grouping` says how columns are cut. RecipeError where
        there is no such column, or the hidden states of clusters were not measured.
        """
        from tamis.grouping import groups_of

        return groups_of(self, by)


def parts_of(pool: Pool, columns: Mapping[str, Column], number: int) -> dict[str, Column]:
    """Columns of a pool cut to its shard `number`."""
    part = slice(pool.starts[number], pool.starts[number + 1])
    return {
        name: Column(values=column.values[part], unit=column.unit, reasons=column.reasons[part])
        for name, column in columns.items()
    }


def meta_column(records: Sequence[str], name: str) -> Column:
    """A field of `meta` (JSON texts, one a row) as a column: numbers, truth values (0 and 1), text that is a number.

    NaN with "not measured" where there is no such field or it is null, with "this kind of row cannot be scored so"
    where it is anything else.
    """
    import json

    import numpy as np

    found = [_number(json.loads(record).get(name)) for record in records]
    reasons = np.array([reason for _, reason in found], np.uint8)
    return Column(values=np.array([value for value, _ in found], np.float32), unit="as given", reasons=reasons)


def _number(value: Any) -> tuple[float, int]:
    """(value, reason), NaN where it is not a finite number."""
    if value is None or value == "":
        return float("nan"), Reason.NOT_MEASURED
    try:
        number = float(value) if isinstance(value, (int, float, str)) else float("nan")
    except (ValueError, OverflowError):
        number = float("nan")
    good = abs(number) <= 3.4e38  # what float32 holds; false for NaN
    return (number, Reason.NONE) if good else (float("nan"), Reason.WRONG_KIND)


def resolve_column(name: str, known: Sequence[str]) -> str:
    """Full name of a column by the name as written, most exact form first.

    `scorer.view@model` (without `@` where no model had a part in it), then `scorer.view` or `scorer@model`, then
    `scorer`, which means its view `score` or `response`, or its only view. Ambiguous names are an error that lists the
    candidates.
    """
    if name in known:
        return name
    for forms in (_exact_forms, _short_forms):
        found = [full for full in known if name in forms(full, known)]
        if len(found) == 1:
            return found[0]
        if found:
            raise RecipeError(f"column {name!r} is ambiguous: {', '.join(found)}")
    same = [full for full in known if full.startswith((f"{name}.", f"{name}@"))]
    if same:
        raise RecipeError(f"column {name!r} is ambiguous: {', '.join(same)}")
    from tamis.catalogue import nearest

    close = nearest(name, [short for full in known for short in (full, *_exact_forms(full, known))])
    raise RecipeError(f"there is no column {name!r}{close} Known: {', '.join(known) or 'none'}")


def _exact_forms(full: str, known: Sequence[str]) -> set[str]:
    return {full.partition("@")[0]}


def _short_forms(full: str, known: Sequence[str]) -> set[str]:
    path, at, model = full.partition("@")
    scorer, _, view = path.partition(".")
    label = at + model
    others = [one for one in known if one.startswith(f"{scorer}.") and one.partition("@")[1:] == (at, model)]
    main = "score" if f"{scorer}.score{label}" in others else "response"
    return {scorer, f"{scorer}{label}"} if view == main or len(others) == 1 else set()
