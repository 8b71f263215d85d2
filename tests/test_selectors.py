"""Laws of selectors and mixers: budgets are exact, ties are stable, fast forms equal slow ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import synthetic
from tamis import catalogue, mixes
from tamis.budgets import BudgetTooSmall, fill, order_of, round_robin
from tamis.errors import DataError, RecipeError
from tamis.values import Budget, Machine, Subset
from tamis.views import PoolView

ON = Machine()


def select(name: str, view: PoolView, budget: str | int, **fields: Any) -> Subset:
    subset: Subset = catalogue.build("selectors", name, fields).select(view, Budget.parse(budget), ON)
    return subset


@pytest.fixture
def view(tmp_path: Path) -> PoolView:
    made = synthetic.rows(60)
    signals = {
        "lengths": synthetic.lengths(60),
        "influence": synthetic.influence(60),
        "tokens": {"pooled": np.random.default_rng(5).normal(size=(60, 4)).astype(np.float32)},
    }
    target = synthetic.view(
        tmp_path / "target",
        synthetic.rows(5, seed=1),
        {"tokens": {"pooled": np.random.default_rng(6).normal(size=(5, 4)).astype(np.float32)}},
    )
    scores = np.random.default_rng(3).normal(size=60)
    scores[7] = np.nan
    return synthetic.view(
        tmp_path / "pool", made, signals, target=target, columns={"made.score@tiny": synthetic.column(scores)}
    )


def slow_fill(order: Sequence[int], tokens: int, cost: NDArray[np.int64]) -> list[int]:
    taken = []
    for place in order:
        if cost[place] <= tokens:
            taken.append(place)
            tokens -= int(cost[place])
    return taken


def slow_round_robin(scores: NDArray[np.float32], usable: NDArray[np.bool_], rows: int) -> list[int]:
    taken: list[int] = []
    while True:
        before = len(taken)
        for task in range(scores.shape[1]):
            best = None
            for place in range(len(scores)):
                value = scores[place, task]
                if usable[place] and place not in taken and np.isfinite(value):
                    if best is None or value > scores[best, task]:
                        best = place
            if best is not None and len(taken) < rows:
                taken.append(best)
        if len(taken) == before:
            return taken


@given(costs=st.lists(st.integers(1, 30), min_size=1, max_size=40), tokens=st.integers(1, 400), data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_token_budget_is_never_exceeded_and_leaves_less_than_the_smallest_row(
    costs: list[int], tokens: int, data: st.DataObject
) -> None:
    cost = np.asarray(costs, np.int64)
    order = np.asarray(data.draw(st.permutations(range(len(costs)))), np.int64)
    if tokens < cost.min():
        with pytest.raises(BudgetTooSmall, match="smaller than the smallest"):
            fill(order, Budget(tokens=tokens), cost)
        return
    taken = fill(order, Budget(tokens=tokens), cost)
    assert taken.tolist() == slow_fill(order.tolist(), tokens, cost)
    left = tokens - int(cost[taken].sum())
    rest = np.setdiff1d(order, taken)
    assert left >= 0 and (not len(rest) or left < cost[rest].min())


def test_rows_and_shares_give_a_prefix() -> None:
    order, cost = np.arange(10)[::-1], np.ones(10, np.int64)
    assert fill(order, Budget(rows=3), cost).tolist() == [9, 8, 7]
    assert fill(order, Budget(share=0.2), cost).tolist() == [9, 8]
    assert fill(order, Budget(share=0.2), cost, of=20).tolist() == [9, 8, 7, 6]
    assert fill(order, Budget(rows=99), cost).tolist() == order.tolist()
    assert fill(order[:0], Budget(tokens=5), cost).tolist() == []


def test_ties_go_to_the_lower_place_and_nan_is_never_ranked() -> None:
    values = np.array([1, 2, np.nan, 2, 1, 2], np.float32)
    usable = np.array([1, 1, 1, 1, 1, 0], bool)
    assert order_of(values, usable, high=True).tolist() == [1, 3, 0, 4]
    assert order_of(values, usable, high=False).tolist() == [0, 4, 1, 3]


@given(
    scores=st.lists(
        st.lists(st.sampled_from([0.0, 1.0, 2.0, float("nan")]), min_size=3, max_size=3), min_size=1, max_size=12
    ),
    rows=st.integers(1, 14),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_round_robin_equals_the_slow_form(scores: list[list[float]], rows: int, data: st.DataObject) -> None:
    table = np.asarray(scores, np.float32)
    usable = np.asarray(data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))), np.bool_)
    order, gains = round_robin(table, usable, rows)
    assert order.tolist() == slow_round_robin(table, usable, rows)
    assert all(gain in table[place] for place, gain in zip(order, gains, strict=True))


@given(
    held=st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 50), min_size=1, max_size=8),
    total=st.integers(0, 300),
    equal=st.booleans(),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_parts_add_up_exactly_respect_what_is_held_and_ignore_the_order_of_groups(
    held: dict[str, int], total: int, equal: bool, data: st.DataObject
) -> None:
    claims = dict.fromkeys(held, 1) if equal else held
    parts = mixes.apportion(total, claims, held)
    assert sum(parts.values()) == min(total, sum(held.values()))
    assert all(0 <= parts[name] <= held[name] for name in held)
    shuffled = {name: claims[name] for name in data.draw(st.permutations(sorted(claims)))}
    assert mixes.apportion(total, shuffled, held) == parts
    if equal:  # nobody below another unless all it holds is taken
        assert all(parts[a] >= parts[b] - 1 for a in parts for b in parts if parts[a] < held[a])
    else:
        assert all(abs(parts[name] - total * held[name] / sum(held.values())) < 1 for name in held) or total > sum(
            held.values()
        )


def test_largest_remainders_by_hand() -> None:
    assert mixes.apportion(10, {"a": 1, "b": 1, "c": 1}, {"a": 9, "b": 9, "c": 1}) == {"a": 5, "b": 4, "c": 1}
    assert mixes.apportion(7, {"a": 5, "b": 3, "c": 2}, {"a": 5, "b": 3, "c": 2}) == {"a": 4, "b": 2, "c": 1}


def test_random_draws_depend_on_seed_and_key_alone(view: PoolView, tmp_path: Path) -> None:
    first = select("random", view, 20, seed=1)
    made = synthetic.rows(60)
    fewer = synthetic.view(
        tmp_path / "fewer", made[10:50], {"lengths": synthetic.cut(synthetic.lengths(60), 10, 50)}, 7
    )
    again = select("random", fewer, 20, seed=1)
    assert first.values is not None and again.values is not None
    assert again.values.tolist() == first.values[10:50].tolist()
    assert select("random", view, 20, seed=2).positions.tolist() != first.positions.tolist()
    assert len(set(first.positions.tolist())) == 20 and view.usable[first.positions].all()


def test_random_draws_are_uniform(tmp_path: Path) -> None:
    many = synthetic.view(tmp_path, synthetic.rows(2000), {"lengths": synthetic.lengths(2000, refused=0)}, 2000)
    draws = select("random", many, 1, seed=-3).values
    assert draws is not None
    gap = np.abs(np.sort(draws) - (np.arange(2000) + 0.5) / 2000).max()
    assert gap < 1.63 / 2000**0.5  # Kolmogorov-Smirnov at 1 %


def test_longest_takes_most_response_tokens_first(view: PoolView) -> None:
    for unit, array in (("response", "response_tokens"), ("tokens", "tokens")):
        lengths = view.signal("lengths", array)
        subset = select("longest", view, 12, unit=unit)
        expected = sorted(np.flatnonzero(view.usable), key=lambda place: (-lengths[place], place))[:12]
        assert subset.positions.tolist() == expected
        assert subset.gains.tolist() == lengths[expected].tolist()


def test_top_and_bottom_are_the_two_ends_of_a_column(view: PoolView) -> None:
    values = view.column("made").values
    places = [place for place in np.flatnonzero(view.usable) if np.isfinite(values[place])]
    ranked = sorted(places, key=lambda place: (-values[place], place))
    assert select("top", view, 5, by="made.score").positions.tolist() == ranked[:5]
    assert select("bottom", view, 5, by="made").positions.tolist() == ranked[::-1][:5]


def test_band_by_hand(tmp_path: Path) -> None:
    values = np.array([0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, np.nan])
    signals = {"lengths": synthetic.lengths(12, refused=0)}
    view = synthetic.view(tmp_path, synthetic.rows(12), signals, columns={"x": synthetic.column(values)})
    assert select("band", view, 99, by="x", low=0.3, high=0.7).positions.tolist() == [5, 4, 6, 3, 7]
    assert select("band", view, 2, by="x", low=0.3, high=0.7).positions.tolist() == [5, 4]
    assert select("band", view, 99, by="x", low=0, high=25, scale="value").positions.tolist() == [1, 2, 0]
    with pytest.raises(RecipeError, match="must not be above"):
        select("band", view, 2, by="x", low=0.7, high=0.3)
    with pytest.raises(RecipeError, match=r"lie in \[0, 1\]"):
        select("band", view, 2, by="x", low=0.3, high=70)


@pytest.mark.parametrize("tasks", ["round-robin", "max", "mean"])
def test_less_equals_its_plain_form(view: PoolView, tasks: str) -> None:
    scores = view.signal("influence", "scores")
    usable = view.usable & np.isfinite(scores).all(axis=1)
    subset = select("less", view, 15, tasks=tasks)
    if tasks == "round-robin":
        expected = slow_round_robin(scores, usable, 15)
        assert subset.gains.tolist() == [float(scores[p, i % 3]) for i, p in enumerate(expected)]
    else:
        statistic = scores.max(axis=1) if tasks == "max" else scores.astype(np.float64).mean(axis=1)
        expected = sorted(np.flatnonzero(usable).tolist(), key=lambda place: (-statistic[place], place))[:15]
    assert subset.positions.tolist() == expected
    assert subset.values is not None and subset.reasons is not None
    assert (np.isnan(subset.values) == (subset.reasons > 0)).all()


@pytest.mark.parametrize("tokens", [6, 40, 77, 500, 100_000])
def test_a_token_budget_of_turns_is_that_of_the_full_order(tmp_path: Path, tokens: int) -> None:
    lengths = synthetic.lengths(400, refused=0)
    lengths["tokens"][350:] = 5  # the smallest rows come last, far behind the first guess
    influence = synthetic.influence(400)
    influence["scores"][350:] -= 100
    view = synthetic.view(tmp_path, synthetic.rows(400), {"lengths": lengths, "influence": influence}, 400)
    order, _ = round_robin(influence["scores"], view.usable)
    expected = fill(order, Budget(tokens=tokens), view.cost)
    assert select("less", view, f"{tokens} tokens").positions.tolist() == expected.tolist()


def test_less_round_robin_gives_every_task_its_best_row() -> None:
    scores = np.array([[9, 0], [8, 0], [7, 0], [0, 1]], np.float32)
    assert round_robin(scores, np.ones(4, bool), 2)[0].tolist() == [0, 3]  # by maximum it would be 0 and 1


def test_rds_plus_equals_its_plain_form(view: PoolView) -> None:
    assert view.target is not None
    cosines = np.array(
        [
            [
                row @ query / np.linalg.norm(row) / np.linalg.norm(query)
                for query in view.target.signal("tokens", "pooled")
            ]
            for row in view.signal("tokens", "pooled")
        ]
    )
    assert select("rds-plus", view, 20).positions.tolist() == slow_round_robin(cosines, view.usable, 20)
    sources = view.target.groups("source")
    best = np.stack([cosines[:, sources == name].max(axis=1) for name in np.unique(sources)], axis=1)
    by_task = select("rds-plus", view, 20, turns="task")
    assert by_task.positions.tolist() == slow_round_robin(best, view.usable, 20)


def test_rds_plus_ignores_rows_without_a_vector(tmp_path: Path) -> None:
    pooled = np.array([[1, 0], [0, 0], [0.5, 0.5], [0, 1]], np.float32)
    target = synthetic.view(
        tmp_path / "t", synthetic.rows(2), {"tokens": {"pooled": np.array([[0, 0], [0, 2]], np.float32)}}
    )
    signals = {"lengths": synthetic.lengths(4, refused=0), "tokens": {"pooled": pooled}}
    subset = select("rds-plus", synthetic.view(tmp_path / "p", synthetic.rows(4), signals, target=target), 4)
    assert subset.positions.tolist() == [3, 2, 0]  # places 1 and, of the target, 0 have no vector


@pytest.mark.parametrize("search", ["ivf", "hnsw"])
@pytest.mark.parametrize("budget", [15, "250 tokens"])
def test_rds_plus_from_an_index_picks_nearly_the_same(view: PoolView, search: str, budget: str | int) -> None:
    exact, near = select("rds-plus", view, budget), select("rds-plus", view, budget, search=search)
    assert len(set(near.positions.tolist())) == len(near.positions) and view.usable[near.positions].all()
    assert np.isfinite(near.gains).all() and abs(len(near.positions) - len(exact.positions)) <= 3
    assert len(set(exact.positions.tolist()) & set(near.positions.tolist())) >= 0.8 * len(exact.positions)
    if isinstance(budget, str):
        assert view.cost[near.positions].sum() <= 250
    with pytest.raises(RecipeError, match="serves turns 'query'"):
        select("rds-plus", view, budget, search=search, turns="task")


def test_rds_plus_without_a_target_says_what_to_change(view: PoolView) -> None:
    bare = PoolView(view.pool, view.signal_folders)
    with pytest.raises(DataError, match="no target"):
        select("rds-plus", bare, 5)


@pytest.mark.parametrize("mixer", ["proportional", "equal"])
@pytest.mark.parametrize("budget", [7, "50%", "300 tokens"])
def test_a_mix_spends_the_whole_budget_inside_its_groups(view: PoolView, mixer: str, budget: str | int) -> None:
    wanted = Budget.parse(budget)
    built = catalogue.build("mixers", mixer, {})
    shares = built.share(view, wanted)
    rows, tokens = wanted.limits(int(view.usable.sum()))
    assert sum((part.rows if rows is not None else part.tokens) or 0 for part in shares.values()) == (rows or tokens)
    subset = mixes.select_by_mix(view, built, catalogue.build("selectors", "less", {}), wanted, ON)
    assert len(set(subset.positions.tolist())) == len(subset.positions)
    if rows is not None:
        groups = view.groups()[subset.positions]
        assert len(groups) == rows
        scored = view.usable & np.isfinite(view.signal("influence", "scores")).all(axis=1)
        if all((part.rows or 0) <= (scored & (view.groups() == name)).sum() for name, part in shares.items()):
            assert {name: int((groups == name).sum()) for name in shares} == {n: p.rows for n, p in shares.items()}
    else:
        assert tokens is not None
        left = tokens - int(view.cost[subset.positions].sum())
        ranked = view.usable & np.isfinite(view.signal("influence", "scores")).all(axis=1)
        ranked[subset.positions] = False
        assert 0 <= left < view.cost[ranked].min()
