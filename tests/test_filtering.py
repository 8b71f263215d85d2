"""Filters over fields of rows: equal to a plain walk, whatever the shards; what a row lacks is not scored."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synthetic
import tiny
from tamis.column.expressions import numeric
from tamis.column.filtering import filter_rows, needs_of
from tamis.errors import RecipeError
from tamis.text.languages import code_of
from tamis.values import Row
from tamis.views import PoolView


def rows() -> list[Row]:
    metas: list[dict[str, Any]] = [
        {"rating": 4, "tag": "a"},
        {"rating": "2", "tag": "b"},
        {"tag": None},
        {"rating": "many"},
        {},
    ]
    made = [dataclasses.replace(row, meta=metas[place % 5]) for place, row in enumerate(tiny.make_rows(23))]
    return made


@pytest.fixture(params=[4, 100])
def view(request: pytest.FixtureRequest, tmp_path: Path) -> PoolView:
    language: dict[str, Any] = {
        "prompt": np.array([code_of(("fr", "en")[place % 2]) for place in range(23)], np.int32),
        "response": np.array([code_of(("en", "de", "")[place % 3]) for place in range(23)], np.int32),
        "reason": np.array([place % 7 == 0 for place in range(23)], np.uint8),
    }
    columns = {"ifd.ratio@tiny": synthetic.column(np.linspace(0, 2, 23))}
    return synthetic.view(tmp_path, rows(), {"language": language}, request.param, columns=columns)


def test_fields_of_rows_are_numbers_or_texts_as_they_are_compared(view: PoolView) -> None:
    made = rows()
    kept, unscored = filter_rows(view, "meta.rating >= 2 and source in ('sums', 'talk')")
    known = [{4: 4, "2": 2}.get(row.meta.get("rating"), None) for row in made]
    assert kept.tolist() == [
        number is not None and row.source in ("sums", "talk") for number, row in zip(known, made, strict=True)
    ]
    assert unscored.tolist() == [
        number is None and row.source in ("sums", "talk") for number, row in zip(known, made, strict=True)
    ]
    kept, unscored = filter_rows(view, "meta.tag != 'a' or ifd > 1.5")
    assert kept.tolist() == [row.meta.get("tag") == "b" or 2 * place / 22 > 1.5 for place, row in enumerate(made)]
    assert (unscored & kept).sum() == 0 and unscored.sum() > 0
    none, all_unknown = filter_rows(view, "meta.absent != 'x'")
    assert not none.any() and all_unknown.all(), "a field that no row has is judged by none"


def test_languages_and_characters_are_fields(view: PoolView) -> None:
    from tamis.text.passages import of_row

    kept, unscored = filter_rows(view, "lang == 'en' or chars > 100")
    answered = [("en", "de", "")[place % 3] if place % 7 else ("fr", "en")[place % 2] for place in range(23)]
    long = [len(of_row(row).whole) > 100 for row in rows()]
    assert kept.tolist() == [one == "en" or is_long for one, is_long in zip(answered, long, strict=True)]
    assert unscored.tolist() == [one == "" and not is_long for one, is_long in zip(answered, long, strict=True)]


def test_needs_are_columns_and_the_signal_of_languages() -> None:
    needs = needs_of("lang == 'en' and ifd < 1 and meta.x > 2 and chars > 3")
    assert {(need.kind, need.name) for need in needs} == {("signal", "language"), ("column", "ifd")}
    assert needs_of(None) == frozenset()
    with pytest.raises(RecipeError):
        needs_of("__import__('os')")


def test_names_compared_with_numbers_are_told_from_those_compared_with_texts() -> None:
    assert numeric("meta.a > 3 and meta.b == 'x' and not meta.c and meta.d in (1, 2) and meta.e in ('1',)") == {
        "meta.a", "meta.c", "meta.d",
    }  # fmt: skip
    assert numeric("meta.flag") == {"meta.flag"}
