"""Laws of the FAISS index: exact where it says so, near enough elsewhere, the same twice, and the same from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tamis.budgets import round_robin
from tamis.errors import DataError, StoreError
from tamis.vectors import index

KINDS: tuple[index.Kind, ...] = ("flat", "ivf", "hnsw")


def vectors(count: int, dimension: int = 16, seed: int = 0) -> NDArray[np.float32]:
    """Draw unit vectors around a few centres, as hidden states are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(20, dimension))
    return index.unit(centres[rng.integers(20, size=count)] + rng.normal(0, 0.5, (count, dimension)))


def brute_force(pool: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    products = queries.astype(np.float64) @ pool.T.astype(np.float64)
    return np.argsort(-products, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("kind", KINDS)
def test_recall_against_brute_force(kind: index.Kind) -> None:
    pool, queries = vectors(3000), vectors(40, seed=1)
    scores, places = index.build(pool, kind).nearest(queries, 10)
    expected = brute_force(pool, queries, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(places.tolist(), expected.tolist(), strict=True)])
    assert recall == 1 if kind == "flat" else recall > 0.9
    assert (np.diff(scores, axis=1) <= 0).all()
    assert np.abs(scores - np.einsum("qd,qkd->qk", queries, pool[places])).max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_built_twice_gives_the_same_answers(kind: index.Kind) -> None:
    pool, queries = vectors(1500), vectors(10, seed=1)
    one, two = (index.build(pool, kind, seed=3).nearest(queries, 5) for _ in range(2))
    assert one[1].tolist() == two[1].tolist() and one[0].tolist() == two[0].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_answers_alike(kind: index.Kind, tmp_path: Path) -> None:
    pool, queries = vectors(1500), vectors(10, seed=1)
    made = index.build(pool, kind)
    made.save(tmp_path / "index.faiss")
    loaded = index.load(tmp_path / "index.faiss")
    assert loaded.kind == kind and len(loaded) == 1500 and loaded.dimension == 16
    assert loaded.nearest(queries, 5)[1].tolist() == made.nearest(queries, 5)[1].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_appended_vectors_are_found_at_the_next_places(kind: index.Kind, tmp_path: Path) -> None:
    pool, more = vectors(1500), vectors(200, seed=7)
    made = index.build(pool, kind)
    made.save(tmp_path / "index.faiss")
    grown = index.load(tmp_path / "index.faiss")
    grown.add(more)
    found = grown.nearest(more, 1)[1][:, 0]
    assert (found == np.arange(1500, 1700)).mean() > 0.95
    if kind == "flat":
        assert (
            grown.nearest(more, 5)[1].tolist() == index.build(np.concatenate([pool, more])).nearest(more, 5)[1].tolist()
        )


def test_equal_scores_go_to_the_lower_place_and_k_may_exceed_the_index() -> None:
    made = index.build(np.array([[0, 1], [1, 0], [1, 0], [1, 0]], np.float32), "flat")
    scores, places = made.nearest(np.array([[1, 0]], np.float32), 9)
    assert places.tolist() == [[1, 2, 3, 0]] and scores.tolist() == [[1, 1, 1, 0]]


def test_auto_is_flat_for_small_pools() -> None:
    assert index.build(vectors(100)).kind == "flat"


@pytest.mark.parametrize("rows", [1, 40, 300, 2000])
def test_turns_over_lists_of_neighbours_equal_turns_over_all_cosines(rows: int) -> None:
    pool, queries = vectors(900), vectors(12, seed=2)
    pool[600:700] = pool[:100]  # twins tie
    pool[7] = np.nan
    usable = np.random.default_rng(0).random(900) < 0.9
    table = index.similarities(pool, queries, np.arange(12))
    order, gains = round_robin(table, usable, rows)
    found, cosines = index.nearest_in_turn(pool, queries, usable, rows, "flat")
    assert np.abs(gains - cosines).max() < 2e-6
    assert found.tolist() == order.tolist()


def test_bad_input_is_named(tmp_path: Path) -> None:
    made = index.build(vectors(50))
    with pytest.raises(DataError, match="NaN"):
        index.build(np.full((3, 2), np.nan, np.float32))
    with pytest.raises(DataError, match=r"expected \(n, 16\)"):
        made.nearest(np.zeros((1, 3), np.float32), 1)
    with pytest.raises(DataError, match="at least 1"):
        made.nearest(vectors(1), 0)
    with pytest.raises(StoreError, match="no index"):
        index.load(tmp_path / "absent")
    (tmp_path / "broken").write_bytes(b"not an index")
    with pytest.raises(StoreError, match="not an index"):
        index.load(tmp_path / "broken")


def test_similarities_equal_the_plain_form_and_tie_for_equal_rows() -> None:
    pool, queries = vectors(500), vectors(7, seed=2) * 3
    pool[[3, 400]] = pool[10]
    pool[5] = 0
    groups = np.array([0, 1, 0, 1, 2, 2, 2])
    found = index.similarities(pool, queries, groups)
    cosines = index.unit(pool).astype(np.float64) @ index.unit(queries).astype(np.float64).T
    plain = np.stack([cosines[:, groups == group].max(axis=1) for group in range(3)], axis=1)
    assert np.isnan(found[5]).all()
    rest = np.delete(np.arange(500), 5)
    assert np.abs(found[rest] - plain[rest]).max() < 2e-6
    assert found[3].tolist() == found[10].tolist() == found[400].tolist()
