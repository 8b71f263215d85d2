"""Selectors that cover the pool by geometry equal their plain forms, and keep what their docstrings say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import synthetic
from tamis import catalogue
from tamis.budgets import BudgetTooSmall, by_shares
from tamis.draws import at
from tamis.errors import DataError, RecipeError
from tamis.gradient.encodings import Encoding
from tamis.selectors.badge import drawn_by_distance
from tamis.selectors.deita_filter import far_from_kept
from tamis.selectors.k_center import farthest_first
from tamis.selectors.strata import strata_of
from tamis.values import Budget, Machine, Reason, Subset
from tamis.vectors.distances import Spread, squared, squared_lengths
from tamis.views import PoolView

ON = Machine()
Vectors = NDArray[np.float32]


def select(name: str, view: PoolView, budget: str | int, **fields: Any) -> Subset:
    subset: Subset = catalogue.build("selectors", name, fields).select(view, Budget.parse(budget), ON)
    return subset


def unit(count: int, dimension: int, seed: int) -> Vectors:
    drawn = np.random.default_rng(seed).normal(size=(count, dimension))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


def view_of(folder: Path, vectors: Vectors, refused: float = 0.1, **columns: NDArray[np.float64]) -> PoolView:
    signals = {"lengths": synthetic.lengths(len(vectors), refused=refused), "tokens": {"pooled": vectors}}
    signals["tokens"]["reason"] = signals["lengths"]["reason"]
    made = {f"made.{name}@tiny": synthetic.column(values) for name, values in columns.items()}
    return synthetic.view(folder, synthetic.rows(len(vectors)), signals, columns=made)


# k-center


def ones(vectors: Vectors) -> NDArray[np.int64]:
    return np.ones(len(vectors), np.int64)


def test_k_center_golden_21() -> None:
    line = np.array([[0], [1], [2], [10], [11], [20]], np.float32)
    found = farthest_first(line, line[:1], ones(line), 3)
    assert found.order.tolist() == [5, 3, 2] and found.gains.tolist() == [20, 10, 2] and found.distances.max() == 1


@given(count=st.integers(3, 40), seed=st.integers(0, 10_000), trim=st.sampled_from([0, 0.1, 0.5]))
@settings(max_examples=60, deadline=None)
def test_k_center_equals_the_slow_form_and_its_radius_never_grows(count: int, seed: int, trim: float) -> None:
    vectors = unit(count, 5, seed)
    found = farthest_first(vectors, vectors[:0], ones(vectors), None, trim)
    order, gains = found.order, found.gains
    apart = np.linalg.norm(vectors[:, None].astype(np.float64) - vectors[None], axis=2)
    mean = vectors.mean(axis=0)
    slow = [int(np.argmin(np.round(((vectors - mean) ** 2).sum(axis=1), 5)))]
    while len(slow) < count:
        ranked = sorted((i for i in range(count) if i not in slow), key=lambda i: (-apart[i, slow].min(), i))
        slow.append(ranked[min(int(trim * count), len(ranked) - 1)])
    assert sorted(order.tolist()) == list(range(count)) and order.tolist() == slow
    before = [apart[row, slow[:at]].min() for at, row in enumerate(slow) if at]
    assert np.allclose(gains[1:], before, atol=2e-3)
    assert not found.distances.any()
    if not trim:
        assert (np.diff(gains) <= 1e-6).all()


def test_k_center_is_within_twice_the_best_radius() -> None:
    from itertools import combinations

    for seed in range(5):
        vectors = unit(11, 3, seed)
        apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
        best = min(apart[:, list(three)].min(axis=1).max() for three in combinations(range(11), 3))
        found = farthest_first(vectors, vectors[:0], ones(vectors), 3)
        assert np.isclose(found.distances.max(), apart[:, found.order].min(axis=1).max(), atol=2e-3)
        assert found.distances.max() <= 2 * best


def test_k_center_passes_over_outliers(tmp_path: Path) -> None:
    vectors = unit(100, 8, 0)
    vectors[:, 0] = np.abs(vectors[:, 0]) + 2
    vectors[17] = np.eye(8)[0] * -1
    view = view_of(tmp_path, vectors, refused=0)
    assert select("k-center", view, 2, trim=0).positions[1] == 17
    assert 17 not in select("k-center", view, 90, trim=0.01).positions
    assert 17 in select("k-center", view, 100, trim=0.01).positions
    assert select("k-center", view, 100).notes == (
        "every row lies within 0.0000 of a chosen one, 99 % of them within 0.0000 (at most 2)",
    )


def test_k_center_starts_from_rows_chosen_before_and_keeps_a_token_budget(tmp_path: Path) -> None:
    import dataclasses

    view = view_of(tmp_path, unit(40, 4, 1))
    first = select("k-center", view, 5, trim=0)
    after = dataclasses.replace(view, existing=first.positions.tolist())
    whole, later = select("k-center", view, 12, trim=0), select("k-center", after, 7, trim=0)
    assert later.positions.tolist() == whole.positions.tolist()[5:] and np.array_equal(later.gains, whole.gains[5:])
    subset = select("k-center", view, "100 tokens", trim=0)
    rest = np.setdiff1d(np.flatnonzero(view.usable), subset.positions)
    assert 0 <= 100 - view.cost[subset.positions].sum() < view.cost[rest].min()
    with pytest.raises(BudgetTooSmall):
        select("k-center", view, "1 token")
    with pytest.raises(RecipeError, match="trim"):
        select("k-center", view, 3, trim=1)


# DEITA's filter


@pytest.mark.parametrize(("block", "limit"), [(1, 60), (7, 60), (512, 60), (7, 9)])
def test_deita_equals_the_slow_form_whatever_the_block(block: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from tamis.selectors import deita_filter

    monkeypatch.setattr(deita_filter, "_BLOCK", block)
    vectors, order = unit(60, 4, 2), np.random.default_rng(0).permutation(60)
    before = unit(3, 4, 9)
    slow: list[int] = []
    for place, row in enumerate(order):
        against = [*before, *vectors[order[slow]]]
        if all(float(vectors[row] @ one) <= 0.8 for one in against):
            slow.append(place)
    assert far_from_kept(vectors, order, before, 0.8, limit).tolist() == slow[:limit]


def test_deita_keeps_what_is_exactly_as_near_as_the_threshold() -> None:
    vectors = np.array([[1, 0], [0.9, 0.19**0.5], [0.9001, (1 - 0.9001**2) ** 0.5]], np.float32)
    nothing = vectors[:0]
    assert far_from_kept(vectors, np.array([0, 1]), nothing, 0.9, 9).tolist() == [0, 1]
    assert far_from_kept(vectors, np.array([0, 2]), nothing, 0.9, 9).tolist() == [0]


def test_deita_takes_the_best_rows_first_and_a_product_of_columns(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    quality, complexity = random.uniform(1, 6, 50), random.uniform(1, 6, 50)
    quality[3] = np.nan
    view = view_of(tmp_path, unit(50, 6, 3), quality=quality, complexity=complexity)
    subset = select("deita", view, 50, by="made.quality", times="made.complexity", threshold=0.5)
    assert subset.unit == "points x points" and 3 not in subset.positions and 3 < len(subset.positions) < 40
    assert subset.positions[0] == np.flatnonzero(view.usable)[np.nanargmax((quality * complexity)[view.usable])]
    assert (np.diff(subset.gains) <= 0).all()
    longest = select("deita", view, 4, threshold=1)
    assert longest.positions.tolist() == select("longest", view, 4).positions.tolist()
    with pytest.raises(RecipeError, match="cosine"):
        select("deita", view, 4, threshold=90)
    with pytest.raises(RecipeError, match="first as"):
        select("deita", view, 4, times="made.quality")


def test_deita_centred_tells_apart_what_lies_on_one_side(tmp_path: Path) -> None:
    vectors = unit(60, 6, 5) + 4
    view = view_of(tmp_path, vectors, refused=0)
    one = select("deita", view, 60, threshold=0.5)
    assert len(one.positions) == 1 and one.notes == (
        "only 1 of 60 rows were kept, fewer than the budget: the others have a cosine above 0.5 to one of them",
    )
    assert select("deita", view, 1, threshold=0.5).notes == ("1 of the 1 best rows were kept",)
    assert len(select("deita", view, 60, threshold=0.5, centred=True).positions) > 8


# groups that share a budget: CCS and balanced k-means


def water_fill(sizes: list[int], budget: int) -> list[int]:
    """The rule of CCS's code: strata by size, smallest first, each gets an equal part of what is left."""
    parts = [0] * len(sizes)
    for done, group in enumerate(np.argsort(sizes, kind="stable").tolist()):
        parts[group] = min(sizes[group], budget // (len(sizes) - done))
        budget -= parts[group]
    return parts


def shared(sizes: list[int], budget: int, weights: list[float] | None = None) -> list[int]:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    order = np.random.default_rng(0).permutation(len(groups))
    made = by_shares(groups, order, None if weights is None else np.array(weights))
    for group in range(len(sizes)):  # each keeps its own order
        assert [row for row in made if groups[row] == group] == [row for row in order if groups[row] == group]
    parts: list[int] = np.bincount(groups[made[:budget]], minlength=len(sizes)).tolist()
    return parts


def test_ccs_goldens_14_and_29() -> None:
    assert shared([2, 50, 5, 0, 10], 30) == [2, 13, 5, 0, 10]
    assert shared([1, 4, 0, 9, 2], 6) == [1, 2, 0, 2, 1]


@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any), budget=st.integers(0, 100))
@settings(max_examples=200, deadline=None)
def test_equal_shares_are_the_water_filling_of_ccs(sizes: list[int], budget: int) -> None:
    assert shared(sizes, budget) == water_fill(sizes, budget)


def test_shares_follow_weights_and_used_up_groups_leave_their_part() -> None:
    assert shared([100, 100, 100], 12, [1, 2, 3]) == [2, 4, 6]
    assert shared([100, 1, 100], 12, [1, 2, 3]) == [3, 1, 8]


@pytest.mark.parametrize("shift", [0, -50])
def test_ccs_loses_neither_the_greatest_value_nor_its_place(shift: int, tmp_path: Path) -> None:
    scores = np.linspace(0, 10, 60) ** 2 + shift
    view = view_of(tmp_path, unit(60, 2, 0), refused=0, score=scores)
    everything = select("ccs", view, 60, by="made.score", drop=0)
    assert (
        sorted(everything.positions.tolist()) == list(range(60))
        and 59 in select("ccs", view, 40, by="made.score", drop=0, strata=5).positions
    )
    for hard, gone in (("high", range(45, 60)), ("low", range(15))):
        kept = select("ccs", view, 60, by="made.score", drop=0.25, hard=hard)
        assert not set(kept.positions.tolist()) & set(gone) and len(kept.positions) == 45
        assert np.allclose(kept.gains, scores[kept.positions])


def test_ccs_shares_by_strata_of_equal_width_or_of_equal_count(tmp_path: Path) -> None:
    scores = np.concatenate([np.linspace(0, 1, 90), np.linspace(9, 10, 10)])
    view = view_of(tmp_path, unit(100, 2, 0), refused=0, score=scores)
    by_width = select("ccs", view, 20, by="made.score", drop=0, strata=2)
    assert (scores[by_width.positions] > 5).sum() == 10
    assert by_width.notes == ("2 of 2 strata hold rows, the largest 90% of them",)
    by_count = select("ccs", view, 20, by="made.score", drop=0, strata=10, edges="quantile")
    assert (scores[by_count.positions] > 5).sum() == 2
    other = select("ccs", view, 20, by="made.score", drop=0, strata=2, seed=1)
    assert by_width.positions.tolist() != other.positions.tolist()
    counts = np.bincount(strata_of(scores, 7, "width"), minlength=7)
    assert counts.tolist() == np.histogram(scores, 7)[0].tolist()
    assert set(strata_of(np.ones(5), 50, "width").tolist()) == set(strata_of(np.ones(5), 3, "quantile").tolist()) == {0}


def test_ccs_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    view = view_of(tmp_path, unit(9, 2, 0), score=np.arange(9.0))
    for fields in ({"drop": 1}, {"strata": 0}):
        with pytest.raises(RecipeError, match="ccs"):
            select("ccs", view, 3, by="made.score", **fields)


def grouped(folder: Path, sizes: list[int]) -> tuple[PoolView, NDArray[np.int64]]:
    """Rows in well separated groups, shuffled."""
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    vectors = np.eye(len(sizes), 8)[groups] + 0.01 * np.random.default_rng(1).normal(size=(len(groups), 8))
    return view_of(folder, vectors.astype(np.float32), refused=0), groups


def test_balanced_k_means_gives_equal_or_root_shares_typical_rows_first(tmp_path: Path) -> None:
    view, groups = grouped(tmp_path, [64, 16, 4])
    subset = select("k-means-balanced", view, 12, clusters=3)
    assert np.bincount(groups[subset.positions]).tolist() == [4, 4, 4]
    assert subset.notes == ("rows from 3 of 3 clusters",)
    assert subset.values is not None
    for group in range(3):
        inside = np.flatnonzero(groups == group)
        best = inside[np.argsort(-subset.values[inside], kind="stable")][:4]
        assert sorted(best) == sorted(place for place in subset.positions.tolist() if groups[place] == group)
    root = select("k-means-balanced", view, 14, clusters=3, shares="sqrt", inside="random")
    assert np.bincount(groups[root.positions]).tolist() == [8, 4, 2]
    other = select("k-means-balanced", view, 14, clusters=3, shares="sqrt", inside="random", seed=1)
    assert root.positions.tolist() != other.positions.tolist()


def test_balanced_k_means_with_more_clusters_than_rows_takes_every_row(tmp_path: Path) -> None:
    view = view_of(tmp_path, unit(12, 3, 0), refused=0)
    assert sorted(select("k-means-balanced", view, 99).positions.tolist()) == list(range(12))
    with pytest.raises(RecipeError, match="clusters"):
        select("k-means-balanced", view, 3, clusters=0)


# BADGE


def test_badge_golden_8_distances_of_gradients_are_those_of_their_factors() -> None:
    errors = np.array([[-0.094883, 0.427337, -0.01378, -0.318674], [-0.096159, -0.149477, -0.03597, 0.281606]])
    states = np.array([[0.25528, 0.811738, -0.31193], [1.100972, -0.719491, 0.825173]])
    gradients = np.einsum("nc,nd->ncd", errors, states).reshape(2, -1).astype(np.float32)
    found = np.sqrt(squared(gradients, squared_lengths(gradients), gradients[1])[0])
    e, h = errors @ errors.T, states @ states.T
    factored = np.sqrt(e[0, 0] * h[0, 0] + e[1, 1] * h[1, 1] - 2 * e[0, 1] * h[0, 1])
    assert np.isclose(found, 0.591629, atol=1e-5) and np.isclose(found, factored, atol=1e-5)
    assert np.allclose(drawn(gradients, seed=0).gains, found)


def drawn(vectors: Vectors, seed: int, limit: int | None = None, before: Vectors | None = None) -> Spread:
    bits = at(np.arange(len(vectors), dtype=np.uint64), seed)
    return drawn_by_distance(vectors, vectors[:0] if before is None else before, bits, ones(vectors), limit)


def test_badge_draws_in_proportion_to_squared_distances() -> None:
    line = np.array([[10], [9], [8], [10], [6]], np.float32)
    weights = np.array([0, 1, 4, 0, 16])
    counts = np.zeros(5)
    for seed in range(3000):
        counts[drawn(line, seed, 2).order[1]] += 1
    expected = 3000 * weights / weights.sum()
    assert (np.abs(counts - expected) <= 4 * np.sqrt(expected)).all()
    assert drawn(line, 0).order.tolist()[0] == 0 and drawn(line, 0).order.tolist()[-1] == 3
    assert drawn(line, 0, 1, before=line[4:]).order.tolist() != [4]


def gradient_view(folder: Path, made: Vectors, encoding: Encoding = "float32") -> PoolView:
    lengths = synthetic.lengths(len(made), refused=0)
    gradients = synthetic.gradients(made, encoding, checkpoints=2)
    gradients["reason"][5] = Reason.NOT_FINITE
    return synthetic.view(folder, synthetic.rows(len(made)), {"lengths": lengths, "gradients": gradients})


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8", "bit"])
def test_badge_reads_any_store_and_picks_large_and_different_gradients(encoding: Encoding, tmp_path: Path) -> None:
    made = np.random.default_rng(0).choice([-1.0, 1.0], (40, 32)).astype(np.float32)
    made[11] *= 3
    made[12:] = made[12]
    view = gradient_view(tmp_path, made, encoding)
    subset = select("badge", view, 12)
    assert subset.positions[0] == 11 and len({*subset.positions.tolist(), *range(12, 40)}) == 11 + 28
    assert 5 not in select("badge", view, 40).positions and len(select("badge", view, 40).positions) == 39
    assert np.isclose(subset.gains[1], np.linalg.norm(made[11] - made[subset.positions[1]]), rtol=0.02)
    small = select("badge", view, 2, length="unit").gains
    assert small[1] <= 2 * np.sqrt(2) and subset.gains[1] > 4
    assert select("badge", view, 12, seed=1).positions.tolist() != subset.positions.tolist()


def test_badge_is_away_from_rows_chosen_before_and_needs_a_gradient(tmp_path: Path) -> None:
    import dataclasses

    view = gradient_view(tmp_path, unit(30, 16, 0))
    whole = select("badge", view, 8)
    after = dataclasses.replace(view, existing=[*whole.positions[:3].tolist(), 5])
    later = select("badge", after, 5)
    assert not set(later.positions.tolist()) & {*whole.positions[:3].tolist(), 5}
    nothing = dataclasses.replace(view, keep=np.arange(30) == 5)
    with pytest.raises(DataError, match="no usable row"):
        select("badge", nothing, 3)
