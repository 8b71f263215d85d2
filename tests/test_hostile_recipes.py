"""Hostile recipes, filters and patterns: refused in words, in no time, and nothing of them is run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis import recipe
from tamis.column import expressions
from tamis.errors import DataError, RecipeError
from tamis.ingest import configs
from tamis.recipe.marked import safe_load

MARK = Path("/tmp/tamis-was-here")
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
RUN = "os.system ['touch /tmp/tamis-was-here']"

YAML: dict[str, list[tuple[str, str]]] = {
    "YAML tags": [
        (f"pool: !!python/object/apply:{RUN}", "the YAML tag .* is not allowed"),
        ("pool: !!python/name:os.system", "the YAML tag .* is not allowed"),
        ("pool: !!python/module:os", "the YAML tag .* is not allowed"),
        ("pool: !!python/object/new:subprocess.Popen [[id]]", "the YAML tag .* is not allowed"),
        ("pool: {files: [!!python/tuple [a]]}", "the YAML tag .* is not allowed"),
        ("pool: !exec id", "the YAML tag '!exec' is not allowed"),
        ("pool: !<tag:example.com,2000:x> {}", "the YAML tag .* is not allowed"),
        ("!!python/object:x.Y {pool: 1}", "the YAML tag .* is not allowed"),
    ],
    "YAML bombs": [
        (LAUGHS, "its anchors stand for more than 100,000 values"),
        ("a: &a [*a]", "a YAML anchor holds itself"),
        ("a: &a {b: *a}", "a YAML anchor holds itself"),
        ("a: &a {b: {c: [*a]}}", "a YAML anchor holds itself"),
        ("a: " + "[" * 5000, "nested too deeply|not YAML"),
        ("a: " + "[" * 200 + "]" * 200, "nested more than 100 levels deep"),
        ("a: " + "{b: " * 200 + "1" + "}" * 200, "nested more than 100 levels deep"),
        ("x: [" + "1, " * 120_000 + "1]", "bytes, more than a recipe has"),
    ],
    "YAML that is no recipe": [
        ("", "a recipe is a mapping"),
        ("[1, 2]", "a recipe is a mapping"),
        ("just text", "a recipe is a mapping"),
        ("a: 1\na: 2", "is given twice"),
        ("a: b: c", "not YAML"),
        ("a: \x00", "not YAML"),
        ("a: 2000-99-99", "cannot be read|expected a stage"),
        ("--- {a: 1}\n--- {b: 2}", "not YAML"),
    ],
    "names in recipes": [
        ("pool: {files: [/dev/zero]}", "neither a file nor a folder"),
        ("pool: {files: ['../../../../nothing']}", "there is no such file"),
        ("pool: {files: ['tamis:../../x']}", "ships no"),
        ("pool: {files: [7]}", "there is no such file"),
        ("pool: {files: 'a\\0b'}", "cannot be looked at|no such file"),
        ("pool: {files: ['${NOT_SET_ANYWHERE}']}", "the environment variable NOT_SET_ANYWHERE is not set"),
        ("s: {select: 'os:system', budget: 5}", "os:system|no component|not a component"),
        ("s: {select: '../../x', budget: 5}", "there is no|no component|unknown"),
    ],
}


@pytest.mark.parametrize("name", list(YAML))
def test_every_hostile_recipe_is_refused(tmp_path: Path, name: str) -> None:
    assert len(YAML[name]) == 8
    for text, message in YAML[name]:
        file = tmp_path / "r.yaml"
        file.write_text(text, encoding="utf-8")
        started = time.process_time()
        with pytest.raises((RecipeError, DataError), match=message):
            recipe.load(str(file))
        assert time.process_time() - started < 5, text[:80]
    assert not MARK.exists() and {path.name for path in tmp_path.iterdir()} == {"r.yaml"}


def test_settings_of_the_command_line_and_lists_of_trainers_are_read_as_safely(tmp_path: Path) -> None:
    for text in (LAUGHS, "&a [*a]", "[" * 200 + "]" * 200):
        with pytest.raises(RecipeError):
            safe_load(text, "x")
    with pytest.raises(ValueError, match="could not determine a constructor"):
        safe_load(f"!!python/object/apply:{RUN}", "x")
    file = tmp_path / "axolotl.yaml"
    for text in (f"datasets: !!python/object/apply:{RUN}", LAUGHS, "datasets: &a [*a]", "datasets: [{path: 1}, 2]"):
        file.write_text(text, encoding="utf-8")
        with pytest.raises((DataError, RecipeError)):
            configs.entries(str(file))
    assert not MARK.exists()


FILTERS: dict[str, list[tuple[str, str]]] = {
    "code in filters": [
        ("__import__('os').system('id')", "not understood"),
        ("x.__class__ == 1", "not understood|no column"),
        ("(lambda: 1)() == x", "not understood"),
        ("[c for c in x] == 1", "not understood"),
        ("x == open('/etc/passwd')", "a call"),
        ("x[0] == 1", "an index"),
        ("f'{x}' == 'a'", "not understood"),
        ("x := 1", "not understood"),
    ],
    "bombs in filters": [
        ("9**9**9 < x", "arithmetic"),
        ("x < 'a' * 10**10", "arithmetic"),
        ("(" * 2000 + "x" + ")" * 2000 + " < 1", "not understood"),
        ("not " * 2400 + "x", "not understood|nested"),
        ("x < " + "9" * 5000, "not understood|a number"),
        ("x < 1e999 and y", "y|not finite|text"),
        ("x == 1 and " * 900 + "x == 1", ""),
        ("x < 1" + " or x < 1" * 2000, "a filter expression of"),
    ],
}


@pytest.mark.parametrize("name", list(FILTERS))
def test_every_hostile_filter_is_refused(name: str) -> None:
    def lookup(column: str) -> Any:
        if column != "x":
            raise RecipeError(f"there is no column {column}")
        return np.zeros(3)

    assert len(FILTERS[name]) == 8
    for text, message in FILTERS[name]:
        started = time.process_time()
        if message:
            with pytest.raises(RecipeError, match=message):
                expressions.evaluate(text, lookup, 3)
        else:
            assert not expressions.evaluate(text, lookup, 3)[0].any()
        assert time.process_time() - started < 5, text[:80]


def patterns() -> dict[str, Callable[[str], Any]]:
    """Everything of the core that holds a regular expression against texts of a data set."""
    from tamis import ledger, views
    from tamis.ingest import preferences, readers, tables
    from tamis.ingest.judging import _too_deep
    from tamis.report.inert import clean
    from tamis.values import Budget

    return {
        "kind of a reason": ledger.kind_of,
        "transcript": preferences.is_transcript,
        "turns of a transcript": preferences.transcript,
        "header of a table": lambda text: tables.has_header(text.encode(), "csv", frozenset({"text"})),
        "form of a file": lambda text: readers._form(text.encode(), "a.json"),
        "depth": lambda text: _too_deep("[" * 200 + '"' + text.replace('"', "").replace("\\", "") + '"'),
        "page": clean,
        "meta": lambda text: views._number(text),
        "budget": lambda text: Budget._PATTERN.match(text + "!"),
    }


def test_no_text_makes_a_pattern_slow() -> None:
    size = 200_000
    texts = (
        "a" * size, " " * size, "Human: " * (size // 7), "\n\nAssistant:" * (size // 12), ": " * (size // 2),
        " at byte 1" * (size // 10), "{" * size, '"' * size, "\\" * size, "1_" * (size // 2), "\n" * size,
        "\x1b[2J" * (size // 4), "aA1.-@" * (size // 6), " \t" * (size // 2) + "{", "[ " * (size // 2), "\u202e" * size,
    )  # fmt: skip
    for name, act in patterns().items():
        for text in texts:
            started = time.process_time()
            act(text)
            assert time.process_time() - started < 2, (name, text[:10])
