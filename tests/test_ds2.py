"""Law: DS2 follows its formulas: published values, a known transition matrix found again, labels mended."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import synthetic
from tamis import store
from tamis.column.transitions import Consensus, neighbours, transition
from tamis.errors import DataError
from tamis.scorers.ds2 import Ds2, compressed, long_tail, suspected, suspected_share, votes
from tamis.values import Column, Reason
from tamis.views import PoolView, ShardSignals

RIGHT = 0.8


def drawn(rows: int, classes: int, seed: int, right: float = RIGHT) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True classes, and labels that are right with probability `right`, else any other one."""
    rng = np.random.default_rng(seed)
    true = rng.integers(classes, size=rows)
    return true, np.where(rng.random(rows) < right, true, (true + rng.integers(1, classes, rows)) % classes)


def clustered(true: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    """Unit vectors, near each other where the class is the same."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(true.max() + 1, 16))[true] + 0.2 * rng.normal(size=(len(true), 16))
    unit: NDArray[np.float32] = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_golden_long_tail_and_compression_of_ds2() -> None:
    np.testing.assert_allclose(long_tail(np.array([0.0, 1.0])), [0, 0.4621], atol=5e-5)
    assert compressed(np.array([0, 4, 5, 8, 9, 10]), "ten").tolist() == [0, 0, 1, 4, 5, 5]
    assert compressed(np.array([0, 1.4, 2.5, 4.5, 5]), "classes").tolist() == [0, 1, 3, 5, 5]


def test_golden_hoc_recovers_a_known_matrix_within_five_hundredths() -> None:
    true, labels = drawn(5000, 6, seed=0)
    near, _ = neighbours(clustered(true, 2), 2)
    assert (near != np.arange(5000)[:, None]).all(), "a row is its own neighbour"
    triples = np.stack([labels, labels[near[:, 0]], labels[near[:, 1]]], 1)
    matrix, prior = transition(Consensus.of(triples, 6))
    np.testing.assert_allclose(np.diag(matrix), RIGHT, atol=0.05)
    np.testing.assert_allclose(prior, 1 / 6, atol=0.05)
    np.testing.assert_allclose(matrix.sum(1), 1)


def test_the_gradient_of_the_consensus_loss_is_that_of_differences() -> None:
    from tamis.column.transitions import _loss

    rng = np.random.default_rng(3)
    seen = Consensus.of(rng.integers(3, size=(50, 3)), 3)
    at = rng.normal(size=12)
    found = _loss(at, seen)[1]
    for place in range(12):
        step = np.zeros(12)
        step[place] = 1e-6
        assert (_loss(at + step, seen)[0] - _loss(at - step, seen)[0]) / 2e-6 == pytest.approx(found[place], abs=1e-6)


def test_votes_suspects_and_shares_by_hand() -> None:
    """Three rows, labels 0, 0, 1. Row 0 has neighbours 1 (0.9) and 2 (0.3): q = (0.75, 0.25); row 2 has 0 and 1 alike.

    T_cc = 0.9 and 0.8, p = (0.6, 0.4), observed 2/3 and 1/3: 1 - 0.54 / 0.6667 = 0.19 and 1 - 0.32 / 0.3333 = 0.04.
    """
    labels, near = np.array([0, 0, 1]), np.array([[1, 2], [0, 2], [0, 1]])
    cosines = np.array([[0.9, 0.3], [0.9, -np.inf], [0.5, 0.5]])
    np.testing.assert_allclose(votes(labels, near, cosines, 2, 2), np.array([[0.75, 0.25], [1, 0], [1, 0]]))
    np.testing.assert_allclose(votes(labels, near, cosines, 1, 2)[0], [1, 0])
    shares = suspected_share(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0.6, 0.4]), labels)
    np.testing.assert_allclose(shares, [0.19, 0.04], atol=1e-9)
    assert suspected_share(np.eye(2), np.array([0.9, 0.1]), labels).tolist() == pytest.approx([0.05, 0.7])
    assert suspected(np.array([1.0, 2.0, 0.0]), labels, np.array([0.5, 0.95])).tolist() == [False, True, True]


def view_of(folder: Path, ratings: NDArray[Any], vectors: NDArray[np.float32], order: NDArray[np.int64]) -> PoolView:
    made = [
        dataclasses.replace(row, meta={"rating": float(rating)} if np.isfinite(rating) else {})
        for row, rating in zip(synthetic.rows(len(ratings)), ratings, strict=True)
    ]
    signal: dict[str, NDArray[Any]] = {"pooled": vectors[order], "reason": np.zeros(len(order), np.uint8)}
    return synthetic.view(folder, [made[place] for place in order], {"tokens": signal}, 100)


def scored(scorer: Ds2, view: PoolView, folder: Path) -> dict[str, Column]:
    folder.mkdir()
    arrays, _ = scorer.fit(view)
    store.save_arrays(folder, arrays)
    parts = [scorer.score(ShardSignals(one.shard, {**one.folders, "fit": folder})) for one in view.shards()]
    return {
        name: Column(
            values=np.concatenate([part[name].values for part in parts]),
            unit=parts[0][name].unit,
            reasons=np.concatenate([part[name].reasons for part in parts]),
        )
        for name in parts[0]
    }


def test_wrong_labels_are_mended_and_the_order_of_rows_plays_no_part(tmp_path: Path) -> None:
    true, labels = drawn(600, 4, seed=5)
    ratings = labels.astype(np.float64)
    ratings[[3, 77]] = np.nan
    vectors = clustered(true, 6)
    order = np.random.default_rng(7).permutation(600)
    scorer = Ds2(rating="meta.rating")
    one = scored(scorer, view_of(tmp_path / "a", ratings, vectors, np.arange(600)), tmp_path / "fit-a")
    two = scored(scorer, view_of(tmp_path / "b", ratings, vectors, order), tmp_path / "fit-b")
    for name, column in one.items():
        assert np.array_equal(column.values[order], two[name].values, equal_nan=True), name
        assert (column.reasons[[3, 77]] == Reason.NOT_MEASURED).all() and np.isnan(column.values[[3, 77]]).all()
    known = np.isfinite(ratings)
    before, after = (np.mean(found[known] == true[known]) for found in (labels, one["corrected"].values))
    assert before < 0.83 and after > 0.97
    wrong = (labels != true)[known]
    assert one["error"].values[known][wrong].mean() > 0.8 > 0.2 > one["error"].values[known][~wrong].mean()
    assert (one["score"].values[known] // 1 == one["corrected"].values[known]).all()


def test_ds2_says_where_near_rows_are_not_rated_alike(tmp_path: Path) -> None:
    true, labels = drawn(300, 3, seed=8)
    by_chance = np.random.default_rng(1).integers(3, size=300)
    for ratings, said in ((labels, False), (by_chance, True)):
        view = view_of(tmp_path / str(said), ratings.astype(np.float64), clustered(true, 9), np.arange(300))
        assert ("do not trust" in Ds2(rating="meta.rating").fit(view)[1]["note"]) is said


def test_ds2_says_what_it_lacks(tmp_path: Path) -> None:
    vectors = clustered(np.arange(6) % 2, 0)
    empty = view_of(tmp_path / "a", np.full(6, np.nan), vectors, np.arange(6))
    with pytest.raises(DataError, match="0 of 6 rows have a rating"):
        Ds2(rating="meta.rating").fit(empty)
    wide = view_of(tmp_path / "b", np.arange(6) * 20.0, vectors, np.arange(6))
    with pytest.raises(DataError, match="classes from 0 to 19"):
        Ds2(rating="meta.rating").fit(wide)
