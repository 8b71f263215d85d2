"""BM25: the textbook formula word by word, turns of queries, and what has no words."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import synthetic
import tiny
from tamis import catalogue
from tamis.errors import DataError, RecipeError
from tamis.selectors.bm25 import Bm25
from tamis.values import Budget, Machine, Row
from tamis.views import PoolView

ON = Machine()


def prompted(prompts: list[str], seed: int = 0) -> list[Row]:
    rows = synthetic.rows(len(prompts), seed=seed)
    return [
        dataclasses.replace(row, messages=tiny.chat(prompt, "zebra")) for row, prompt in zip(rows, prompts, strict=True)
    ]


def view_of(folder: Path, prompts: list[str], queries: list[str], shard_rows: int = 16) -> PoolView:
    lengths: dict[str, NDArray[Any]] = {
        "tokens": np.full(len(prompts), 10, np.int32),
        "response_tokens": np.full(len(prompts), 4, np.int32),
        "reason": np.zeros(len(prompts), np.uint8),
    }
    target = synthetic.view(folder / "target", prompted(queries, 1), {})
    return synthetic.view(folder, prompted(prompts), {"lengths": lengths}, shard_rows, target=target)


def slow(prompts: list[str], query: str, k1: float, b: float) -> list[float]:
    """Lucene's formula: idf = ln(1 + (N - df + 0.5) / (df + 0.5))."""
    documents = [prompt.lower().split() for prompt in prompts]
    mean = sum(map(len, documents)) / len(documents)
    answer = []
    for words in documents:
        total = 0.0
        for word in query.lower().split():
            holding = sum(word in one for one in documents)
            idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            times = words.count(word)
            total += idf * times / (times + k1 * (1 - b + b * len(words) / mean))
        answer.append(total)
    return answer


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4), (1.2, 0.0)])
def test_scores_are_those_of_the_formula(k1: float, b: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    words = [word for word in tiny.WORDS if word not in ("because", "therefore", "first")]
    prompts = [" ".join(rng.choice(words, rng.integers(1, 15))) for _ in range(30)]
    queries = [" ".join(rng.choice(words, 4)) for _ in range(3)] + ["unheard of apple apple"]
    view = view_of(tmp_path, prompts, queries, shard_rows=7)
    found = Bm25(k1=k1, b=b)._scores(view)
    wanted = np.array([slow(prompts, query.replace(" of", ""), k1, b) for query in queries]).T
    assert found.shape == (30, 4) and np.allclose(found, wanted, rtol=1e-5, atol=1e-6)
    mean = Bm25(turns="mean", k1=k1, b=b).select(view, Budget(rows=30), ON)
    assert mean.values is not None and np.allclose(mean.values, wanted.mean(1), rtol=1e-5, atol=1e-6)


def test_queries_take_turns_over_the_prompts_and_not_the_answers(tmp_path: Path) -> None:
    prompts = ["apple river", "zebra zebra", "stone stone", "apple", "stone river basket", "nothing shared"]
    view = view_of(tmp_path, prompts, ["apple", "stone"])
    # apple: row 3 (shorter) before row 0; stone: row 2 (twice) before row 4; then rows without a word, lower first
    subset = Bm25().select(view, Budget(rows=6), ON)
    assert subset.positions.tolist() == [3, 2, 0, 4, 1, 5]
    assert subset.gains[:2].min() > subset.gains[2:4].max() > 0 == subset.gains[4:].max()
    zebra = view_of(tmp_path / "zebra", prompts, ["zebra"])
    assert Bm25().select(zebra, Budget(rows=2), ON).positions.tolist() == [1, 0]  # answers say zebra everywhere


def test_rows_of_equal_prompts_tie_and_the_lower_comes_first(tmp_path: Path) -> None:
    view = view_of(tmp_path, ["apple river", "stone", "apple river", "apple river"], ["apple"])
    subset = Bm25().select(view, Budget(rows=4), ON)
    assert subset.positions.tolist() == [0, 2, 3, 1] and len(set(subset.gains[:3].tolist())) == 1


def test_a_pool_or_a_target_without_words(tmp_path: Path) -> None:
    view = view_of(tmp_path / "pool", ["", "?"], ["apple"])
    assert Bm25().select(view, Budget(rows=2), ON).positions.tolist() == [0, 1]
    for number, queries in enumerate(([""], ["the a"])):
        with pytest.raises(DataError, match="no prompt of the target"):
            Bm25().select(view_of(tmp_path / str(number), ["apple"], queries), Budget(rows=1), ON)
    with pytest.raises(DataError, match="no target"):
        Bm25().select(dataclasses.replace(view, target=None), Budget(rows=1), ON)
    with pytest.raises(RecipeError, match=r"b lies in"):
        catalogue.build("selectors", "bm25", {"b": 2})
