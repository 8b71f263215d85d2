"""DSIR: the formula feature by feature, goldens, noise by row, and what can go wrong with pools and targets."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import synthetic
import tiny
from tamis import catalogue
from tamis.errors import DataError, RecipeError
from tamis.selectors.dsir import gumbel, log_ratio
from tamis.values import Budget, Machine, Reason, Row, Subset
from tamis.views import PoolView

ON = Machine()


def said(texts: list[str], seed: int = 0) -> list[Row]:
    made = synthetic.rows(len(texts), seed=seed)
    return [
        dataclasses.replace(row, messages=tiny.chat(text, "Yes, so.")) for row, text in zip(made, texts, strict=True)
    ]


def view_of(folder: Path, texts: list[str], wanted: list[str], shard_rows: int = 16) -> PoolView:
    lengths: dict[str, NDArray[Any]] = {
        "tokens": np.full(len(texts), 10, np.int32),
        "response_tokens": np.full(len(texts), 4, np.int32),
        "reason": np.zeros(len(texts), np.uint8),
    }
    target = synthetic.view(folder / "target", said(wanted, 1), {})
    return synthetic.view(folder, said(texts), {"lengths": lengths}, shard_rows, target=target)


def select(view: PoolView, budget: int, **fields: Any) -> Subset:
    subset: Subset = catalogue.build("selectors", "dsir", fields).select(view, Budget(rows=budget), ON)
    return subset


def features(row: Row, buckets: int) -> list[int]:
    words = re.findall(r"\w+|[^\w\s]+", "\n".join(str(message["content"]) for message in row.messages).lower())
    grams = words + [f"{a} {b}" for a, b in itertools.pairwise(words)]
    return [int(hashlib.sha256(gram.encode()).hexdigest(), 16) % buckets for gram in grams]


@pytest.mark.parametrize(
    ("buckets", "laplace", "per_token"), [(10_000, 0.0, False), (50, 0.5, True), (70_000, 1, False)]
)
def test_weights_are_those_of_the_formula(buckets: int, laplace: float, per_token: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(["Red", "blue!", "green", "naïve", "4x"], rng.integers(1, 12))) for _ in range(20)]
    view = view_of(tmp_path, texts, texts[4:7], shard_rows=7)
    made, target = said(texts), said(texts[4:7], 1)
    wanted = Counter(bucket for row in target for bucket in features(row, buckets))
    raw = Counter(bucket for row in made for bucket in features(row, buckets))
    expected = []
    for row in made:
        logs = [
            math.log((wanted[b] + laplace) / (wanted.total() + laplace * buckets) + 1e-8)
            - math.log(raw[b] / raw.total() + 1e-8)
            for b in features(row, buckets)
        ]
        expected.append(sum(logs) / (len(logs) if per_token else 1))
    subset = select(view, 20, buckets=buckets, laplace=laplace, per_token=per_token, temperature=0, duplicates="keep")
    assert subset.values == pytest.approx(np.array(expected), rel=1e-5, abs=1e-5)
    assert subset.positions.tolist() == np.argsort(-np.array(expected), kind="stable").tolist()


def test_the_tiny_golden_value() -> None:
    ratio = log_ratio(np.array([5, 3, 2]), np.array([2, 3, 5]))
    assert np.array([[2, 1, 0], [0, 1, 2]]) @ ratio == pytest.approx([1.832581, -1.832581], abs=1e-5)


@pytest.mark.parametrize(("length", "spread", "overlap"), [(200, 5.98, 0.8425), (1000, 13.01, 0.9225)])
def test_sums_drown_the_noise(length: int, spread: float, overlap: float, tmp_path: Path) -> None:
    """Golden 6, its distribution drawn anew: the published weights are nearly a ranking."""
    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.ones(2000) * 0.3)
    r = q * np.exp(0.4 * rng.normal(size=2000))
    weights = rng.multinomial(length, q, size=4000) @ log_ratio(r / r.sum(), q)
    noise = gumbel(synthetic.view(tmp_path, synthetic.rows(4000), {}, 2000), 0)
    plain, drawn = (set(np.argsort(-keys)[:400].tolist()) for keys in (weights, weights + noise))
    assert weights.std() == pytest.approx(spread, rel=0.1)
    assert len(plain & drawn) / 400 == pytest.approx(overlap, abs=0.04)


def test_draws_follow_the_weights_and_belong_to_the_row(tmp_path: Path) -> None:
    """Two texts of weights 1 : 3 are drawn as often; a row's draw is the same in another pool."""
    noise = gumbel(synthetic.view(tmp_path / "one", synthetic.rows(8000), {}, 2000), 7)
    first = noise[0::2] > noise[1::2] + math.log(3)
    assert first.mean() == pytest.approx(1 / 4, abs=0.02)
    part = synthetic.view(tmp_path / "two", synthetic.rows(8000)[100:110][::-1], {})
    assert gumbel(part, 7).tolist() == noise[100:110][::-1].tolist()
    assert gumbel(part, 8).tolist() != noise[100:110][::-1].tolist()


def test_the_whole_pool_and_more_can_be_asked_for(tmp_path: Path) -> None:
    view = view_of(tmp_path, [f"word {place}" for place in range(9)], ["word 3"])
    assert sorted(select(view, 9).positions.tolist()) == sorted(select(view, 99).positions.tolist()) == list(range(9))


def test_short_rows_and_copies_are_left_out_and_say_why(tmp_path: Path) -> None:
    view = view_of(tmp_path, ["a b c d e f", "a", "b c d e f g"], ["a b"])
    rows = said(["a b c d e f", "a b c d e f", "b"])
    rows[1] = dataclasses.replace(rows[1], content=rows[0].content)
    subset = select(view, 3, min_words=8)
    assert sorted(subset.positions.tolist()) == [0, 2] and subset.reasons is not None
    assert subset.reasons.tolist() == [0, Reason.TOO_SHORT, 0]
    lengths = {"tokens": np.full(3, 9), "response_tokens": np.full(3, 4), "reason": np.zeros(3, np.uint8)}
    twice = synthetic.view(tmp_path / "twice", rows, {"lengths": lengths}, target=view.target)
    again = select(twice, 3)
    assert again.reasons is not None and again.reasons.tolist() == [0, Reason.DUPLICATE, 0]


def test_faults_say_what_to_do(tmp_path: Path) -> None:
    view = view_of(tmp_path, ["a b", "c d"], ["a"])
    with pytest.raises(DataError, match="lower min_words"):
        select(view, 1, min_words=100)
    with pytest.raises(DataError, match="--target"):
        select(dataclasses.replace(view, target=None), 1)
    empty = synthetic.rows(1, seed=4)[0]
    bare = dataclasses.replace(empty, messages=tiny.chat(" ", ""))
    with pytest.raises(DataError, match="holds a word"):
        select(dataclasses.replace(view, target=synthetic.view(tmp_path / "bare", [bare], {})), 1)
    for bad in ({"buckets": 0}, {"laplace": -1}, {"temperature": -0.1}, {"min_words": 0}):
        with pytest.raises(RecipeError, match="dsir"):
            catalogue.build("selectors", "dsir", bad)
