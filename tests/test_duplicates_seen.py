"""Laws of a named index: in parts as at once, the same pool twice changes nothing, edited files lose no row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import tiny
from tamis.cleaners.exact import Exact
from tamis.cleaners.near import Near
from tamis.contents import content_digest
from tamis.duplicates.memory import state_of
from tamis.errors import RecipeError, StoreError
from tamis.pool import Pool
from tamis.values import Dropped, Machine, Row
from tamis.views import PoolView
from test_duplicates import measured, written

ON = Machine()
CLEANERS = [Near(index="team"), Exact(index="team")]


def rows_of(texts: Sequence[str], file: str, first: int = 0) -> list[Row]:
    rows = [tiny.make_row(tiny.chat(text, f"{text} indeed"), position=first + at) for at, text in enumerate(texts)]
    return [
        dataclasses.replace(row, content=content_digest(row), key=f"{content_digest(row)[:20]}{file}{row.position:04d}")
        for row in rows
    ]


def view_of(folder: Path, indexes: Path, **files: Sequence[Row]) -> PoolView:
    """A pool of files of these rows, each in shards of 7, with its signals and a place for indexes."""
    parts = [tiny.make_pool(folder / name, rows, shard_rows=7) for name, rows in files.items()]
    facts = [{**part.files[0], "name": f"{name}.jsonl"} for part, name in zip(parts, files, strict=True)]
    pool = Pool(tuple(shard for part in parts for shard in part.shards), tuple(facts))
    return measured(pool, folder, indexes=indexes)


def keys(view: PoolView, found: Dropped) -> set[str]:
    every = view.pool.table(["key"]).column("key").to_pylist()
    return {every[place] for place in np.flatnonzero(found.rows)}


@pytest.fixture
def texts() -> list[str]:
    made = written(50, 11)
    return [*made, *made[3:6]]


@pytest.mark.parametrize("cleaner", CLEANERS, ids=["near", "exact"])
def test_in_parts_as_at_once(cleaner: Near | Exact, texts: list[str], tmp_path: Path) -> None:
    """New rows get the verdicts that they would get behind all the others; old rows keep theirs."""
    cuts = [("a", 0, 20), ("b", 20, 35), ("c", 35, len(texts))]
    files = {name: rows_of(texts[start:stop], name) for name, start, stop in cuts}
    together = view_of(tmp_path / "all", tmp_path / "other", **files)
    at_once = keys(together, cleaner.clean(together, ON))
    assert len(at_once) > 5
    dropped: set[str] = set()
    for name, rows in files.items():
        view = view_of(tmp_path / name, tmp_path / "indexes", **{name: rows})
        dropped |= keys(view, cleaner.clean(view, ON))
    late = {row.key for name in ("b", "c") for row in files[name]}
    assert dropped & late == at_once & late
    assert dropped <= at_once, "a row that bridges two old ones drops neither: they have been used"
    again = view_of(tmp_path / "again", tmp_path / "indexes", **files)
    assert keys(again, cleaner.clean(again, ON)) == dropped


@pytest.mark.parametrize("cleaner", CLEANERS, ids=["near", "exact"])
def test_the_same_pool_again_changes_nothing(cleaner: Near | Exact, texts: list[str], tmp_path: Path) -> None:
    view = view_of(tmp_path, tmp_path / "indexes", a=rows_of(texts, "a"))
    first = cleaner.clean(view, ON)
    state = state_of(tmp_path / "indexes", "team")
    second = cleaner.clean(view, ON)
    assert (first.rows == second.rows).all() and first.reasons == second.reasons and first.winners == second.winners
    assert state and state_of(tmp_path / "indexes", "team") == state
    without = dataclasses.replace(cleaner, index="").clean(view, ON)
    assert (without.rows == first.rows).all() and without.reasons == first.reasons


@pytest.mark.parametrize("cleaner", CLEANERS, ids=["near", "exact"])
def test_another_pool_loses_what_the_index_saw(cleaner: Near | Exact, texts: list[str], tmp_path: Path) -> None:
    view = view_of(tmp_path / "one", tmp_path / "indexes", a=rows_of(texts, "a"))
    first = cleaner.clean(view, ON)
    other = view_of(tmp_path / "two", tmp_path / "indexes", b=rows_of([*texts, "quite another text"], "b"))
    found = cleaner.clean(other, ON)
    assert np.flatnonzero(~found.rows).tolist() == [len(texts)]
    kept = set(view.pool.table(["key"]).column("key").to_pylist()) - keys(view, first)
    assert set(found.winners) <= kept, "what stays in their place is a row that stayed"
    assert found.facts["dropped for rows of the index"] == len(texts)


@pytest.mark.parametrize("cleaner", CLEANERS, ids=["near", "exact"])
def test_a_file_that_grows_or_is_edited_loses_no_row(cleaner: Near | Exact, tmp_path: Path) -> None:
    texts = [text for text in written(12, 7, 0.0) if text][:12]
    texts = list(dict.fromkeys(texts))
    indexes = tmp_path / "indexes"
    old = view_of(tmp_path / "old", indexes, a=rows_of(texts, "a"))
    before = cleaner.clean(old, ON)
    edited = [f"{texts[0]} corrected", *texts[1:], "and a new one stands at the end of it"]
    new = view_of(tmp_path / "new", indexes, a=rows_of(edited, "a"))
    after = cleaner.clean(new, ON)
    assert not after.rows[0], "the corrected row is no duplicate of what it was"
    assert after.rows.tolist() == [*before.rows.tolist(), False]
    late = view_of(tmp_path / "late", indexes, z=rows_of(["more words", *texts[:1]], "z"))
    assert cleaner.clean(late, ON).rows.tolist() == [False, True], "other pools are held against all that was seen"


def test_an_index_of_other_settings_or_without_a_workspace_is_refused(texts: list[str], tmp_path: Path) -> None:
    view = view_of(tmp_path, tmp_path / "indexes", a=rows_of(texts, "a"))
    Near(index="team").clean(view, ON)
    with pytest.raises(RecipeError, match=r"threshold: 0.7, now 0.8"):
        Near(index="team", threshold=0.8).clean(view, ON)
    with pytest.raises(RecipeError, match="made by near"):
        Exact(index="team").clean(view, ON)
    with pytest.raises(RecipeError, match="workspace"):
        Near(index="team").clean(dataclasses.replace(view, indexes=None), ON)


def test_a_damaged_index_is_refused_with_what_to_do(texts: list[str], tmp_path: Path) -> None:
    view = view_of(tmp_path, tmp_path / "indexes", a=rows_of(texts, "a"))
    Near(index="team").clean(view, ON)
    [file] = (tmp_path / "indexes" / "team").rglob("shingles.npy")
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="damaged"):
        Near(index="team").clean(view, ON)
    (tmp_path / "indexes" / "team" / "index.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match="no index of tamis"):
        Near(index="team").clean(view, ON)
