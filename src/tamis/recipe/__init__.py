"""Recipes: named stages whose settings refer to each other by `@stage`. The references are the graph.

A recipe is checked in full before anything runs: all faults are reported at once, with file, line and fix.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tamis.catalogue import nearest
from tamis.errors import RecipeError
from tamis.recipe.checking import assemble
from tamis.recipe.graph import Recipe, Stage, file_list, scorer_settings
from tamis.recipe.marked import read

__all__ = ["Recipe", "Stage", "file_list", "find", "load", "scorer_settings", "shipped"]


def find(name: str) -> Path:
    """A recipe file by path, or a shipped one by name."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file() or len(path.parts) > 1:
        if not path.exists():
            near = nearest(path.stem, list(shipped())) or ";"
            raise RecipeError(f"there is no recipe file {name}{near} `tamis recipes` lists the shipped ones")
        if not path.is_file():
            raise RecipeError(f"{name} is no file (a folder, a pipe or a socket?); a recipe is a YAML file")
        return path
    known = shipped()
    if name not in known:
        raise RecipeError(
            f"there is no recipe {name!r}{nearest(name, list(known)) or ';'} `tamis recipes` lists the shipped ones; "
            "one of your own is named by its file, as my_recipe.yaml"
        )
    return known[name]


def shipped() -> dict[str, Path]:
    """Shipped recipes by name."""
    import importlib.resources

    folder = Path(str(importlib.resources.files("tamis"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe; raises one RecipeError with every fault found."""
    path = find(name)
    marked = read(path, overrides)
    recipe = assemble(path, marked)
    if marked.faults or recipe is None:
        raise RecipeError(marked.faults)
    return recipe
