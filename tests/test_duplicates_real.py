"""Duplicates that are known of public data are found exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tamis.cleaners.exact import Exact
from tamis.cleaners.near import Near
from tamis.ingest import ingest
from tamis.pool import Pool
from tamis.scorers.passes.minhash import MinHash
from tamis.store import Store
from tamis.values import Machine
from tamis.views import PoolView
from test_duplicates import measured

pytestmark = pytest.mark.real
ON = Machine()
ALPACA = "random_9k claude_t45 helpfulness_t45 pr152_5000 cherry_5pct car_selected".split()


def pool_of(root: Path, folder: Path, names: Sequence[str]) -> Pool:
    return ingest([str(next((root / "pool").glob(f"{name}.jsonl.*"))) for name in names], Store(folder))


def test_exact_duplicates_of_t0(real_data: Path, tmp_path: Path) -> None:
    """1,153 rows repeat one before them word for word: roles and texts, without source and meta."""
    pool = pool_of(real_data, tmp_path, ["t0_p3_50k"])
    found = Exact().clean(PoolView(pool), ON)
    assert len(pool) == 55_185 and int(found.rows.sum()) == 1_153


def test_exact_duplicates_of_six_subsets_of_alpaca(real_data: Path, tmp_path: Path) -> None:
    """25,680 rows, 21,200 unique: 4,480 duplicates, one of them among the 11 without an answer that ingest refuses."""
    pool = pool_of(real_data, tmp_path, [f"alpaca_{name}" for name in ALPACA])
    found = Exact().clean(PoolView(pool), ON)
    assert sum(file["rows"] for file in pool.files) == 25_680 and len(pool) == 25_669
    assert int(found.rows.sum()) == 4_479 and len(pool) - 4_479 == 21_200 - 10
    contents = pool.table(["content"]).column("content").to_pylist()
    assert len(set(contents)) == len(pool) - 4_479
    near = Near().clean(measured(pool, tmp_path), ON)
    assert not (found.rows & ~near.rows).any(), "what is equal is near"


def test_problems_that_differ_in_numbers_are_told_apart(real_data: Path, tmp_path: Path) -> None:
    """GSM8K's test set holds no near-duplicates; with other numbers in it (gsm_hard), many are, unless numbers tell."""
    files = [str(next((real_data / "target").glob(f"{name}.jsonl.*"))) for name in ("gsm8k_test", "gsm_hard")]
    pool = ingest(files, Store(tmp_path))
    dropped = {}
    for numbers in ("keep", "zero"):
        cleaner = Near(of="prompt", numbers=numbers, threshold=0.9)
        [need] = cleaner.needs
        folder = tmp_path / numbers
        folder.mkdir()
        dropped[numbers] = int(cleaner.clean(measured(pool, folder, MinHash(**dict(need.settings))), ON).rows.sum())
    assert dropped["keep"] < dropped["zero"] / 2 and dropped["zero"] > 0.8 * 1_319
