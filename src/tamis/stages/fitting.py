"""What a component learns from the whole pool before its shards are seen, and whether what it learnt still holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamis import digests
from tamis.engine import map_jobs
from tamis.pins import Fit, Fitting
from tamis.pool import Pool
from tamis.stages.signals import Measurer, Signal, by_of, view_of
from tamis.stages.workspace import Workspace
from tamis.store import Entry, Store, save_arrays
from tamis.values import Column, Machine
from tamis.views import parts_of

FIT = "fit"  # kind in the store, and the name under which a pass reads it


def fit(
    pool: Pool,
    component: Any,
    work: Workspace,
    read: Mapping[str, Signal],
    columns: Mapping[str, Column] | None = None,
    over: Machine | None = None,
    name: str = "",
) -> tuple[Entry, Fit]:
    """What a component learns from the whole pool, before its shards are seen, which depend on its content alone.

    A pass is handed the machine (`over`) beside the view; a scorer is not, but may read `columns`. What was learnt of
    this pool as it was before is kept where `Workspace.refit` allows it.
    """
    inputs: dict[str, Any] = {"pool": pool.digest, "signals": {key: one.identities for key, one in read.items()}}
    if columns:
        inputs["columns"] = digests_of(columns)

    def make(folder: Path) -> dict[str, Any]:
        if over is None:
            arrays, facts = component.fit(view_of(pool, read, columns=columns or {}))
        else:
            arrays, facts = _fit_pass(_FitJob(work.store, component, pool, read, over))
        save_arrays(folder, arrays)
        return dict(facts)

    def fitted() -> Entry:
        return work.store.get_or_make(FIT, digests.of_component(component, inputs), make, about=component)

    by_shard = read_by_shard(pool, read, columns or {})
    fitting = fitting_of(pool, component, work, name, read, by_shard, known=not columns)
    entry, outcome = fitting.entry(fitted)
    work.work.note_fit(outcome)
    return entry, outcome


@dataclass(frozen=True)
class _FitJob:
    store: Store
    component: Any
    pool: Pool
    read: Mapping[str, Signal]
    machine: Machine


def _fit_pass(job: _FitJob) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What a pass learns of a pool; its model may run, so on a cluster a node does it."""
    on = job.machine
    if on.engine != "local":
        (over,) = map_jobs(_fit_pass, [dataclasses.replace(job, machine=on.alone)], on)
        return over
    found: tuple[Mapping[str, Any], Mapping[str, Any]] = job.component.fit(view_of(job.pool, job.read), on)
    return found


def fitting_of(
    pool: Pool,
    component: Any,
    work: Workspace,
    name: str,
    read: Mapping[str, Measurer],
    inputs: Sequence[str] | None = None,
    *,
    known: bool = True,
) -> Fitting:
    """The fit of a component over a pool, kept or to be made; `inputs` by shard, where they are known.

    `known`: it reads nothing but signals.
    """
    by_row = bool(getattr(component, "fits_rows", False))
    by = by_of(component, read)
    return work.fitting(
        name or type(component).__name__,
        by or digests.of_component(component),
        FIT,
        pool,
        inputs,
        by_row=by_row,
        comparable=known and bool(by),
    )


def read_by_shard(pool: Pool, read: Mapping[str, Signal], columns: Mapping[str, Column]) -> list[str]:
    """For every shard a digest of the signals and the parts of columns that are read of it."""
    return [
        digests.of_json([{key: one.identities[place] for key, one in read.items()}, digests_of(parts)])
        for place in range(len(pool.shards))
        for parts in [parts_of(pool, columns, place)]
    ]


def digests_of(columns: Mapping[str, Column]) -> dict[str, str]:
    """Digests of columns by content, reasons included."""
    import numpy as np

    return {
        name: digests.of_bytes(b"".join(np.ascontiguousarray(part).tobytes() for part in (one.values, one.reasons)))
        for name, one in columns.items()
    }
