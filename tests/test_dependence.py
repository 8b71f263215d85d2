"""Law: scorers may fit on the pool and read columns; what they read is made first, what is fitted enters identity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import synthetic
from tamis.catalogue import build
from tamis.errors import RecipeError
from tamis.models import ModelRef
from tamis.pool import Pool
from tamis.stages.dependence import ordered
from tamis.stages.score import known_columns, registry, score
from tamis.stages.workspace import Workspace
from tamis.values import Arrays, Column, Machine, Need, Reason, Row
from tamis.views import PoolView, ShardSignals, meta_column, resolve_column


@dataclass(frozen=True, kw_only=True)
class Centred:
    """A column less its mean over the pool."""

    by: str = "length.words"
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need(kind="column", name=self.by)})

    def notes(self) -> list[str]:
        return ["centred by hand"]

    def fit(self, view: PoolView, /) -> tuple[Arrays, Mapping[str, Any]]:
        mean = np.nanmean(view.column(self.by).values.astype(np.float64))
        return {"mean": np.array([mean])}, {"mean": float(mean), "note": f"{len(view)} rows were seen"}

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        column = have.column(self.by)
        return {
            "score": Column(
                values=column.values - np.float32(have["fit"]["mean"][0]), unit="centred", reasons=column.reasons
            )
        }


@dataclass(frozen=True, kw_only=True)
class Doubled:
    """Twice a column."""

    by: str = "Centred.score"
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need(kind="column", name=self.by)})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        column = have.column(self.by)
        return {"score": Column(values=2 * column.values, unit="doubled", reasons=column.reasons)}


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    rows = [
        {**row_fields(place), "meta": {"rating": value}}
        for place, value in enumerate([1, "2.5", None, "high", True, 4, "", [1], 3, -1, "1e3", 7])
    ]
    return synthetic.write(tmp_path / "pool", [Row(**row) for row in rows], shard_rows=5)


def row_fields(place: int) -> dict[str, Any]:
    row = synthetic.rows(place + 1)[place]
    words = " ".join(["word"] * (place + 1))
    return {
        "key": row.key,
        "content": row.content,
        "kind": "chat",
        "source": row.source,
        "messages": ({"role": "user", "content": "q"}, {"role": "assistant", "content": words}),
        "file": row.file,
        "position": place,
    }


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work", Machine(), ModelRef(name="tamis:tiny-lm", dtype="float32"))


def test_columns_are_made_before_they_are_read_whatever_the_order(pool: Pool, work: Workspace) -> None:
    found = score(pool, {"tests:Doubled": Doubled(), "tests:Centred": Centred()}, work)
    words = np.arange(12, dtype=np.float32) + 2
    np.testing.assert_allclose(found.columns["Centred.score@tiny-lm"].values, words - words.mean())
    np.testing.assert_allclose(found.columns["Doubled.score@tiny-lm"].values, 2 * (words - words.mean()))
    assert found.added == ("length",) and "length.words@tiny-lm" in found.columns
    assert found.facts["tests:Centred"]["mean"] == words.mean()
    assert found.notes == ("tests:Centred: centred by hand", "tests:Centred: 12 rows were seen")
    known = json.loads(registry(pool, work).read_text(encoding="utf-8"))
    assert known["Centred.score@tiny-lm"]["notes"] == ["centred by hand", "12 rows were seen"]
    assert set(known_columns(pool, work)) == set(found.columns)


def test_a_column_is_named_after_a_model_only_where_one_had_a_part_in_it(pool: Pool, work: Workspace) -> None:
    built = {name: build("scorers", name, {}) for name in ("refusal", "linguistic-confidence", "length")}
    found = score(pool, built, work).columns
    assert {"refusal.score", "linguistic-confidence.score", "length.words@tiny-lm"} <= set(found)
    known = list(found)
    assert resolve_column("refusal", known) == "refusal.score" and resolve_column("length.words", known) in found
    with pytest.raises(RecipeError, match="ambiguous"):
        resolve_column("length", [name for name in known if not name.startswith("length.response")])


def test_columns_of_meta_and_of_the_user(pool: Pool, work: Workspace) -> None:
    nothing = np.zeros(12, np.uint8)
    given = {"ratings.quality": Column(values=np.arange(12, dtype=np.float32), unit="stars", reasons=nothing)}
    made = score(pool, {"tests:Doubled": Doubled(by="ratings.quality")}, work, columns=given).columns
    np.testing.assert_array_equal(made["Doubled.score@tiny-lm"].values, 2 * np.arange(12))
    meta = score(pool, {"tests:Doubled": Doubled(by="meta.rating")}, work).columns["Doubled.score@tiny-lm"]
    no, wrong = Reason.NOT_MEASURED, Reason.WRONG_KIND
    assert meta.reasons.tolist() == [0, 0, no, wrong, 0, 0, no, wrong, 0, 0, 0, 0]
    np.testing.assert_array_equal(meta.values, [2, 5, np.nan, np.nan, 2, 8, np.nan, np.nan, 6, -2, 2000, 14])
    np.testing.assert_array_equal(PoolView(pool).column("meta.rating").values * 2, meta.values)


def test_numbers_in_meta_that_are_none() -> None:
    found = meta_column(['{"a": "inf"}', '{"a": 1e300}', '{"b": 1}', '{"a": NaN}', '{"a": " 3 "}'], "a")
    assert found.reasons.tolist() == [Reason.WRONG_KIND, Reason.WRONG_KIND, Reason.NOT_MEASURED, Reason.WRONG_KIND, 0]
    assert found.values[4] == 3


def test_a_fit_is_made_once_and_what_it_learnt_enters_the_identity(
    pool: Pool, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = score(pool, {"tests:Centred": Centred()}, work).columns["Centred.score@tiny-lm"].values
    with monkeypatch.context() as never:
        for name in ("fit", "score"):
            never.setattr(Centred, name, lambda *_: pytest.fail("it was in the store"))
        again = score(pool, {"tests:Centred": Centred()}, work).columns["Centred.score@tiny-lm"].values
    np.testing.assert_array_equal(first, again)
    less = Pool(pool.shards[:1])  # the same shard in a pool with another mean
    other = score(less, {"tests:Centred": Centred()}, work).columns["Centred.score@tiny-lm"].values
    np.testing.assert_allclose(other, np.arange(5) - 2.0)


def test_circles_and_columns_that_nobody_makes_are_faults(pool: Pool, work: Workspace) -> None:
    with pytest.raises(RecipeError, match="circle: a:Doubled -> b:Centred -> a:Doubled"):
        ordered({"a:Doubled": Doubled(), "b:Centred": Centred(by="Doubled.score")})
    with pytest.raises(
        RecipeError, match=r"no column 'lenght.words', and no scorer named 'lenght'; did you mean 'length'"
    ):
        score(pool, {"tests:Centred": Centred(by="lenght.words")}, work)
    with pytest.raises(RecipeError, match=r"there is no column 'length.wards'; did you mean 'length.words"):
        score(pool, {"tests:Centred": Centred(by="length.wards")}, work)


def test_an_added_scorer_leaves_columns_of_other_settings_alone(pool: Pool, work: Workspace) -> None:
    file = registry(pool, work)
    score(pool, {"length": ordered({"tests:Centred": Centred()})["length"]}, work)
    known = json.loads(file.read_text(encoding="utf-8"))
    known["length.words@tiny-lm"]["settings"] = {"chosen": "by the user"}
    file.write_text(json.dumps(known), encoding="utf-8")
    score(pool, {"tests:Centred": Centred()}, work)
    assert json.loads(file.read_text(encoding="utf-8"))["length.words@tiny-lm"] == known["length.words@tiny-lm"]
