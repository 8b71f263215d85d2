"""Laws of the comparison: golden values, coverage of the interval, pairing, and when a difference is clear."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tamis.comparison import compare_arms, composition, crossed_bootstrap, expected_best, holm, variance_components
from tamis.errors import DataError
from tamis.values import Items


def items(values: NDArray[np.float64], weights: NDArray[np.float64] | None = None, **more: object) -> Items:
    weights = np.ones(len(values)) if weights is None else weights
    facts = {"metric": "held-out loss", "unit": "nats per token", "lower_is_better": True} | more
    return Items(keys=[f"k{i}" for i in range(len(values))], values=values, weights=weights, **facts)  # type: ignore[arg-type]


def runs(count: int, shift: float = 0.0, seed: int = 0, size: int = 80) -> list[Items]:
    """Make runs whose items are hard or easy alike, plus the noise of the run and of the item."""
    shared = np.random.default_rng(99).normal(2, 1, size)
    rng = np.random.default_rng(seed)
    return [items(shared + shift + rng.normal(0, 0.02) + rng.normal(0, 0.1, size)) for _ in range(count)]


def test_expected_best_of_n_golden() -> None:
    values = (0.5, 0.1, 0.9, 0.4)
    assert [expected_best(values, n) for n in (1, 2, 3)] == pytest.approx([0.475, 0.63125, 0.7140625])
    assert expected_best(values, 50, lower_is_better=True) == pytest.approx(0.1, abs=1e-4)


def test_variance_components_golden() -> None:
    found = variance_components(np.array([[1, 2, 4], [2, 4, 5], [6, 6, 9]], np.float64))
    assert (found.adapter_square, found.order_square, found.error_square) == pytest.approx(
        (17.333333, 7, 0.333333), abs=1e-6
    )
    assert (found.adapter, found.order) == pytest.approx((5.666667, 2.222222))
    with pytest.raises(DataError, match="at least 2 x 2"):
        variance_components(np.ones((1, 3)))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == [True, False, False]  # 0.01 <= 0.05/3, 0.03 > 0.05/2: stop
    assert holm([0.01, 0.024, 0.05]) == [True, True, True]
    assert holm([]) == []


def slow_bootstrap(differences: NDArray[np.float64], weights: NDArray[np.float64], draws: int) -> tuple[float, float]:
    rng = np.random.default_rng(5)
    means = []
    for _ in range(draws):
        drawn = rng.integers(len(weights), size=len(weights))
        chosen = rng.integers(len(differences), size=len(differences))
        means.append(np.mean([sum(differences[r][i] for i in drawn) / sum(weights[i] for i in drawn) for r in chosen]))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def test_the_interval_is_that_of_a_plain_double_loop() -> None:
    rng = np.random.default_rng(1)
    weights = rng.integers(1, 20, 25).astype(np.float64)
    differences = rng.normal(0.3, 0.5, (3, 25)) * weights
    found = crossed_bootstrap(differences, weights, draws=4000)
    assert found.mean == pytest.approx((differences.sum(axis=1) / weights.sum()).mean())
    assert found.per_run == pytest.approx(tuple(differences.sum(axis=1) / weights.sum()))
    assert (found.low, found.high) == pytest.approx(slow_bootstrap(differences, weights, 2000), abs=0.03)
    assert crossed_bootstrap(differences, weights, draws=4000) == found  # same twice


def test_the_interval_over_items_covers_the_truth_in_about_95_percent() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for number in range(200):
        differences = 0.1 + rng.normal(0, 0.3, (1, 60))
        found = crossed_bootstrap(differences, np.ones(60), draws=300, seed=number)
        covered += found.low <= 0.1 <= found.high
    assert 0.89 <= covered / 200 <= 0.99


def test_clear_needs_the_interval_and_every_run() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.01, (3, 50))
    assert crossed_bootstrap(noise - 1, np.ones(50)).clear
    assert not crossed_bootstrap(noise + np.array([[-1.0], [1], [-1]]), np.ones(50)).clear
    one_against = crossed_bootstrap(noise + np.array([[-1.0]] * 19 + [[0.2]])[[0, 1, 19]], np.ones(50))
    assert not one_against.clear
    many = np.tile(noise[:1], (20, 1)) + np.array([[-1.0]] * 19 + [[0.2]])
    found = crossed_bootstrap(many, np.ones(50))
    assert found.high < 0 and not found.clear  # the interval excludes zero, one run has the other sign


def test_one_run_is_over_items_and_says_so() -> None:
    found = compare_arms("less", {"untouched": runs(1, 1.0, 1), "less": runs(3, 0, 2), "full": runs(1, 0, 3)})
    by_arm = {entry["arm"]: entry for entry in found["differences"]}
    assert by_arm["untouched"]["over"] == "items" and len(by_arm["untouched"]["per_run"]) == 3
    assert "one run, interval over items only" in by_arm["untouched"]["verdict"]
    assert by_arm["untouched"]["better"] is True
    single = compare_arms("less", {"less": runs(1, 0, 2), "random": runs(1, 1.0, 3)})["differences"][0]
    assert single["over"] == "items" and len(single["per_run"]) == 1


def test_the_document_is_complete_json_and_adds_up() -> None:
    arms = {"untouched": runs(1, 2.0, 1), "less": runs(3, 0, 2), "random": runs(3, 0.5, 3), "longest": runs(3, 0, 4)}
    found = json.loads(json.dumps(compare_arms("less", arms), allow_nan=False))
    assert [entry["name"] for entry in found["arms"]] == list(arms)
    means = {entry["name"]: entry["mean"] for entry in found["arms"]}
    for entry in found["differences"]:
        assert entry["mean"] == pytest.approx(means["less"] - means[entry["arm"]])
        assert np.mean(entry["per_run"]) == pytest.approx(entry["mean"])
        assert entry["low"] <= entry["mean"] <= entry["high"]
        assert (entry["better"] is None) == (not entry["clear"])
    random = next(entry for entry in found["differences"] if entry["arm"] == "random")
    assert random["over"] == "items and runs" and random["better"] is True and random["clear_after_holm"] is True
    assert found["verdict"].startswith(
        "less beats untouched and random; is not clearly different from longest (held-out"
    )
    assert found["items"] == 80 and found["unit"] == "nats per token"


def test_pairing_is_by_run_and_takes_the_noise_of_items_out() -> None:
    less, random = runs(3, 0, 2), runs(3, 0.05, 3)
    found = compare_arms("less", {"less": less, "random": random})["differences"][0]
    expected = [float((a.values - b.values).mean()) for a, b in zip(less, random, strict=True)]
    assert found["per_run"] == pytest.approx(expected)
    assert found["high"] - found["low"] < 0.2  # items alone spread by 2 * 1.96 / sqrt(80) = 0.44


@pytest.mark.parametrize(("lower", "shift", "better"), [(True, 1.0, True), (False, 1.0, False), (False, -1.0, True)])
def test_better_follows_the_direction_of_the_metric(lower: bool, shift: float, better: bool) -> None:
    def of(values: Sequence[Items]) -> list[Items]:
        return [items(one.values, lower_is_better=lower, metric="m") for one in values]

    found = compare_arms("less", {"less": of(runs(3, 0, 2)), "random": of(runs(3, shift, 3))})["differences"][0]
    assert found["better"] is better


def test_unequal_items_runs_and_values_are_refused() -> None:
    good = runs(2)
    with pytest.raises(DataError, match="other items"):
        compare_arms("less", {"less": good, "random": runs(2, size=79)})
    with pytest.raises(DataError, match="other items"):
        compare_arms("less", {"less": good, "random": [items(one.values, one.weights * 2) for one in good]})
    with pytest.raises(DataError, match="same number"):
        compare_arms("less", {"less": good, "random": runs(3)})
    with pytest.raises(DataError, match="finite"):
        compare_arms("less", {"less": good, "random": [items(one.values * np.nan) for one in good]})
    with pytest.raises(DataError, match="at least one run"):
        compare_arms("less", {"random": good})
    with pytest.raises(DataError, match="nothing was evaluated"):
        compare_arms("less", {"less": [items(np.zeros(0))], "random": [items(np.zeros(0))]})
    with pytest.raises(DataError, match="measured by"):
        compare_arms("less", {"less": good, "random": [items(one.values, metric="other") for one in good]})


def test_composition_is_shares_that_add_up() -> None:
    groups = np.array(["a", "b", "a", "c"])
    assert composition(groups) == {"a": 0.5, "b": 0.25, "c": 0.25}
    assert composition(groups, np.array([1, 1, 3])) == {"b": 2 / 3, "c": 1 / 3}
    assert composition(groups, np.zeros(0, np.int64)) == {}
