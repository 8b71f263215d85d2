"""Ratings from outside: every row gets its own or none, in whatever order they come, and what does not fit is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tamis
from tamis import recipe
from tamis.errors import DataError, RecipeError
from tamis.pool import Pool
from tamis.stages.columns_io import read_ratings, sources_of, stem_of
from tamis.stages.workspace import Workspace
from tamis.values import Reason

ROWS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data files; rows of the first have a field `id`."""
    folder = tmp_path_factory.mktemp("ratings")
    for name, count in (("a.jsonl", 8), ("b.jsonl", 4)):
        rows = [
            {
                "instruction": f"say {name} {place}",
                "output": f"word {place}",
                **({"id": 100 + place} if count == 8 else {}),
            }
            for place in range(count)
        ]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def work(folder: Path) -> Workspace:
    return tamis.workspace(folder / "ws", workers=1)


@pytest.fixture(scope="module")
def pool(folder: Path, work: Workspace) -> Pool:
    return tamis.open_pool([str(folder / "a.jsonl"), str(folder / "b.jsonl")], work)


@pytest.fixture(scope="module")
def places(pool: Pool) -> pa.Table:
    return pool.table(["key", "file", "position"])


def write(path: Path, columns: dict[str, Any]) -> Path:
    table = pa.table(columns)
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), encoding="utf-8")
    else:
        pq.write_table(table, path)
    return path


def values(pool: Pool, path: Path, on: str | None = None) -> list[float | None]:
    """Ratings beside the pool's rows, None where there is none."""
    (column,) = read_ratings(pool, path, on).columns.values()
    assert ((column.reasons == Reason.NOT_MEASURED) == np.isnan(column.values)).all()
    assert set(column.reasons.tolist()) <= {Reason.NONE, Reason.NOT_MEASURED} and column.values.dtype == np.float32
    return [None if np.isnan(value) else float(value) for value in column.values]


@given(
    order=st.permutations(range(ROWS)), rated=st.integers(1, ROWS), form=st.sampled_from(["parquet", "csv", "jsonl"])
)
@settings(max_examples=12, deadline=None)
def test_every_row_gets_its_own_rating_or_none(
    pool: Pool, places: pa.Table, folder: Path, order: list[int], rated: int, form: str
) -> None:
    table = places.take(order[:rated])
    rating = [place * 0.5 for place in order[:rated]]
    expected = [place * 0.5 if place in order[:rated] else None for place in range(ROWS)]
    path = write(folder / f"mine.{form}", {"key": table["key"], "rating": rating})
    assert values(pool, path) == expected
    path = write(folder / f"mine.{form}", {"position": table["position"], "file": table["file"], "rating": rating})
    assert values(pool, path) == expected


def test_a_field_of_the_rows_joins_whatever_the_file_makes_of_its_type(pool: Pool, folder: Path) -> None:
    expected = [None, 1.0, None, 3.0] + [None] * 8
    for number, keys in enumerate(([101, 103], ["101", "103"], [101.0, 103.0])):
        path = write(folder / f"by{number}.parquet", {"id": keys, "rating": [1, 3]})
        assert values(pool, path, "id") == values(pool, path, "meta.id") == expected


def test_a_position_alone_serves_a_pool_of_one_file(pool: Pool, work: Workspace, folder: Path) -> None:
    one = tamis.open_pool(str(folder / "b.jsonl"), work)
    first = int(one.table(["position"])["position"][0].as_py())
    path = write(folder / "p.csv", {"position": [first + 2, first], "rating": [2, 1]})
    assert values(one, path) == [1.0, None, 2.0, None]
    with pytest.raises(DataError, match="2 files, so a position alone is ambiguous"):
        read_ratings(pool, path)


def test_gaps_booleans_and_text(pool: Pool, places: pa.Table, folder: Path) -> None:
    columns = {"key": places["key"], "good": [True, False, None] * 4, "why": ["x"] * ROWS}
    ratings = read_ratings(pool, write(folder / "2 my.votes.parquet", columns))
    (name,) = ratings.columns
    assert name == "_2_my_votes.good" and stem_of("2 my.votes.parquet") == "_2_my_votes"
    column = ratings.columns[name]
    assert column.values[:2].tolist() == [1, 0] and np.isnan(column.values[2])
    assert any("not numbers, left out: why" in note for note in ratings.notes)


def test_what_does_not_fit_is_said(pool: Pool, places: pa.Table, folder: Path) -> None:
    keys = places["key"].to_pylist()
    twice = write(folder / "t.parquet", {"key": [keys[0], keys[1], keys[0]], "x": [1, 2, 3]})
    with pytest.raises(DataError, match=r"rates 1 rows more than once, first key .* \(2 times\)"):
        read_ratings(pool, twice)
    with pytest.raises(DataError, match="none of its 1 rows is a row of the pool by key"):
        read_ratings(pool, write(folder / "n.parquet", {"key": ["nobody"], "x": [1]}))
    some = read_ratings(pool, write(folder / "s.parquet", {"key": [keys[0], "nobody"], "x": [1, 2]}))
    assert some.rated == 1 and "1 of its 2 rows are in no row of the pool" in some.notes[0]
    assert "11 of 12 rows of the pool have no rating" in some.notes[1]
    with pytest.raises(DataError, match="nothing says which row is meant"):
        read_ratings(pool, write(folder / "w.parquet", {"id": [101], "x": [1]}))
    with pytest.raises(DataError, match="no row of the pool has a field 'uid'"):
        read_ratings(pool, write(folder / "u.parquet", {"uid": [101], "x": [1]}), "uid")
    with pytest.raises(DataError, match="has no column uid to join on"):
        read_ratings(pool, write(folder / "w.parquet", {"id": [101], "x": [1]}), "uid")
    with pytest.raises(DataError, match="finite"):
        read_ratings(pool, write(folder / "i.parquet", {"key": keys[:2], "x": [1.0, float("inf")]}))
    with pytest.raises(DataError, match="has no column of numbers"):
        read_ratings(pool, write(folder / "k.parquet", {"key": keys[:2], "x": ["a", "b"]}))
    with pytest.raises(DataError, match="which is taken"):
        read_ratings(pool, write(folder / "ifd.parquet", {"key": keys[:2], "x": [1, 2]}))
    for missing in ("nothing.parquet", "nothing.xlsx"):
        with pytest.raises(DataError, match=r"there is no file|ratings are read from"):
            read_ratings(pool, folder / missing)
    (folder / "broken.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_ratings(pool, folder / "broken.parquet")


def test_what_scores_writes_can_come_back(pool: Pool, work: Workspace, folder: Path) -> None:
    scored = tamis.score(pool, "length", work=work)
    ratings = read_ratings(pool, scored.save(folder / "scores.parquet"))
    for name, column in scored.columns.items():
        assert np.array_equal(ratings.columns[f"scores.{name}"].values, column.values, equal_nan=True)


def test_ratings_filter_rank_and_stay(pool: Pool, places: pa.Table, work: Workspace, folder: Path) -> None:
    keys = places["key"].to_pylist()
    path = write(folder / "my_ratings.parquet", {"key": keys[:6], "rating": [3, 1, 2, 5, 4, 0]})
    chosen = tamis.filter(pool, "my_ratings.rating >= 2", columns=path, work=work)
    assert chosen.subset.positions.tolist() == [0, 2, 3, 4] and chosen.unscored == ROWS - 6
    assert any("6 of 12 rows of the pool have no rating" in note for note in chosen.notes)
    top = tamis.select(pool, "top", 10, by="my_ratings.rating", work=work)  # registered by the filter before
    assert top.subset.positions.tolist() == [3, 4, 0, 2, 1, 5], "rows without a rating are never ranked"
    write(path, {"key": keys[:6], "rating": [9, 1, 2, 5, 4, 0]})
    again = tamis.select(pool, "top", 1, by="my_ratings.rating", columns=[{"file": str(path), "on": "key"}], work=work)
    assert again.subset.positions.tolist() == [0], "a file that has changed is read anew"


RECIPE = """\
pool: {{files: ["{folder}/a.jsonl"], columns: {columns}}}
subset: {{select: top, by: {by}, budget: 3}}
"""


def test_a_recipe_may_bring_ratings(folder: Path, tmp_path: Path) -> None:
    from tamis.stages.conduct import Conductor

    write(folder / "quality.csv", {"id": [100 + place for place in range(8)], "stars": [0, 5, 1, 4, 2, 3, 0, 0]})
    file = tmp_path / "r.yaml"
    columns = f"[{{file: '{folder}/quality.csv', on: id}}]"
    file.write_text(RECIPE.format(folder=folder, columns=columns, by="quality.stars"), encoding="utf-8")
    conductor = Conductor.of(recipe.load(str(file)), tamis.workspace(tmp_path / "ws", workers=1))
    conductor.ingest()
    conductor.carry_out(conductor.recipe.stages[0])
    chosen = conductor.main()
    assert chosen is not None and chosen.subset.positions.tolist() == [1, 3, 5]
    assert "quality.stars" in conductor.columns


@pytest.mark.parametrize(
    ("columns", "by", "fault"),
    [
        ("[{{file: absent.csv}}]", "absent.stars", "there is no file absent.csv"),
        ("[{{fiel: absent.csv}}]", "length", "expected a file, or"),
        ("[]", "quality.stars", "which no scorer makes"),
    ],
)
def test_faults_of_ratings_are_found_before_a_run(
    folder: Path, tmp_path: Path, columns: str, by: str, fault: str
) -> None:
    file = tmp_path / "r.yaml"
    text = RECIPE.format(folder=folder, columns=columns.replace("{{", "{").replace("}}", "}"), by=by)
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=fault):
        recipe.load(str(file))


def test_files_are_named_as_in_recipes() -> None:
    assert sources_of("a.csv") == [("a.csv", None)] and sources_of(()) == []
    assert sources_of(["a.csv", {"file": "b.csv", "on": "id"}]) == [("a.csv", None), ("b.csv", "id")]
