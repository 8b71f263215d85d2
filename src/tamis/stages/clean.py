"""Clean: the steps of a cleaning carried out over a pool, each with what it needs, each kept in the store."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import digests
from tamis.catalogue import load
from tamis.cleaning import patching
from tamis.cleaning.leaving import Leaving, check
from tamis.cleaning.steps import Step
from tamis.cleaning.written import left_of, noted
from tamis.duplicates.memory import state_of
from tamis.engine import map_jobs
from tamis.errors import DataError, RecipeError
from tamis.ingest.mappings import QUESTIONS
from tamis.pool import REJECTS, Pool
from tamis.protocols import Cleaner, Transform
from tamis.stages.dependence import needs_of_scorers, ordered, stem_of
from tamis.stages.fitting import digests_of
from tamis.stages.measure import measure_needs
from tamis.stages.score import score
from tamis.stages.select import missing_columns
from tamis.stages.serving import has_model
from tamis.stages.signals import needs_on, view_of
from tamis.stages.sources import ingest_source
from tamis.stages.workspace import Workspace
from tamis.store import Entry, load_arrays, save_arrays
from tamis.values import Column, Dropped, Need
from tamis.views import PoolView, resolve_column

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)
CLEANED = "cleaned"
GONE = "what it left in the store is gone"
Sides = Mapping[str, Pool | None]


@dataclass(frozen=True)
class Done:
    """One step carried out. `read` rows went in, `dropped` left, `changed` have another text now.

    `tables`: files of what the cleaner found, beside the rejects of the step, which are `pool.rejects[place]`; None
    where it has none. `made`: whether this call did it, or found it done.
    """

    step: str
    component: str
    settings: Mapping[str, Any]
    read: int
    dropped: int
    changed: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    seconds: float = 0.0
    place: int | None = None
    made: bool = False

    def said(self) -> str:
        """What it did, in a few words."""
        changed = f", {self.changed:,} changed" if self.changed else ""
        return f"{self.step} {self.dropped:,} dropped{changed}"

    def about(self) -> dict[str, Any]:
        """As the history of the pool and the manifest of a run keep it: what does not depend on when it was done."""
        plain = {**dataclasses.asdict(self), "notes": list(self.notes), "tables": list(self.tables)}
        return {key: value for key, value in plain.items() if key not in ("made", "seconds")}


@dataclass(frozen=True)
class Cleaned:
    """The pool behind all steps, what each did, and the columns given (ratings) without the rows that left."""

    pool: Pool
    done: tuple[Done, ...] = ()
    columns: Mapping[str, Column] = field(default_factory=dict)


def clean(
    pool: Pool,
    steps: Sequence[Step],
    work: Workspace,
    *,
    sides: Sides | None = None,
    columns: Mapping[str, Column] | None = None,
    say: Callable[[Done], None] | None = None,
) -> Cleaned:
    """Carry out the steps one after the other; what was carried out before is found.

    `sides`: pools that steps may name as `@target` and `@existing`. `columns`: what was given beside the pool
    (ratings), for filters. `say` hears of every step when it is done. Raises RecipeError where a step is wrong, names
    data that is not there, or leaves no row; GateError where a step says that nothing may go on.
    """
    built = [(step, step.built()) for step in steps]
    have = dict(columns or {})
    done: list[Done] = []
    for step, component in built:
        cleaning = _Cleaning(pool, step, component, work, dict(sides or {}), have)
        pool, one, kept = cleaning.carried_out()
        have = _without(have, kept)
        pool = noted(pool, one.about())
        done.append(one)
        log.info("clean %s: %d of %d rows dropped, %d changed", one.step, one.dropped, one.read, one.changed)
        if say is not None:
            say(one)
        if not len(pool):
            raise RecipeError(f"clean: {step.name} leaves no row of {one.read:,}; reasons: {_reasons(pool)}")
    return Cleaned(pool, tuple(done), have)


def needs_of(steps: Iterable[Step], known: Iterable[str] = ()) -> list[Need]:
    """Signals that steps need on any side, those under the columns that they read included; for merging passes.

    `known`: first parts of the names of columns that are there (ratings).
    """
    return [need for step in steps for need in needs_of_component(step.built(), known)]


def needs_of_component(component: Any, known: Iterable[str] = ()) -> list[Need]:
    """What a step needs, and what the scorers need that make its columns. RecipeError where one cannot be made."""
    there = set(known)
    own = list(component.needs)
    wanted = [need for need in own if need.kind == "column" and need.side == "pool" and stem_of(need.name) not in there]
    return [*own, *needs_of_scorers(ordered(missing_columns(wanted, None, {}), there))]


def runs_model(step: Step, known: Iterable[str] = ()) -> bool:
    """Whether a step, or a scorer under it, reads what a model or an encoder measures; lengths need a tokenizer."""
    needs = needs_of_component(step.built(), known)
    passes = [load("passes", name) for name in {need.name for need in needs if need.kind == "signal"} - {"lengths"}]
    return any(has_model(one) or "encoder" in one.__dataclass_fields__ for one in passes)


def _without(columns: Mapping[str, Column], kept: NDArray[np.bool_] | None) -> dict[str, Column]:
    if kept is None:
        return dict(columns)
    return {
        name: Column(values=column.values[kept], unit=column.unit, reasons=column.reasons[kept])
        for name, column in columns.items()
    }


def _reasons(pool: Pool) -> str:
    import pyarrow.parquet as pq

    found = pq.read_table(pool.rejects[-1], columns=["reason"]).column("reason").to_pylist()
    return "; ".join(list(dict.fromkeys(found))[:3])


@dataclass(frozen=True)
class _Cleaning:
    """One step over one pool."""

    pool: Pool
    step: Step
    component: Any
    work: Workspace
    sides: Sides
    columns: Mapping[str, Column]

    def carried_out(self) -> tuple[Pool, Done, NDArray[np.bool_] | None]:
        """The pool behind the step, what was done, and which rows stayed (None: all)."""
        return self._transformed() if isinstance(self.component, Transform) else self._cleaned()

    def _cleaned(self) -> tuple[Pool, Done, NDArray[np.bool_] | None]:
        cleaner: Cleaner = self.component
        self.work.check_roles(self.step.name, cleaner.needs)
        made = self._columns(cleaner.needs)
        signals = measure_needs(self.pool, needs_on("pool", cleaner.needs), self.work, lengths=False)
        against, their = self._against(cleaner)
        used = {name: made[name] for name in self._used(cleaner.needs, made)}
        inputs = {
            "pool": self.pool.digest,
            "step": self.step.name,
            "signals": {key: one.identities for key, one in signals.items()},
            "columns": digests_of(used),
            "against": their,
        }
        indexes = self.work.root / "indexes"
        if name := getattr(cleaner, "index", ""):
            inputs["index"] = state_of(indexes, name)
        view = view_of(self.pool, signals, columns=made, against=against, indexes=indexes)
        caveats = tuple(dict.fromkeys(sentence for one in signals.values() for sentence in one.caveats))
        identity = digests.of_component(cleaner, inputs)
        return self._drop(identity, lambda: cleaner.clean(view, self.work.machine), caveats)

    def _drop(
        self, identity: str, find: Callable[[], Dropped], caveats: tuple[str, ...] = ()
    ) -> tuple[Pool, Done, NDArray[np.bool_] | None]:
        """Rows that leave the pool, found by `find` unless the store knows."""

        def make(folder: Path) -> dict[str, Any]:
            return self._written(folder, find())

        for _ in range(2):
            entry = self.work.store.get_or_make(CLEANED, identity, make, about=self.component)
            left = left_of(self.pool, entry.facts["left"], entry.file(REJECTS), self.work.store)
            if left is not None:
                kept = ~load_arrays(entry.path)["dropped"]
                return left, self._done(entry, caveats), kept
            self.work.store.discard(entry, GONE)
        raise DataError(f"{self.step.name}: {GONE} while it is read; is something deleting {self.work.store.root}?")

    def _written(self, folder: Path, dropped: Dropped) -> dict[str, Any]:
        from tamis.store import write_table

        check(dropped, self.pool, self.step.name)
        withheld = bool(getattr(self.component, "withheld", False))
        left = Leaving(self.pool, dropped, self.step.name, self.work.store, withheld).into(folder)
        save_arrays(folder, {"dropped": dropped.rows})
        for name, table in dropped.tables.items():
            write_table(table, folder / name)
        return {
            "left": left,
            "dropped": int(dropped.rows.sum()),
            "facts": dict(dropped.facts),
            "notes": list(dropped.notes),
            "tables": sorted(dropped.tables),
        }

    def _done(self, entry: Entry, caveats: tuple[str, ...] = (), changed: int = 0) -> Done:
        facts = entry.facts
        return Done(
            step=self.step.name,
            component=self.step.component,
            settings=digests.canonical(self.step.settings),
            read=len(self.pool),
            dropped=facts["dropped"],
            changed=changed,
            facts=facts["facts"],
            notes=(*facts["notes"], *caveats),
            tables=tuple(facts["tables"]),
            seconds=entry.seconds,
            place=len(self.pool.rejects),
            made=entry.made,
        )

    def _columns(self, needs: Iterable[Need]) -> dict[str, Column]:
        """The columns given, and those that the step reads and that nobody has made yet."""
        scorers = missing_columns([need for need in needs if need.side == "pool"], None, self.columns)
        if not scorers:
            return dict(self.columns)
        return {**self.columns, **score(self.pool, scorers, self.work, None, self.columns, lengths=False).columns}

    def _used(self, needs: Iterable[Need], made: Mapping[str, Column]) -> list[str]:
        from tamis.column.filtering import is_field

        named = [need.name for need in needs if need.kind == "column" and need.side == "pool"]
        return sorted({resolve_column(name, list(made)) for name in named if not is_field(name)})

    def _against(self, cleaner: Cleaner) -> tuple[tuple[PoolView, ...], list[Any]]:
        """Views of the data that the cleaner holds the pool against, and what identifies them."""
        views, known = [], []
        for source in cleaner.sources() if hasattr(cleaner, "sources") else ():
            pool = self._side(source)
            signals = measure_needs(pool, needs_on("against", cleaner.needs), self.work, lengths=False)
            views.append(view_of(pool, signals))
            known.append([pool.digest, {key: one.identities for key, one in signals.items()}])
        return tuple(views), known

    def _side(self, source: Any) -> Pool:
        if not (isinstance(source, str) and source.startswith("@")):
            given = dict(source) if isinstance(source, Mapping) else {"files": source}
            return ingest_source({**given, "map": {**QUESTIONS, **(given.get("map") or {})}}, self.work)
        pool = self.sides.get(source[1:])
        if pool is None:
            raise RecipeError(f"clean: {self.step.name} is held against {source}, and there is no {source[1:]}")
        return pool

    def _transformed(self) -> tuple[Pool, Done, NDArray[np.bool_] | None]:
        """A transform over all shards, in workers; rows of which it would leave nothing are dropped."""
        store, machine = self.work.store, self.work.machine.alone
        jobs = [patching.PatchJob(store, self.component, shard) for shard in self.pool.shards]
        for _ in range(2):
            missing = [job for job in jobs if store.get(patching.PATCH, job.identity) is None]
            on = self.work.machine if len(missing) > 1 else machine
            for _one in map_jobs(patching.patch, missing, on):
                pass
            entries = [found for job in jobs if (found := store.get(patching.PATCH, job.identity)) is not None]
            pool = patching.patched(self.pool, entries, store) if len(entries) == len(jobs) else None
            if pool is not None:
                return self._patched(pool, entries, bool(missing))
            for entry in entries:
                if entry.facts["shard"] and store.get("shard", entry.facts["shard"]) is None:
                    store.discard(entry, GONE)
        raise DataError(f"{self.step.name}: {GONE} while it is read; is something deleting {store.root}?")

    def _patched(self, pool: Pool, entries: list[Entry], made: bool) -> tuple[Pool, Done, NDArray[np.bool_] | None]:
        changed = sum(entry.facts["rows"] for entry in entries)
        facts = patching.counts(entries)
        seconds = round(sum(entry.seconds for entry in entries), 3)
        dropped = patching.emptied(pool, entries)
        if dropped is None:
            done = Done(
                step=self.step.name,
                component=self.step.component,
                settings=digests.canonical(self.step.settings),
                read=len(pool),
                dropped=0,
                changed=changed,
                facts=facts,
                seconds=seconds,
                made=made,
            )
            return pool, done, None
        inner = dataclasses.replace(self, pool=pool)
        identity = digests.of_component(self.component, {"emptied": pool.digest, "step": self.step.name})
        pool, one, kept = inner._drop(identity, lambda: dropped)
        return pool, dataclasses.replace(one, changed=changed, facts=facts, seconds=seconds, made=made), kept
