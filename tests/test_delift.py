"""Law: DELIFT's kernels and objectives are those of the formulas, worked out by hand on few rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import small
import synthetic
import tamis
import tiny
from tamis.demonstrations.pairing import short_keys
from tamis.demonstrations.surrogate import fill_in, fit
from tamis.demonstrations.utility_kernels import Found, shaped, utilities
from tamis.errors import DataError, RecipeError
from tamis.selectors.delift import Delift, DeliftSe
from tamis.submodular.facility_location import FacilityLocation
from tamis.submodular.objective import value_of
from tamis.values import Budget, Machine, Subset
from tamis.views import PoolView

ON = Machine()
BARE = [0.8, 0.6, 0.9]
SHOWN = [[0.1, 0.7, 0.4], [0.5, 0.2, 0.9], [0.8, 0.3, 0.1]]  # [demonstration][query]


def made(folder: Path, shown: list[list[float]], bare: list[float], **more: Any) -> PoolView:
    """A pool whose row j as the demonstration leaves query i at distance `shown[j][i]`; the diagonal is not measured.

    `target` (demonstrations x queries) and `known` (rows x demonstrations of the other side) are alike.
    """
    count = len(bare)
    rows = synthetic.rows(count)
    keys = short_keys([row.key for row in rows])
    order = [sorted(set(range(count)) - {row}, key=lambda place: int(keys[place])) for row in range(count)]
    whole: dict[str, NDArray[Any]] = {"key": keys, "reason": np.zeros(count, np.uint8)}
    whole |= {"bare_distance": np.array(bare, np.float32), "bare_nll": 10 * np.array(bare, np.float32)}
    whole |= ragged("", [keys[others] for others in order], [[shown[j][i] for i in order[j]] for j in range(count)])
    flat: dict[str, NDArray[Any]] = {}
    for name, values in (("target_", more.get("target")), ("shown_", more.get("known"))):
        if values is not None:
            theirs = np.arange(len(values[0]), dtype=np.uint64) + 7
            whole |= ragged(name, [theirs] * count, values)
            flat = {
                "target_key": theirs,
                "target_bare_distance": np.array(more.get("asked", [0.5] * len(theirs)), np.float32),
            }
    lengths: dict[str, NDArray[Any]] = {"tokens": np.full(count, 5, np.int32), "reason": np.zeros(count, np.uint8)}
    view = synthetic.view(folder, rows, {"utility": whole, "lengths": lengths}, shard_rows=99)
    from tamis import store

    store.save_arrays(Path(view.signal_folders["utility"][0]), flat)
    return view


def ragged(prefix: str, keys: list[NDArray[np.uint64]], distances: list[list[float]]) -> dict[str, NDArray[Any]]:
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in keys])]).astype(np.int64)
    flat = np.concatenate([np.array(one, np.float32) for one in distances])
    arrays = {"pair": np.concatenate(keys), "distance": flat, "nll": 10 * flat}
    done = {f"{prefix}{name}": array for name, array in arrays.items()}
    return done | {f"{prefix}{name}_offsets": offsets for name in arrays}


def dense(found: Found, count: int) -> NDArray[np.float64]:
    matrix = np.zeros((count, count))
    matrix[found.rows, found.columns] = found.values
    return matrix


def test_two_rows_by_hand(tmp_path: Path) -> None:
    view = made(tmp_path, [[0.1, 0.5], [0.9, 0.1]], [0.7, 0.6])
    inside = utilities(view, "norm", None, "delift").inside
    # row 1 as the example leaves query 0 at 0.9 where it was at 0.7; row 0 leaves query 1 at 0.5 where it was at 0.6
    assert dense(inside, 2) == pytest.approx(np.array([[0, -0.2], [0.1, 0]]), abs=1e-6)
    assert dense(shaped([inside], "clip", True)[0], 2) == pytest.approx(np.array([[0, 0], [0.1, 0]]), abs=1e-6)
    assert dense(shaped([inside], "min-max", True)[0], 2) == pytest.approx(np.array([[0, 0], [1, 0]]), abs=1e-6)
    assert dense(utilities(view, "pmi", None, "delift").inside, 2) == pytest.approx(
        np.array([[0, -2], [1, 0]]), abs=1e-5
    )
    picked = Delift().select(view, Budget(rows=2), ON)
    assert picked.positions.tolist() == [0, 1] and picked.gains.tolist() == pytest.approx([0.1, 0], abs=1e-6)


def test_exponential_is_min_max_of_the_exponential(tmp_path: Path) -> None:
    inside = utilities(made(tmp_path, SHOWN, BARE), "norm", None, "delift").inside
    raw = np.exp(inside.values)
    expected = (raw - raw.min()) / (raw.max() - raw.min())
    assert shaped([inside], "exponential", True)[0].values == pytest.approx(expected)


def test_kernels_share_one_scale_or_have_their_own(tmp_path: Path) -> None:
    one = Found(np.array([0, 1]), np.array([1, 0]), np.array([-1.0, 3.0]))
    two = Found(np.array([0]), np.array([1]), np.array([1.0]))
    together = [part.values.tolist() for part in shaped([one, two], "min-max", True)]
    assert together == [[0, 1], [0.5]]
    assert [part.values.tolist() for part in shaped([one, two], "min-max", False)] == [[0, 1], [0]]


def brute(f: Any, count: int, picks: Subset) -> None:
    """The gains of a selection add up to f of what is picked, and every pick was the best at its time."""
    chosen: list[int] = []
    for place, gain in zip(picks.positions.tolist(), picks.gains.tolist(), strict=True):
        gains = {j: f([*chosen, j]) - f(chosen) for j in range(count) if j not in chosen}
        assert gain == pytest.approx(gains[place], abs=1e-5) and gain >= max(gains.values()) - 1e-5
        chosen.append(place)


def kernel() -> NDArray[np.float64]:
    matrix: NDArray[np.float64] = np.maximum(np.array(BARE)[:, None] - np.array(SHOWN).T, 0)
    np.fill_diagonal(matrix, 0)
    return matrix


def test_flmi_in_the_papers_definition(tmp_path: Path) -> None:
    target = [[0.3, 0.4], [0.1, 0.7], [0.6, 0.6]]
    view = made(tmp_path, SHOWN, BARE, target=target, asked=[0.5, 0.45])
    s, worth = kernel(), np.maximum(np.array([0.5, 0.45]) - np.array(target), 0).max(1)

    def f(rows: list[int]) -> float:
        return float(sum(s[i, rows].max(initial=0) for i in range(3)) + 0.5 * worth[rows].sum())

    brute(f, 3, Delift(stage="task", eta=0.5).select(view, Budget(rows=3), ON))


def test_flmi_in_the_released_definition_saturates(tmp_path: Path) -> None:
    known = [[0.7, 0.75], [0.4, 0.59], [0.2, 0.1]]
    view = made(tmp_path, SHOWN, BARE, known=known)
    s, cap = kernel(), np.maximum(np.array(BARE)[:, None] - np.array(known), 0).max(1)

    def f(rows: list[int]) -> float:
        return float(sum(min(s[i, rows].max(initial=0), cap[i]) for i in range(3)))

    brute(f, 3, Delift(stage="task", definition="saturating").select(view, Budget(rows=3), ON))


def test_flcg_counts_what_existing_data_does_not_give(tmp_path: Path) -> None:
    known = [[0.7, 0.75], [0.4, 0.59], [0.2, 0.8]]
    view = made(tmp_path, SHOWN, BARE, known=known)
    s, given = kernel(), np.maximum(np.array(BARE)[:, None] - np.array(known), 0).max(1)

    def f(rows: list[int]) -> float:
        return float(sum(max(s[i, rows].max(initial=0) - 0.5 * given[i], 0) for i in range(3)))

    brute(f, 3, Delift(stage="continual", nu=0.5).select(view, Budget(rows=3), ON))


def test_a_stage_that_was_not_measured_is_said(tmp_path: Path) -> None:
    view = made(tmp_path, SHOWN, BARE)
    for stage in ("task", "continual"):
        with pytest.raises(DataError, match="the same stage"):
            Delift(stage=stage).select(view, Budget(rows=1), ON)
    with pytest.raises(RecipeError, match="must not be negative"):
        Delift(eta=-1)


def test_embeddings_alone_give_half_of_one_plus_the_cosine(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors, other = (rng.normal(size=(count, 5)).astype(np.float32) for count in (12, 3))
    unit, theirs = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (vectors, other))
    lengths: dict[str, NDArray[Any]] = {"tokens": np.full(12, 5, np.int32), "reason": np.zeros(12, np.uint8)}

    def pool(folder: Path, one: NDArray[np.float32]) -> PoolView:
        tokens: dict[str, NDArray[Any]] = {"pooled": one, "reason": np.zeros(len(one), np.uint8)}
        own = {name: array[: len(one)] for name, array in lengths.items()}
        return synthetic.view(folder, synthetic.rows(len(one)), {"tokens": tokens, "lengths": own})

    import dataclasses

    side = pool(tmp_path / "side", other)
    view = dataclasses.replace(pool(tmp_path / "pool", vectors), target=side, existing_pool=side)
    s, near = (unit @ unit.T + 1) / 2, ((unit @ theirs.T + 1) / 2).max(1)
    objectives = {
        "instruction": lambda rows: s[:, rows].max(1, initial=0).sum(),
        "task": lambda rows: s[:, rows].max(1, initial=0).sum() + near[rows].sum(),
        "continual": lambda rows: np.maximum(s[:, rows].max(1, initial=0) - near, 0).sum(),
    }
    for stage, f in objectives.items():
        brute(f, 12, DeliftSe(stage=stage).select(view, Budget(rows=5), ON))  # type: ignore[arg-type]


def test_a_surrogate_predicts_as_its_network_does_and_says_how_well(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 3)).astype(np.float32)
    truth = vectors @ np.array([1.0, -1, 0.5]) + 0.1 * (vectors @ np.ones(3))[:, None]  # [query, demonstration]
    rows, columns = np.nonzero(~np.eye(40, dtype=bool))
    some = rng.permutation(len(rows))[:800]
    found = Found(rows[some], columns[some], truth[rows, columns][some])
    network = fit(vectors, found, 0)
    assert network.held_out == 160 and network.r2 > 0.9
    assert network.r2 == fit(vectors, found, 0).r2
    predicted = network.predict(vectors, vectors)
    assert np.corrcoef(predicted[~np.eye(40, dtype=bool)], truth[~np.eye(40, dtype=bool)])[0, 1] > 0.95
    filled = fill_in(found, vectors, network, 5)
    assert len(filled.rows) == 800 + 40 * 5 and len(set(zip(filled.rows, filled.columns, strict=True))) == 1000
    assert filled.values[:800].tolist() == found.values.tolist() and (filled.rows != filled.columns).all()
    whole = fill_in(found, vectors, network, 40)
    assert len(whole.rows) == 40 * 39
    with pytest.raises(DataError, match="50 measured pairs"):
        fit(vectors, Found(rows[:9], columns[:9], found.values[:9]), 0)


def test_picks_over_a_part_of_the_pairs_are_worth_less_by_all_of_them(tmp_path: Path) -> None:
    view = made(tmp_path, SHOWN, BARE)
    full = FacilityLocation(utilities(view, "norm", None, "delift").inside.kernel(3))
    picked = Delift().select(view, Budget(rows=1), ON)
    assert value_of(full, picked.positions) == pytest.approx(float(picked.gains[0]), rel=1e-5)


def test_rows_go_by_their_summed_utility_where_nothing_is_gained(tmp_path: Path) -> None:
    bare, count = [0.5] * 6, 6
    shown = [
        [0.5 - 0.1 * (demonstration == 5) - 0.01 * (demonstration % 3) for _ in range(count)]
        for demonstration in range(6)
    ]
    picked = Delift().select(made(tmp_path, shown, bare), Budget(rows=5), ON)
    assert picked.positions.tolist() == [5, 2, 1, 4, 0]  # 5 helps most, 2 helps 5 most; then by sums: 1 and 4, 0 and 3


def test_the_three_stages_work_from_files(tmp_path: Path) -> None:
    world = small.make_world(tmp_path)
    model = tiny.make_model(tmp_path / "delift")
    work = tamis.workspace(tmp_path / "work", str(model), max_tokens=96, device="cpu", workers=1)
    pool = str(world.folder / "pool" / "second.jsonl")
    files: dict[str, Any] = {"target": str(world.folder / "target.jsonl"), "existing": str(world.folder / "eval.jsonl")}
    chosen = {}
    for stage in ("instruction", "task", "continual"):
        for name in ("delift", "delift-se"):
            few = {"per_row": 3} if name == "delift" else None
            got = tamis.select(pool, name, 5, **files, work=work, stage=stage, utility=few)
            assert len(got.subset.positions) == 5
            chosen[name, stage] = got
    assert any("3 pairs with most words in common a row" in note for note in chosen["delift", "task"].notes)
    with pytest.raises(RecipeError, match="existing data"):
        tamis.select(pool, "delift", 5, work=work, stage="continual")
    with pytest.raises(RecipeError, match="needs a target"):
        tamis.select(pool, "delift", 5, work=work, stage="task")
    with pytest.raises(RecipeError, match="per_row"):
        tamis.select(pool, "delift", 5, work=work, utility={"per_row": 0})
