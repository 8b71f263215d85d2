"""k-NN graphs: exact where all pairs are compared, true to their stated recall elsewhere, the same on any threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tamis.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.knn_graph import Graph


def clustered(count: int, seed: int = 0, width: int = 24) -> NDArray[np.float32]:
    """Unit rows around 40 centres, some of them equal."""
    import numpy as np

    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((40, width))
    rows = centres[draw.integers(0, 40, count)] + 0.5 * draw.standard_normal((count, width))
    rows[count // 2 : count // 2 + 5] = rows[3]
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def plain_nearest(vectors: NDArray[np.float32], k: int) -> list[list[tuple[float, int]]]:
    """The row itself, then the others by rounded cosine and number, those above 0."""
    import numpy as np

    cosines = np.rint((vectors.astype(np.float64) @ vectors.T.astype(np.float64)) * 2**20) / 2**20
    answer = []
    for own, row in enumerate(cosines.tolist()):
        others = sorted((-min(value, 1.0), number) for number, value in enumerate(row) if number != own and value > 0)
        answer.append([(1.0, own), *((-value, number) for value, number in others[: k - 1])])
    return answer


def rows_of(graph: Graph) -> list[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    return [
        (graph.values[low:high], graph.indices[low:high])
        for low, high in zip(graph.indptr[:-1], graph.indptr[1:], strict=True)
    ]


def same(one: Graph, other: Graph) -> bool:
    import numpy as np

    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("indptr", "indices", "values"))


@pytest.mark.parametrize("k", [1, 7, 300])
def test_flat_holds_the_nearest_rows_with_positive_cosine(k: int) -> None:
    from tamis.submodular.knn_graph import build

    vectors = clustered(300)
    graph = build(vectors, k, "flat", recall_sample=50)
    for (values, places), wanted in zip(rows_of(graph), plain_nearest(vectors, k), strict=True):
        assert len(places) == len(wanted)
        assert values.tolist() == pytest.approx([value for value, _ in wanted], abs=2e-6)
        assert places[0] == wanted[0][1]
        near = vectors[places].astype("float64") @ vectors[places[0]].astype("float64")
        assert near[1:].tolist() == pytest.approx([value for value, _ in wanted[1:]], abs=2e-6)
    assert graph.recall in (None, 1.0)


@pytest.mark.parametrize("how", ["grouped", "ivf", "hnsw"])
def test_other_methods_state_the_recall_that_they_have(how: Any) -> None:
    import numpy as np

    from tamis.submodular.knn_graph import build

    vectors = clustered(3000)
    graph, exact = build(vectors, 16, how, recall_sample=3000), build(vectors, 16, "flat", recall_sample=0)
    hits = wanted = 0
    for (found, places), (values, _) in zip(rows_of(graph), rows_of(exact), strict=True):
        assert len(set(places.tolist())) == len(places)
        assert (np.diff(found) <= 0).all()
        wanted += len(values) - 1
        hits += int((found[1:] >= values[-1] - 2e-6).sum())
    assert graph.recall == pytest.approx(hits / wanted)
    assert graph.recall is not None and graph.recall > 0.9
    assert graph.how == how and f"{graph.recall:.4f}" in graph.note


@pytest.mark.parametrize("how", ["flat", "grouped"])
def test_threads_and_a_file_of_float16_do_not_change_the_graph(how: Any, tmp_path: Any) -> None:
    import numpy as np

    from tamis.submodular.knn_graph import build

    vectors = clustered(2500).astype(np.float16)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    assert same(build(vectors, 9, how, threads=1), build(mapped, 9, how, threads=3))


def test_rows_need_no_unit_length_and_many_equal_rows_are_split_into_lists() -> None:
    import numpy as np

    from tamis.submodular.knn_graph import build

    vectors = np.repeat(clustered(60), 40, axis=0)
    graph = build(vectors * np.float32(3), 8, "grouped", recall_sample=500)
    assert graph.recall is not None and graph.recall > 0.95
    assert graph.values.min() > 1 - 1e-5


@pytest.mark.parametrize("spoiled", ["nan", "zero", "k"])
def test_what_has_no_cosine_is_refused(spoiled: str) -> None:
    from tamis.submodular.knn_graph import build

    vectors = clustered(50)
    vectors[7] = {"nan": float("nan"), "zero": 0, "k": 1}[spoiled]
    with pytest.raises(DataError):
        build(vectors, 0 if spoiled == "k" else 4)


def test_greedy_over_a_graph_of_all_pairs_is_greedy_over_the_dense_kernel() -> None:
    import numpy as np

    from tamis.submodular import loops
    from tamis.submodular.knn_graph import build

    vectors = clustered(200, seed=3)
    graph = build(vectors, 200, recall_sample=0)
    dense = np.zeros((200, 200), np.float32)
    dense[np.repeat(np.arange(200), np.diff(graph.indptr)), graph.indices] = graph.values
    sparse = loops.lazy_facility(graph.indptr, graph.indices, graph.values, 200, 200, 50)
    full = loops.lazy_facility_dense(np.ascontiguousarray(dense.T), 50)
    assert sparse[0].tolist() == full[0].tolist()
    assert sparse[1].tolist() == full[1].tolist()
