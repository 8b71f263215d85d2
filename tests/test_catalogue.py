"""Laws of the catalogue: names lead to classes, help is read without importing, every fault is reported at once."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest

from tamis import catalogue
from tamis.errors import RecipeError

NAMES = [(kind, name) for kind, table in catalogue.CATALOGUE.items() for name in table]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_every_name_leads_to_a_class_of_its_kind(kind: str, name: str) -> None:
    cls = catalogue.load(kind, name)
    method = {
        "cleaners": "clean" if hasattr(cls, "clean") else "apply",
        "passes": "measure",
        "scorers": "score",
        "weighers": "weigh",
        "selectors": "select",
        "mixers": "share",
        "trainers": "train",
        "hooks": "after_step",
        "evaluators": "evaluate",
    }[kind]
    assert dataclasses.is_dataclass(cls) and callable(getattr(cls, method))
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name), "names are lower case with hyphens"


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_help_is_the_first_line_of_the_docstring_and_short(kind: str, name: str) -> None:
    line = catalogue.help_line(kind, name)
    cls = catalogue.load(kind, name)
    assert cls.__doc__ is not None and line == cls.__doc__.strip().splitlines()[0]
    assert 10 <= len(line) <= 100 and line.endswith(".")


def test_unknown_names_get_the_nearest_known_one() -> None:
    with pytest.raises(RecipeError, match="did you mean 'less'"):
        catalogue.load("selectors", "les")
    with pytest.raises(RecipeError, match="no scorer named 'zzz'"):
        catalogue.load("scorers", "zzz")


def test_every_fault_of_the_settings_is_reported_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        catalogue.build("selectors", "band", {"lo": 0.1, "high": "much", "scale": "log"})
    text = str(caught.value)
    assert len(caught.value.faults) == 4
    for part in ("no setting 'lo'; did you mean 'low'?", "needs a setting 'by'", "band.high", "band.scale"):
        assert part in text


def test_settings_are_coerced_as_a_recipe_needs_it() -> None:
    band = catalogue.build("selectors", "band", {"by": "ifd", "low": 0, "high": "0.5"})
    assert (band.low, band.high) == (0.0, 0.5)


def test_a_third_party_component_is_named_by_module_and_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Mine:
    '''Mine.'''

    revision: ClassVar[int] = 1
    size: int = 3
"""
    (tmp_path / "their_package_of_tests.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert catalogue.build("selectors", "their_package_of_tests:Mine", {"size": 4}).size == 4
    assert catalogue.help_line("selectors", "their_package_of_tests:Mine") == ""
    with pytest.raises(RecipeError, match="cannot be loaded"):
        catalogue.load("selectors", "their_package_of_tests:Absent")
    with pytest.raises(RecipeError, match="cannot be loaded"):
        catalogue.load("selectors", "no_such_module_anywhere:Absent")
    sys.modules.pop("their_package_of_tests", None)
