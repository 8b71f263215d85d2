"""Clusters: every row is with its nearest centre, no cluster is empty, and neither threads nor runs change them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tamis.errors import DataError
from tamis.vectors.clusters import k_means


def blobs(groups: int, rows: int, dimension: int = 16, seed: int = 0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    middles = random.normal(size=(groups, dimension))
    points = np.repeat(middles, rows, axis=0) + 0.05 * random.normal(size=(groups * rows, dimension))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), np.float32)


def test_rows_go_to_their_nearest_centre_and_no_cluster_is_empty() -> None:
    vectors = blobs(5, 40)
    found = k_means(vectors, 12, seed=3)
    assert found.labels.dtype == np.int32 and found.centres.dtype == np.float32
    assert set(found.labels.tolist()) == set(range(len(found)))
    cosines = vectors @ found.centres.T
    assert np.allclose(cosines[np.arange(len(vectors)), found.labels], cosines.max(axis=1), atol=1e-5)
    assert np.allclose(np.linalg.norm(found.centres, axis=1), 1, atol=1e-5)


def test_well_apart_groups_are_found() -> None:
    found = k_means(blobs(2, 30), 2)
    assert len(set(found.labels[:30].tolist())) == len(set(found.labels[30:].tolist())) == 1
    assert found.labels[0] != found.labels[-1]


def test_threads_and_runs_do_not_change_the_clusters() -> None:
    import faiss

    vectors = np.random.default_rng(1).normal(size=(3000, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    before = faiss.omp_get_max_threads()
    found = []
    try:
        for threads in (1, 2, 4):
            faiss.omp_set_num_threads(threads)
            found.append(k_means(vectors, 40, seed=5))
            assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)
    for one in found[1:]:
        assert np.array_equal(one.labels, found[0].labels) and np.array_equal(one.centres, found[0].centres)
    assert not np.array_equal(k_means(vectors, 40, seed=6).labels, found[0].labels)


@pytest.mark.parametrize("count", [4, 5, 100])
def test_as_many_clusters_as_rows_are_the_distinct_rows(count: int) -> None:
    vectors = np.eye(4, dtype=np.float32)[[2, 0, 2, 1]]
    found = k_means(vectors, count)
    assert found.labels.tolist() == [0, 1, 0, 2]
    assert np.array_equal(found.centres[found.labels], vectors)


def test_copies_leave_no_cluster_empty(capfd: pytest.CaptureFixture[str]) -> None:
    vectors = np.eye(3, dtype=np.float32)[[0] * 20 + [1] * 5]
    found = k_means(vectors, 7)
    assert set(found.labels.tolist()) == set(range(len(found)))
    assert found.labels[0] != found.labels[-1]
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_clustered_is_an_error() -> None:
    with pytest.raises(DataError, match="0 clusters"):
        k_means(blobs(1, 3), 0)
    with pytest.raises(DataError, match="0 rows"):
        k_means(np.zeros((0, 4), np.float32), 2)
    with pytest.raises(DataError, match="NaN"):
        k_means(np.full((3, 2), np.nan, np.float32), 2)
