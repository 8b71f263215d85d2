"""Measure: run a pass over the shards of a pool that it has not seen, and hand back where the signals lie."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamis.catalogue import load
from tamis.engine import map_jobs, workers_kept
from tamis.errors import RecipeError
from tamis.models import ModelRef
from tamis.operations import deadline
from tamis.pool import Pool, Shard
from tamis.protocols import Pass
from tamis.stages.fitting import FIT, fit
from tamis.stages.serving import SIGNAL, has_model, identity_of, remember, rows_left, serving, settings_of
from tamis.stages.signals import Asked, Signal, by_of, signals_read
from tamis.stages.workspace import Workspace
from tamis.store import Store, save_arrays
from tamis.values import Machine, Need
from tamis.views import ShardSignals

log = logging.getLogger(__name__)
# passes that a need alone starts; the others are stages of a recipe
SHARED = (
    "lengths",
    "tokens",
    "pairs",
    "ratings",
    "reversed",
    "generations",
    "verdicts",
    "attention",
    "gradient-norms",
    "in-context",
    "text",
    "hashes",
    "language",
    "minhash",
    "sentence-embeddings",
)
SAY_SECONDS = 10.0  # a line of progress at most this often


@dataclass(frozen=True)
class _Job:
    store: Store
    component: Pass
    identity: str
    shard: Shard
    folders: Mapping[str, Path]
    machine: Machine


def measure(
    pool: Pool, name: str, component: Pass, work: Workspace, have: Mapping[str, Signal] | None = None
) -> Signal:
    """The signal of `component` over `pool`; finished shards are found, the others measured by the engine.

    `have`: signals that the pass may read; those that it needs are part of its identity. Where the pool was measured
    before with settings that give more (`merge`), that signal serves and nothing is run.
    """
    started = time.perf_counter()
    read = signals_read(component, have or {})
    component = serving(pool, component, work, read)
    notes = [sentence for signal in read.values() for sentence in signal.notes]
    notes += component.notes() if hasattr(component, "notes") else []
    ever, partial = 0.0, " ".join(signal.partial for signal in read.values() if signal.partial)
    if hasattr(component, "fit"):
        entry, outcome = fit(pool, component, work, read, over=work.machine, name=name)
        read[FIT] = Signal(
            FIT, (entry.path,) * len(pool.shards), 0, 0.0, (entry.digest,) * len(pool.shards), by=entry.digest
        )
        notes += [note for note in (entry.facts.get("note"), outcome.note()) if note]
        ever, partial = entry.seconds, ""  # it fills in what was not measured
    jobs = _jobs(pool, component, work, {**(have or {}), **read}, read)
    missing = [job for job in jobs if work.store.get(SIGNAL, job.identity) is None]
    if missing:
        log.info("pass %s: %d of %d shards to measure", name, len(missing), len(jobs))
    said = started
    machine = work.machine.alone if getattr(component, "in_process", False) else work.machine
    try:
        for number, _ in enumerate(map_jobs(_measure_shard, missing, machine)):
            work.work.event("shard", signal=name, number=number + 1, of=len(missing))
            if time.perf_counter() - said > SAY_SECONDS:
                said = time.perf_counter()
                log.info("pass %s: %d of %d shards", name, number + 1, len(missing))
    except deadline.TimeUp as error:
        done = sum(work.store.get(SIGNAL, job.identity) is not None for job in jobs)
        raise deadline.TimeUp(f"pass {name} stands at {done} of {len(jobs)} shards") from error
    seconds = time.perf_counter() - started
    found = [one for job in jobs if (one := work.store.get(SIGNAL, job.identity)) is not None]
    ever += sum(one.seconds for one in found)
    rows = sum(job.shard.rows for job in missing)
    work.work.note_pass(name, len(jobs), len(missing), seconds, ever, rows=rows, tokens=_tokens(missing))
    remember(component, work)
    return Signal(
        name=getattr(component, "makes", name),
        folders=tuple(one.path for one in found),
        made=len(missing),
        seconds=ever,
        identities=tuple(job.identity for job in jobs),
        notes=tuple(dict.fromkeys(notes)),
        partial=partial,
        by=by_of(component, read),
    )


def _tokens(jobs: Iterable[_Job]) -> int:
    """Tokens of the rows of these jobs, where their lengths were measured before."""
    import numpy as np

    files = [job.folders["lengths"] / "tokens.npy" for job in jobs if "lengths" in job.folders]
    return sum(int(np.load(file, mmap_mode="r").sum()) for file in files if file.is_file())


def _jobs(
    pool: Pool, component: Pass, work: Workspace, have: Mapping[str, Signal], read: Mapping[str, Signal]
) -> list[_Job]:
    """One job a shard. All of `have` may be read, but only what the pass says it needs enters the identity."""
    on = work.machine.alone
    jobs = []
    for place, shard in enumerate(pool.shards):
        identity = identity_of(component, shard, {key: signal.identities[place] for key, signal in read.items()})
        folders = {key: signal.folders[place] for key, signal in have.items()}
        jobs.append(_Job(work.store, component, identity, shard, folders, on))
    return jobs


def _measure_shard(job: _Job) -> str:
    deadline.check("no shard is begun any more")

    def make(folder: Path) -> dict[str, Any]:
        arrays = job.component.measure(job.shard, ShardSignals(job.shard, job.folders), job.machine)
        save_arrays(folder, arrays)
        return {"rows": job.shard.rows, "arrays": sorted(arrays)}

    return job.store.get_or_make(SIGNAL, job.identity, make, about=job.component).digest


def pass_for(need: Need, work: Workspace) -> Pass:
    """The pass that serves a need: the model of its role, and the richest settings that anything in the run asks for.

    Raises RecipeError where nobody named the model of that role.
    """
    return _pass_of(need, work.settings_of_passes.get(need.key, {}), work.model_of(need.by))


def _pass_of(need: Need, richer: Mapping[str, Any], model: ModelRef) -> Pass:
    cls = load("passes", need.name)
    reads = {"model": model} if has_model(cls) else {}
    component: Pass = cls(**reads, **{**dict(need.settings), **richer})
    return component


def richest(needs: Iterable[Need]) -> dict[str, dict[str, Any]]:
    """For every signal needed, by `Need.key`, settings that serve all needs at once (merged by the pass itself).

    What these passes read themselves is counted in. RecipeError for two settings of a pass that cannot merge them.
    """
    stand_in = ModelRef(name="tamis:tiny-lm")
    merged: dict[str, Any] = {}
    left = list(needs)
    while left:
        need = left.pop(0)
        if need.kind != "signal" or need.name not in SHARED:
            continue
        component = _pass_of(need, {}, stand_in)
        left += component.needs
        merged[need.key] = _merged(merged.get(need.key), component, need.key)
    return {key: settings_of(component) for key, component in merged.items()}


def _merged(earlier: Any, component: Any, key: str) -> Any:
    if earlier is None or earlier == component:
        return component
    if not hasattr(earlier, "merge"):
        raise RecipeError(f"the signal {key!r} is needed with two settings, which one pass cannot give: run it twice")
    return earlier.merge(component)


def measure_needs(
    pool: Pool,
    needs: Iterable[Need],
    work: Workspace,
    given: Mapping[str, Signal] | None = None,
    *,
    lengths: bool = True,
) -> dict[str, Signal]:
    """Every signal that `needs` asks of one pool, by `Need.key`, each measured once, plus `lengths`, read everywhere.

    Signals that a pass reads itself are measured before it. Without `lengths`: nothing but what is asked for; who looks
    at texts alone need not wait for a tokenizer.
    """
    with workers_kept():
        return _measured(pool, needs, work, given, lengths)


def _measured(
    pool: Pool, needs: Iterable[Need], work: Workspace, given: Mapping[str, Signal] | None, lengths: bool = True
) -> dict[str, Signal]:
    signals: dict[str, Signal] = dict(given or {})
    wanted = [*([Need(kind="signal", name="lengths")] if lengths else []), *needs]
    ordered = sorted({need.key: need for need in wanted if need.kind == "signal"}.values(), key=lambda need: need.key)
    for need in ordered:
        if need.key not in signals:
            component = pass_for(need, work)
            signals = _measured(pool, component.needs, work, signals, lengths) if component.needs else signals
            signals[need.key] = measure(pool, need.key, component, work, signals)
    return signals


def asked_of(pool: Pool, needs: Iterable[Need], work: Workspace) -> dict[str, Asked]:
    """What `measure_needs` would do for these needs, by `Need.key` in its order; nothing is run."""
    found: dict[str, Asked] = {}
    for key, need in sorted({need.key: need for need in needs if need.kind == "signal"}.items()):
        if need.name not in SHARED or key in found:
            continue
        component = pass_for(need, work)
        found = asked_of(pool, component.needs, work) | found
        read = {one.key: found[one.key] for one in component.needs if one.key in found}
        component = serving(pool, component, work, read)
        identities = [
            identity_of(component, shard, {name: one.identities[place] for name, one in read.items()})
            for place, shard in enumerate(pool.shards)
        ]
        by = "" if hasattr(component, "fit") else by_of(component, read)
        found[key] = Asked(component, tuple(identities), rows_left(pool, component, work, read), by)
    return found
