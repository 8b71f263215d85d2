"""Pools as they come out of a cleaning: counts of their files, what was done to them, and a folder of their own."""

from __future__ import annotations

import bisect
import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError
from tamis.pool import MANIFEST, Pool, Shard

if TYPE_CHECKING:
    from tamis.store import Store


def left_of(pool: Pool, left: Sequence[Sequence[Any]], rejects: Path, store: Store) -> Pool | None:
    """The pool behind a step that dropped rows; None where one of its shards is gone from the store.

    `left`: for every shard [rows left, identity of the new shard or ""], as `Leaving.into` gives it. The counts of
    every input file move from kept to dropped, so that the ledger still adds up to the rows read.
    """
    shards: list[Shard] = []
    for shard, (rows, identity) in zip(pool.shards, left, strict=True):
        if not identity:
            shards += [shard] if rows else []
            continue
        found = store.get("shard", identity)
        if found is None:
            return None
        shards.append(Shard(found.path, found.digest, rows))
    lost = [shard.rows - rows for shard, (rows, _) in zip(pool.shards, left, strict=True)]
    files = _files(pool, lost)
    return dataclasses.replace(pool, shards=tuple(shards), files=files, rejects=(*pool.rejects, rejects))


def _files(pool: Pool, lost: Sequence[int]) -> tuple[dict[str, Any], ...]:
    """Facts of the input files, with the rows that every shard has lost counted as dropped."""
    if not pool.files:
        return ()
    ends, total = [], 0
    for file in pool.files:
        total += int(file["kept"])
        ends.append(total)
    if total != len(pool):
        raise DataError(f"the pool holds {len(pool)} rows, its files gave {total}: make it again with `tamis ingest`")
    gone = [0] * len(pool.files)
    for start, count in zip(pool.starts, lost, strict=False):
        gone[bisect.bisect_right(ends, start) if count else 0] += count
    return tuple(
        {**file, "kept": int(file["kept"]) - count, "dropped": int(file["dropped"]) + count} if count else file
        for file, count in zip(pool.files, gone, strict=True)
    )


def noted(pool: Pool, step: Mapping[str, Any]) -> Pool:
    """The pool with one more entry in its history."""
    return dataclasses.replace(pool, steps=(*pool.steps, dict(step)))


def keep(pool: Pool, out: Path) -> Pool:
    """Write the pool into a folder that needs no other: its shards and rejects are linked there, or copied.

    Raises DataError where the folder holds something else than a pool.
    """
    if out.exists() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise DataError(f"{out} is not empty and holds no pool: choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    shards = tuple(dataclasses.replace(shard, path=_entry(shard.path, out)) for shard in pool.shards)
    rejects = tuple(_entry(file.parent, out) / file.name for file in pool.rejects)
    kept = dataclasses.replace(pool, shards=shards, rejects=rejects)
    kept.save(out / MANIFEST)
    return kept


def _entry(folder: Path, out: Path) -> Path:
    """A store entry brought into `out`, under the same kind and name; one that is there already stays."""
    kind, shelf, name = folder.resolve().parts[-3:]
    place = out / kind / shelf / name
    if folder.resolve() == place.resolve():
        return place
    partial = place.with_name(f"partial-{name}")
    if partial.exists():
        shutil.rmtree(partial)
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, partial, copy_function=_link_or_copy)
        partial.rename(place)
    return place


def _link_or_copy(source: str, target: str) -> None:
    """A second name for the same bytes, which costs no space; a copy where the disk is another or knows no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
