"""Coverage gap: the ratio of distances and of kernels by slow loops, whose gap is meant, and draws of a sample."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import synthetic
from tamis import catalogue
from tamis.errors import DataError, RecipeError
from tamis.values import Budget, Machine, Subset
from tamis.views import PoolView

ON = Machine()
Points = NDArray[np.float64]


def side(folder: Path, vectors: Any, seed: int) -> PoolView:
    values = np.asarray(vectors, np.float32)
    return synthetic.view(folder, synthetic.rows(len(values), seed=seed), {"tokens": {"pooled": values}})


def view_of(folder: Path, pool: Any, target: Any, existing: Any = None) -> PoolView:
    values = np.asarray(pool, np.float32)
    tokens: dict[str, NDArray[Any]] = {"pooled": values, "reason": np.zeros(len(values), np.uint8)}
    signals: synthetic.Signals = {"lengths": synthetic.lengths(len(values), refused=0), "tokens": tokens}
    return synthetic.view(
        folder,
        synthetic.rows(len(values)),
        signals,
        target=side(folder / "target", target, 1),
        existing_pool=None if existing is None else side(folder / "existing", existing, 2),
    )


def select(view: PoolView, rows: int, **fields: Any) -> Subset:
    subset: Subset = catalogue.build("selectors", "coverage-gap", fields).select(view, Budget(rows=rows), ON)
    return subset


def values_of(subset: Subset) -> NDArray[np.float64]:
    assert subset.values is not None
    return subset.values.astype(np.float64)


def standardised(pool: Points, target: Points, data: Points, on_target: bool, kept: int) -> list[Points]:
    units = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (pool, target, data)]
    both = np.concatenate(units[1:])
    sets = [(one - both.mean(0)) / both.std(0) for one in units]
    fitted = sets[1] if on_target else np.concatenate(sets[1:])
    _, _, axes = np.linalg.svd(fitted - fitted.mean(0))
    return [one @ axes[:kept].T for one in sets]


def kth(point: Points, others: Points, k: int) -> float:
    return sorted(math.dist(point, other) for other in others)[min(k, len(others)) - 1]


@pytest.mark.parametrize("lacking", ["pool", "existing"])
def test_scores_are_ratios_of_distances_to_the_kth_neighbour(lacking: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pool, target, existing = (rng.normal(size=(count, 5)) + 0.3 for count in (21, 4, 9))
    subset = select(view_of(tmp_path, pool, target, existing), 21, lacking=lacking, k=5, components=3)
    data = existing if lacking == "existing" else pool
    points, reference, held = standardised(pool, target, data, False, 3)
    expected = []
    for place, point in enumerate(points):
        others = held if lacking == "existing" else np.delete(held, place, axis=0)
        expected.append(math.log(kth(point, others, 5) / kth(point, reference, 5)))
    assert values_of(subset) == pytest.approx(np.array(expected), abs=1e-4)
    assert subset.positions.tolist() == np.argsort(-np.array(expected), kind="stable").tolist()


def test_the_papers_setting_is_a_ratio_of_kernels_in_two_dimensions(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pool, target = rng.normal(size=(15, 4)), rng.normal(size=(8, 4)) + 0.5
    subset = select(view_of(tmp_path, pool, target), 15, density="kde", bandwidth=0.7)
    points, reference, held = standardised(pool, target, pool, True, 2)

    def density(point: Points, others: Points) -> float:
        return float(np.mean([math.exp(-(math.dist(point, other) ** 2) / (2 * 0.49)) for other in others]))

    expected = [
        math.log(density(point, reference) / density(point, np.delete(held, place, axis=0)))
        for place, point in enumerate(points)
    ]
    assert values_of(subset) == pytest.approx(np.array(expected), abs=1e-4)


def test_what_the_reference_covers_and_the_data_lacks_comes_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    corners = np.eye(3)

    def around(counts: tuple[int, ...]) -> Points:
        return np.repeat(corners, counts, axis=0) + 0.1 * rng.normal(size=(sum(counts), 3))

    groups = np.repeat(np.arange(3), (60, 6, 20))
    view = view_of(tmp_path, around((60, 6, 20)), around((10, 10, 0)), around((5, 30, 5)))
    assert (groups[select(view, 6).positions] == 1).all()
    assert (groups[select(view, 6, lacking="existing").positions] == 0).all()


def test_a_sample_is_drawn_by_row_and_a_smaller_one_changes_little(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    view = view_of(tmp_path, rng.normal(size=(200, 6)), rng.normal(size=(80, 6)) + 0.4)
    whole, part, again, other = (
        select(view, 40, sample=most, seed=seed) for most, seed in ((1000, 0), (120, 0), (120, 0), (120, 1))
    )
    assert values_of(part).tolist() == values_of(again).tolist() != values_of(other).tolist()
    assert not whole.notes and "80 rows of the reference and 120 of the data" in part.notes[0]
    assert np.corrcoef(values_of(whole), values_of(part))[0, 1] > 0.7


def test_equal_rows_and_one_row_have_a_score(tmp_path: Path) -> None:
    assert select(view_of(tmp_path / "equal", np.ones((4, 2)), np.ones((3, 2))), 2).positions.tolist() == [0, 1]
    for density in ("knn", "kde"):
        assert np.isfinite(values_of(select(view_of(tmp_path / density, [[1, 2]], [[2, 1]]), 1, density=density))).all()


def test_faults_say_what_to_do(tmp_path: Path) -> None:
    view = view_of(tmp_path, np.ones((4, 2)), np.ones((3, 2)))
    with pytest.raises(DataError, match="--target"):
        select(dataclasses.replace(view, target=None), 1)
    with pytest.raises(DataError, match="--existing"):
        select(view, 1, lacking="existing")
    with pytest.raises(DataError, match="hidden states"):
        select(dataclasses.replace(view, target=side(tmp_path / "bare", np.full((2, 2), np.nan), 3)), 1)
    for bad in ({"k": 0}, {"components": 0}, {"sample": 1}, {"bandwidth": 0}):
        with pytest.raises(RecipeError, match="coverage-gap"):
            catalogue.build("selectors", "coverage-gap", bad)
