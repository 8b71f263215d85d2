"""Pins: what was fitted on a pool stays as it is while little of the pool is new to it (DESIGN §5).

A pin is a small JSON file in the workspace, `pins/<fit>/<entry>.json`: the entry of the store that holds what was
fitted, and the shards that it was fitted on, each with a digest of what was read of it. `<fit>` is the digest of the
fit without the pool: component, settings, model. Of the pins of a fit the one that has seen the pool best is taken.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tamis.errors import RecipeError
from tamis.pool import ROWS, Pool, Shard
from tamis.store import Entry, Store, write_json

FOLDER = "pins"
KEPT = 8  # pins of one fit, the least recently used go first
How = Literal["made", "kept", "refitted"]
REFUSED = "write never, always, or a share of the pool such as 20%"


@dataclass(frozen=True)
class Refit:
    """When a fit is made anew: at a larger share of the pool that is new to it; 0 at any change, None never.

    >>> Refit.parse("when 20%") == Refit.parse(20.0) == Refit(), Refit.parse("never").share
    (True, None)
    """

    share: float | None = 0.2

    @classmethod
    def parse(cls, value: Any) -> Refit:
        """Read `never`, `always`, `20%`, `when 20%`. RecipeError for anything else."""
        text = str(value).strip().removeprefix("when").strip()
        if text in ("never", "always"):
            return cls(None if text == "never" else 0.0)
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            number = -1.0
        if not 0 <= number <= 100:
            raise RecipeError(f"refit {value!r} is not understood: {REFUSED}")
        return cls(number / 100)

    def __str__(self) -> str:
        return "never" if self.share is None else f"{self.share * 100:g}%" if self.share else "always"


@dataclass(frozen=True)
class Age:
    """How a pool has moved on since something was fitted on it: rows now, those not seen, and those gone."""

    rows: int
    unseen: int
    vanished: int

    @property
    def share(self) -> float:
        """(unseen + vanished) / rows."""
        return (self.unseen + self.vanished) / max(1, self.rows)

    def __str__(self) -> str:
        parts = [f"has not seen {_percent(self.unseen / max(1, self.rows))} of the pool ({self.unseen:,} rows)"]
        parts += [f"saw {self.vanished:,} rows that are gone"] if self.vanished else []
        return " and ".join(parts)


@dataclass(frozen=True)
class Fit:
    """What became of one fit in this run: made for the first time, kept from before, or made anew, and why."""

    name: str
    how: How
    why: str = ""
    age: Age | None = None
    since: str = ""

    def note(self) -> str:
        """A sentence for people; empty where there is nothing to know."""
        if self.how == "kept" and self.age is not None and self.age.share:
            return f"kept as it was fitted on {self.since[:10]}; it {self.age}"
        return f"fitted anew: {self.why}" if self.how == "refitted" else ""

    def facts(self) -> dict[str, Any]:
        """For manifests."""
        age = self.age and {
            "rows": self.age.rows,
            "unseen": self.age.unseen,
            "vanished": self.age.vanished,
            "share": round(self.age.share, 6),
        }
        return {"name": self.name, "how": self.how, "why": self.why, "age": age, "since": self.since}


@dataclass(frozen=True)
class Fitting:
    """One fit over a pool, to be kept or made: `identity` is that of the fit without the pool, `kind` the entry's.

    `inputs`: for every shard of the pool a digest of what the fit reads of it beside the rows; None where that is not
    known yet, and is not looked at. `by_row`: it holds numbers of single rows or groups, of which new ones have none,
    so that it is made anew at any change. `comparable`: `identity` holds all that decides on what is read of a row, so
    that a pin may stay even where no shard is as it was.
    """

    name: str
    identity: str
    kind: str
    pool: Pool
    inputs: Sequence[str] | None = None
    root: Path = field(default_factory=Path)
    store: Store = field(default_factory=lambda: Store(Path()))
    refit: Refit = field(default_factory=Refit)
    by_row: bool = False
    comparable: bool = False

    def entry(self, make: Callable[[], Entry]) -> tuple[Entry, Fit]:
        """The entry that a pin holds where it may stay, else what `make` makes, pinned."""
        found, fit = self.look()
        held = self.store.get(self.kind, found.entry) if found is not None and fit.how == "kept" else None
        if found is not None and held is not None:
            with contextlib.suppress(FileNotFoundError):
                os.utime(found.file)  # the least recently used go first
            return held, fit
        entry = make()
        self._pin(entry)
        return entry, fit

    def look(self) -> tuple[_Pin | None, Fit]:
        """The best pin, and what would become of the fit now; nothing is made."""
        aged = [(pin, self._age(pin)) for pin in self._pins()]
        aged = [(pin, age) for pin, age in aged if age.unseen < age.rows]
        if not aged:
            return None, Fit(self.name, "made")
        ranked = sorted(aged, key=lambda one: (one[1].share, one[0].entry))
        reasons = ((self._why(pin, age), age, pin) for pin, age in ranked)
        first = next(reasons)
        why, age, pin = first if not first[0] else next((one for one in reasons if not one[0]), first)
        return pin, Fit(self.name, "refitted" if why else "kept", why, age, pin.made)

    def _why(self, pin: _Pin, age: Age) -> str:
        """Why a pin cannot stay, or the empty string."""
        entry = self.store.get(self.kind, pin.entry)
        if entry is None or entry.digest != pin.digest:
            return "what had been fitted is no longer in the store"
        if self.inputs is not None and self._reads_otherwise(pin, self.inputs):
            return "what it reads of rows that it had seen has changed"
        if not self.comparable and not any(shard.digest in pin.shards for shard in self.pool.shards):
            return "every shard has changed, so that what it reads cannot be compared"
        if self.by_row and age.share:
            return "it holds numbers of single rows or groups, and the pool has changed"
        if self.refit.share is not None and age.share > self.refit.share:
            return f"it {age} (refit: {self.refit})"
        return ""

    def _reads_otherwise(self, pin: _Pin, inputs: Sequence[str]) -> bool:
        pairs = zip(self.pool.shards, inputs, strict=True)
        return any(pin.shards[shard.digest].inputs != own for shard, own in pairs if shard.digest in pin.shards)

    def _age(self, pin: _Pin) -> Age:
        """Rows are told apart by shard, and in shards that only one side has by their keys."""
        here = {shard.digest for shard in self.pool.shards}
        new = [shard for shard in self.pool.shards if shard.digest not in pin.shards]
        gone = [Shard(Path(one.path), digest, one.rows) for digest, one in pin.shards.items() if digest not in here]
        unseen, vanished = (sum(shard.rows for shard in some) for some in (new, gone))
        again = len(_keys(new) & _keys(gone)) if new and gone else 0
        return Age(len(self.pool), unseen - again, vanished - again)

    @property
    def _folder(self) -> Path:
        return self.root / FOLDER / self.identity

    def _pins(self) -> list[_Pin]:
        found = [_Pin.read(file) for file in sorted(self._folder.glob("*.json"))]
        return [pin for pin in found if pin is not None]

    def _pin(self, entry: Entry) -> None:
        inputs = self.inputs or [""] * len(self.pool.shards)
        shards = [
            [shard.digest, shard.rows, str(shard.path), own]
            for shard, own in zip(self.pool.shards, inputs, strict=True)
        ]
        about = {"name": self.name, "kind": self.kind, "entry": entry.path.name, "digest": entry.digest}
        made = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._folder / f"{entry.path.name}.json", {**about, "made": made, "shards": shards})
        for file in sorted(self._folder.glob("*.json"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            file.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Seen:
    """A shard that a fit has seen."""

    rows: int
    path: str
    inputs: str


@dataclass(frozen=True)
class _Pin:
    """A pin as it was written."""

    file: Path
    entry: str
    digest: str
    made: str
    shards: Mapping[str, _Seen]

    @classmethod
    def read(cls, file: Path) -> _Pin | None:
        """None where the file is gone or no pin: what it pinned is fitted again."""
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
            shards = {digest: _Seen(int(rows), path, own) for digest, rows, path, own in value["shards"]}
            return cls(file, value["entry"], value["digest"], value["made"], shards)
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _keys(shards: Sequence[Shard]) -> set[str]:
    """Keys of the rows of those shards that are still there."""
    return {key for shard in shards for key in _keys_of(shard.path, shard.digest)}


@functools.lru_cache(maxsize=256)
def _keys_of(path: Path, digest: str) -> tuple[str, ...]:
    if not (path / ROWS).is_file():
        return ()
    return tuple(map(str, Shard(path, digest, 0).table(["key"]).column("key").to_pylist()))


def _percent(share: float) -> str:
    """A share for people: 3 %, 0.04 %."""
    return f"{share * 100:.2g} %" if share < 0.995 else f"{share * 100:.0f} %"
