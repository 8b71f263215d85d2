"""Dependence: scorers that read columns of other scorers, put into an order in which every column is there in time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tamis.catalogue import SCORERS, build, nearest
from tamis.errors import RecipeError
from tamis.protocols import Scorer
from tamis.values import Need

META = "meta."


def stem_of(column: str) -> str:
    """The scorer, or the file of ratings, that a column is named after: `ifd` of `ifd.loss@base-4m`."""
    return column.partition("@")[0].partition(".")[0]


def columns_needed(component: Any) -> list[str]:
    """Names of the columns of the pool that a component reads, as it writes them, sorted; `meta.…` included."""
    return sorted({need.name for need in component.needs if need.kind == "column" and need.side == "pool"})


def ordered(scorers: Mapping[str, Scorer], known: Iterable[str] = ()) -> dict[str, Scorer]:
    """The scorers and those whose columns they read, every one behind what it reads.

    A column is made by a scorer of `scorers`; or it is among `known` (names of columns that are there); or the scorer
    that it is named after is added, with its default settings. Raises RecipeError for a column that is none of these,
    and for scorers that read each other in a circle.
    """
    order = _Order(scorers, set(known), {name.rpartition(":")[2]: name for name in scorers})
    for name in scorers:
        order.visit(name, ())
    return order.done


@dataclass
class _Order:
    """Scorers in order so far. `listed`: their names as columns begin with them."""

    scorers: Mapping[str, Scorer]
    known: set[str]
    listed: Mapping[str, str]
    done: dict[str, Scorer] = field(default_factory=dict)

    def visit(self, name: str, path: tuple[str, ...]) -> None:
        """Put a scorer behind those that it reads; `path`: scorers that wait for it."""
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise RecipeError(f"scorers read each other's columns in a circle: {circle}")
        if name in self.done:
            return
        scorer: Scorer = self.scorers[name] if name in self.scorers else build("scorers", name, {})
        for column in columns_needed(scorer):
            if (other := self._maker(column)) is not None:
                self.visit(other, (*path, name))
        self.done[name] = scorer

    def _maker(self, column: str) -> str | None:
        """The scorer that makes a column; None where it is there."""
        stem = stem_of(column)
        if column.startswith(META) or column in self.known:
            return None
        if stem in self.listed:
            return self.listed[stem]
        if stem in {stem_of(name) for name in self.known}:
            return None
        if stem not in SCORERS:
            hint = nearest(column, [*SCORERS, *sorted(self.known)])
            raise RecipeError(f"there is no column {column!r}, and no scorer named {stem!r}{hint}")
        return stem


def needs_of_scorers(scorers: Mapping[str, Scorer]) -> list[Need]:
    """Everything that these scorers need, of every one in turn."""
    return [need for scorer in scorers.values() for need in scorer.needs]
