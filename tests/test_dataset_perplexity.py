"""Law: perplexity of datasets and losses of versions are those of all rows of a group, in any order and shards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synthetic
from tamis.column.row_fields import field_of
from tamis.errors import RecipeError
from tamis.scorers.dataset_perplexity import MassiveSft, UitDenoising
from tamis.store import save_arrays
from tamis.values import Column, Reason, Row
from tamis.views import PoolView

# source, task, candidate, summed loss and tokens of the response, of the prompt, reason
ROWS: list[tuple[str, Any, Any, float, int, float, int, int]] = [
    ("a", "sums", 0, 2.0, 2, 3.0, 1, 0),
    ("b", "sums", 1, 6.0, 4, 1.0, 1, 0),
    ("a", "sums", 0, 1.0, 4, 1.0, 3, 0),
    ("b", "words", 1, 9.0, 3, 2.0, 2, 0),
    ("", None, 1, 4.0, 2, 2.0, 2, 0),
    ("a", "words", 0, 0.0, 0, 7.0, 1, int(Reason.NEEDS_ANSWER)),
    ("b", "sums", "", 8.0, 4, 1.0, 1, 0),
]


def view_of(folder: Path, order: list[int], shard_rows: int = 16) -> PoolView:
    made: list[Row] = [
        dataclasses.replace(row, source=ROWS[place][0], meta={"task": ROWS[place][1], "candidate": ROWS[place][2]})
        for row, place in zip(synthetic.rows(len(order)), order, strict=True)
    ]
    numbers = np.array([ROWS[place][3:] for place in order])
    names = ("response_nll_sum", "response_count", "prompt_nll_sum", "prompt_count", "reason")
    kinds = (np.float64, np.int64, np.float64, np.int64, np.uint8)
    arrays = {name: numbers[:, at].astype(kind) for at, (name, kind) in enumerate(zip(names, kinds, strict=True))}
    return synthetic.view(folder, made, {"tokens": arrays}, shard_rows)


def scored(scorer: Any, view: PoolView, folder: Path) -> tuple[dict[str, Column], str]:
    arrays, facts = scorer.fit(view)
    folder.mkdir()
    save_arrays(folder, arrays)
    fitted = dataclasses.replace(view, signal_folders={**view.signal_folders, "fit": [folder] * len(view.pool.shards)})
    parts = [scorer.score(have) for have in fitted.shards()]
    joined = {
        name: Column(
            values=np.concatenate([part[name].values for part in parts]),
            unit=parts[0][name].unit,
            reasons=np.concatenate([part[name].reasons for part in parts]),
        )
        for name in parts[0]
    }
    for column in joined.values():
        np.testing.assert_array_equal(np.isnan(column.values), column.reasons != 0)
    return joined, facts["note"]


def test_dataset_perplexity_by_hand(tmp_path: Path) -> None:
    """No value is published. a: exp(3 / 6), b: exp(23 / 11); the whole text: a exp(14 / 11), b exp(27 / 15)."""
    view = view_of(tmp_path / "pool", list(range(7)))
    columns, note = scored(MassiveSft(), view, tmp_path / "fit")
    a, b = np.exp(3 / 6), np.exp(23 / 11)
    np.testing.assert_allclose(columns["score"].values, [a, b, a, b, np.nan, np.nan, b], rtol=1e-6)
    assert columns["score"].reasons.tolist() == [0, 0, 0, 0, Reason.UNGROUPED, Reason.NEEDS_ANSWER, 0]
    assert "a 1.649 (2 rows), b 8.092 (3 rows)" in note and "lowest" in note
    whole, _ = scored(MassiveSft(over="whole"), view, tmp_path / "whole")
    a, b = np.exp(14 / 11), np.exp(27 / 15)
    np.testing.assert_allclose(whole["score"].values, [a, b, a, b, np.nan, a, b], rtol=1e-6)
    by_task, _ = scored(MassiveSft(by="meta.task"), view, tmp_path / "task")
    np.testing.assert_allclose(by_task["score"].values[[0, 3]], np.exp([17 / 14, 3]), rtol=1e-6)


def test_versions_of_a_task_by_hand(tmp_path: Path) -> None:
    """No value is published. sums: version 0 (2 + 1) / (2 + 4) = .5, version 1 6 / 4 = 1.5; words: version 1 alone."""
    columns, note = scored(UitDenoising(), view_of(tmp_path / "pool", list(range(7))), tmp_path / "fit")
    np.testing.assert_allclose(columns["loss"].values, [0.5, 1.5, 0.5, 3, np.nan, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_allclose(columns["score"].values, [0, 1, 0, 0, np.nan, np.nan, np.nan], rtol=1e-6)
    ungrouped = int(Reason.UNGROUPED)
    assert columns["score"].reasons.tolist() == [0, 0, 0, 0, ungrouped, Reason.NEEDS_ANSWER, ungrouped]
    assert "3 versions of 2 tasks" in note


def test_the_released_mean_over_batches_weighs_tokens_of_short_batches_more(tmp_path: Path) -> None:
    """Nine rows are a batch of 8 (loss .5 a token) and one of 1 (1.5): 1.0, where the mean over tokens is .5123."""
    made = [dataclasses.replace(row, meta={"task": "t", "candidate": "c"}) for row in synthetic.rows(40)]
    sums, counts = np.full(40, 5.0), np.full(40, 10)
    sums[8], counts[8] = 1.5, 1
    arrays = {"response_nll_sum": sums, "response_count": counts, "reason": np.zeros(40, np.uint8)}
    nine = synthetic.view(tmp_path / "nine", made[:9], {"tokens": {name: one[:9] for name, one in arrays.items()}})
    released, _ = scored(UitDenoising(mean="batches"), nine, tmp_path / "released")
    right, _ = scored(UitDenoising(), nine, tmp_path / "right")
    assert released["loss"].values[0] == pytest.approx(1.0) and right["loss"].values[0] == pytest.approx(41.5 / 81)
    sums[32:] = 900  # beyond the first 32 rows, which the released code does not look at
    most = synthetic.view(tmp_path / "most", made, {"tokens": arrays})
    released, _ = scored(UitDenoising(mean="batches"), most, tmp_path / "first")
    assert released["loss"].values[0] == pytest.approx((0.5 * 3 + 36.5 / 71) / 4)  # seven rows of ten and one of one


@pytest.mark.parametrize("scorer", [MassiveSft(), MassiveSft(by="meta.candidate", over="whole"), UitDenoising()])
def test_groups_do_not_depend_on_the_order_of_rows_nor_on_shards(tmp_path: Path, scorer: Any) -> None:
    order = [4, 0, 6, 2, 5, 1, 3]
    one, said = scored(scorer, view_of(tmp_path / "one", list(range(7))), tmp_path / "fit-one")
    two, again = scored(scorer, view_of(tmp_path / "two", order, shard_rows=2), tmp_path / "fit-two")
    for name, column in one.items():
        np.testing.assert_array_equal(column.values[order], two[name].values)
        np.testing.assert_array_equal(column.reasons[order], two[name].reasons)
    assert said == again


def test_groups_are_fields_of_the_row_and_zero_is_a_name(tmp_path: Path) -> None:
    view = view_of(tmp_path / "pool", [0, 1, 4, 6])
    (shard,) = view.pool.shards
    assert field_of(shard, "meta.candidate") == ["0", "1", "1", ""] and field_of(shard, "meta.task")[2] == ""
    assert field_of(shard, "source") == ["a", "b", "", "b"]
    with pytest.raises(RecipeError, match=r"meta\.NAME"):
        MassiveSft(by="clusters:8")
    with pytest.raises(RecipeError, match=r"meta\.NAME"):
        UitDenoising(task="clusters:8")
