"""Signals of a pool: where they lie, what measured them, and the view that scorers and selectors have of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tamis import digests
from tamis.errors import RecipeError
from tamis.pool import Pool
from tamis.protocols import Pass
from tamis.values import Need
from tamis.views import PoolView


@dataclass(frozen=True)
class Signal:
    """One signal of a pool: a folder per shard, in order. `made`: shards measured now. `seconds`: of all, ever.

    `notes`: what its reader must know, in sentences; those of the signals that were read included. `partial` says which
    rows were measured where not all were. `by`: digest of what measured it, whatever the pool ("": not known).
    """

    name: str
    folders: tuple[Path, ...]
    made: int
    seconds: float
    identities: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    partial: str = ""
    by: str = ""

    @property
    def caveats(self) -> tuple[str, ...]:
        """Everything that one should know who uses it."""
        return (*self.notes, *([self.partial] if self.partial else []))


def signals_read(component: Pass, have: Mapping[str, Signal]) -> dict[str, Signal]:
    """The signals of the pool that a pass says it needs, by name; RecipeError where one is missing."""
    needed = sorted(need.key for need in component.needs if need.kind == "signal" and need.side == "pool")
    for name in needed:
        if name not in have:
            raise RecipeError(f"{type(component).__name__} reads the signal {name!r}, which no stage before it made")
    return {name: have[name] for name in needed}


def by_of(component: Any, read: Mapping[str, Measurer]) -> str:
    """What measures a signal, with what it reads, whatever the pool; empty where of something read it is not known."""
    if not all(one.by for one in read.values()):
        return ""
    return digests.of_component(component, {"signals": {key: one.by for key, one in read.items()}})


class Measurer(Protocol):
    """A signal, or one that is asked for, of which it may be known what measures it."""

    @property
    def by(self) -> str:
        """Digest, or empty."""
        ...


@dataclass(frozen=True)
class Asked:
    """A signal that is going to be needed: the pass that serves it, its identities by shard, and rows still to do."""

    component: Pass
    identities: tuple[str, ...]
    rows_left: int
    by: str = ""


def view_of(pool: Pool, signals: Mapping[str, Signal], **parts: Any) -> PoolView:
    """A view of the pool with these signals."""
    return PoolView(pool, {name: signal.folders for name, signal in signals.items()}, **parts)


def needs_on(side: str, needs: Iterable[Need]) -> list[Need]:
    """The needs of one side: `pool`, `target` or `existing`."""
    return [need for need in needs if need.side == side]
