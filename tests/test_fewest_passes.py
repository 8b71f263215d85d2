"""Law: a list of scorers makes the fewest passes that it needs, a plan prints them, nothing measured is run again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tamis
import tiny
from tamis import catalogue
from tamis.api import plan
from tamis.pool import Pool
from tamis.prediction.forward import Forward
from tamis.scorers.passes.tokens import Tokens
from tamis.stages.workspace import Workspace

ROWS = 6


class Count:
    """Rows that the token pass measured, and calls of the decoder."""

    def __init__(self) -> None:
        self.rows = 0
        self.forwards = 0

    def taken(self) -> tuple[int, bool]:
        """(rows measured, whether the decoder was called) since it was asked last."""
        found = (self.rows, self.forwards > 0)
        self.rows = self.forwards = 0
        return found


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Iterator[Count]:
    counted = Count()
    measure, hidden = Tokens.measure, Forward.hidden

    def measured(self: Tokens, shard: Any, *rest: Any) -> Any:
        counted.rows += shard.rows
        return measure(self, shard, *rest)

    def forward(self: Forward, *rest: Any) -> Any:
        counted.forwards += 1
        return hidden(self, *rest)

    monkeypatch.setattr(Tokens, "measure", measured)
    monkeypatch.setattr(Forward, "hidden", forward)
    yield counted


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Rows with tags, which some scorers read."""
    rows = [dataclasses.replace(row, meta={"tags": [row.source]}) for row in tiny.make_rows(ROWS)]
    return tiny.make_pool(tmp_path_factory.mktemp("pool"), rows, shard_rows=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.make_model(tmp_path_factory.mktemp("model") / "own"))


def workspace(folder: Path, model: str) -> Workspace:
    return tamis.workspace(folder, model, workers=1, device="cpu")


def of_tokens() -> list[str]:
    """Every scorer of the catalogue that reads the run's tokens, or lengths, and nothing else."""
    found = []
    for name in catalogue.SCORERS:
        cls = catalogue.load("scorers", name)
        needs = cls().needs if not catalogue.checked(cls, name, {})[1] else ()
        if needs and {need.key for need in needs if need.kind == "signal"} <= {"tokens", "lengths"}:
            if not any(need.kind == "column" for need in needs):
                found.append(name)
    return found


def test_one_pass_serves_every_scorer_over_tokens_and_later_ones_cost_none(
    pool: Pool, model: str, count: Count, tmp_path: Path
) -> None:
    names = of_tokens()
    assert {"ifd", "perplexity", "entropy", "length"} <= set(names)
    tamis.score(pool, names, work=workspace(tmp_path, model))
    assert count.taken() == (ROWS, True)
    for name in names:
        tamis.score(pool, name, work=workspace(tmp_path, model))
        assert count.taken() == (0, False), name
    tamis.select(pool, "top", 2, by="ifd", work=workspace(tmp_path, model))
    assert count.taken() == (0, False)


def test_a_richer_signal_serves_and_a_poorer_one_does_not(pool: Pool, model: str, count: Count, tmp_path: Path) -> None:
    alone = {"perplexity": {"views": ["response"]}}
    tamis.score(pool, alone, work=workspace(tmp_path, model))
    assert count.taken() == (ROWS, True)
    tamis.score(pool, "ifd,perplexity", work=workspace(tmp_path, model))
    assert count.taken() == (ROWS, True)
    for scorers in ("entropy", "ifd", "perplexity", alone):
        tamis.score(pool, scorers, work=workspace(tmp_path, model))
        assert count.taken() == (0, False)
    longer = Pool((*pool.shards, *tiny.make_pool(tmp_path / "more", tiny.make_rows(3, seed=1)).shards))
    tamis.score(longer, "entropy", work=workspace(tmp_path, model))
    assert count.taken() == (3, True), "only the rows appended"


def test_another_model_is_another_signal(pool: Pool, model: str, count: Count, tmp_path: Path) -> None:
    tamis.score(pool, "ifd,perplexity", work=workspace(tmp_path, model))
    other = str(tiny.make_model(tmp_path / "other", seed=1))
    count.taken()
    tamis.score(pool, "entropy", work=workspace(tmp_path, other))
    assert count.taken() == (ROWS, True)


def test_a_plan_prints_the_passes_and_runs_none(pool: Pool, model: str, count: Count, tmp_path: Path) -> None:
    def steps(scorers: str) -> dict[str, Any]:
        found = plan(pool, scorers, work=workspace(tmp_path, model))
        assert found["rows"] == ROWS
        return {step["what"]: step["done"] for step in found["steps"]}

    assert steps("length") == {} and count.taken() == (0, False)
    assert steps("ifd,perplexity,entropy") == {"tokens": f"0 of {ROWS} rows"}
    assert count.taken()[0] == 0, "rows are timed, none is measured"
    tamis.score(pool, "ifd,perplexity", work=workspace(tmp_path, model))
    count.taken()
    assert steps("entropy") == {"tokens": f"{ROWS} of {ROWS} rows"} and count.taken() == (0, False)
