"""Concepts of rows, and what selects by them: golden values, literal loops as oracles, bounds by brute force."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import synthetic
from tamis import catalogue
from tamis.errors import DataError, RecipeError
from tamis.selectors.feddca import covering_centres
from tamis.submodular.information import Gifts, gifts_of, graph_of, judged
from tamis.submodular.maximise import Limit, Maximiser, Method, maximise
from tamis.submodular.objective import value_of
from tamis.values import Budget, Machine, Subset
from tamis.vectors import concepts
from tamis.vectors.balance import Balance, Goals, goals_of
from tamis.vectors.concepts import Concepts, of_tags
from tamis.views import PoolView

ON = Machine()
FIELDS = dict[str, Any]


def select(name: str, view: PoolView, budget: str | int, **fields: Any) -> Subset:
    subset: Subset = catalogue.build("selectors", name, fields).select(view, Budget.parse(budget), ON)
    return subset


def view_of(folder: Path, count: int, metas: list[FIELDS] | None = None, **more: Any) -> PoolView:
    """Rows that can all be trained on, of 10 tokens, with vectors in three bundles unless given."""
    lengths = synthetic.lengths(count, refused=0)
    lengths["tokens"] = np.full(count, 10, np.int32)
    pooled = more.pop("pooled", bundles(count))
    rows = [
        dataclasses.replace(row, meta=meta)
        for row, meta in zip(synthetic.rows(count), metas or [{}] * count, strict=True)
    ]
    rows = [
        dataclasses.replace(row, source=name)
        for row, name in zip(rows, more.pop("sources", ["one"] * count), strict=True)
    ]
    signals = {"lengths": lengths, "tokens": {"pooled": pooled, "reason": lengths["reason"]}}
    return synthetic.view(folder, rows, signals, **more)


def bundles(count: int, width: float = 0.05) -> NDArray[np.float32]:
    """Unit vectors near three axes in turn."""
    noise = np.random.default_rng(4).normal(size=(count, 4)) * width
    made = np.eye(4)[np.arange(count) % 3] + noise
    unit: NDArray[np.float32] = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return unit


# concepts


def test_tags_are_read_from_lists_and_from_words_with_commas(tmp_path: Path) -> None:
    metas: list[FIELDS] = [
        {"tags": ["b", "a", "b"]},
        {"tags": "a, c"},
        {},
        {"tags": 7},
        {"tags": ""},
        {"tags": ["", None]},
    ]
    found = concepts.of_view(view_of(tmp_path, 6, metas), "x", "meta.tags")
    assert found.concepts.names == ("7", "None", "a", "b", "c")
    named = [[found.concepts.names[one] for one in found.concepts.of(row)] for row in range(6)]
    assert named == [["a", "b"], ["a", "c"], [], ["7"], [], ["None"]]
    assert found.concepts.frequency.tolist() == [1, 1, 2, 1, 1] and found.vectors is None
    with pytest.raises(DataError, match=r"no usable row has a meta\.skill; their meta has tags"):
        concepts.of_view(view_of(tmp_path / "other", 2, [{"tags": "a"}] * 2), "x", "meta.skill")
    with pytest.raises(RecipeError, match="neither clusters nor a column"):
        catalogue.build("selectors", "mig", {"concepts": "tags"})


def test_clusters_of_three_sizes_are_three_families_and_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    vectors, keys = bundles(48), [f"{(place * 29) % 48:02d}" for place in range(48)]
    found = concepts.of_clusters(vectors, keys)
    sizes = np.bincount(found.family)
    assert sizes[0] <= 2 and sizes[1] <= 7 and sizes[2] <= 28 and len(found.names) == sizes.sum()
    assert (np.diff(found.indptr) == 3).all() and (found.family[found.ids].reshape(48, 3) == [0, 1, 2]).all()
    order = np.random.default_rng(0).permutation(48)
    moved = concepts.of_clusters(vectors[order], [keys[place] for place in order])
    assert np.array_equal(moved.ids.reshape(48, 3), found.ids.reshape(48, 3)[order])
    three = concepts.of_clusters(vectors, keys, (3,))
    assert all(len(set(three.ids[start::3].tolist())) == 1 for start in range(3)), "the bundles are the clusters"
    means = concepts.mean_vectors(three, vectors, keys)
    own = three.ids == three.ids[0]
    assert np.allclose(means[three.ids[0]], vectors[own].mean(axis=0), atol=1e-6)


# MIG


def gifts(tags: list[list[str]], qualities: Any, spread: float = 1.0, *, exact: bool, seed: int | None = None) -> Gifts:
    """Gifts over the golden graph (a and b at a cosine of 0.95, c apart), or one of random vectors."""
    found = of_tags(tags)
    vectors = np.linalg.cholesky(np.array([[1, 0.95, 0], [0.95, 1, 0], [0, 0, 1.0]]))
    if seed is not None:
        vectors = np.abs(np.random.default_rng(seed).normal(size=(len(found.names), 3)))
    graph = graph_of(vectors, 0.9, spread)
    return gifts_of(found, np.asarray(qualities, float), np.arange(len(tags)), graph, 0.8, exact=exact)


def test_mig_golden_10() -> None:
    golden = gifts([["a"], ["b"], ["c"], ["a"]], [3, 3, 2.9, 2], exact=False)
    picks = maximise(golden, Limit(rows=4))
    assert picks.order.tolist() == [0, 2, 1, 3]
    shares = np.array([1, 0.95]) / 1.95
    slope = 0.8 * 1e-6**-0.2
    assert picks.gains[0] == pytest.approx(3 * slope) and picks.gains[1] == pytest.approx(2.9 * slope)
    assert picks.gains[2] == pytest.approx(float((3 * shares[::-1] * 0.8 * (3 * shares + 1e-6) ** -0.2).sum()))


@given(seed=st.integers(0, 5_000), exact=st.booleans(), spread=st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=25, deadline=None)
def test_mig_equals_the_released_loop_and_its_bound_holds(seed: int, exact: bool, spread: float) -> None:
    rng = np.random.default_rng(seed)
    tags = [rng.choice(list("abcde"), rng.integers(1, 4), replace=False).tolist() for _ in range(9)]
    qualities = rng.uniform(0.2, 3, 9)
    made = gifts(tags, qualities, spread, exact=exact, seed=seed)
    found = of_tags(tags)
    vectors = np.abs(np.random.default_rng(seed).normal(size=(len(found.names), 3)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    weights = np.where((cosines := vectors @ vectors.T) >= 0.9, spread * cosines, 0)
    np.fill_diagonal(weights, 1)
    given_to = np.zeros((9, len(found.names)))
    for row in range(9):
        given_to[row, found.of(row)] = qualities[row]
    given_to = given_to @ (weights / weights.sum(0))

    def phi(got: NDArray[np.float64]) -> NDArray[np.float64]:
        return (got + 1e-6) ** 0.8

    got = np.zeros(len(found.names))
    order: list[int] = []
    for _ in range(9):
        worth = given_to @ (0.8 * (got + 1e-6) ** -0.2)
        if exact:
            worth = (phi(got + given_to) - phi(got)).sum(axis=1)
        worth[order] = -np.inf
        order.append(int(np.argmax(np.round(worth, 6))))
        got += given_to[order[-1]]
    ways: tuple[Method, ...] = ("lazy", "naive")
    for how in ways:
        picks = maximise(made, Limit(rows=9), Maximiser(method=how))
        worths = [value_of(made, picks.order[:count]) for count in range(10)]
        assert picks.order.tolist() == order
        assert picks.value == pytest.approx(worths[-1])
        if exact:
            assert np.allclose(np.diff(worths), picks.gains)
        else:
            assert (np.diff(worths) <= picks.gains + 1e-9).all(), "a slope is never below the true gain"
    picks = maximise(made, Limit(rows=3))
    best = max(value_of(made, np.array(some)) for some in itertools.combinations(range(9), 3))
    assert picks.bound is not None and picks.bound >= best - 1e-9
    close = judged(made, picks.order, Limit(rows=3))
    assert close.value == pytest.approx(picks.value) and close.bound is not None and best - 1e-9 <= close.bound
    assert close.gains.sum() == pytest.approx(picks.value)
    assert not exact or picks.value >= (1 - 1 / np.e) * best


def test_mig_takes_rows_by_quality_within_concepts_and_leaves_out_rows_without_one(tmp_path: Path) -> None:
    quality = np.array([1, 2, 3, 4, np.nan, 6, 7, 8, 9, 1.5, 2.5, 3.5])
    view = view_of(tmp_path, 12, columns={"made.quality@tiny": synthetic.column(quality)})
    subset = select("mig", view, 3, by="made.quality", sizes=(3,), spread=0.0)
    assert subset.positions.tolist() == [8, 7, 6], "the best of each bundle before any second"
    assert subset.reasons is not None and subset.reasons[4] > 0 and "at least" in subset.notes[0]
    assert 4 not in select("mig", view, 12, by="made.quality").positions
    tagged = view_of(tmp_path / "tagged", 4, [{"tags": "a,b"}, {"tags": "c"}, {"tags": "d"}, {"tags": ""}])
    plain = {"concepts": "meta.tags", "spread": 0.0}
    assert select("mig", tagged, 4, **plain).positions.tolist() == [0, 1, 2, 3]
    assert select("mig", tagged, 4, **plain, norm=True).positions.tolist() == [0, 1, 2, 3]
    assert select("mig", tagged, 1, **plain, norm=True, exact=True).positions.tolist() == [0], "concave: two halves win"
    with pytest.raises(DataError, match="values below 0"):
        select(
            "mig",
            dataclasses.replace(view, columns={"made.quality@tiny": synthetic.column(-quality)}),
            3,
            by="made.quality",
        )


# CABS


def literal(found: Concepts, goals: Goals, over: float, limit: int) -> list[int]:
    """Every worth anew at every step."""
    chosen = np.zeros(len(goals.targets))
    order: list[int] = []
    while len(order) < limit:
        best, best_worth = -1, -np.inf
        for row in range(len(found)):
            own = found.of(row)
            if row in order or not len(own) or (chosen[own] >= goals.caps[own]).any():
                continue
            worth = 0.0
            for one in own:
                target = goals.targets[one]
                below = chosen[one] < target
                worth += (target - chosen[one]) / target + 1 / goals.frequency[one] if below else over
            if (worth := worth / len(own)) > best_worth:
                best, best_worth = row, worth
        if best < 0:
            break
        order.append(best)
        chosen[found.of(best)] += 1
    return order


def test_cabs_golden_23() -> None:
    found = of_tags([["0"], ["0"], ["0", "1"], ["1", "2"], ["2"], ["0", "3"]])
    goals = goals_of(found, 3, 10)
    assert goals.targets.tolist() == [1, 1, 1, 1] and goals.frequency.tolist() == [4, 2, 2, 1]
    for over in (-0.5, 0.0):
        order, gains, best = Balance(found, goals, over).first(np.arange(6), 3)
        assert order.tolist() == [5, 3, 0] and gains.tolist() == [1.625, 1.5, over] and best == 3


@given(seed=st.integers(0, 5_000), rows=st.integers(1, 20), cap=st.sampled_from([None, 1, 2, 10]))
@settings(max_examples=40, deadline=None)
def test_cabs_equals_the_literal_loop_and_draws_the_rest(seed: int, rows: int, cap: int | None) -> None:
    rng = np.random.default_rng(seed)
    found = of_tags([rng.choice(list("abcdef"), rng.integers(0, 4), replace=False).tolist() for _ in range(20)])
    goals = goals_of(found, rows, cap)
    at_random = rng.permutation(20)
    order, _, best = Balance(found, goals, -0.5).first(at_random, rows)
    by_worth = literal(found, goals, -0.5, rows)
    assert order[:best].tolist() == by_worth and len(order) == rows
    assert order[best:].tolist() == [row for row in at_random.tolist() if row not in by_worth][: rows - best]
    assert goals.targets.min() >= 1 and (goals.targets <= goals.caps).all()


def test_cabs_gives_rare_concepts_their_due_and_its_own_cap_does_not_starve(tmp_path: Path) -> None:
    skills = ["common"] * 90 + ["rare"] * 10
    view = view_of(tmp_path, 100, [{"skill": skill} for skill in skills])
    subset = select("cabs-dm", view, 40, concepts="meta.skill")
    assert int((subset.positions >= 90).sum()) == 10, "all of the rare ones, whose target is 20"
    assert subset.notes == ("2 of 2 concepts have as many rows as they should",), "as many as there are"
    starved = select("cabs-dm", view, 60, concepts="meta.skill", cap=10)
    assert "40 of 60 rows were drawn at random" in starved.notes[1]
    assert len(select("cabs-dm", view, 60, concepts="meta.skill").notes) == 1
    again = select("cabs-dm", view, 60, concepts="meta.skill", cap=10, seed=1)
    assert starved.positions[:20].tolist() == again.positions[:20].tolist() != starved.positions[20:40].tolist()
    tokens = select("cabs-dm", view, "400 tokens", concepts="meta.skill")
    assert tokens.positions.tolist() == subset.positions.tolist()
    clusters = select("cabs-dm", view, 9, sizes=(3,))
    assert np.bincount(clusters.positions % 3).tolist() == [3, 3, 3]


def test_every_size_of_clusters_has_targets_of_its_own() -> None:
    found = concepts.of_clusters(bundles(60), [f"{place:02d}" for place in range(60)], (3, 6))
    goals = goals_of(found, 12)
    assert goals.targets[found.family == 0].sum() == 12 and goals.targets[found.family == 1].sum() == 12


def test_cabs_fm_takes_most_concepts_first(tmp_path: Path) -> None:
    view = view_of(tmp_path, 4, [{"tags": "a"}, {"tags": "a,b,c"}, {"tags": "b,b"}, {"tags": "c,d"}])
    subset = select("cabs-fm", view, 4, concepts="meta.tags")
    assert subset.positions.tolist() == [1, 3, 0, 2] and subset.gains.tolist() == [3, 2, 1, 1]
    with pytest.raises(RecipeError, match="as many as the next"):
        catalogue.build("selectors", "cabs-fm", {"concepts": "clusters"})


# FedDCA


def test_centres_are_taken_by_the_coverage_they_add_one_a_client() -> None:
    cosines = np.array([[0.9, 0.2, 0.8], [0.9, 0.1, 0.8], [0.1, 0.9, 0.7], [-0.5, 0.3, -0.2]], np.float32)
    clients = np.array([0, 0, 1])
    # alone: 1.9, 1.5, 2.3 (negative cosines are no loss); after centre 2: 0.2, 0.5; centre 0's client may have one
    assert covering_centres(cosines, clients, 1).tolist() == [2, 1]
    assert covering_centres(cosines, clients, 2).tolist() == [2, 1, 0]


@given(seed=st.integers(0, 5_000), keep=st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_centres_reach_half_of_the_best_coverage(seed: int, keep: int) -> None:
    rng = np.random.default_rng(seed)
    cosines = rng.uniform(-1, 1, (8, 6)).astype(np.float32)
    clients = np.repeat(np.arange(3), 2)

    def coverage(some: tuple[int, ...]) -> float:
        return float(np.maximum(0, cosines[:, list(some)].max(axis=1)).mean())

    taken = covering_centres(cosines, clients, keep)
    assert np.bincount(clients[taken]).tolist() == [keep] * 3
    sets = [
        some for some in itertools.combinations(range(6), 3 * keep) if np.bincount(clients[list(some)]).max() <= keep
    ]
    assert coverage(tuple(taken.tolist())) >= max(map(coverage, sets)) / 2


def test_feddca_draws_the_rows_near_to_a_centre_of_every_client_in_turn(tmp_path: Path) -> None:
    target = view_of(tmp_path / "target", 20, pooled=bundles(60)[np.arange(60) % 3 < 2][:20], sources=["a", "b"] * 10)
    view = view_of(tmp_path / "pool", 30, sources=["x", "y", "z"] * 10, target=target)
    subset = select("feddca", view, 9, centres=2)
    assert len(set(subset.positions.tolist())) == 9 and np.bincount(subset.positions % 3).tolist() == [3, 3, 3]
    assert "3 centres of 3 clients cover the pool" in subset.notes[0]
    of_target = select("feddca", view, 10, clients="target", centres=1)
    assert set((of_target.positions % 3).tolist()) == {0, 1}, "no client has data like the third bundle"
    assert subset.values is not None and (np.diff(of_target.gains[::2]) <= 0).all()
    with pytest.raises(DataError, match="no target"):
        select("feddca", dataclasses.replace(view, target=None), 5, clients="target")
    with pytest.raises(DataError, match="no clients"):
        select("feddca", view, 5, by="meta.nothing")
    with pytest.raises(RecipeError, match="keep lies between"):
        catalogue.build("selectors", "feddca", {"keep": 0})
