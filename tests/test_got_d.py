"""GOT-D: equal to POT and to a finite difference, the golden of cats and dogs, contrast, and solving again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import synthetic
from tamis import catalogue
from tamis.errors import DataError, RecipeError
from tamis.selectors import got_d
from tamis.selectors.got_d import Transport
from tamis.values import Budget, Machine, Reason, Subset
from tamis.views import PoolView

ON = Machine()
Vectors = NDArray[np.float32]


def view_of(folder: Path, pool: Any, target: Any) -> PoolView:
    vectors = np.asarray(pool, np.float32)
    made = synthetic.rows(len(vectors))
    lengths = synthetic.lengths(len(vectors), refused=0)
    reason = np.zeros(len(vectors), np.uint8)
    goal = np.asarray(target, np.float32)
    goal_view = synthetic.view(folder / "target", synthetic.rows(len(goal), seed=1), {"tokens": {"pooled": goal}})
    signals: synthetic.Signals = {"lengths": lengths, "tokens": {"pooled": vectors, "reason": reason}}
    return synthetic.view(folder, made, signals, target=goal_view)


def select(view: PoolView, rows: int, **fields: Any) -> Subset:
    subset: Subset = catalogue.build("selectors", "got-d", fields).select(view, Budget(rows=rows), ON)
    return subset


def values_of(subset: Subset) -> NDArray[np.float64]:
    assert subset.values is not None
    return subset.values.astype(np.float64)


def cats_and_dogs(dogs: int, of: int, seed: int) -> tuple[Vectors, NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    dog = np.arange(of) < dogs
    points = np.where(dog[:, None], [4.0, 0.0], [0.0, 0.0]) + 0.3 * rng.normal(size=(of, 2))
    return points.astype(np.float32), dog


@pytest.mark.parametrize("eps", [0.1, 1.0])
def test_the_golden_of_cats_and_dogs(eps: float) -> None:
    """Golden 7: of a pool with 1 % dogs and a target with half, the ten best are dogs; the ten nearest are none."""
    pool, dog = cats_and_dogs(10, 1000, 0)
    target, _ = cats_and_dogs(30, 60, 1)
    plan = Transport(pool, target, 1.0)
    plan.smoothing = eps
    f, _ = plan.solve(np.ones(1000), 200, 1e-12)
    assert dog[np.argsort(f, kind="stable")[:10]].sum() == 10
    distance = ((pool[:, None] - target[None]) ** 2).sum(axis=-1)
    assert dog[np.argsort(distance.min(axis=1))[:10]].sum() == 0


def test_potentials_are_those_of_pot_and_the_gradient_is_a_difference_quotient(tmp_path: Path) -> None:
    import ot

    rng = np.random.default_rng(2)
    pool, target = rng.normal(size=(30, 3)), rng.normal(size=(7, 3)) + 0.5
    subset = select(view_of(tmp_path, pool, target), 30, eps=0.3, tolerance=1e-10, iterations=20_000)
    units = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (pool, target)]
    cost = ((units[0][:, None] - units[1][None]) ** 2).sum(axis=-1)
    reg = 0.3 * float(np.median(cost))

    def solved(mass: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        even = np.full(7, 1 / 7)
        plan, log = ot.sinkhorn(
            mass, even, cost, reg, method="sinkhorn_log", stopThr=1e-13, numItermax=50_000, log=True
        )
        value = float((plan * cost).sum() + reg * (plan * np.log(plan / np.outer(mass, even))).sum())
        return value, reg * (log["log_u"] - np.log(mass))

    even = np.full(30, 1 / 30)
    value, f = solved(even)
    gradient = f * (1 + 1 / 29) - f.sum() / 29
    assert values_of(subset) == pytest.approx(gradient, abs=2e-3)  # the median is counted on a grid
    step = 1e-4
    for place in (0, 11):
        moved = np.where(np.arange(30) == place, even + step, even - step / 29)
        assert (solved(moved)[0] - value) / step == pytest.approx(gradient[place], abs=2e-3)
    assert subset.positions.tolist() == np.argsort(values_of(subset), kind="stable").tolist()


def test_contrast_reads_the_order_backwards(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    view = view_of(tmp_path, rng.normal(size=(40, 4)), rng.normal(size=(6, 4)))
    near, far = select(view, 40), select(view, 40, contrast=True)
    assert far.positions.tolist() == near.positions.tolist()[::-1]
    assert far.gains.tolist() == pytest.approx((-near.gains[::-1]).tolist())


def test_costs_computed_anew_in_blocks_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    view = view_of(tmp_path, rng.normal(size=(60, 4)), rng.normal(size=(6, 4)))
    whole = select(view, 60, resolve=10)
    monkeypatch.setattr(got_d, "_HELD", 0)
    monkeypatch.setattr(got_d, "_ROWS", 7)
    again = select(view, 60, resolve=10)
    assert again.positions.tolist() == whole.positions.tolist()
    assert again.gains == pytest.approx(whole.gains, abs=1e-6)


def test_solving_again_turns_to_what_is_missing_now(tmp_path: Path) -> None:
    """Two groups are missing, one a little more: one solution takes its rows alone, solving again fills both gaps."""
    rng = np.random.default_rng(5)
    corners = np.eye(3)

    def around(counts: tuple[int, ...]) -> NDArray[np.float64]:
        return np.repeat(corners, counts, axis=0) + 0.05 * rng.normal(size=(sum(counts), 3))

    view = view_of(tmp_path, around((170, 15, 15)), around((60, 11, 9)))
    groups = np.repeat(np.arange(3), (170, 15, 15))
    once, again = (np.bincount(groups[select(view, 14, resolve=every).positions], minlength=3) for every in (0, 2))
    assert once.tolist() == [0, 14, 0] and again[0] == 0 and again.min(initial=9, where=again > 0) >= 4, again


def test_equal_embeddings_have_equal_gradients_everywhere(tmp_path: Path) -> None:
    subset = select(view_of(tmp_path, np.ones((9, 3)), np.ones((4, 3))), 4)
    assert subset.positions.tolist() == [0, 1, 2, 3] and np.ptp(values_of(subset)) == 0


def test_faults_say_what_to_do(tmp_path: Path) -> None:
    pool = np.ones((5, 2))
    pool[3] = np.nan
    view = view_of(tmp_path, pool, np.ones((2, 2)))
    subset = select(view, 9)
    assert sorted(subset.positions.tolist()) == [0, 1, 2, 4]
    assert subset.reasons is not None and subset.reasons[3] == Reason.NOT_MEASURED
    rng = np.random.default_rng(6)
    uneven = view_of(tmp_path / "uneven", rng.normal(size=(9, 3)), rng.normal(size=(4, 3)))
    assert not subset.notes and "stopped after 2 iterations" in select(uneven, 3, iterations=2).notes[0]
    with pytest.raises(DataError, match="--target"):
        select(dataclasses.replace(view, target=None), 1)
    for bad in ({"eps": 0}, {"tolerance": 0}, {"iterations": 0}, {"resolve": -1}):
        with pytest.raises(RecipeError, match="got-d"):
            catalogue.build("selectors", "got-d", bad)
