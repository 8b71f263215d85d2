"""The verb `list`, answered without typer, which reads parameters through pydantic: listing may not load that."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tamis.cli import output

ABOUT = "List the components with one line of help each."
KIND = "cleaners, passes, scorers, weighers, selectors, mixers, trainers, hooks, evaluators"


def answer(arguments: Sequence[str]) -> None:
    """Answer `tamis list [KIND] [--json]`; wrong options end with code 2, as they do for the other verbs."""
    parser = argparse.ArgumentParser(prog="tamis list", description=ABOUT)
    parser.add_argument("kind", nargs="?", help=KIND)
    parser.add_argument("--json", action="store_true", help="Print one machine-readable object on standard output.")
    given = parser.parse_args(arguments)
    output.use_json(given.json)
    print_components(given.kind)


def print_components(kind: str | None) -> None:
    """Print the components of a kind, or of all; RecipeError where there is no such kind."""
    from tamis.catalogue import CATALOGUE, help_line, nearest
    from tamis.errors import RecipeError

    if kind is not None and kind not in CATALOGUE:
        raise RecipeError(f"there is no kind {kind!r}{nearest(kind, CATALOGUE)} Known: {', '.join(CATALOGUE)}")
    found = {
        name: {entry: help_line(name, entry) for entry in sorted(table)}
        for name, table in CATALOGUE.items()
        if kind in (None, name)
    }
    lines = []
    for name, table in found.items():
        lines += [name, *(f"  {entry:<22}{text}" for entry, text in table.items()), ""]
    output.result(found, lines[:-1])
