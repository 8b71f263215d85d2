"""Law: blend and deconfound are what their formulas say in any order of rows; calibration has its golden values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import synthetic
import tamis
from tamis.cli import main
from tamis.column import calibration
from tamis.column.confounding import Confounder, cross_fitted, explained, folds_of, r_squared
from tamis.column.normalising import normalised
from tamis.errors import DataError, RecipeError
from tamis.models import ModelRef
from tamis.pool import Pool
from tamis.scorers.blend import Blend
from tamis.scorers.deconfound import Deconfound
from tamis.stages.score import score
from tamis.stages.workspace import Workspace
from tamis.values import Column, Machine, Reason, Row

CONFIDENCE = np.array([0.95, 0.9, 0.8, 0.75, 0.6, 0.55, 0.4, 0.35, 0.2, 0.1])
CORRECT = np.array([1, 1, 1, 0, 1, 0, 0, 1, 0, 0])


def pool_of(folder: Path, metas: Sequence[Mapping[str, Any]], sources: str = "", shard_rows: int = 16) -> Pool:
    made = [
        Row(
            key=f"row-{meta['row']}",
            content=str(meta["row"]),
            kind="chat",
            source=sources[place] if sources else "one",
            messages=({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}),
            meta=meta,
        )
        for place, meta in enumerate(metas)
    ]
    return synthetic.write(folder, made, shard_rows)


def work_in(folder: Path) -> Workspace:
    return Workspace(folder, Machine(), ModelRef(name="tamis:tiny-lm", dtype="float32"))


def test_golden_confounders_of_a_score_by_length() -> None:
    """audits_and_trust §6: slope 1.028571, R² .793469, and two folds, even and odd."""
    scores = np.array([1, 3, 2, 5, 4, 7], np.float64)
    length = Confounder("length", np.arange(1.0, 7.0))
    assert r_squared(scores, length, "linear") == pytest.approx(0.793469, abs=1e-6)
    one_fold = scores - scores.mean() - 1.028571 * (length.values - 3.5)
    np.testing.assert_allclose(one_fold, [-0.095238, 0.87619, -1.152381, 0.819048, -1.209524, 0.761905], atol=2e-6)
    residual = scores - cross_fitted(scores, [length], np.arange(6) % 2, "linear")
    np.testing.assert_allclose(residual, [-1, 1.416667, -2, 1.916667, -2, 2.416667], atol=1e-6)


def test_golden_calibration() -> None:
    """audits_and_trust §6: ECE with five bins of equal mass .14, AUROC .84, Brier .171, AURC .253135."""
    found = calibration.calibration(CONFIDENCE, CORRECT, bins=5)
    wanted = {"ece": 0.14, "auroc": 0.84, "brier": 0.171, "aurc": 0.253135}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    assert (found["rows"], found["right"], found["error"]) == (10, 5, 0.5)
    turned = calibration.calibration(1 - CONFIDENCE, CORRECT, bins=5, uncertainty=True)
    assert {name: turned[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)


def test_calibration_by_the_plain_definitions_with_ties_in_any_order() -> None:
    rng = np.random.default_rng(3)
    sure, right = rng.integers(0, 6, 60) / 5, rng.random(60) < 0.6
    pairs = [(a > b) + 0.5 * (a == b) for a in sure[right] for b in sure[~right]]
    assert calibration.auroc(sure, right) == pytest.approx(np.mean(pairs))
    curves = []
    for _ in range(4000):  # ties broken at random, on average
        order = np.lexsort((rng.random(60), -sure))
        curves.append((np.cumsum(~right[order]) / np.arange(1, 61)).mean())
    assert calibration.aurc(sure, right) == pytest.approx(np.mean(curves), abs=4 * np.std(curves) / 4000**0.5)
    shuffled = rng.permutation(60)
    one, two = (calibration.calibration(sure[at], right[at]) for at in (np.arange(60), shuffled))
    assert one == pytest.approx(two, abs=1e-12)


def test_calibration_says_what_it_cannot_say() -> None:
    unbounded = calibration.calibration(np.log(CONFIDENCE), CORRECT)
    assert unbounded["ece"] is None and unbounded["brier"] is None and unbounded["auroc"] == pytest.approx(0.84)
    assert calibration.calibration(CONFIDENCE[:3], CORRECT[:3])["auroc"] is None, "all are right"
    some = calibration.calibration(np.array([0.9, np.nan, 0.2]), np.array([1.0, 1.0, np.nan]))
    assert some["rows"] == 1
    with pytest.raises(DataError, match="a row has 3"):
        calibration.calibration(CONFIDENCE, CORRECT * 3)
    with pytest.raises(DataError, match="no row has both"):
        calibration.calibration(np.array([np.nan]), np.array([1.0]))


def test_rising_uncertainty_by_hand() -> None:
    """No published value: of three rows with 1 < 2 < 3, 1 < 2 = 2 and 3 > 2 < 4, one rises; a NaN does not count."""
    table = [np.array([1, 1, 3, 1.0]), np.array([2, 2, 2, np.nan]), np.array([3, 2, 4, 5.0])]
    assert calibration.rising(table) == pytest.approx(1 / 3)
    with pytest.raises(DataError):
        calibration.rising(table[:1])


def test_scales_by_hand() -> None:
    values = np.array([1.0, 3.0, 3.0, 9.0])
    np.testing.assert_allclose(normalised(values, "rank"), [0.125, 0.5, 0.5, 0.875])
    np.testing.assert_allclose(normalised(values, "min-max"), [0, 0.25, 0.25, 1])
    np.testing.assert_allclose(normalised(values, "z"), (values - 4) / 3)
    assert normalised(np.full(3, 2.0), "z").tolist() == normalised(np.full(3, 2.0), "min-max").tolist() == [0, 0, 0]


def test_a_blend_by_hand_per_source(tmp_path: Path) -> None:
    """No published value. Source a: x 1, 2, 4 has ranks 1/6, 3/6, 5/6; source b: x 100 and 50 has 3/4 and 1/4.

    y, at the weight -0.5 and as ranks too: a 9, 9, 1 has 4/6, 4/6, 1/6; b 0 and none leaves one row of rank 1/2.
    """
    metas = [
        {"row": place, "x": x, "y": y} for place, (x, y) in enumerate([(1, 9), (2, 9), (100, 0), (4, 1), (50, None)])
    ]
    pool = pool_of(tmp_path / "pool", metas, "aabab", shard_rows=2)
    settings = {"columns": {"meta.x": 1.0, "meta.y": -0.5}, "per": "source"}
    found = score(pool, {"blend": Blend(**settings)}, work_in(tmp_path / "ws"))  # type: ignore[arg-type]
    column = found.columns["blend.score@tiny-lm"]
    wanted = [1 / 6 - 2 / 6, 3 / 6 - 2 / 6, 3 / 4 - 1 / 4, 5 / 6 - 1 / 12, np.nan]
    np.testing.assert_allclose(column.values, wanted, atol=1e-6)
    assert column.reasons.tolist() == [0, 0, 0, 0, Reason.NOT_MEASURED] and column.unit == "weighted rank"
    assert found.notes == ("blend: 1 rows lack one of the columns",)
    with pytest.raises(RecipeError, match="names no column"):
        Blend(columns={})


def made(count: int = 400) -> tuple[list[dict[str, Any]], str, NDArray[np.float64]]:
    """A score that is a bent function of length, an offset of the source, and something of its own."""
    rng = np.random.default_rng(0)
    length, own = rng.integers(5, 400, count), rng.normal(size=count)
    sources = "".join(rng.choice(list("abc"), count))
    offset = np.array(["abc".index(source) for source in sources]) * 2.0
    scores = 4 * np.log(length) + offset + own
    metas = [{"row": i, "score": float(scores[i]), "words": int(length[i])} for i in range(count)]
    return metas, sources, own


def test_deconfound_leaves_what_confounders_do_not_explain_and_says_how_much_that_was(tmp_path: Path) -> None:
    metas, sources, own = made()
    pool = pool_of(tmp_path / "pool", metas, sources)
    scorer = Deconfound(column="meta.score", on=("meta.words", "source"))
    found = score(pool, {"deconfound": scorer}, work_in(tmp_path / "ws"))
    residual = found.columns["deconfound.residual@tiny-lm"].values
    raw = found.columns["deconfound.raw@tiny-lm"].values
    np.testing.assert_allclose(raw, [meta["score"] for meta in metas], rtol=1e-6)
    assert np.corrcoef(residual, own)[0, 1] > 0.95 > 0.5 > np.corrcoef(raw, own)[0, 1]
    facts = found.facts["deconfound"]
    assert facts["r2"]["meta.words"] > 0.5 and 0.05 < facts["r2"]["source"] < 0.5 and facts["r2_all"] > 0.85
    assert not facts["length_score"] and "R² of meta.score on each alone: meta.words" in found.notes[0]
    for form in ("rank", "linear"):
        scorer = Deconfound(column="meta.score", on=("meta.words", "source"), form=form)
        other = score(pool, {"deconfound": scorer}, work_in(tmp_path / "ws"))
        assert np.corrcoef(other.columns["deconfound.residual@tiny-lm"].values, own)[0, 1] > 0.5, (
            "of a bent function a line leaves more"
        )


def test_a_row_is_predicted_by_folds_that_did_not_see_it_and_by_no_order(tmp_path: Path) -> None:
    metas, sources, _ = made(60)
    work, scorer = work_in(tmp_path / "ws"), Deconfound(column="meta.score", on=("meta.words", "source"))
    name = "deconfound.residual@tiny-lm"
    whole = score(pool_of(tmp_path / "one", metas, sources), {"deconfound": scorer}, work).columns[name].values
    order = np.random.default_rng(5).permutation(60)
    moved = pool_of(tmp_path / "two", [metas[at] for at in order], "".join(sources[at] for at in order), shard_rows=7)
    np.testing.assert_array_equal(score(moved, {"deconfound": scorer}, work).columns[name].values, whole[order])
    changed = [{**meta, "score": 1000.0} if meta["row"] == 7 else meta for meta in metas]
    pool = pool_of(tmp_path / "three", changed, sources)
    other = score(pool, {"deconfound": scorer}, work).columns[name].values
    assert other[7] - whole[7] == pytest.approx(1000 - metas[7]["score"], rel=1e-4), "its own value does not predict it"


def test_confounders_that_are_missing_or_do_not_vary() -> None:
    scores = np.arange(12, dtype=np.float64)
    nothing = Confounder("nothing", np.full(12, np.nan))
    flat = Confounder("flat", np.array(["one"] * 12))
    folds = folds_of(12, 3)
    for on in ([nothing], [flat], [nothing, flat]):
        predicted = cross_fitted(scores, on, folds)
        assert np.isfinite(predicted).all() and explained(scores, predicted) < 0.01
    holes = Confounder("holes", np.where(np.arange(12) % 4 == 0, np.nan, np.arange(12)))
    assert np.isfinite(cross_fitted(scores, [holes], folds)).all()
    assert explained(np.ones(5), np.zeros(5)) == 0
    assert folds_of(2, 5).tolist() == [0, 1]


def test_a_length_score_is_called_one(tmp_path: Path) -> None:
    metas = [{"row": place} for place in range(40)]
    pool = pool_of(tmp_path / "pool", metas)
    length = np.arange(40, dtype=np.float32) + 3
    nothing = np.zeros(40, np.uint8)
    given = {
        "length.response": Column(values=length, unit="tokens", reasons=nothing),
        "ratings.stars": Column(values=length**2, unit="stars", reasons=nothing),
    }
    scorer = Deconfound(column="ratings.stars", on=("length",))
    found = score(pool, {"deconfound": scorer}, work_in(tmp_path / "ws"), columns=given)
    assert found.facts["deconfound"]["length_score"]
    assert "ratings.stars is a length score" in found.notes[0]
    assert found.columns["deconfound.residual@tiny-lm"].unit == "stars"
    with pytest.raises(RecipeError, match="explain itself"):
        Deconfound(column="length.response", on=("length.response",))


def test_calibrate_from_python_and_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "prompt": "q",
            "completion": f"a {sure}",
            "sure": float(sure),
            "correct": bool(right),
            "t1": 1,
            "t2": 2 - right,
        }
        for sure, right in zip(CONFIDENCE, CORRECT.tolist(), strict=True)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    work = tamis.workspace(tmp_path / "ws", workers=1, device="cpu")
    found = tamis.calibrate(str(file), "meta.sure", "meta.correct", bins=5, work=work)
    assert found["auroc"] == pytest.approx(0.84) and "0.84" in repr(found)
    given = ["calibrate", str(file), "--column", "meta.sure", "--truth", "meta.correct", "--bins", "5"]
    with pytest.raises(SystemExit) as left:
        main([*given, "--rising", "meta.t1,meta.t2", "--workspace", str(tmp_path / "ws"), "--json"])
    assert left.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ece"] == pytest.approx(0.14) and said["tsu"] == 0.5


def test_a_recipe_selects_by_an_operator_of_an_earlier_stage(tmp_path: Path) -> None:
    from tamis import recipe as recipes
    from tamis.stages.conduct import Conductor
    from tamis.stages.recipe_needs import needs_of

    rows = [{"prompt": "q", "completion": f"a {place}", "x": place % 7, "y": -place} for place in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    file = tmp_path / "blended.yaml"
    file.write_text(
        f"pool: {{files: [{tmp_path}/rows.jsonl]}}\n"
        "scores: {score: {blend: {columns: {meta.x: 2, meta.y: 1}}, deconfound: {column: meta.y, on: [meta.x]}}}\n"
        "subset: {select: top, by: blend.score, where: 'deconfound.raw < 0', budget: 3}\n",
        encoding="utf-8",
    )
    checked = recipes.load(str(file))
    assert not [need for need in needs_of(checked) if need.kind == "signal" and need.name != "lengths"]
    conductor = Conductor.of(checked, work_in(tmp_path / "ws"))
    conductor.ingest()
    for stage in checked.stages:
        conductor.carry_out(stage)
    assert conductor.outcomes["subset"].subset.positions.tolist()[0] == 6
    assert conductor.outcomes["scores"].facts["deconfound"]["r2"].keys() == {"meta.x"}
