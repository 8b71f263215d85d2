"""Compiled loops give what plain greedy gives, pick for pick and bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def plain_greedy(kernel: NDArray[np.float64], rows: int, floor: float = 0.0) -> tuple[list[int], list[float]]:
    """Naive greedy over a kernel (m represented, n candidates); ties go to the lower candidate."""
    import numpy as np

    best, order, gains = np.full(len(kernel), floor), list[int](), list[float]()
    for _ in range(rows):
        values = np.array([np.maximum(kernel[:, j] - best, 0).sum() for j in range(kernel.shape[1])])
        values[order] = -1
        order.append(int(values.argmax()))
        gains.append(float(values.max()))
        best = np.maximum(best, kernel[:, order[-1]])
    return order, gains


def a_kernel(seed: int, represented: int, candidates: int, filled: float) -> NDArray[np.float32]:
    """Similarities on the grid, a share of them not 0, with equal columns among them."""
    import numpy as np

    from tamis.submodular.loops import to_grid

    draw = np.random.default_rng(seed)
    kernel = draw.random((represented, candidates), np.float32) * (draw.random((represented, candidates)) < filled)
    kernel[:, candidates // 2] = kernel[:, 1]
    return to_grid(kernel.astype(np.float32))


def compressed(kernel: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    import numpy as np

    rows, columns = np.nonzero(kernel)
    indptr = np.searchsorted(rows, np.arange(len(kernel) + 1)).astype(np.int64)
    return indptr, columns.astype(np.int32), kernel[rows, columns]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("filled", [0.05, 0.3, 1.0])
def test_lazy_facility_is_naive_greedy_to_the_last_bit(seed: int, filled: float) -> None:
    import numpy as np

    from tamis.submodular import loops

    kernel = a_kernel(seed, 40, 30, filled)
    order, gains = plain_greedy(kernel.astype(np.float64), 30)
    sparse = loops.lazy_facility(*compressed(kernel), 40, 30, 99)
    dense = loops.lazy_facility_dense(np.ascontiguousarray(kernel.T), 99)
    for found in (sparse, dense):
        assert found[0].tolist() == order
        assert found[1].tolist() == gains
        assert found[2] >= 30
    assert loops.lazy_facility(*compressed(kernel), 40, 30, 7)[0].tolist() == order[:7]


def test_gains_are_those_of_the_formula_at_any_set() -> None:
    import numpy as np

    from tamis.submodular import loops

    kernel = a_kernel(5, 50, 20, 0.4)
    best = kernel[:, [3, 7]].max(axis=1).astype(np.float64)
    rows = np.array([19, 0, 4], np.int64)
    wanted = [float(np.maximum(kernel[:, j].astype(np.float64) - best, 0).sum()) for j in rows]
    assert loops.dense_gains(np.ascontiguousarray(kernel.T), best, rows).tolist() == wanted
    assert loops.sparse_gains(*loops.transpose(*compressed(kernel), 20), best, rows).tolist() == wanted


def test_floor_and_ceiling_say_from_where_and_up_to_where_nearness_counts() -> None:
    import numpy as np

    from tamis.submodular import loops

    kernel = a_kernel(6, 40, 30, 0.3)
    floor, ceiling = np.full(40, 0.25), np.full(40, 0.75)
    order, gains = plain_greedy(np.minimum(kernel, 0.75).astype(np.float64), 30, 0.25)
    sparse = loops.lazy_facility(*compressed(kernel), 40, 30, 30, floor, ceiling)
    dense = loops.lazy_facility_dense(np.ascontiguousarray(kernel.T), 30, floor, ceiling)
    assert sparse[0].tolist() == dense[0].tolist() == order
    assert sparse[1].tolist() == dense[1].tolist() == gains


def test_negative_and_nan_similarities_count_as_nothing() -> None:
    import numpy as np

    from tamis.submodular import loops

    kernel = np.array([[0.5, -1.0, 0.25], [np.nan, -0.5, 0.5]], np.float32)
    order, gains, _ = loops.lazy_facility_dense(np.ascontiguousarray(kernel.T), 3)
    assert order.tolist() == [2, 0, 1]
    assert gains.tolist() == [0.75, 0.25, 0.0]


def test_a_transposed_kernel_holds_the_same_entries_in_order() -> None:
    import numpy as np

    from tamis.submodular import loops

    kernel = a_kernel(1, 12, 9, 0.4)
    starts, owners, turned = loops.transpose(*compressed(kernel), 9)
    wanted = compressed(np.ascontiguousarray(kernel.T))
    assert starts.tolist() == wanted[0].tolist()
    assert owners.tolist() == wanted[1].tolist()
    assert turned.tolist() == wanted[2].tolist()
