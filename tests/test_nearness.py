"""Neighbours and transport: equal to a linear program, to slow loops and to hand-worked rows; copies count once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog

import synthetic
from tamis import catalogue, store
from tamis.errors import DataError, RecipeError
from tamis.ledger import build
from tamis.selectors.neighbours import transport
from tamis.values import Budget, Machine, Reason, Row, Subset
from tamis.views import PoolView

ON = Machine()
Scores = NDArray[np.float32]


def view_of(folder: Path, scores: Any, contents: list[int] | None = None, **signals: Any) -> PoolView:
    """Make a view with these influence scores; rows with equal `contents` have equal text."""
    values = np.asarray(scores, np.float32)
    rows = synthetic.rows(len(values))
    if contents is not None:
        rows = [dataclasses.replace(row, content=rows[text].content) for row, text in zip(rows, contents, strict=True)]
    count = len(rows)
    lengths: dict[str, NDArray[Any]] = {
        "tokens": np.full(count, 10, np.int32),
        "response_tokens": np.full(count, 4, np.int32),
        "reason": np.zeros(count, np.uint8),
    }
    influence: dict[str, NDArray[Any]] = {
        "scores": values,
        "reason": np.where(np.isfinite(values).all(axis=1), 0, 3).astype(np.uint8),
    }
    target = synthetic.view(folder / "target", synthetic.rows(2, seed=1), {})
    return synthetic.view(folder, rows, {"lengths": lengths, "influence": influence, **signals}, target=target)


def select(name: str, view: PoolView, rows: int, **fields: Any) -> Subset:
    subset: Subset = catalogue.build("selectors", name, fields).select(view, Budget(rows=rows), ON)
    return subset


# the linear program of TSDS


@given(
    queries=st.integers(1, 4),
    most=st.integers(1, 7),
    even=st.floats(0.01, 0.99),
    near=st.floats(0.01, 3),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_transport_is_the_optimum_of_its_linear_program(
    queries: int, most: int, even: float, near: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    distances = np.sort(rng.integers(0, 6, (queries, most)) / 4, axis=1)
    shares = 1 / rng.integers(1, 4, (queries, most))
    mass = transport(distances, shares, near, even)
    assert np.allclose(mass.sum(axis=1), 1 / queries) and (mass >= 0).all()
    size = queries * most  # variables: M · mass, and tau
    cost = np.concatenate([near / queries * distances.ravel(), [even]])
    caps = np.hstack([np.eye(size), -shares.ravel()[:, None]])
    whole = np.hstack([np.kron(np.eye(queries), np.ones(most)), np.zeros((queries, 1))])
    best = linprog(cost, A_ub=caps, b_ub=np.zeros(size), A_eq=whole, b_eq=np.ones(queries))
    tau = float((queries * mass / shares).max())
    assert near * float((mass * distances).sum()) + even * tau == pytest.approx(best.fun, abs=1e-9)


def slow_neighbours(distances: NDArray[np.float64], alpha: float, scale: float) -> int:
    """K of Algorithm 1 of TSDS, as its loop says."""
    queries, most = distances.shape
    count = 1
    while count < most:
        gaps = sum(distances[i, count] - distances[i, k] for i in range(queries) for k in range(count))
        if alpha / scale * gaps >= (1 - alpha) * queries:
            break
        count += 1
    return count


@pytest.mark.parametrize("alpha", [0.01, 0.5, 0.9, 0.97, 0.99])
def test_knn_uniform_is_the_loop_of_the_paper(alpha: float, tmp_path: Path) -> None:
    scores = np.random.default_rng(3).uniform(-1, 1, (120, 3)).astype(np.float32)
    scores[5] = np.nan
    view = view_of(tmp_path, scores)
    subset = select("knn-uniform", view, 119, alpha=alpha)
    distances = 1 - scores.astype(np.float64)
    order = [np.argsort(distances[:, query], kind="stable")[:11] for query in range(3)]
    count = slow_neighbours(np.stack([distances[places, query] for query, places in enumerate(order)]), alpha, 5.0)
    wanted = np.zeros(120)
    for places in order:
        wanted[places[:count]] += 1 / (3 * count)
    assert subset.values is not None and subset.reasons is not None
    assert np.isnan(subset.values[5]) and subset.reasons[5] == 3
    assert np.allclose(np.delete(subset.values, 5), np.delete(wanted, 5))
    slow = sorted(set(range(120)) - {5}, key=lambda place: (-wanted[place], -scores[place].max(), place))
    assert subset.positions.tolist() == slow


def test_a_hand_worked_transport() -> None:
    # one query; rows at 0, 0.1 and 0.9. t = 1: the slope is 0.1, at t = 2 it is 2 · 0.9 - 0.1 = 1.7
    distances, shares = np.array([[0.0, 0.1, 0.9]]), np.ones((1, 3))
    assert transport(distances, shares, 1.0, 1.0).tolist() == [[0.5, 0.5, 0.0]]
    assert transport(distances, shares, 1.0, 0.05).tolist() == [[1.0, 0.0, 0.0]]
    assert np.allclose(transport(distances, shares, 1.0, 2.0), 1 / 3)
    # the first two rows repeat each other (density 2): together they take one row's part
    shares = np.array([[0.5, 0.5, 1.0]])
    assert np.allclose(transport(distances, shares, 1.0, 1.0), [[0.25, 0.25, 0.5]])
    assert transport(distances, shares, 1.0, 0.5).tolist() == [[0.5, 0.5, 0.0]]


def test_near_duplicates_share_one_rows_part_in_tsds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pooled = np.linalg.qr(rng.normal(size=(64, 64)))[0][:40].astype(np.float32)
    pooled[1:4] = pooled[0]  # four rows alike, not to the letter
    scores = rng.uniform(-1, -0.9, (40, 1))
    scores[:6, 0] = [0.9, 0.9, 0.9, 0.9, 0.89, 0.88]
    view = view_of(tmp_path, scores, tokens={"pooled": pooled})
    wide = {"alpha": 0.0001, "max_neighbours": 40}
    spread = select("tsds", view, 6, **wide)
    # a tenth of 40 rows is a neighbourhood: the four alike fill it, each with density 4
    assert spread.positions.tolist() == [0, 1, 2, 3, 4, 5] and np.allclose(spread.gains[:4], 0.25)
    scores[1:4, 0] = [0.87, 0.86, 0.85]
    scores[2:4] = -1
    found = select("tsds", view_of(tmp_path / "two", scores, tokens={"pooled": pooled}), 4, **wide)
    assert found.positions.tolist() == [4, 5, 0, 1] and np.allclose(found.gains, [1 / 3, 1 / 3, 1 / 6, 1 / 6])
    plain = select("tsds", view_of(tmp_path / "off", scores, tokens={"pooled": pooled}), 4, sigma=0, **wide)
    assert plain.positions.tolist() == [0, 4, 5, 1] and np.allclose(plain.gains, 0.25)


# unbalanced transport


def slow_uot(cost: NDArray[np.float64], reg: float, pool: float) -> NDArray[np.float64]:
    """Scaling iterations of Chizat et al. in logarithms; the queries' marginal is exact."""
    queries, rows = cost.shape
    kernel = -cost / reg - np.log(queries * rows)
    left, right = np.zeros(queries), np.zeros(rows)
    for _ in range(500):
        left = -np.log(queries) - np.logaddexp.reduce(kernel + right[None, :], axis=1)
        right = pool / (pool + reg) * (-np.log(rows) - np.logaddexp.reduce(kernel + left[:, None], axis=0))
    left = -np.log(queries) - np.logaddexp.reduce(kernel + right[None, :], axis=1)
    return np.asarray(np.exp(kernel + left[:, None] + right[None, :]))


@pytest.mark.parametrize(("reg", "pool"), [(0.01, 1e-4), (0.05, 0.05), (0.2, 10.0)])
def test_uot_is_slow_unbalanced_sinkhorn(reg: float, pool: float, tmp_path: Path) -> None:
    scores = np.random.default_rng(5).uniform(-1, 1, (40, 3)).astype(np.float32)
    subset = select("uot", view_of(tmp_path, scores), 40, reg=reg, reg_pool=pool)
    plan = slow_uot((1 - scores.T.astype(np.float64)) / 2, reg, pool)
    assert np.allclose(plan.sum(axis=1), 1 / 3)
    assert subset.values is not None and np.allclose(subset.values, plan.sum(axis=0), rtol=1e-3, atol=1e-7)
    assert subset.positions[:5].tolist() == np.argsort(-plan.sum(axis=0))[:5].tolist()


# what all share


@pytest.mark.parametrize("name", ["less", "knn-uniform", "tsds", "uot"])
def test_a_copy_is_not_bought_twice(name: str, tmp_path: Path) -> None:
    scores = np.random.default_rng(1).uniform(0, 0.5, (30, 2))
    scores[[4, 9, 20]] = [0.9, 0.8]
    contents = list(range(30))
    contents[9] = contents[20] = 4
    own = {"sigma": 0} if name == "tsds" else {}
    view = view_of(tmp_path, scores, contents)
    once, keep = select(name, view, 27, **own), select(name, view, 27, duplicates="keep", **own)
    assert 4 in once.positions and not {9, 20} & set(once.positions.tolist())
    assert {4, 9, 20} <= set(keep.positions.tolist())
    assert once.values is not None and once.reasons is not None
    assert np.isnan(once.values[[9, 20]]).all() and (once.reasons[[9, 20]] == Reason.DUPLICATE).all()
    said = build(view, once, "subset").column("reason").to_pylist()
    assert said[9] == said[20] == "not ranked: a row before it has the same text"
    # where the first copy is taken already, or filtered out
    later = select(name, dataclasses.replace(view, existing=[4]), 20, **own)
    assert not {4, 9, 20} & set(later.positions.tolist())
    without = np.ones(30, bool)
    without[4] = False
    assert {9} == {4, 9, 20} & set(select(name, synthetic.kept(view, without), 27, **own).positions.tolist())


def test_queries_of_less_are_put_together_by_group(tmp_path: Path) -> None:
    # three queries: two of the group a, one of b; a's rows by their better query
    scores = np.array([[0.1, 0.9, 0.0], [0.8, 0.2, 0.1], [0.3, 0.3, 0.7], [0.0, 0.0, 0.6]], np.float32)
    view = view_of(tmp_path, scores)
    rows: list[Row] = [
        dataclasses.replace(row, source=name) for row, name in zip(synthetic.rows(3, seed=2), "aba", strict=True)
    ]
    target = synthetic.view(tmp_path / "queries", rows, {})
    view = dataclasses.replace(view, target=target)
    keys = [rows[0].key, rows[2].key, rows[1].key]  # columns in another order than the target's rows
    for part in view.signal_folders["influence"]:
        store.save_arrays(part, {"tasks": np.frombuffer(json.dumps(keys).encode(), np.uint8)})
    assert select("less", view, 4, by="source").positions.tolist() == [0, 2, 1, 3]
    assert select("less", view, 4).positions.tolist() == [1, 0, 2, 3]
    assert select("less", view, 2, by="source", tasks="max").gains.tolist() == pytest.approx([0.9, 0.8])
    for part in view.signal_folders["influence"]:
        store.save_arrays(part, {"tasks": np.frombuffer(json.dumps(["a", "b", "c"]).encode(), np.uint8)})
    with pytest.raises(DataError, match="by: row"):
        select("less", view, 2, by="source")


@pytest.mark.parametrize("name", ["knn-uniform", "tsds", "uot"])
def test_products_of_gradients_are_no_distances(name: str, tmp_path: Path) -> None:
    view = view_of(tmp_path, np.ones((20, 1)))
    for part in view.signal_folders["influence"]:
        store.save_arrays(part, {"unit": np.frombuffer(b"gradient product", np.uint8)})
    with pytest.raises(DataError, match="product of gradients"):
        select(name, view, 2)
    with pytest.raises(DataError, match="no usable row"):
        select(name, view_of(tmp_path / "nan", np.full((20, 1), np.nan)), 2)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("knn-uniform", {"alpha": 1}),
        ("tsds", {"sigma": -1}),
        ("tsds", {"scale": 0}),
        ("uot", {"reg": 1e-4}),
        ("uot", {"reg_pool": 0}),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, fields: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=name):
        catalogue.build("selectors", name, fields)
