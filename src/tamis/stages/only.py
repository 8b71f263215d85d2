"""Measure only some rows of a pool: a pass over a part of it, and its signal laid out for the whole.

The part is a pool of its own, with a shard for every shard of the whole that holds a wanted row. What was measured on
it is copied into arrays as long as the whole shard, in which the other rows have `Reason.NOT_MEASURED` and NaN (whole
numbers 0, ragged arrays nothing). A shard's part depends on the shard and on its wanted rows alone: where a changed
selection, or one over a longer pool, leaves a shard the same rows, its measurements are found again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import digests
from tamis.errors import DataError, RecipeError
from tamis.pool import ROWS, Pool, Shard
from tamis.protocols import Pass
from tamis.stages.measure import measure
from tamis.stages.serving import SIGNAL
from tamis.stages.signals import Signal
from tamis.stages.workspace import Workspace
from tamis.store import Store, load_arrays, save_arrays
from tamis.values import Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHARD = "shard"
NOT_BY_ROW = ("tasks", "unit", "contents")  # text or JSON as bytes, the same in every shard


@dataclass(frozen=True)
class Part:
    """Some rows of a pool: `places[i]` (k_i,) are those of shard i, ascending; `pool` leaves out empty shards."""

    whole: Pool
    places: tuple[NDArray[np.int64], ...]
    pool: Pool


def part_of(whole: Pool, positions: Sequence[int] | NDArray[np.int64], store: Store) -> Part:
    """The rows at `positions` (in any order, each counts once) as a pool in the store. DataError where none is."""
    import numpy as np

    wanted = np.unique(np.asarray(positions, np.int64))
    if not len(wanted) or wanted[0] < 0 or wanted[-1] >= len(whole):
        raise DataError(f"{len(wanted)} rows asked of a pool of {len(whole)}; a part holds one of them at least")
    bounds = np.searchsorted(wanted, whole.starts)
    places = tuple(
        wanted[bounds[number] : bounds[number + 1]] - whole.starts[number] for number in range(len(whole.shards))
    )
    shards = [_cut(shard, rows, store) for shard, rows in zip(whole.shards, places, strict=True) if len(rows)]
    return Part(whole, places, Pool(tuple(shards)))


def _cut(shard: Shard, rows: NDArray[np.int64], store: Store) -> Shard:
    def make(folder: Path) -> dict[str, Any]:
        import pyarrow.parquet as pq

        pq.write_table(shard.table().take(rows), folder / ROWS, compression="zstd")
        return {"rows": len(rows)}

    entry = store.get_or_make(SHARD, digests.of_json({"part of": shard.digest, "rows": rows.tolist()}), make)
    return Shard(entry.path, entry.digest, len(rows))


def measure_only(
    whole: Pool, positions: Sequence[int] | NDArray[np.int64], name: str, component: Pass, work: Workspace
) -> Signal:
    """The signal of `component` over the rows at `positions`, laid out for the whole pool.

    Serves passes that read the rows alone and give a `reason` (n,). RecipeError for one that reads other signals:
    rows that those lack have no value in its signal either.
    """
    needed = sorted(need.name for need in component.needs)
    if needed or hasattr(component, "fit"):
        raise RecipeError(f"{name} reads {', '.join(needed)}: give `only` to the stage that measures that")
    part = part_of(whole, positions, work.store)
    found = measure(part.pool, name, component, work)
    laid = _lay_out(part, found, getattr(component, "unaligned", ()), work.store)
    rows = f"{len(part.pool):,} of {len(whole):,} rows"
    return Signal(
        name=found.name,
        folders=tuple(entry.path for entry in laid),
        made=found.made,
        seconds=found.seconds,
        identities=tuple(entry.path.name for entry in laid),
        notes=found.notes,
        partial=f"approximation: {found.name} was measured on {rows}; the others are not ranked by it",
    )


def _lay_out(part: Part, found: Signal, unaligned: Sequence[str], store: Store) -> list[Any]:
    """One entry a shard of the whole; shards without a wanted row take the form of the first that has one."""
    measured = iter(zip(found.folders, found.identities, strict=True))
    first = (found.folders[0], found.identities[0])
    done = []
    for shard, rows in zip(part.whole.shards, part.places, strict=True):
        folder, identity = next(measured) if len(rows) else first
        inputs = {"laid out": identity, "shard": shard.digest, "rows": rows.tolist()}

        def make(into: Path, folder: Path = folder, size: int = shard.rows, rows: Any = rows) -> dict[str, Any]:
            arrays = laid_out(load_arrays(folder), rows, size, unaligned)
            save_arrays(into, arrays)
            return {"rows": size, "measured": len(rows), "arrays": sorted(arrays)}

        done.append(store.get_or_make(SIGNAL, digests.of_json(inputs), make))
    return done


def laid_out(
    arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], size: int, unaligned: Sequence[str] = ()
) -> dict[str, NDArray[Any]]:
    """Arrays of some rows as arrays of `size` rows, `rows` (k,) among them ascending; k = 0 keeps types and widths."""
    import numpy as np

    if "reason" not in arrays:
        raise RecipeError("`only` serves passes that give a `reason` for every row; this one gives none")
    ragged = {*unaligned, *(name.removesuffix("_offsets") for name in arrays if name.endswith("_offsets"))}
    done: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if name in NOT_BY_ROW:
            done[name] = array
        elif name in ragged:
            done[name] = array if len(rows) else array[:0]
        elif name.endswith("_offsets"):
            counts = np.zeros(size, np.int64)
            counts[rows] = np.diff(array)[: len(rows)]
            done[name] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        else:
            missing: Any = np.nan if array.dtype.kind == "f" else Reason.NOT_MEASURED if name == "reason" else 0
            wide = np.full((size, *array.shape[1:]), missing, array.dtype)
            wide[rows] = array[: len(rows)]
            done[name] = wide
    return done
