"""The laws that every component of the catalogue keeps (DESIGN §9), walked over the whole catalogue."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cheap
import synthetic
import tiny
from cheap import CHEAP, ON, World
from tamis import catalogue, digests, ledger, store
from tamis.cleaning.steps import steps_of
from tamis.pool import Pool, Shard
from tamis.stages import weigh
from tamis.stages.clean import Cleaned, clean
from tamis.stages.workspace import Workspace
from tamis.values import Budget, Column, Items, Machine, Need, Subset
from tamis.views import PoolView, ShardSignals

NAMES = [(kind, name) for kind, table in catalogue.CATALOGUE.items() for name in table]
PASSES, SCORERS = sorted(catalogue.PASSES), sorted(catalogue.SCORERS)
WEIGHERS = sorted(catalogue.WEIGHERS)
SELECTORS, MIXERS = sorted(catalogue.SELECTORS), sorted(catalogue.MIXERS)
HEAVY = ("mask-pii", "pii")  # Presidio takes ten seconds to import
EXTRA = {**dict.fromkeys(HEAVY, "presidio_analyzer"), **dict.fromkeys(("mask-secrets", "secrets"), "detect_secrets")}
CLEANERS = [pytest.param(name, marks=[pytest.mark.soak] * (name in HEAVY)) for name in sorted(catalogue.CLEANERS)]
TRAINERS, EVALUATORS = sorted(catalogue.TRAINERS), sorted(catalogue.EVALUATORS)
RESHARDED = 5
TOLERANCE = 1e-4  # of the standard deviation over the pool


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def signals(world: World) -> dict[str, list[Path]]:
    return world.signals(world.pool, world.folder / "signals")


@pytest.fixture(scope="module")
def measured(world: World) -> Callable[[str], Mapping[str, NDArray[Any]]]:
    """What a pass makes of the pool, measured once for all tests."""
    return functools.cache(lambda name: world.measure(name, world.pool)[0])


@pytest.fixture(scope="module")
def moved(world: World, signals: dict[str, list[Path]]) -> list[tuple[NDArray[np.int64], PoolView]]:
    """The pool with its signals in other shards, and then in another order as well."""
    arrays = {key: store.load_arrays(folders[0]) for key, folders in signals.items()}
    arrays["tokens@reference"] = arrays["tokens"]
    tasks = arrays["influence"].pop("tasks")
    views = []
    for folder, order in (("cut", np.arange(len(world.rows))), ("shuffled", np.random.default_rng(1).permutation(18))):
        others = {key: reordered(one, order) for key, one in arrays.items()}
        view = synthetic.view(world.folder / folder, [world.rows[place] for place in order], others, RESHARDED)
        for part in view.signal_folders["influence"]:
            store.save_arrays(part, {"tasks": tasks})
        views.append((order, view))
    return views


def bytes_of(pool: Pool) -> dict[str, str]:
    return {str(file): digests.of_file(file) for shard in pool.shards for file in sorted(shard.path.rglob("*.*"))}


# all components


def test_every_component_has_a_row_of_cheap_settings() -> None:
    assert set(NAMES) == set(CHEAP), "add a row to tests/cheap.py for every line of the catalogue"


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_a_component_is_a_frozen_keyword_only_dataclass(kind: str, name: str) -> None:
    cls = catalogue.load(kind, name)
    assert cls.__dataclass_params__.frozen and cls.__bases__ == (object,), "no inheritance of implementation"
    assert all(field.kw_only for field in dataclasses.fields(cls))
    assert isinstance(cls.revision, int) and cls.revision >= 1
    assert "revision" not in {field.name for field in dataclasses.fields(cls)}
    assert inspect.getdoc(cls) and "__init__" in cls.__dict__
    assert kind != "selectors" or isinstance(cls.nested, bool)


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_settings_make_the_round_trip_and_enter_the_identity(world: World, kind: str, name: str) -> None:
    component = world.component(kind, name)
    settings = {field.name: getattr(component, field.name) for field in dataclasses.fields(component)}
    again = catalogue.build(kind, name, settings)
    assert again == component and digests.of_component(again) == digests.of_component(component)
    if "seed" in settings:
        other = dataclasses.replace(component, seed=settings["seed"] + 1)
        assert digests.of_component(other) != digests.of_component(component)


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_needs_name_what_exists(world: World, kind: str, name: str) -> None:
    needs = world.component(kind, name).needs
    assert isinstance(needs, frozenset)
    for need in needs:
        assert isinstance(need, Need)
        if need.kind == "signal":
            fields = {field.name for field in dataclasses.fields(catalogue.load("passes", need.name))}
            assert {key for key, _ in need.settings} <= fields


# passes


def by_row(world: World, name: str, pool: Pool, on: Machine = ON) -> dict[str, list[Any]]:
    joined: dict[str, list[Any]] = {}
    for shard, arrays in zip(pool.shards, world.measure(name, pool, on), strict=True):
        for key, values in cheap.rowwise(arrays, shard.rows).items():
            joined.setdefault(key, []).extend(values)
    return joined


def assert_close(one: Mapping[str, list[Any]], two: Mapping[str, list[Any]]) -> None:
    """Equal whole numbers; others within 1e-4 of their spread over the pool."""
    assert set(one) == set(two)
    for name in one:
        a, b = (np.concatenate([np.atleast_1d(value).ravel() for value in values[name]]) for values in (one, two))
        if a.dtype.kind in "iub":
            assert a.tolist() == b.tolist(), name
            continue
        a, b = a.astype(np.float64), b.astype(np.float64)
        assert (np.isnan(a) == np.isnan(b)).all(), name
        slack = 2e-3 if one[name][0].dtype == np.float16 else TOLERANCE  # half precision is stored so
        assert np.nanmax(np.abs(a - b), initial=0) <= slack * max(float(np.nanstd(a)), 1e-6), name


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_is_the_same_twice_leaves_the_pool_alone_and_survives_the_store(
    world: World, measured: Callable[[str], Mapping[str, NDArray[Any]]], name: str, tmp_path: Path
) -> None:
    before = bytes_of(world.pool)
    one, two = measured(name), world.measure(name, world.pool)[0]
    assert set(one) == set(two) and all(np.array_equal(one[key], two[key], equal_nan=True) for key in one if key)
    assert bytes_of(world.pool) == before
    store.save_arrays(tmp_path, one)
    back = store.load_arrays(tmp_path)
    for key in one:
        assert back[key].dtype == one[key].dtype and np.array_equal(back[key], one[key], equal_nan=True)


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_gives_a_reason_wherever_it_cannot_measure(
    world: World, measured: Callable[[str], Mapping[str, NDArray[Any]]], name: str
) -> None:
    arrays = measured(name)
    count = len(world.rows)
    reasons = arrays["reason"]
    assert reasons.shape == (count,) and reasons.dtype == np.uint8 and (reasons > 0).any() and (reasons == 0).any()
    for key, values in cheap.rowwise(arrays, count).items():
        if key != "alone_nll":  # NaN where a token has no predecessor, by its documentation
            assert all(np.isfinite(values[place]).all() for place in np.flatnonzero(reasons == 0)), key
    for key, array in arrays.items():
        if key.endswith("_offsets"):
            assert array.dtype == np.int64 and len(array) == count + 1 and array[0] == 0 and (np.diff(array) >= 0).all()


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_depends_neither_on_shards_nor_on_batches_and_follows_the_rows(
    world: World, measured: Callable[[str], Mapping[str, NDArray[Any]]], name: str, tmp_path: Path
) -> None:
    whole = cheap.rowwise(measured(name), len(world.rows))
    assert_close(whole, by_row(world, name, tiny.make_pool(tmp_path / "cut", world.rows, shard_rows=RESHARDED)))
    assert_close(whole, by_row(world, name, world.pool, Machine(tokens_per_batch=1)))
    order = np.random.default_rng(0).permutation(len(world.rows))
    shuffled = by_row(world, name, tiny.make_pool(tmp_path / "shuffled", [world.rows[place] for place in order]))
    assert_close({key: [values[place] for place in order] for key, values in whole.items()}, shuffled)


# cleaners and transforms


def cleaned(world: World, name: str, pool: Pool, folder: Path) -> Cleaned:
    if name in EXTRA:
        pytest.importorskip(EXTRA[name], reason="the extra `pii` is not installed")
    steps = steps_of([{name: CHEAP["cleaners", name]}])
    return clean(pool, steps, Workspace(folder, ON, world.model), sides={"target": world.target})


def roots(pool: Pool) -> list[str]:
    """Keys of the rows as they were read."""
    return [row.parent or row.key for row in pool]


def rejected(pool: Pool) -> list[tuple[str, str]]:
    return [(row["key"], row["reason"]) for row in ledger.quarantine(PoolView(pool)).to_pylist()]


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return tiny.make_pool(tmp_path_factory.mktemp("dirty"), cheap.dirty_rows())


@pytest.mark.parametrize("name", CLEANERS)
def test_cleaning_accounts_for_every_row_and_keeps_their_order(
    world: World, dirty: Pool, name: str, tmp_path: Path
) -> None:
    before = bytes_of(dirty)
    found = cleaned(world, name, dirty, tmp_path)
    keys = [row.key for row in dirty]
    assert bytes_of(dirty) == before
    out = rejected(found.pool)
    assert sorted([*roots(found.pool), *(key for key, _ in out)]) == sorted(keys), "every row ends in one place"
    assert roots(found.pool) == [key for key in keys if key not in dict(out)], "in the order in which they were"
    assert all(reason.strip() for _, reason in out)
    (file,) = found.pool.files
    assert file["kept"] == len(found.pool) and file["rows"] == file["kept"] + file["dropped"]
    (done,) = found.done
    assert (done.read, done.dropped) == (len(keys), len(out)) and done.dropped + done.changed > 0, "it finds something"
    assert done.changed == sum(row.parent is not None for row in found.pool)
    assert 0 < len(found.pool) and found.pool.steps == (done.about(),)
    json.dumps(found.pool.steps)


@pytest.mark.parametrize("name", CLEANERS)
def test_cleaning_is_the_same_twice_and_whatever_the_shards(
    world: World, dirty: Pool, name: str, tmp_path: Path
) -> None:
    one, again = cleaned(world, name, dirty, tmp_path / "one"), cleaned(world, name, dirty, tmp_path / "one")
    assert one.done[0].made and not again.done[0].made and again.pool == one.pool, "a second run does nothing"
    two = cleaned(world, name, dirty, tmp_path / "two")
    assert two.pool.digest == one.pool.digest and rejected(two.pool) == rejected(one.pool)
    cut = tiny.make_pool(tmp_path / "cut", cheap.dirty_rows(), shard_rows=RESHARDED)
    three = cleaned(world, name, cut, tmp_path / "three")
    assert list(three.pool) == list(one.pool) and rejected(three.pool) == rejected(one.pool)
    untouched = {shard.path for shard in cut.shards} & {shard.path for shard in three.pool.shards}
    for shard in cut.shards:
        same = [row.key for row in shard.read()] == [row.key for row in three.pool if row.key in keys_of(shard)]
        assert (shard.path in untouched) == same, "a shard that nothing happened to is taken as it is"


def keys_of(shard: Shard) -> set[str]:
    return {row.key for row in shard.read()}


# scorers


def scored(world: World, name: str, view: PoolView) -> dict[str, Column]:
    scorer = world.component("scorers", name)
    if hasattr(scorer, "fit"):
        fitted = world.folder / "fitted-scorers" / name / view.pool.digest
        fitted.mkdir(parents=True, exist_ok=True)
        store.save_arrays(fitted, scorer.fit(view)[0])
        view = dataclasses.replace(
            view, signal_folders={**view.signal_folders, "fit": [fitted] * len(view.pool.shards)}
        )
    parts = [scorer.score(shard) for shard in view.shards()]
    return {
        key: Column(
            values=np.concatenate([part[key].values for part in parts]),
            unit=parts[0][key].unit,
            reasons=np.concatenate([part[key].reasons for part in parts]),
        )
        for key in parts[0]
    }


def columns_equal(one: Mapping[str, Column], two: Mapping[str, Column], order: NDArray[np.int64] | None = None) -> bool:
    where = slice(None) if order is None else order
    return set(one) == set(two) and all(
        np.array_equal(one[key].values[where], two[key].values, equal_nan=True)
        and np.array_equal(one[key].reasons[where], two[key].reasons)
        and one[key].unit == two[key].unit
        for key in one
    )


@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_gives_a_finite_value_or_a_reason_and_is_the_same_twice(
    world: World, signals: dict[str, list[Path]], name: str
) -> None:
    view = PoolView(world.pool, signals)
    before = {file: digests.of_file(file) for folder in signals.values() for file in folder[0].iterdir()}
    columns = scored(world, name, view)
    assert columns
    for key, column in columns.items():
        assert key and "." not in key and "@" not in key and column.unit
        assert column.values.dtype == np.float32 and column.values.shape == (len(world.rows),)
        assert column.reasons.dtype == np.uint8 and column.reasons.shape == (len(world.rows),)
        assert not np.isinf(column.values).any()
        assert (np.isnan(column.values) == (column.reasons > 0)).all(), key
        assert np.isfinite(column.values).any()
    assert columns_equal(columns, scored(world, name, view))
    assert before == {file: digests.of_file(file) for folder in signals.values() for file in folder[0].iterdir()}


@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_depends_neither_on_shards_nor_on_the_order_of_rows(
    world: World, signals: dict[str, list[Path]], moved: list[tuple[NDArray[np.int64], PoolView]], name: str
) -> None:
    columns = scored(world, name, PoolView(world.pool, signals))
    for order, view in moved:
        assert columns_equal(columns, scored(world, name, view), order)


def reordered(arrays: Mapping[str, NDArray[Any]], order: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Rows in another order, ragged arrays with offsets of their own."""
    rows = cheap.rowwise(arrays, len(order))
    done: dict[str, NDArray[Any]] = {}
    for name, values in rows.items():
        moved = [values[place] for place in order]
        if cheap.is_ragged(name, arrays):
            done[name] = np.concatenate(moved)
            done[f"{name}_offsets"] = np.concatenate([[0], np.cumsum([len(part) for part in moved])]).astype(np.int64)
        else:
            done[name] = np.stack(moved)
    return done | ({"alone_offsets": done["alone_nll_offsets"]} if "alone_nll_offsets" in done else {})


# weighers


def weighed(world: World, name: str, view: PoolView) -> list[list[Any]]:
    """Row weights and lists of token weights of every row, None where a weigher gives none; the laws of one shard."""
    rows: list[Any] = []
    lists: list[Any] = []
    for have in view.shards():
        made = world.component("weighers", name).weigh(have)
        weigh.check(made, len(have), name)
        rows += [None] * len(have) if made.rows is None else made.rows.tolist()
        if made.tokens is None or made.offsets is None:
            lists += [None] * len(have)
            continue
        assert made.tokens.dtype == np.float32 and made.offsets.dtype == np.int64 and made.offsets[0] == 0
        assert np.diff(made.offsets).tolist() == have["tokens"]["response_count"].tolist()
        lists += [made.tokens[a:b].tolist() for a, b in itertools.pairwise(made.offsets.tolist())]
        unknown = np.flatnonzero(have["tokens"]["reason"] > 0)
        assert not any(any(lists[len(lists) - len(have) + row]) for row in unknown)
    return [rows, lists]


@pytest.mark.parametrize("name", WEIGHERS)
def test_weights_are_finite_fit_their_rows_and_depend_neither_on_shards_nor_on_the_order_of_rows(
    world: World, signals: dict[str, list[Path]], moved: list[tuple[NDArray[np.int64], PoolView]], name: str
) -> None:
    one = weighed(world, name, PoolView(world.pool, {**signals, "tokens@reference": signals["tokens"]}))
    assert any(value for kind in one for value in kind if value is not None)
    assert one == weighed(world, name, PoolView(world.pool, {**signals, "tokens@reference": signals["tokens"]}))
    for order, view in moved:
        assert weighed(world, name, view) == [[kind[place] for place in order] for kind in one]


# selectors


def chosen(name: str, view: PoolView, budget: str | int | Budget) -> Subset:
    subset: Subset = catalogue.build("selectors", name, CHEAP["selectors", name]).select(view, Budget.parse(budget), ON)
    return subset


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> PoolView:
    return cheap.numbers_view(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="module")
def in_sevens(tmp_path_factory: pytest.TempPathFactory) -> PoolView:
    return cheap.numbers_view(tmp_path_factory.mktemp("sevens"), shard_rows=7)


@pytest.fixture(scope="module")
def shuffled(view: PoolView, tmp_path_factory: pytest.TempPathFactory) -> tuple[NDArray[np.int64], PoolView]:
    order = np.random.default_rng(2).permutation(len(view))
    return order, cheap.numbers_view(tmp_path_factory.mktemp("shuffled"), order.tolist())


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> PoolView:
    return cheap.numbers_view(tmp_path_factory.mktemp("twins"), twins=True)


@pytest.mark.parametrize("name", SELECTORS)
def test_a_subset_is_whole(view: PoolView, name: str) -> None:
    before = bytes_of(view.pool)
    for budget, rows in ((9, 9), ("25%", round(int(view.usable.sum()) / 4))):
        subset = chosen(name, view, budget)
        assert subset.positions.dtype == np.int64 and len(subset.positions) == rows
        assert len(set(subset.positions.tolist())) == rows and view.usable[subset.positions].all()
        assert subset.gains.dtype == np.float32 and np.isfinite(subset.gains).all() and len(subset.gains) == rows
        assert subset.values is not None and subset.values.shape == (len(view),) and subset.values.dtype == np.float32
        assert subset.reasons is not None and subset.reasons.shape == (len(view),) and subset.unit
        assert (subset.reasons[np.isnan(subset.values)] > 0).all() and np.isfinite(
            subset.values[subset.positions]
        ).all()
    assert bytes_of(view.pool) == before


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selection_is_the_same_twice_and_whatever_the_shards(view: PoolView, in_sevens: PoolView, name: str) -> None:
    for budget in (9, "200 tokens"):
        one, two, three = chosen(name, view, budget), chosen(name, view, budget), chosen(name, in_sevens, budget)
        for again in (two, three):
            assert one.positions.tolist() == again.positions.tolist() and one.gains.tolist() == again.gains.tolist()


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selection_follows_the_rows(view: PoolView, shuffled: tuple[NDArray[np.int64], PoolView], name: str) -> None:
    order, other = shuffled
    one, two = chosen(name, view, 12), chosen(name, other, 12)
    assert one.positions.tolist() == order[two.positions].tolist()


@pytest.mark.parametrize("name", SELECTORS)
def test_a_token_budget_is_never_exceeded_and_left_below_the_smallest_row(view: PoolView, name: str) -> None:
    ranked = chosen(name, view, len(view)).positions
    for tokens in (40, 150, 333, 10_000):
        taken = chosen(name, view, f"{tokens} tokens").positions
        left = tokens - int(view.cost[taken].sum())
        rest = np.setdiff1d(ranked, taken)
        assert left >= 0 and (not len(rest) or left < view.cost[rest].min())


@pytest.mark.parametrize("name", SELECTORS)
def test_a_smaller_selection_is_the_beginning_of_a_larger_one_where_it_says_so(view: PoolView, name: str) -> None:
    if not catalogue.load("selectors", name).nested:
        pytest.skip(f"{name} declares nested = False")
    large = chosen(name, view, 30).positions.tolist()
    assert all(chosen(name, view, rows).positions.tolist() == large[:rows] for rows in (1, 2, 7, 29))


@pytest.mark.parametrize("name", sorted(set(SELECTORS) - cheap.WITHOUT_TIES))
def test_ties_go_to_the_lower_place(twins: PoolView, name: str) -> None:
    picked = chosen(name, twins, 20).positions.tolist()
    for place in picked:
        if place % 2:
            assert place - 1 in picked and picked.index(place - 1) < picked.index(place)


@pytest.mark.parametrize("name", SELECTORS)
def test_rows_chosen_before_or_filtered_out_are_never_chosen(view: PoolView, name: str) -> None:
    first = chosen(name, view, 6).positions
    later = chosen(name, dataclasses.replace(view, existing=first.tolist()), 6).positions
    assert not set(first.tolist()) & set(later.tolist()) and len(later) == 6
    keep = np.ones(len(view), np.bool_)
    keep[first] = False
    assert not set(first.tolist()) & set(chosen(name, synthetic.kept(view, keep), 6).positions.tolist())


# mixers


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("budget", [11, "30%", "250 tokens", 10_000])
def test_shares_add_up_in_their_unit_whatever_the_order(
    view: PoolView, name: str, budget: int | str, tmp_path: Path
) -> None:
    mixer = catalogue.build("mixers", name, CHEAP["mixers", name])
    wanted = Budget.parse(budget)
    shares = mixer.share(view, wanted)
    rows, tokens = wanted.limits(int(view.usable.sum()))
    total = sum((part.rows if rows is not None else part.tokens) or 0 for part in shares.values())
    held = int(view.usable.sum()) if rows is not None else int(view.cost[view.usable].sum())
    assert total == min(rows or tokens or 0, held)
    assert set(shares) == set(view.groups(mixer.by)[view.usable].tolist())
    other = cheap.numbers_view(tmp_path, np.random.default_rng(4).permutation(len(view)).tolist())
    assert mixer.share(other, wanted) == shares == mixer.share(view, wanted)


# trainers


@pytest.mark.parametrize("name", TRAINERS)
def test_a_training_leaves_checkpoints_and_is_the_same_twice(world: World, name: str, tmp_path: Path) -> None:
    rows = world.training_rows(name)
    before = rows.digest
    one, two = world.train(name, tmp_path / "one"), world.train(name, tmp_path / "two")
    assert one and [checkpoint.digest for checkpoint in one] == [checkpoint.digest for checkpoint in two]
    assert rows.digest == before == world.training_rows(name).digest
    assert one[-1].model().digest != world.model.digest and one[-1].step == 2
    assert one[-1].model().max_tokens == world.model.max_tokens


# evaluators


def evaluated(world: World, name: str, pool: Pool, on: Machine = ON) -> Items:
    items: Items = world.component("evaluators", name).evaluate(world.model, pool, on)
    return items


@pytest.mark.parametrize("name", EVALUATORS)
def test_an_evaluation_gives_one_result_per_usable_row(world: World, name: str, tmp_path: Path) -> None:
    before = bytes_of(world.pool)
    items = evaluated(world, name, world.pool)
    keys = [row.key for row in world.rows]
    assert len(items.keys) == len(items.values) == len(items.weights) and 0 < len(items.keys) < len(keys)
    assert list(items.keys) == [key for key in keys if key in set(items.keys)]
    assert items.values.dtype == items.weights.dtype == np.float64
    assert np.isfinite(items.values).all() and (items.weights > 0).all() and items.metric and items.unit
    again = evaluated(world, name, world.pool)
    assert again.values.tolist() == items.values.tolist() and bytes_of(world.pool) == before
    cut = evaluated(world, name, tiny.make_pool(tmp_path / "cut", world.rows, shard_rows=RESHARDED))
    small = evaluated(world, name, world.pool, Machine(tokens_per_batch=1))
    for other in (cut, small):
        assert list(other.keys) == list(items.keys)
        assert np.abs(other.values - items.values).max() <= TOLERANCE * items.values.std()


def test_a_shard_without_rows_of_use_is_no_fault(world: World, signals: dict[str, list[Path]], tmp_path: Path) -> None:
    only = [row for row in world.rows if row.kind == "prompt"]
    pool = tiny.make_pool(tmp_path / "prompts", only)
    sighted = ["landmarks", "in-context"]  # they must see usable rows
    folders = world.signals(pool, tmp_path / "signals", without=sighted)
    have = ShardSignals(pool.shards[0], {name: parts[0] for name, parts in folders.items()})
    for name in SCORERS:
        scorer = world.component("scorers", name)
        lacking = [need for need in scorer.needs if need.kind == "signal" and need.key not in folders]
        if hasattr(scorer, "fit") or lacking:  # what is fitted must see usable rows too
            continue
        for column in scorer.score(have).values():
            assert (np.isnan(column.values) == (column.reasons > 0)).all()
