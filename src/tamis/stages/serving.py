"""Serving: which pass answers what is asked for. One that was run before and gives more spares the one asked for.

The settings of every pass that can be merged are remembered in the workspace, by class, revision and model; whether its
signal lies in the store is looked up there, shard by shard.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tamis import digests
from tamis.catalogue import checked
from tamis.pool import Pool, Shard
from tamis.protocols import Pass
from tamis.stages.workspace import Workspace
from tamis.store import write_json

SIGNAL = "signal"


class Measured(Protocol):
    """A signal with an identity for every shard."""

    @property
    def identities(self) -> Sequence[str]:
        """In the order of the shards."""
        ...


def identity_of(component: Pass, shard: Shard, read: Mapping[str, str] | None = None) -> str:
    """Identity of a pass over one shard; `read`: identities of the signals that it reads."""
    return digests.of_component(component, {"shard": shard.digest, **({"signals": dict(read)} if read else {})})


def has_model(cls: type[Any]) -> bool:
    """Whether a pass is one over a model, or over its tokenizer."""
    return any(item.name == "model" for item in dataclasses.fields(cls))


def settings_of(component: Any) -> dict[str, Any]:
    """The settings of a pass, but for its model."""
    return {item.name: getattr(component, item.name) for item in dataclasses.fields(component) if item.name != "model"}


def serving(pool: Pool, component: Pass, work: Workspace, read: Mapping[str, Measured]) -> Pass:
    """The pass itself, or an earlier one whose signal gives all that it gives and has fewer rows left to measure.

    What is asked for is taken where both have as few, so that a signal once measured keeps its identity.
    """
    merge = getattr(component, "merge", None)
    if merge is None or hasattr(component, "fit") or not getattr(component, "serves_less", True):
        return component
    best, least = component, rows_left(pool, component, work, read)
    for other in earlier_passes(component, work) if least else []:
        if (left := rows_left(pool, other, work, read)) < least and other.merge(component) == other:
            best, least = other, left
    return best


def rows_left(pool: Pool, component: Pass, work: Workspace, read: Mapping[str, Measured]) -> int:
    """Rows of the shards that a pass has not measured yet."""
    left = 0
    for place, shard in enumerate(pool.shards):
        identity = identity_of(component, shard, {key: signal.identities[place] for key, signal in read.items()})
        left += shard.rows if work.store.get(SIGNAL, identity) is None else 0
    return left


def _folder_of(component: Any, work: Workspace) -> Path:
    """Where the settings with which a pass was run over a model are kept."""
    kind = type(component)
    model = getattr(component, "model", None)
    about = {"class": f"{kind.__module__}:{kind.__qualname__}", "revision": kind.revision, "model": model}
    return work.root / "passes" / digests.of_json(about)


def remember(component: Any, work: Workspace) -> None:
    """Keep the settings of a pass that can be merged, for those who later ask for less."""
    if not hasattr(component, "merge"):
        return
    settings = digests.canonical(settings_of(component))
    file = _folder_of(component, work) / f"{digests.of_json(settings)}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, settings)


def earlier_passes(component: Any, work: Workspace) -> list[Any]:
    """Passes of the same class, revision and model that were run in this workspace, in the order of their names."""
    found = []
    for file in sorted(_folder_of(component, work).glob("*.json")):
        reads = {"model": component.model} if has_model(type(component)) else {}
        settings = json.loads(file.read_text(encoding="utf-8"))
        values, faults = checked(type(component), file.stem, {**settings, **reads})
        found += [] if faults else [type(component)(**values)]
    return found
