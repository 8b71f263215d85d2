"""Groups and static mixers: golden values by number and name, slow plain forms, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import synthetic
from tamis import catalogue, grouping, mixes
from tamis.errors import DataError, RecipeError
from tamis.values import Budget, Machine, Need, Row
from tamis.vectors import tasks
from tamis.views import PoolView

HELD = {"large": 1000, "middle": 100, "small": 10}


def pool_view(
    folder: Path, sources: list[str], vectors: NDArray[Any] | None = None, goal: NDArray[Any] | None = None
) -> PoolView:
    """Make a view of usable rows, one a source named, each of 10 tokens; a target of the vectors `goal`."""
    made = [dataclasses.replace(row, source=name) for row, name in zip(rows(len(sources)), sources, strict=True)]
    signals: dict[str, Any] = {"lengths": lengths(len(sources))}
    if vectors is not None:
        signals["tokens"] = pooled(vectors)
    target = None
    if goal is not None:
        target = synthetic.view(folder / "target", synthetic.rows(len(goal), seed=9), {"tokens": pooled(goal)})
    return synthetic.view(folder, made, signals, shard_rows=512, target=target)


def rows(count: int) -> list[Row]:
    return synthetic.rows(count)


def lengths(count: int) -> dict[str, NDArray[Any]]:
    ten = np.full(count, 10, np.int32)
    return {"tokens": ten, "response_tokens": ten // 2, "reason": np.zeros(count, np.uint8)}


def pooled(vectors: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {"pooled": vectors.astype(np.float32), "reason": np.zeros(len(vectors), np.uint8)}


def shares(name: str, view: PoolView, budget: int | str, **own: Any) -> dict[str, int]:
    made = catalogue.build("mixers", name, own).share(view, Budget.parse(budget))
    return {group: (part.rows if part.rows is not None else part.tokens) or 0 for group, part in made.items()}


# quotas


def test_golden_26_quotas() -> None:
    claims = mixes.claims_of({"a": 0.5, "b": 0.3, "c": 0.2})
    assert mixes.apportion(100, claims, {"a": 20, "b": 100, "c": 100}) == {"a": 20, "b": 48, "c": 32}
    third = mixes.claims_of(dict.fromkeys("abc", 1 / 3))
    assert mixes.apportion(10, third, dict.fromkeys("abc", 9)) == {"a": 4, "b": 3, "c": 3}


@given(
    weights=st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0, 1e6), min_size=1, max_size=8),
    total=st.integers(0, 300),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_parts_add_up_respect_what_is_held_and_leave_weight_zero_for_last(
    weights: dict[str, float], total: int, data: st.DataObject
) -> None:
    held = {name: data.draw(st.integers(1, 60)) for name in sorted(weights)}
    claims = mixes.claims_of(weights)
    parts = mixes.apportion(total, claims, held)
    assert sum(parts.values()) == min(total, sum(held.values()))
    assert all(0 <= parts[name] <= held[name] for name in held)
    if any(parts[name] for name in held if not claims[name]):
        assert all(parts[name] == held[name] for name in held if claims[name])
    shuffled = data.draw(st.permutations(sorted(weights)))
    assert mixes.apportion(total, {name: claims[name] for name in shuffled}, held) == parts


# mixers


def test_golden_35_temperature() -> None:
    assert list(mixes.tempered(HELD, 0.5).values()) == pytest.approx([0.706101, 0.223289, 0.070610], abs=1e-6)
    assert list(mixes.tempered(HELD, 0).values()) == pytest.approx([1 / 3] * 3)
    assert list(mixes.tempered(HELD, 1).values()) == pytest.approx([1000 / 1110, 100 / 1110, 10 / 1110])


def test_temperature_lies_between_proportional_and_equal(tmp_path: Path) -> None:
    view = pool_view(tmp_path, [name for name, held in HELD.items() for _ in range(held)])
    assert shares("temperature", view, 111) == {"large": 78, "middle": 25, "small": 8}  # 78.4, 24.8, 7.8
    assert shares("temperature", view, 111, alpha=1) == shares("proportional", view, 111)
    assert shares("temperature", view, "300 tokens", alpha=0) == shares("equal", view, "300 tokens")
    with pytest.raises(RecipeError, match=r"between 0 \(equal\) and 1"):
        catalogue.build("mixers", "temperature", {"alpha": 2})


def test_prompts_first_gives_groups_up_to_a_cap_before_large_ones_get_more(tmp_path: Path) -> None:
    """By hand: min(n, 10) of 100, 40, 5, 5 is 10, 10, 5, 5; of 20 rows that is 6.67, 6.67, 3.33, 3.33."""
    view = pool_view(tmp_path, [*["a"] * 100, *["b"] * 40, *["c"] * 5, *["d"] * 5])
    assert shares("prompts-first", view, 20, cap=10) == {"a": 7, "b": 7, "c": 3, "d": 3}
    assert shares("prompts-first", view, 60, cap=10) == {"a": 25, "b": 25, "c": 5, "d": 5}
    assert shares("prompts-first", view, 60) == shares("equal", view, 60)
    with pytest.raises(RecipeError, match="cap must be at least 1"):
        catalogue.build("mixers", "prompts-first", {"cap": 0})


def test_task_embeddings_go_by_the_cosine_of_means(tmp_path: Path) -> None:
    """By hand: means along (1, 0), (1.08, 1.56), (0, 1), the target's along (1, 0)."""
    vectors = np.array([[1, 0], [0.8, 0.6], [0.28, 0.96], [0, 1]] * 10)
    view = pool_view(tmp_path, ["a", "b", "b", "c"] * 10, vectors, np.array([[0.6, 0.8], [0.6, -0.8]]))
    cosines = {"a": 1.0, "b": 1.08 / math.hypot(1.08, 1.56), "c": 0.0}
    weights = np.exp(np.array(list(cosines.values())) / 0.5)
    assert list(shares("task-embeddings", view, 10, temperature=0.5).values()) == [
        round(share) for share in 10 * weights / weights.sum()
    ]
    assert shares("task-embeddings", view, 10, keep=1) == {"a": 10, "b": 0, "c": 0}
    assert shares("task-embeddings", view, 14, keep=1) == {"a": 10, "b": 2, "c": 2}  # a is full: the others share
    assert shares("task-embeddings", view, 12, keep=2, temperature=1e-3) == {"a": 10, "b": 2, "c": 0}


def test_a_group_without_candidates_leaves_its_share_to_the_others(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 3))
    vectors[:5] = 0  # rows that the model's pass refused
    view = pool_view(tmp_path, [*["a"] * 5, *["b"] * 15], vectors)
    equal, inside = catalogue.build("mixers", "equal", {}), catalogue.build("selectors", "smart", {"by": "kind"})
    subset = mixes.select_by_mix(view, equal, inside, Budget(rows=8), Machine())
    assert len(subset.positions) == 8 and set(view.groups()[subset.positions].tolist()) == {"b"}
    assert subset.values is not None and np.isfinite(subset.values[subset.positions]).all()
    assert any(note.startswith("a: smart: no usable row") for note in subset.notes)
    only = synthetic.kept(view, np.arange(20) < 5)
    with pytest.raises(DataError, match="has an embedding"):
        mixes.select_by_mix(only, equal, inside, Budget(rows=2), Machine())


def test_what_a_mixer_reads_is_what_it_needs() -> None:
    def needs(name: str, **own: Any) -> frozenset[Need]:
        made: frozenset[Need] = catalogue.build("mixers", name, own).needs
        return made

    lengths_only = frozenset({Need(kind="signal", name="lengths")})
    vectors = Need(kind="signal", name="tokens", settings=(("loss", "none"), ("pooled", True)))
    assert needs("equal") == needs("equal", by="meta.skill") == lengths_only
    assert needs("temperature", by="clusters:8") == lengths_only | {vectors} == needs("smart")
    assert needs("equal", by="ifd") == lengths_only | {Need(kind="column", name="ifd")}
    assert dataclasses.replace(vectors, side="target") in needs("task-embeddings")


# SMART's weights


def test_golden_taylor_softmax() -> None:
    """`taylor_softmax_v1`, n = 2, by hand: 1 + g + g²/2 of 0, 1, 2 is 1, 2.5, 5; of 4, 10 it is 13, 61."""
    assert tasks.taylor_softmax(np.array([0.0, 1, 2])) == pytest.approx([1 / 8.5, 2.5 / 8.5, 5 / 8.5])
    assert tasks.taylor_softmax(np.array([10.0, 4])) == pytest.approx([61 / 74, 13 / 74])
    assert tasks.taylor_softmax(np.array([10.0, 4]), 2.0) == pytest.approx([18.5 / 23.5, 5 / 23.5])
    first_and_last = tasks.taylor_softmax(np.array([1470.0, 290]))  # 1,840 tasks: a normalisation of squared gains
    assert first_and_last[0] / first_and_last[1] == pytest.approx((1470 / 290) ** 2, rel=0.01)


def test_below_minus_one_the_taylor_softmax_does_not_rise_again() -> None:
    weights = tasks.taylor_softmax(np.array([0.5, -1, -3, -50]))
    assert weights[1] == weights[2] == weights[3] == pytest.approx(0.5 / (1.625 + 3 * 0.5))


@given(gains=st.lists(st.floats(-100, 2000), min_size=1, max_size=12), temperature=st.floats(0.1, 100))
@settings(max_examples=100, deadline=None)
def test_a_higher_gain_never_weighs_less(gains: list[float], temperature: float) -> None:
    weights = tasks.taylor_softmax(np.array(gains), temperature)
    assert weights.sum() == pytest.approx(1) and (weights > 0).all()
    assert (np.diff(weights[np.argsort(gains)]) >= -1e-15).all()


def slow_graph_cut(vectors: NDArray[Any], lam: float, count: int) -> tuple[list[int], list[float]]:
    """f(X) = sum over V and X of s - lam · sum over X and X of s, every value of f anew."""
    kernel = vectors.astype(np.float64) @ vectors.astype(np.float64).T

    def value(chosen: list[int]) -> float:
        return float(kernel[:, chosen].sum() - lam * kernel[np.ix_(chosen, chosen)].sum())

    order: list[int] = []
    gains = []
    for _ in range(count):
        left = [place for place in range(len(kernel)) if place not in order]
        best = max(left, key=lambda place: value([*order, place]))
        gains.append(value([*order, best]) - value(order))
        order.append(best)
    return order, gains


@pytest.mark.parametrize("lam", [0.0, 0.4, 1.5])
def test_weights_are_those_of_a_slow_graph_cut(tmp_path: Path, lam: float) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(90, 6)) + 1
    sources = [f"task-{place % 9}" for place in range(90)]
    view = pool_view(tmp_path, sources, vectors)
    unit = vectors.astype(np.float32) / np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)
    means = np.stack([unit[place::9].mean(axis=0) for place in range(9)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    order, gains = slow_graph_cut(means, lam, 5)
    grown = np.array([1 + g + g * g / 2 for g in np.maximum(gains, -1)])
    expected = dict(zip([f"task-{place}" for place in order], grown / grown.sum(), strict=True))
    found = shares("smart", view, 40, lam=lam, tasks=5)
    claims = mixes.claims_of({f"task-{place}": float(expected.get(f"task-{place}", 0)) for place in range(9)})
    assert found == mixes.apportion(40, claims, {f"task-{place}": 10 for place in range(9)})
    assert [name for name, share in found.items() if not share] == sorted(set(found) - set(expected))
    flat = np.array([1 + g + g * g / 2 for g in np.maximum(np.array(gains) / 9, -1)])
    claims = mixes.claims_of(dict(zip(expected, (flat / flat.sum()).tolist(), strict=True)))
    normalised = shares("smart", view, 40, lam=lam, tasks=5, normalise=True)
    assert {name: normalised[name] for name in expected} == mixes.apportion(40, claims, dict.fromkeys(expected, 10))


def test_settings_of_smart_without_a_meaning_are_refused() -> None:
    for own, said in (({"tasks": 0}, "tasks must be"), ({"lam": -1}, "lam must be"), ({"temperature": 0}, "above 0")):
        for kind in ("mixers", "selectors"):
            with pytest.raises(RecipeError, match=said):
                catalogue.build(kind, "smart", own)


# groups


def test_a_column_of_few_values_groups_by_them_and_of_many_by_bands() -> None:
    few = grouping.named_bands(np.array([3, 4.5, np.nan, 3, 5], np.float32))
    assert few.tolist() == ["3", "4.5", "", "3", "5"]
    values = np.concatenate([np.arange(100), [np.nan, 7]]).astype(np.float32)
    bands = grouping.named_bands(values)
    assert bands[100] == "" and bands[101] == bands[7] and bands[0].startswith("01: 0 to ")
    names, counts = np.unique(bands[:100], return_counts=True)
    assert len(names) == 10 and counts.min() >= 9 and counts.max() <= 11
    assert (np.diff([int(name[:2]) for name in bands[:100]]) >= 0).all()


def test_a_value_that_many_rows_share_lies_in_one_band() -> None:
    values = np.concatenate([np.zeros(800), np.arange(1, 201)]).astype(np.float32)
    bands = grouping.named_bands(values)
    assert len(set(bands[:800].tolist())) == 1 and 2 <= len(set(bands.tolist())) < 10


def test_clusters_do_not_depend_on_the_order_of_rows_nor_on_shards(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(4) * 3, 15, axis=0)
    vectors, made = centres + 0.1 * rng.normal(size=(60, 4)), synthetic.rows(60)
    vectors[7] = 0  # a row that the model's pass refused
    order = rng.permutation(60)

    def view(name: str, places: NDArray[np.int64], shard_rows: int) -> PoolView:
        signals = {"lengths": lengths(60), "tokens": pooled(vectors[places])}
        return synthetic.view(tmp_path / name, [made[place] for place in places], signals, shard_rows=shard_rows)

    one, two = view("one", np.arange(60), 16).groups("clusters:4"), view("two", order, 60).groups("clusters:4")
    assert one[order].tolist() == two.tolist() and one[7] == ""
    parts = [set(one[start : start + 15].tolist()) - {""} for start in range(0, 60, 15)]
    assert all(len(part) == 1 for part in parts) and len(set.union(*parts)) == 4


def test_a_wrong_grouping_says_what_there_is(tmp_path: Path) -> None:
    view = pool_view(tmp_path, ["a", "b"])
    for by in ("clusters:", "clusters:1", "clusters:x"):
        with pytest.raises(RecipeError, match="write clusters:K"):
            grouping.needs_of(by)
    with pytest.raises(RecipeError, match=r"cannot group by 'nonsense': use source, kind, file, meta.NAME, clusters:K"):
        view.groups("nonsense")
    with pytest.raises(RecipeError, match="was not measured"):
        view.groups("clusters:2")
    with pytest.raises(RecipeError, match="has no columns"):
        grouping.needs_of("ifd", "target")


RECIPE = """
model: {name: "tamis:tiny-lm"}
pool: {files: ["tamis:pool.jsonl.gz"]}
subset: {select: random, budget: 5, mix: %s}
"""


@pytest.mark.parametrize(
    ("mix", "fault"),
    [
        ("task-embeddings", "task-embeddings needs a target"),
        ("{equal: {by: 'ifdd'}}", "uses the column 'ifdd', which no scorer makes; did you mean 'ifd'"),
        ("{equal: {by: 'clusters:0'}}", "write clusters:K"),
        ("{temperature: {alpha: 3}}", "alpha must lie between"),
        ("temprature", "did you mean 'temperature'"),
    ],
)
def test_a_recipe_with_a_wrong_mix_is_refused_before_it_runs(tmp_path: Path, mix: str, fault: str) -> None:
    from tamis import recipe

    (tmp_path / "one.yaml").write_text(RECIPE % mix, encoding="utf-8")
    with pytest.raises(RecipeError) as refused:
        recipe.load(str(tmp_path / "one.yaml"))
    assert any(fault in one for one in refused.value.faults), refused.value.faults


def test_a_composition_that_no_row_has_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    from tamis import recipe

    proof = (
        "proof: {compare: '@subset', evaluate: {files: ['tamis:eval/dates.jsonl']}, train: {train: lora}, "
        "composition: %s}"
    )
    for composition, fault in (("[source, skil]", "cannot go by 'skil'"), ("source", "expected a list")):
        (tmp_path / "one.yaml").write_text(RECIPE % "equal" + proof % composition, encoding="utf-8")
        with pytest.raises(RecipeError) as refused:
            recipe.load(str(tmp_path / "one.yaml"))
        assert len(refused.value.faults) == 1 and fault in refused.value.faults[0], refused.value.faults


def test_verbs_make_the_columns_that_a_mix_groups_by(tmp_path: Path) -> None:
    import json

    import tamis

    lines = [
        {"prompt": f"q {place}", "completion": " ".join("word" for _ in range(1 + place % 3))} for place in range(12)
    ]
    pool = tmp_path / "pool.jsonl"
    pool.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    given: dict[str, Any] = {"model": "tamis:tiny-lm", "work": tmp_path / "work"}
    found = tamis.mix(str(pool), "equal", 6, by="length.words", **given)
    assert {name: part.rows for name, part in found.items()} == dict.fromkeys(found, 2) and len(found) == 3
    mix = {"equal": {"by": "length.words"}}
    chosen = tamis.select(str(pool), "random", 6, mix=mix, **given)
    assert sorted(place % 3 for place in chosen.subset.positions.tolist()) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(RecipeError, match=r"there is no column 'sorce'.*did you mean 'source'"):
        tamis.mix(str(pool), "equal", 6, by="sorce", **given)
