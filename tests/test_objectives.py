"""Objectives of the submodular engine: gains are differences of the published formulas, written out plainly."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tamis.errors import DataError, RecipeError
from tamis.submodular import cosines, knn_graph, log_determinant
from tamis.submodular import facility_location as fl
from tamis.submodular.cosines import Cosine, nearest, on_device, on_grid
from tamis.submodular.coverage import FeatureBased, SaturatedCoverage, SetCover
from tamis.submodular.disparity import DisparityMin, DisparitySum
from tamis.submodular.graph_cut import GraphCut, gcmi
from tamis.submodular.kernels import Dense, Sparse
from tamis.submodular.log_determinant import DOptimal, LogDeterminant
from tamis.submodular.maximise import Limit, Maximiser, maximise
from tamis.submodular.objective import Objective, value_of
from tamis.submodular.sums import Modular, WeightedSum

Plain = Callable[[list[int]], float]
Array = NDArray[Any]


def vectors(count: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """Unit vectors; all within a right angle for even seeds, anywhere for odd ones."""
    made = np.random.default_rng(seed).normal(size=(count, dimension))
    made = np.abs(made) if seed % 2 == 0 else made
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made.astype(np.float32)


def sparse_of(matrix: Array, keep: Array | None = None) -> Sparse:
    keep = np.ones(matrix.shape, np.bool_) if keep is None else keep
    rows, columns = np.nonzero(keep)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(matrix)))]).astype(np.int64)
    return Sparse(indptr, columns.astype(np.int32), matrix[rows, columns], matrix.shape[1])


def best(matrix: Array, chosen: list[int]) -> Array:
    """(m,) highest similarity to a chosen candidate, 0 where none is above it."""
    return np.asarray(matrix[:, chosen].max(axis=1, initial=0))


def saturated(matrix: Array, chosen: list[int], alpha: float) -> float:
    clipped = np.maximum(matrix, 0)
    return float(np.minimum(clipped[:, chosen].sum(axis=1), alpha * clipped.sum(axis=1)).sum())


def log_det(kernel: Array, chosen: list[int]) -> float:
    return float(np.linalg.slogdet(np.eye(len(chosen)) + kernel[np.ix_(chosen, chosen)])[1])


def log_det_given(rows: Array, held: Array, chosen: list[int], ridge: float, nu: float) -> float:
    """Log-determinant of S_A - nu² S_AP S_P⁻¹ S_PA, with S = I + K / ridge over both."""
    both = np.concatenate([rows[chosen], held.astype(np.float64)])
    whole = np.eye(len(both)) + both @ both.T / ridge
    cut = len(chosen)
    middle = whole[:cut, cut:] @ np.linalg.inv(whole[cut:, cut:]) @ whole[cut:, :cut]
    return float(np.linalg.slogdet(whole[:cut, :cut] - nu**2 * middle)[1])


def disparity(matrix: Array, chosen: list[int], over: Callable[[Array], Any]) -> float:
    if len(chosen) < 2:
        return float(np.mean(1 - matrix[:, chosen[0]])) if chosen else 0.0
    return float(over(np.array([1 - matrix[i, j] for i, j in itertools.combinations(chosen, 2)])))


def cases(count: int, seed: int) -> dict[str, tuple[Objective, Plain]]:
    """Every objective on one small world, beside its formula."""
    rows, queries, held = vectors(count, 6, seed), vectors(5, 6, seed + 2), vectors(4, 6, seed + 4)
    wide = rows.astype(np.float64)
    square, of_queries = wide @ wide.T, queries.astype(np.float64) @ wide.T
    free = np.random.default_rng(seed).normal(size=(count + 3, count))  # neither square nor symmetric
    gone = np.where(np.random.default_rng(seed + 1).random(free.shape) < 0.3, free, 0)
    skew = np.random.default_rng(seed).random((count, count))
    to_queries, to_held = of_queries.max(axis=0), (held.astype(np.float64) @ wide.T).max(axis=0)
    near, cap = np.maximum(to_queries, 0), np.maximum(to_held, 0)

    weights, quality = np.random.default_rng(seed).random(count + 3), np.exp(skew[0] - 0.5)
    lengthened = wide * quality[:, None]

    def cut(matrix: Array, lam: float) -> Plain:
        return lambda s: matrix[:, s].sum() - lam * matrix[np.ix_(s, s)].sum()

    return {
        "facility location": (fl.FacilityLocation(Dense(free)), lambda s: best(free, s).sum()),
        "facility location, cosines": (fl.FacilityLocation(Cosine(rows)), lambda s: best(square, s).sum()),
        "facility location, sparse": (
            fl.FacilityLocation(sparse_of(gone, gone != 0)),
            lambda s: best(gone, s).sum(),
        ),
        "flmi, saturating": (
            fl.flmi(Cosine(rows), to_queries, "saturating", 0.8),
            lambda s: np.minimum(best(square, s), 0.8 * near).sum(),
        ),
        "flmi, paper": (
            fl.flmi(Cosine(rows), to_queries, "paper", 0.8),
            lambda s: best(square, s).sum() + 0.8 * near[s].sum(),
        ),
        "flmi, paper, sparse": (
            fl.flmi(sparse_of(gone, gone != 0), to_queries, "paper", 0.8),
            lambda s: best(gone, s).sum() + 0.8 * near[s].sum(),
        ),
        "flqmi": (
            fl.flqmi(Cosine(rows, queries), nearest(rows, queries), 0.7),
            lambda s: best(of_queries, s).sum() + 0.7 * near[s].sum(),
        ),
        "flcg": (
            fl.flcg(Cosine(rows), to_held, 0.6),
            lambda s: np.maximum(best(square, s) - 0.6 * cap, 0).sum(),
        ),
        "graph cut": (GraphCut(Dense(skew), 0.3), cut(skew, 0.3)),
        "graph cut, no kernel": (GraphCut(Cosine(rows), 0.4), cut(square, 0.4)),
        "graph cut, sparse": (GraphCut(sparse_of(gone[:count], gone[:count] != 0), 0.4), cut(gone[:count], 0.4)),
        "gcmi": (gcmi(Cosine(rows, queries), 0.4), lambda s: 0.8 * of_queries[:, s].sum()),
        "saturated coverage": (SaturatedCoverage(Dense(free), 0.2), lambda s: saturated(free, s, 0.2)),
        "saturated coverage, cosines": (SaturatedCoverage(Cosine(rows), 0.1), lambda s: saturated(square, s, 0.1)),
        "saturated coverage, sparse": (
            SaturatedCoverage(sparse_of(gone, gone != 0), 0.3),
            lambda s: saturated(gone, s, 0.3),
        ),
        "feature-based, roots": (
            FeatureBased(sparse_of(np.abs(gone), gone != 0), "sqrt", weights),
            lambda s: (np.sqrt(np.abs(gone)[:, s].sum(axis=1)) * weights).sum(),
        ),
        "feature-based, logs": (
            FeatureBased(Dense(skew), "log", skew[:, 0]),
            lambda s: (np.log(1 + skew[:, s].sum(axis=1)) * skew[:, 0]).sum(),
        ),
        "feature-based, saturating": (
            FeatureBased(Dense(skew), "saturating"),
            lambda s: (skew[:, s].sum(axis=1) / (1 + skew[:, s].sum(axis=1))).sum(),
        ),
        "set cover": (
            SetCover(sparse_of(np.abs(gone), gone != 0), weights),
            lambda s: weights[(gone[:, s] != 0).any(axis=1)].sum(),
        ),
        "d-optimal": (DOptimal(lengthened, 0.5), lambda s: log_det(lengthened @ lengthened.T / 0.5, s)),
        "log-determinant": (
            LogDeterminant(Cosine(rows), 0.5, quality),
            lambda s: log_det(quality[:, None] * square * quality / 0.5, s),
        ),
        "log-determinant, conditional": (
            log_determinant.conditional(lengthened, held, 0.5, 0.7),
            lambda s: log_det_given(lengthened, held, s, 0.5, 0.7),
        ),
        "log-determinant, mutual": (
            log_determinant.mutual(lengthened, queries, 0.5, 0.9),
            lambda s: log_det(lengthened @ lengthened.T / 0.5, s) - log_det_given(lengthened, queries, s, 0.5, 0.9),
        ),
        "disparity sum": (DisparitySum(Cosine(rows)), lambda s: disparity(square, s, np.sum)),
        "disparity sum, dense": (DisparitySum(Dense(square)), lambda s: disparity(square, s, np.sum)),
        "disparity min": (DisparityMin(Cosine(rows)), lambda s: disparity(square, s, np.min)),
        "modular": (Modular(to_queries), lambda s: to_queries[s].sum()),
        "weighted sum": (
            WeightedSum(((0.5, fl.FacilityLocation(Dense(free))), (2.0, GraphCut(Cosine(rows), 0.4)))),
            lambda s: 0.5 * best(free, s).sum() + 2 * cut(square, 0.4)(s),
        ),
    }


NAMES = sorted(cases(4, 0))
WORLDS = st.tuples(st.integers(2, 60), st.integers(0, 400))


def greedy(plain: Plain, count: int, picks: int) -> tuple[list[int], bool]:
    """Naive greedy on the formula itself, and whether the best candidate was always better than the second."""
    chosen: list[int] = []
    distinct = True
    for _ in range(picks):
        rest = [row for row in range(count) if row not in chosen]
        values = np.array([plain([*chosen, row]) for row in rest])
        ranked = np.sort(values)
        distinct &= len(rest) == 1 or bool(ranked[-1] - ranked[-2] > 5e-5)
        chosen.append(rest[int(values.argmax())])
    return chosen, distinct


def walked(objective: Objective, picks: int) -> list[int]:
    """Naive greedy on the gains of an objective."""
    state, rest = objective.begin(), list(range(len(objective)))
    order = []
    for _ in range(picks):
        order.append(rest[int(state.gains(np.array(rest)).argmax())])
        rest.remove(order[-1])
        state.add(order[-1])
    return order


@pytest.mark.parametrize("name", NAMES)
@given(world=WORLDS)
@settings(max_examples=6, deadline=None)
def test_a_gain_is_the_difference_of_the_formula_and_a_value_their_sum(name: str, world: tuple[int, int]) -> None:
    count, seed = world
    objective, plain = cases(count, seed)[name]
    assert len(objective) == count
    state, order = objective.begin(), np.random.default_rng(seed).permutation(count)
    assert state.value == 0
    for place in range(min(count, 6)):
        chosen = order[:place].tolist()
        rest = np.sort(order[place:])
        wanted = [plain([*chosen, row]) - plain(chosen) for row in rest.tolist()]
        assert state.gains(rest) == pytest.approx(wanted, abs=5e-5, rel=1e-5)
        before = state.value
        told = float(state.gains(order[place : place + 1])[0])
        state.add(int(order[place]))
        assert state.value == pytest.approx(before + told, abs=1e-9)
        assert state.value == pytest.approx(plain(order[: place + 1].tolist()), abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
@given(world=WORLDS)
@settings(max_examples=5, deadline=None)
def test_greedy_takes_the_rows_that_it_takes_on_the_formula(name: str, world: tuple[int, int]) -> None:
    objective, plain = cases(*world)[name]
    picks = min(world[0], 8)
    wanted, distinct = greedy(plain, world[0], picks)
    assert not distinct or walked(objective, picks) == wanted


@pytest.mark.parametrize("name", NAMES)
@given(world=WORLDS)
@settings(max_examples=4, deadline=None)
def test_a_gain_does_not_depend_on_what_is_asked_for_with_it(name: str, world: tuple[int, int]) -> None:
    count, seed = world
    objective, _ = cases(count, seed)[name]
    order = np.random.default_rng(seed).permutation(count)
    state = objective.begin()
    for row in order[: count // 2].tolist():
        state.add(row)
    rest = order[count // 2 :]
    together = state.gains(rest)
    assert together.dtype == np.float64
    assert state.gains(rest[::-1])[::-1].tobytes() == together.tobytes()
    assert b"".join(state.gains(rest[place : place + 1]).tobytes() for place in range(len(rest))) == together.tobytes()


@pytest.mark.parametrize("name", NAMES)
@given(world=WORLDS)
@settings(max_examples=5, deadline=None)
def test_submodular_and_monotone_are_what_they_say(name: str, world: tuple[int, int]) -> None:
    count, seed = world
    objective, _ = cases(count, seed)[name]
    order = np.random.default_rng(seed).permutation(count)
    state, last, before = objective.begin(), order[-1:], np.inf
    for row in order[:-1].tolist()[:10]:
        gain = float(state.gains(last)[0])
        assert not objective.submodular or gain <= before + 1e-9
        assert not objective.monotone or gain >= -1e-9
        before = gain
        state.add(row)


def test_what_is_known_of_an_objective() -> None:
    right, wide = cases(20, 0), cases(20, 1)
    assert right["graph cut, no kernel"][0].submodular and right["graph cut, no kernel"][0].monotone
    assert not wide["graph cut, no kernel"][0].submodular  # opposite vectors have a negative similarity
    assert GraphCut(Cosine(vectors(9, 4, 0)), 0.6).submodular and not GraphCut(Cosine(vectors(9, 4, 0)), 0.6).monotone
    assert right["graph cut"][0].submodular and not right["graph cut"][0].monotone  # not symmetric
    assert all(wide[name][0].submodular and wide[name][0].monotone for name in NAMES if "fl" in name)


@given(seed=st.integers(0, 100), spread=st.floats(0.01, 3))
@settings(max_examples=20, deadline=None)
def test_no_cosine_of_many_rows_is_below_the_bound_told(seed: int, spread: float) -> None:
    made = np.eye(1, 5) + spread * np.random.default_rng(seed).normal(size=(40, 5))
    rows = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cosines, "_BLOCK", 16)
        bound = Cosine(rows).lower
        two_sided = Cosine(rows[:20], rows[20:]).lower
    wide = rows.astype(np.float64)
    assert -1 - 1e-5 <= bound <= (wide @ wide.T).min() + 1e-6
    assert two_sided <= (wide[:20] @ wide[20:].T).min() + 1e-6


@pytest.mark.parametrize("rounded", [True, False])
def test_products_by_torch_have_the_bits_of_those_by_numpy(rounded: bool) -> None:
    kernel, others = Cosine(vectors(300, 96, 1), rounded=rounded), on_grid(vectors(5000, 96, 2))
    one = on_grid(kernel.vectors)
    expected = Cosine(kernel.vectors, others, rounded=rounded)
    made = on_device(one, others, rounded, "cpu")
    for row in (0, 150, 299):
        np.testing.assert_array_equal(made[row], expected.column(row)[1])


@given(world=st.tuples(st.integers(2, 60), st.integers(0, 100)))
@settings(max_examples=20, deadline=None)
def test_a_kernel_is_the_same_however_it_is_held(world: tuple[int, int]) -> None:
    rows = vectors(world[0], 6, world[1])
    free = Cosine(rows)
    held = free.dense()
    assert np.array_equal(held.matrix, held.matrix.T) and held.symmetric and free.symmetric
    whole = sparse_of(np.asarray(held.matrix))  # k = n neighbours
    assert whole.symmetric
    assert free.lower == pytest.approx(held.lower, abs=1e-6) and held.lower == whole.lower
    for one in (held, whole):
        assert one.totals() == pytest.approx(free.totals(), abs=1e-4)
        assert one.diagonal() == pytest.approx(free.diagonal(), abs=1e-6)
        for row in (0, world[0] - 1):
            assert one.column(row)[1] == pytest.approx(free.column(row)[1], abs=1e-7)
            assert one.across(row)[1] == pytest.approx(free.across(row)[1], abs=1e-7)
    found = knn_graph.build(rows, world[0], recall_sample=0)  # every positive cosine
    graph = Sparse(found.indptr, found.indices, found.values, world[0])
    orders = [walked(fl.FacilityLocation(kernel), min(8, world[0])) for kernel in (held, whole, graph)]
    wanted, distinct = greedy(lambda s: float(best(np.asarray(held.matrix), s).sum()), world[0], min(8, world[0]))
    assert orders[0] == orders[1]
    assert not distinct or orders[2] == wanted == orders[0]
    assert nearest(rows, rows[:3]) == pytest.approx(held.matrix[:3].max(axis=0), abs=1e-6)


@given(world=st.tuples(st.integers(2, 60), st.integers(0, 400)))
@settings(max_examples=10, deadline=None)
def test_compiled_greedy_takes_the_same_rows_and_its_bound_holds(world: tuple[int, int]) -> None:
    for name, (objective, _) in cases(*world).items():
        if not isinstance(objective, fl.FacilityLocation):
            continue
        picks = objective.lazy(min(8, world[0]))
        plainly = maximise(objective, Limit(rows=min(8, world[0])), Maximiser(method="naive"))
        assert picks.order.tolist() == plainly.order.tolist(), name
        assert picks.gains == pytest.approx(plainly.gains, abs=1e-9)
        assert picks.value == pytest.approx(value_of(objective, picks.order), abs=1e-9)
        assert picks.bound is not None and picks.bound >= picks.value - 1e-12


def test_equal_rows_have_equal_gains_to_the_last_bit_and_the_first_is_taken() -> None:
    rows = np.repeat(vectors(15, 5, 1), 2, axis=0)
    for objective in (fl.FacilityLocation(Cosine(rows)), GraphCut(Cosine(rows), 0.1)):
        gains = objective.begin().gains(np.arange(30))
        assert gains[::2].tobytes() == gains[1::2].tobytes()
        order = walked(objective, 9)
        assert all(row % 2 == 0 or row - 1 in order[: order.index(row)] for row in order)


def test_facility_location_of_the_worked_example() -> None:
    """Golden value 22: five represented rows, four candidates."""
    matrix = np.array([[1, 0.9, 0.1, 0], [0.9, 1, 0.2, 0.1], [0.1, 0.2, 1, 0.3], [0, 0.1, 0.3, 1], [0.8, 0.7, 0.1, 0]])
    picks = maximise(fl.FacilityLocation(Dense(matrix)), Limit(rows=3))
    assert picks.order.tolist() == [1, 2, 3]
    assert picks.gains == pytest.approx([2.9, 1.0, 0.7])
    assert picks.value / 5 == pytest.approx(0.92)


def test_d_optimal_design_and_dpp_give_one_order() -> None:
    """Golden value 9: greedy D-optimal with ridge 0.5 = greedy DPP on L = I + X Xᵀ / 0.5."""
    rows = np.random.default_rng(0).normal(size=(40, 6))
    kernel = Dense(rows @ rows.T)
    symmetric = Dense((kernel.matrix + kernel.matrix.T) / 2)
    one, two = (maximise(made, Limit(rows=20)) for made in (DOptimal(rows, 0.5), LogDeterminant(symmetric, 0.5)))
    assert one.order.tolist() == two.order.tolist()
    assert one.gains == pytest.approx(two.gains)
    inverse: Array = np.eye(6) / 0.5
    plain: list[int] = []
    for _ in range(20):
        leverage = np.einsum("ij,jk,ik->i", rows, inverse, rows)
        leverage[plain] = -1
        plain.append(int(leverage.argmax()))
        inverse = np.linalg.inv(0.5 * np.eye(6) + rows[plain].T @ rows[plain])
    assert one.order.tolist() == plain


def test_a_kernel_that_has_no_determinant_is_refused() -> None:
    state = LogDeterminant(Dense(np.array([[1.0, 3.0], [3.0, 1.0]])), 0.1).begin()
    with pytest.raises(DataError, match="semidefinite"):
        state.add(0)


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(DataError, match="NaN"):
        Dense(np.array([[1.0, np.nan]]))
    with pytest.raises(DataError, match="length 1"):
        Cosine(np.ones((2, 3)))
    with pytest.raises(DataError, match="outside"):
        Sparse(np.array([0, 1]), np.array([4]), np.array([1.0]), 3)
    with pytest.raises(RecipeError, match="square"):
        GraphCut(Dense(np.ones((2, 3))))
    with pytest.raises(RecipeError, match="expected"):
        fl.flcg(Dense(np.ones((2, 3))), np.ones(3))
    with pytest.raises(DataError, match="NaN"):
        fl.flmi(Dense(np.ones((2, 2))), np.array([1.0, np.nan]))
