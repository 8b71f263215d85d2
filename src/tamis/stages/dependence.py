"""Dependence: scorers that read columns of other scorers, put into an order in which every column is there in time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    there = set(known)
    stems = {stem_of(name) for name in there}
    listed = {name.rpartition(":")[2]: name for name in scorers}
    done: dict[str, Scorer] = {}

    def maker(column: str) -> str | None:
        stem = stem_of(column)
        if column.startswith(META) or column in there:
            return None
        if stem in listed:
            return listed[stem]
        if stem in stems:
            return None
        if stem not in SCORERS:
            hint = nearest(column, [*SCORERS, *sorted(there)])
            raise RecipeError(f"there is no column {column!r}, and no scorer named {stem!r}{hint}")
        return stem

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise RecipeError(f"scorers read each other's columns in a circle: {circle}")
        if name in done:
            return
        scorer: Scorer = scorers[name] if name in scorers else build("scorers", name, {})
        for column in columns_needed(scorer):
            if (other := maker(column)) is not None:
                visit(other, (*path, name))
        done[name] = scorer

    for name in scorers:
        visit(name, ())
    return done


def needs_of_scorers(scorers: Mapping[str, Scorer]) -> list[Need]:
    """Everything that these scorers need, of every one in turn."""
    return [need for scorer in scorers.values() for need in scorer.needs]
