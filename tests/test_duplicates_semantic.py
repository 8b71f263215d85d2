"""Laws of duplicates in meaning: SemDeDup's rule as written, any block, clusters, an index in parts as at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import synthetic
from tamis.cleaners.semantic import Semantic
from tamis.duplicates import semantic
from tamis.errors import RecipeError
from tamis.pool import Pool
from tamis.store import save_arrays
from tamis.values import Machine
from tamis.vectors.index import unit
from tamis.views import PoolView

ON = Machine()


def vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors in groups of near ones."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(count // 4 + 1, 8))
    return unit(centres[draw.integers(len(centres), size=count)] + 0.12 * draw.normal(size=(count, 8)))


def view_of(folder: Path, made: NDArray[np.float32], seed: int = 0, name: str = "a", **parts: object) -> PoolView:
    """A pool whose hidden states are `made`."""
    pool = synthetic.write(folder, synthetic.rows(len(made), seed=seed), 7)
    counts = {"rows": len(made), "kept": len(made), "quarantined": 0, "dropped": 0}
    pool = Pool(pool.shards, ({"name": name, **counts},))
    folders = []
    for number, shard in enumerate(pool.shards):
        folders.append(folder / f"tokens-{number}")
        folders[-1].mkdir()
        start = pool.starts[number]
        save_arrays(folders[-1], {"pooled": made[start : start + shard.rows]})
    return PoolView(pool, {"tokens": folders}, **parts)  # type: ignore[arg-type]


def by_the_rule(made: NDArray[np.float32], order: Sequence[int], threshold: float) -> list[bool]:
    """SemDeDup: a row leaves where any row before it in the order, staying or not, is too near."""
    cosine = made.astype(np.float64) @ made.T.astype(np.float64)
    gone = [False] * len(made)
    for place, row in enumerate(order):
        gone[row] = any(cosine[row, other] >= threshold for other in order[:place])
    return gone


@pytest.mark.parametrize("keep", ["farthest", "first", "last"])
def test_rows_leave_by_the_rule_of_the_paper(keep: str, tmp_path: Path) -> None:
    made = vectors(40)
    centre = made.mean(axis=0, dtype=np.float64)
    near = np.round(made @ (centre / np.linalg.norm(centre)), 6)
    order = {"farthest": np.argsort(near, kind="stable"), "first": np.arange(40), "last": np.arange(40)[::-1]}[keep]
    view = view_of(tmp_path, made)
    found = Semantic(keep=keep, threshold=0.95).clean(view, ON)
    assert found.rows.tolist() == by_the_rule(made, order.tolist(), 0.95) and found.rows.sum() > 8
    keys = view.pool.table(["key"]).column("key").to_pylist()
    for place, winner, reason in zip(np.flatnonzero(found.rows).tolist(), found.winners, found.reasons, strict=True):
        kept = keys.index(winner)
        assert not found.rows[kept] and f"{made[place] @ made[kept]:.3f}" in reason


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    view = view_of(tmp_path, vectors(50, 2))
    whole = Semantic().clean(view, ON)
    monkeypatch.setattr(semantic, "_ROWS", 3)
    monkeypatch.setattr(semantic, "_COLUMNS", 5)
    parts = Semantic().clean(view, ON)
    assert (whole.rows == parts.rows).all() and whole.reasons == parts.reasons and whole.winners == parts.winners


def test_rows_are_compared_inside_of_clusters_and_that_is_said(tmp_path: Path) -> None:
    view = view_of(tmp_path, vectors(60, 3))
    whole, some = (Semantic(clusters=count, keep="first").clean(view, ON) for count in (1, 6))
    assert not (some.rows & ~whole.rows).any() and some.rows.any()
    assert not whole.notes and "6 clusters" in some.notes[0]
    assert (Semantic(clusters=6, keep="first").clean(view, ON).rows == some.rows).all()


def test_rows_without_an_embedding_stay(tmp_path: Path) -> None:
    made = np.repeat(vectors(1), 5, axis=0)
    made[1], made[3] = 0, np.nan
    found = Semantic(keep="first").clean(view_of(tmp_path, made), ON)
    assert found.rows.tolist() == [False, False, True, False, True] and found.facts["without embedding"] == 2


def test_an_index_in_parts_as_at_once_and_again(tmp_path: Path) -> None:
    made = vectors(60, 5)
    cleaner = Semantic(keep="first", threshold=0.9)
    at_once = cleaner.clean(view_of(tmp_path / "all", made), ON).rows
    known = dataclasses.replace(cleaner, index="team")
    views = [
        view_of(tmp_path / str(at), made[at : at + 20], seed=at, name=str(at), indexes=tmp_path / "indexes")
        for at in (0, 20, 40)
    ]
    parts = [known.clean(view, ON) for view in views]
    assert np.concatenate([part.rows for part in parts]).tolist() == at_once.tolist() and at_once.any()
    for view, part in zip(views, parts, strict=True):
        again = known.clean(view, ON)
        assert (again.rows == part.rows).all() and again.reasons == part.reasons and again.winners == part.winners
    with pytest.raises(RecipeError, match="threshold"):
        Semantic(index="team", threshold=0.8).clean(views[0], ON)
