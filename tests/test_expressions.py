"""Filter expressions: equal to a plain row-by-row reading, honest about NaN, and closed to everything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.column.expressions import evaluate, names
from tamis.errors import RecipeError

COLUMNS: dict[str, np.ndarray[Any, Any]] = {
    "ifd": np.array([0.5, np.nan, 2.0, 0.9], np.float32),
    "gradient-similarity.gsm8k@base-4m": np.array([1.0, 2.0, 3.0, np.nan], np.float32),
    "perplexity.response": np.array([10, 60, 20, 30], np.float64),
    "source": np.array(["lima", "oasst", "oasst", "dolly"]),
    "lang": np.array(["en", None, "de", "en"], object),
    "label": np.array([True, None, False, True], object),
    "a": np.arange(4),
}


def run(text: str) -> tuple[list[bool], list[bool]]:
    mask, unscored = evaluate(text, COLUMNS.__getitem__, 4)
    return mask.tolist(), unscored.tolist()


@pytest.mark.parametrize(
    ("text", "mask", "unscored"),
    [
        ("ifd < 1", "1001", "0100"),
        ("not ifd < 1", "0010", "0100"),
        ("ifd < 1 or perplexity.response > 50", "1101", "0000"),
        ("ifd < 1 and perplexity.response < 50", "1001", "0000"),
        ('gradient-similarity.gsm8k@base-4m >= 2 and source == "oasst"', "0110", "0000"),
        ("gradient-similarity.gsm8k@base-4m >= 2", "0110", "0001"),
        ('0 < ifd <= 1 and source in ["lima", "oasst"]', "1000", "0100"),
        ("source not in ('lima',)", "0111", "0000"),
        ('lang == "en"', "1001", "0100"),
        ("label", "1001", "0100"),
        ("label == False", "0010", "0100"),
        ("not label", "0010", "0100"),
        ("a in [1, 3] and a != -1", "0101", "0000"),
        ("perplexity.response < 5e1", "1011", "0000"),
        ("  a\n >= 2 ", "0011", "0000"),
        ("source == 'ifd < 1'", "0000", "0000"),
    ],
)
def test_an_expression_means_what_it_says(text: str, mask: str, unscored: str) -> None:
    assert run(text) == ([char == "1" for char in mask], [char == "1" for char in unscored])


def test_names_are_found_whole() -> None:
    text = 'gradient-similarity.gsm8k@base-4m > 1 and not (x.y < 2 or source == "no-name.here") and a in [1]'
    assert names(text) == {"gradient-similarity.gsm8k@base-4m", "x.y", "source", "a"}


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ('__import__("os").system("x")', 1, "a call"),
        ("ifd + 1 < 2", 1, "arithmetic"),
        ("a < 1 and ifd[0] < 1", 11, "an index"),
        ("gradient-similarity.gsm8k@base-4m < 1 and 1 < 2", 43, "without a column"),
        ('"a"', 1, "constant"),
        ("ifd <", None, "invalid syntax"),
        ("ifd < 1; a", 8, "invalid syntax"),
        ("lambda: 1", 1, "lambda where"),
        ("ifd is 1", 8, "'is'"),
        ("source in ifd", 11, "'in' without a list"),
        ("a in [ifd]", 7, "number or text"),
        ("ifd < (1 < 2)", 8, "name, number or text"),
        ("a < 1j", 5, "constant"),
        ("ifd < source", 1, "a text is compared with a number"),
        ("source", 1, "text and stands alone"),
        ("[x for x in (1,)]", 1, "listcomp"),
        ("a if a else a", 1, "ifexp"),
        ("(a := 1)", 2, "namedexpr"),
        ("", None, "0 characters"),
        (" and ".join(["a < 1"] * 3000), None, "characters"),
        ("(" * 300 + "a" + ")" * 300, None, "not understood"),
    ],
)
def test_everything_else_is_refused_with_its_place(text: str, place: int | None, why: str) -> None:
    with pytest.raises(RecipeError, match=r"(?s).") as caught:
        evaluate(text, COLUMNS.__getitem__, 4)
    message = str(caught.value)
    assert why in message
    if place is not None:
        assert f"at character {place}:" in message


def test_a_column_of_another_length_is_refused() -> None:
    with pytest.raises(RecipeError, match="expected one value for each of 3 rows"):
        evaluate("a < 1", COLUMNS.__getitem__, 3)


Truth = bool | None
NAMES = ("x", "some-scorer.view", "m.response@base-4m")
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda left, right: left < right,
    ">=": lambda left, right: left >= right,
    "==": lambda left, right: left == right,
}


def comparisons() -> st.SearchStrategy[Any]:
    return st.tuples(st.just("cmp"), st.sampled_from(NAMES), st.sampled_from(sorted(OPERATORS)), st.integers(-2, 2))


def trees() -> st.SearchStrategy[Any]:
    return st.recursive(
        comparisons(),
        lambda inner: st.one_of(
            st.tuples(st.sampled_from(["and", "or"]), inner, inner), st.tuples(st.just("not"), inner)
        ),
        max_leaves=6,
    )


def written(tree: Any) -> str:
    if tree[0] == "cmp":
        return f"{tree[1]} {tree[2]} {tree[3]}"
    if tree[0] == "not":
        return f"not ({written(tree[1])})"
    return f"({written(tree[1])}) {tree[0]} ({written(tree[2])})"


def plainly(tree: Any, row: dict[str, float]) -> Truth:
    """Kleene's logic, one row at a time."""
    if tree[0] == "cmp":
        value = row[tree[1]]
        return None if math.isnan(value) else bool(OPERATORS[tree[2]](value, tree[3]))
    parts = [plainly(part, row) for part in tree[1:]]
    if tree[0] == "not":
        return None if parts[0] is None else not parts[0]
    decisive = bool(tree[0] == "or")
    if decisive in parts:
        return decisive
    return None if None in parts else not decisive


@settings(max_examples=150, deadline=None)
@given(trees(), st.lists(st.lists(st.sampled_from([-2.0, 0.0, 1.0, math.nan]), min_size=3, max_size=3), max_size=5))
def test_masks_equal_a_plain_reading_of_every_row(tree: Any, rows: list[list[float]]) -> None:
    columns = {name: np.array([row[place] for row in rows], np.float64) for place, name in enumerate(NAMES)}
    mask, unscored = evaluate(written(tree), columns.__getitem__, len(rows))
    expected = [plainly(tree, dict(zip(NAMES, row, strict=True))) for row in rows]
    assert mask.tolist() == [truth is True for truth in expected]
    assert unscored.tolist() == [truth is None for truth in expected]
