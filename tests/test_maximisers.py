"""Maximisers of set functions: lazy is naive, bounds are bounds, budgets are kept, and what is declared holds."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tamis.errors import DataError, RecipeError
from tamis.submodular import front, streaming, walk
from tamis.submodular.cosines import Cosine
from tamis.submodular.coverage import FeatureBased, SaturatedCoverage, SetCover
from tamis.submodular.disparity import DisparitySum
from tamis.submodular.facility_location import FacilityLocation
from tamis.submodular.graph_cut import GraphCut
from tamis.submodular.kernels import Dense, Sparse
from tamis.submodular.log_determinant import LogDeterminant
from tamis.submodular.maximise import Limit, Maximiser, Method, maximise
from tamis.submodular.objective import Objective, Picks, value_of

METHODS: tuple[Method, ...] = get_args(Method)
Whole = NDArray[np.int64]


@dataclass
class Cover:
    """Weighted cover, written out plainly: f(S) = the weight of what S covers, less `price` a row."""

    sets: NDArray[Any]  # (n, u) of 0 and 1
    weights: NDArray[Any]
    price: float = 0.0
    submodular: bool = True
    asked: list[int] = field(default_factory=list)

    @property
    def monotone(self) -> bool:
        return self.price == 0

    def __len__(self) -> int:
        return len(self.sets)

    def begin(self) -> Covered:
        return Covered(self)


class Covered:
    def __init__(self, whole: Cover) -> None:
        self.whole, self.open, self.value = whole, np.ones(whole.sets.shape[1]), 0.0

    def gains(self, rows: Whole, /) -> NDArray[np.float64]:
        self.whole.asked += rows.tolist()
        new = self.whole.sets[rows] * self.open * self.whole.weights
        return np.array([math.fsum(row) for row in new.tolist()]) - self.whole.price

    def add(self, row: int, /) -> None:
        self.value += float(self.gains(np.array([row]))[0])
        self.open = self.open * (1 - self.whole.sets[row])


def cover(rows: int, seed: int, *, whole: bool = False, price: float = 0.0) -> Cover:
    """Random sets; with `whole` all weights are 1, so that most gains tie."""
    draw = np.random.default_rng(seed)
    sets = (draw.random((rows, 12)) < 0.25).astype(np.float64)
    return Cover(sets, np.ones(12) if whole else draw.random(12), price)


def costs_of(rows: int, seed: int) -> Whole:
    return np.random.default_rng(seed + 99).integers(1, 12, rows)


def slowly(objective: Objective, limit: Limit) -> list[int]:
    """Greedy as it is written in books: every gain at every step, one candidate at a time."""
    state, picked, left = objective.begin(), [], limit.most
    cost = limit.costs(len(objective))
    while rest := [row for row in range(len(objective)) if row not in picked and cost[row] <= left]:
        rates = [float(state.gains(np.array([row]))[0] / cost[row]) for row in rest]
        row = rest[rates.index(max(rates))]
        picked.append(row)
        left -= int(cost[row])
        state.add(row)
    return picked


def best_of(objective: Objective, limit: Limit) -> float:
    """The largest value of all sets within the limit."""
    cost, rows = limit.costs(len(objective)), range(len(objective))
    sets = (one for size in range(1, len(objective) + 1) for one in itertools.combinations(rows, size))
    return max(value_of(objective, np.array(one)) for one in sets if cost[list(one)].sum() <= limit.most)


def world(rows: int, seed: int) -> list[Objective]:
    """Objectives of the engine over one random world."""
    draw = np.random.default_rng(seed)
    vectors = np.abs(draw.normal(size=(rows, 5))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    free, features = draw.normal(size=(rows, rows)), draw.random((rows, 7)).T.copy()
    row, column = np.nonzero(free > 0.5)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))]).astype(np.int64)
    sparse = Sparse(indptr, column.astype(np.int32), free[row, column], rows)
    return [
        FacilityLocation(Dense(free)),
        FacilityLocation(Cosine(vectors)),
        FacilityLocation(sparse),
        GraphCut(Cosine(vectors), 0.5),
        SaturatedCoverage(Dense(np.abs(free)), 0.2),
        FeatureBased(Dense(features), "sqrt"),
        SetCover(Sparse(indptr, column.astype(np.int32), np.ones(len(row)), rows)),
        LogDeterminant(Cosine(vectors), 0.1),
    ]


def same(one: Picks, other: Picks) -> bool:
    return [one.order.tolist(), one.gains.tolist()] == [other.order.tolist(), other.gains.tolist()]


worlds = st.tuples(st.integers(2, 60), st.integers(0, 10**6))
few = settings(max_examples=15, deadline=None)


@few
@given(worlds, st.integers(1, 70), st.booleans())
def test_lazy_and_naive_pick_what_books_say_ties_to_the_lower(size: tuple[int, int], most: int, whole: bool) -> None:
    objective = cover(*size, whole=whole)
    for limit in (Limit(rows=most), Limit(tokens=max(most, 12), cost=costs_of(*size))):
        naive, lazy = (maximise(objective, limit, Maximiser(method=method)) for method in ("naive", "lazy"))
        assert same(naive, lazy) and naive.bound == lazy.bound and naive.value == lazy.value
        if not naive.notes:  # the guard did not begin anew
            assert naive.order.tolist() == slowly(objective, limit)


@settings(max_examples=6, deadline=None)
@given(worlds)
def test_lazy_picks_what_naive_picks_on_the_objectives_of_the_engine(size: tuple[int, int]) -> None:
    for objective in world(*size):
        for limit in (Limit(rows=size[0] // 2 + 1), Limit(tokens=40, cost=costs_of(*size))):
            naive, lazy = (maximise(objective, limit, Maximiser(method=method)) for method in ("naive", "lazy"))
            assert lazy.order.tolist() == naive.order.tolist(), objective
            np.testing.assert_allclose(lazy.value, naive.value, rtol=1e-12)
            assert lazy.evaluations <= naive.evaluations + 2 * size[0]


def test_lazy_asks_for_far_fewer_gains() -> None:
    vectors = np.random.default_rng(1).normal(size=(400, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    objective = FacilityLocation(Cosine(vectors))
    naive, lazy = (maximise(objective, Limit(rows=80), Maximiser(method=method)) for method in ("naive", "lazy"))
    assert same(naive, lazy) and lazy.evaluations < naive.evaluations / 4


@pytest.mark.parametrize("method", METHODS)
def test_picks_do_not_depend_on_blocks_fronts_and_batches(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [Limit(rows=25), Limit(tokens=70, cost=costs_of(60, 3))]
    found = []
    for size in (1, 7, 2048):
        for module, name in ((walk, "BLOCK"), (streaming, "BLOCK"), (front, "FRONT"), (front, "FIRST")):
            monkeypatch.setattr(module, name, min(size, 8) if name == "FIRST" else size)
        made = [cover(60, 3), cover(60, 3, whole=True)]
        found.append([maximise(one, limit, Maximiser(method=method)) for one in made for limit in limits])
    for one, two, three in zip(*found, strict=True):
        assert same(one, two) and same(two, three)


@few
@given(worlds, st.data())
def test_a_smaller_row_budget_gives_a_prefix_where_that_is_declared(size: tuple[int, int], data: st.DataObject) -> None:
    objective = cover(*size)
    more = data.draw(st.integers(1, size[0]))
    fewer = data.draw(st.integers(1, more))
    for method in METHODS:
        large, small = (maximise(objective, Limit(rows=rows), Maximiser(method=method)) for rows in (more, fewer))
        assert large.nested == (method in ("naive", "lazy"))
        if large.nested:
            assert small.order.tolist() == large.order[:fewer].tolist()


@few
@given(worlds, st.integers(1, 70), st.integers(12, 300), st.floats(0, 0.2))
def test_budgets_are_filled_and_never_exceeded(size: tuple[int, int], rows: int, tokens: int, price: float) -> None:
    objective, cost = cover(*size, price=price), costs_of(*size)
    for method in METHODS:
        picks = maximise(objective, Limit(rows=rows), Maximiser(method=method, seed=rows))
        assert len(picks.order) == len(set(picks.order.tolist())) == min(rows, size[0])
        picks = maximise(objective, Limit(tokens=tokens, cost=cost), Maximiser(method=method))
        left = tokens - cost[picks.order].sum()
        assert left >= 0 and len(set(picks.order.tolist())) == len(picks.order)
        assert left < min(np.delete(cost, picks.order), default=10**9)
        assert not picks.nested


@few
@given(worlds, st.integers(1, 30))
def test_gains_add_up_to_the_value_of_the_picks(size: tuple[int, int], rows: int) -> None:
    objective = cover(*size)
    for method in METHODS:
        for limit in (Limit(rows=rows), Limit(tokens=rows + 11, cost=costs_of(*size))):
            picks = maximise(objective, limit, Maximiser(method=method))
            assert picks.value == pytest.approx(value_of(objective, picks.order), rel=1e-12)
            assert picks.gains.sum() == pytest.approx(picks.value, rel=1e-12)
            state = objective.begin()
            for row, gain in zip(picks.order.tolist(), picks.gains.tolist(), strict=True):
                assert state.gains(np.array([row]))[0] == gain
                state.add(row)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10**6), st.integers(1, 4))
def test_bounds_lie_above_the_best_and_shares_of_it_are_reached(rows: int, seed: int, most: int) -> None:
    objective, epsilon = cover(rows, seed), 0.1
    limits = (Limit(rows=most), Limit(tokens=11 + most, cost=costs_of(rows, seed)))
    best = [best_of(objective, limit) for limit in limits]
    shares = dict.fromkeys(METHODS, 0.0) | dict.fromkeys(("naive", "lazy"), 1 - 1 / math.e)
    shares |= {"threshold": 1 - 1 / math.e - epsilon, "sieve": 0.5 - epsilon}
    shares["partition"] = (1 - 1 / math.e) ** 2 / min(math.sqrt(most), 3)
    for method in METHODS:
        how = Maximiser(method=method, epsilon=epsilon, parts=3)
        by_rows, by_tokens = (maximise(objective, limit, how) for limit in limits)
        assert by_rows.value >= shares[method] * best[0] - 1e-12
        if method in ("naive", "lazy"):
            assert by_tokens.value >= (1 - 1 / math.e) / 2 * best[1] - 1e-12
        for picks, highest in zip((by_rows, by_tokens), best, strict=True):
            assert picks.bound is not None and picks.bound >= highest * (1 - 1e-12) and picks.bound >= picks.value


@settings(max_examples=4, deadline=None)
@given(st.integers(3, 8), st.integers(0, 10**6))
def test_bounds_of_the_objectives_of_the_engine_lie_above_the_best(rows: int, seed: int) -> None:
    for objective in world(rows, seed):
        for limit in (Limit(rows=3), Limit(tokens=15, cost=costs_of(rows, seed))):
            best = best_of(objective, limit)
            for method in METHODS if objective.monotone else ():
                picks = maximise(objective, limit, Maximiser(method=method))
                assert picks.bound is not None and picks.bound >= best * (1 - 1e-9), (objective, method)


def test_stochastic_greedy_has_its_share_on_average() -> None:
    objective, limit = cover(12, 5), Limit(rows=3)
    found = [maximise(objective, limit, Maximiser(method="stochastic", seed=seed)) for seed in range(40)]
    assert len({tuple(one.order.tolist()) for one in found}) > 2
    assert np.mean([one.value for one in found]) >= (1 - 1 / math.e - 0.1) * best_of(objective, limit)
    again = maximise(objective, limit, Maximiser(method="stochastic", seed=7))
    assert same(found[7], again) and "drawn from those left (seed 7)" in again.notes[0]
    many = cover(3000, 1)
    picks = maximise(many, Limit(rows=30), Maximiser(method="stochastic", epsilon=0.05))
    assert picks.evaluations < 30 * 300 + 3000 + 1 and picks.value > 0.9 * maximise(many, Limit(rows=30)).value


def test_every_row_is_equally_likely_in_a_sample() -> None:
    from tamis.submodular.stochastic import _draw

    objective = cover(50, 2)
    going = walk.Walk(objective, Limit(rows=9))
    going.measure(np.arange(50))
    for row in (3, 10, 11):
        going.take(row)
    for size in (6, 30):  # few of the rows, and so many that all are put in order
        counts = np.zeros(50)
        for seed in range(3000):
            drawn = _draw(going, np.arange(50), size, seed)[1]
            assert len(set(drawn.tolist())) == size and drawn.tolist() == sorted(drawn.tolist())
            counts[drawn] += 1
        expected = 3000 * size / 47
        assert not counts[[3, 10, 11]].any()
        assert ((np.delete(counts, [3, 10, 11]) - expected) ** 2 / expected).sum() < 47 + 6 * math.sqrt(2 * 47)


def test_a_sieve_reads_the_data_once_and_then_only_what_it_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BLOCK", 10)
    objective, most = cover(200, 4), 5
    picks = maximise(objective, Limit(rows=most), Maximiser(method="sieve", epsilon=0.3))
    asked = np.array(objective.asked)
    end = len(asked) - 1 - int(np.argmax(asked[::-1] == 199))  # the last block is the last that is new
    seen = np.maximum.accumulate(asked[:end])
    outside = set(asked[:end][asked[:end] < seen // 10 * 10].tolist()) | set(asked[end + 1 :].tolist())
    assert len(outside) <= 60, "rows asked for after their block: picks of sieves and those kept to fill up"
    full = maximise(cover(200, 4), Limit(rows=most))
    assert picks.value >= 0.5 * full.value and "one pass over the rows" in picks.notes[0]


def test_the_guard_of_token_budgets_takes_the_one_large_row() -> None:
    sets, cost = np.eye(4), np.array([1, 10, 10, 3])
    objective = Cover(sets, np.array([1.5, 10.0, 9.0, 0.25]))
    limit = Limit(tokens=10, cost=cost)
    assert slowly(objective, limit) == [0, 3]
    for method in METHODS:
        picks = maximise(objective, limit, Maximiser(method=method, epsilon=0.01))
        assert picks.order.tolist() == [1] and picks.value == 10
    assert "best single row, of 10 tokens" in maximise(objective, limit).notes[0]
    assert maximise(objective, Limit(tokens=11, cost=cost)).order.tolist() == [0, 1]


def test_picks_that_make_f_smaller_fill_the_budget_or_stop_it() -> None:
    objective = cover(30, 6, price=0.4)
    for method in METHODS:
        filled = maximise(objective, Limit(rows=20), Maximiser(method=method))
        assert filled.bound is None and len(filled.order) == 20
        assert f"{int((filled.gains < 0).sum())} of the 20 picks made f smaller" in filled.notes[-1]
        stopped = maximise(objective, Limit(rows=20), Maximiser(method=method, stop_at_negative=True))
        assert 0 < len(stopped.order) < 20 and (stopped.gains >= 0).all()
    assert stopped.value > filled.value


def test_an_objective_that_is_not_submodular_is_walked_naively() -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    objective = DisparitySum(Cosine(vectors))
    assert not objective.submodular
    lazy, naive = (maximise(objective, Limit(rows=6), Maximiser(method=method)) for method in ("lazy", "naive"))
    assert same(lazy, naive) and lazy.bound is None
    assert "not submodular" in lazy.notes[0]
    for method in METHODS:
        if method not in ("threshold", "sieve"):
            assert len(maximise(objective, Limit(rows=6), Maximiser(method=method)).order) == 6
            continue
        with pytest.raises(RecipeError, match="needs a submodular objective"):
            maximise(objective, Limit(rows=6), Maximiser(method=method))


@pytest.mark.parametrize("method", METHODS)
def test_a_gain_that_is_no_number_stops_the_run(method: Method) -> None:
    objective = cover(20, 1)
    objective.sets[13, 0] = np.nan
    with pytest.raises(DataError, match="candidate 13 is not a finite number"):
        maximise(objective, Limit(rows=3), Maximiser(method=method, epsilon=1e-9))


def test_wrong_limits_and_settings_say_what_is_expected() -> None:
    cost = np.array([1, 2])
    for wrong in ({}, {"rows": 1, "tokens": 2}, {"tokens": 3}, {"rows": 3, "cost": cost}):
        with pytest.raises(RecipeError, match="rows, or tokens with the cost"):
            Limit(**wrong)
    with pytest.raises(RecipeError, match="at least 1"):
        Limit(rows=0)
    with pytest.raises(DataError, match="less than one token"):
        Limit(tokens=3, cost=np.array([1, 0]))
    with pytest.raises(DataError, match="2 costs for 5 candidates"):
        maximise(cover(5, 0), Limit(tokens=3, cost=cost))
    with pytest.raises(RecipeError) as raised:
        Maximiser(method="fast", epsilon=1.0, parts=0)  # type: ignore[arg-type]
    assert len(raised.value.faults) == 3 and "expected one of naive, lazy" in raised.value.faults[0]


def test_nothing_that_fits_and_nothing_to_choose_from_give_no_picks() -> None:
    empty = Cover(np.zeros((0, 3)), np.ones(3))
    for method in METHODS:
        assert not len(maximise(empty, Limit(rows=2), Maximiser(method=method)).order)
        dear = Limit(tokens=2, cost=np.full(5, 9))
        picks = maximise(cover(5, 1), dear, Maximiser(method=method))
        assert not len(picks.order) and picks.value == picks.bound == 0
