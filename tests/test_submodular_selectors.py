"""Selectors over the submodular engine: forms are their formulas, front ends and kernels agree, faults are told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cheap
import synthetic
from tamis import catalogue
from tamis.errors import DataError, RecipeError
from tamis.submodular import similar
from tamis.values import Budget, Subset
from tamis.vectors.index import unit
from tamis.views import PoolView

KERNELS = ("facility-location", "saturated-coverage", "submodular-mixture")
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("facility-location", {"form": "flmi"}),
    ("facility-location", {"form": "flmi", "definition": "saturating"}),
    ("facility-location", {"form": "flqmi", "eta": 0.5}),
    ("facility-location", {"form": "flcg"}),
    ("graph-cut", {"form": "gcmi"}),
    ("d-optimal", {"form": "mutual"}),
    ("d-optimal", {"form": "conditional"}),
    ("submodular-mixture", {"target": 0.5, "d_optimal": 1.0, "disparity_sum": 0.1, "saturated_coverage": 1.0}),
]


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> PoolView:
    made = cheap.numbers_view(tmp_path_factory.mktemp("numbers"))
    held = np.random.default_rng(7).normal(size=(4, 4)).astype(np.float32)
    existing = synthetic.view(
        tmp_path_factory.mktemp("held"),
        cheap.worded(synthetic.rows(4, seed=2), np.arange(4)),
        {"tokens": {"pooled": held}},
    )
    return dataclasses.replace(made, existing_pool=existing)


def chosen(view: PoolView, name: str, budget: str | int = 9, **settings: Any) -> Subset:
    subset: Subset = catalogue.build("selectors", name, settings).select(view, Budget.parse(budget), cheap.ON)
    return subset


def embedded(view: PoolView) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Places of usable rows and their unit embeddings in float64."""
    places = np.flatnonzero(view.usable)
    return places, unit(view.signal("tokens", "pooled"))[places].astype(np.float64)


def test_facility_location_covers_better_than_any_other_rows_drawn(view: PoolView) -> None:
    places, rows = embedded(view)
    cosines = np.maximum(rows @ rows.T, 0)
    picked = np.searchsorted(places, chosen(view, "facility-location").positions)
    draws = [np.random.default_rng(seed).choice(len(places), 9, replace=False) for seed in range(50)]
    assert cosines[:, picked].max(axis=1).sum() > max(cosines[:, draw].max(axis=1).sum() for draw in draws)


@pytest.mark.parametrize("name", KERNELS)
def test_a_graph_of_all_neighbours_gives_the_rows_of_the_whole_kernel(view: PoolView, name: str) -> None:
    dense = chosen(view, name, kernel="dense")
    graph = chosen(view, name, kernel="knn", neighbours=len(view))
    assert dense.positions.tolist() == graph.positions.tolist()
    assert dense.gains == pytest.approx(graph.gains, abs=1e-4)
    assert any("k-NN graph" in note for note in graph.notes) and not any("k-NN graph" in note for note in dense.notes)


@pytest.mark.parametrize("name", KERNELS)
def test_cosines_held_and_cosines_computed_give_the_same_bits(
    view: PoolView, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = chosen(view, name, kernel="dense")
    monkeypatch.setattr(similar, "DENSE_ROWS", 3)
    free = chosen(view, name, kernel="dense")
    assert held.positions.tolist() == free.positions.tolist()
    assert held.gains == pytest.approx(free.gains, abs=1e-6)


def test_d_optimal_and_dpp_choose_the_same_rows(view: PoolView) -> None:
    one, two = chosen(view, "d-optimal", 20, ridge=0.1), chosen(view, "dpp", 20, ridge=0.1)
    assert one.positions.tolist() == two.positions.tolist()


def test_gcmi_ranks_rows_by_mean_cosine_to_the_target(view: PoolView) -> None:
    assert view.target is not None
    places, rows = embedded(view)
    wanted = rows @ unit(view.target.signal("tokens", "pooled")).astype(np.float64).T
    order = places[np.argsort(-wanted.mean(axis=1), kind="stable")][:9]
    assert chosen(view, "graph-cut", form="gcmi").positions.tolist() == order.tolist()


def test_disparity_min_is_farthest_first_under_any_budget(view: PoolView) -> None:
    places, rows = embedded(view)
    cosines = rows @ rows.T
    picked = np.searchsorted(places, chosen(view, "disparity-min", 12).positions).tolist()
    for step in range(1, 12):
        nearest = cosines[:, picked[:step]].max(axis=1)
        assert nearest[picked[step]] <= nearest.min() + 1e-5
    by_tokens = chosen(view, "disparity-min", "200 tokens")
    assert by_tokens.positions[0] == places[picked[0]]
    assert int(view.cost[by_tokens.positions].sum()) <= 200


def test_rows_chosen_before_cover_already(view: PoolView) -> None:
    first = chosen(view, "facility-location", 6).positions
    later = chosen(dataclasses.replace(view, existing=first.tolist()), "facility-location", 6)
    both = chosen(view, "facility-location", 12).positions[6:]
    assert later.positions.tolist() == both.tolist()


@pytest.mark.parametrize(("name", "settings"), FORMS)
def test_a_form_chooses_other_rows_than_plain_cover_and_says_what_it_reached(
    view: PoolView, name: str, settings: dict[str, Any]
) -> None:
    subset = chosen(view, name, **settings)
    assert len(set(subset.positions.tolist())) == 9 and np.isfinite(subset.gains).all()
    assert subset.positions.tolist() != chosen(view, name).positions.tolist()
    assert any("f(S) = " in note for note in subset.notes)


@pytest.mark.parametrize("method", ["naive", "stochastic", "threshold", "sieve", "partition"])
def test_every_maximiser_fills_the_budget_and_says_whether_it_nests(view: PoolView, method: str) -> None:
    for name in ("facility-location", "feature-based", "saturated-coverage"):
        made = catalogue.build("selectors", name, {"maximiser": method})
        assert made.nested == (method == "naive") and type(made).nested
        assert len(made.select(view, Budget(rows=9), cheap.ON).positions) == 9
    assert chosen(view, "facility-location", maximiser="naive").positions.tolist() == (
        chosen(view, "facility-location").positions.tolist()
    )


def test_set_cover_says_what_it_covered(view: PoolView) -> None:
    subset = chosen(view, "set-cover", 3, concepts="meta.tags")
    assert any("concepts are covered" in note for note in subset.notes)


def test_quality_moves_a_dpp_towards_good_rows(view: PoolView) -> None:
    values = view.column("made.score").values
    plain, good = chosen(view, "dpp"), chosen(view, "dpp", by="made.score", alpha=3.0)
    bad = chosen(view, "dpp", by="made.score", alpha=3.0, high=False)
    means = [float(np.nanmean(values[subset.positions])) for subset in (bad, plain, good)]
    assert means == sorted(means) and np.isfinite(values[good.positions]).all()


def test_a_dpp_that_would_not_fit_is_refused(view: PoolView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.selectors.spanning.FACTOR_BYTES", 1000)
    with pytest.raises(DataError, match="d-optimal"):
        chosen(view, "dpp")


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("facility-location", {"neighbours": 1}, "neighbours"),
        ("facility-location", {"eta": -1}, "negative"),
        ("facility-location", {"epsilon": 2}, "epsilon"),
        ("graph-cut", {"lam": float("nan")}, "negative"),
        ("saturated-coverage", {"alpha": 0}, "alpha"),
        ("d-optimal", {"ridge": 0}, "ridge"),
        ("d-optimal", {"eta": 1.5}, "eta"),
        ("dpp", {"width": 0}, "width"),
        ("submodular-mixture", {"facility_location": 0}, "one is above"),
        ("submodular-mixture", {"quality": 1}, "go together"),
        ("set-cover", {"concepts": "skill"}, "column"),
    ],
)
def test_settings_that_mean_nothing_are_refused(name: str, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(RecipeError, match=text):
        catalogue.build("selectors", name, settings)


def test_a_form_without_its_other_side_is_refused(tmp_path: Path) -> None:
    alone = dataclasses.replace(cheap.numbers_view(tmp_path), target=None)
    for name, settings in FORMS:
        with pytest.raises(DataError, match=r"no target|no existing data"):
            chosen(alone, name, **settings)
