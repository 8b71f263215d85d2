"""From picks to subsets: any budget, and what a selection says of its own quality wherever it is shown."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import small
import synthetic
from tamis import cli
from tamis.budgets import BudgetTooSmall
from tamis.errors import DataError
from tamis.submodular.facility_location import FacilityLocation
from tamis.submodular.graph_cut import GraphCut
from tamis.submodular.kernels import Dense
from tamis.submodular.maximise import Limit, Maximiser, maximise
from tamis.submodular.objective import value_of
from tamis.submodular.selecting import subset_of
from tamis.values import Budget, Reason
from tamis.views import PoolView

BOUND = "% of the best possible within this budget"


@pytest.fixture
def view(tmp_path: Path) -> PoolView:
    return synthetic.view(tmp_path, synthetic.rows(40), {"lengths": synthetic.lengths(40)})


def kernel_of(count: int, seed: int = 2) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.random.default_rng(seed).random((count, count))


@pytest.mark.parametrize("budget", ["7", "25%", "900 tokens", "1000"])
def test_a_subset_is_what_the_maximiser_picked_at_the_places_of_the_candidates(view: PoolView, budget: str) -> None:
    places = np.flatnonzero(view.usable)[2:]
    objective = FacilityLocation(Dense(kernel_of(len(places))))
    limit = Budget.parse(budget)
    reasons = view.signal("lengths", "reason").astype(np.uint8)
    reasons[np.setdiff1d(np.arange(40), places)] = Reason.NOT_MEASURED
    subset = subset_of(view, limit, objective, places, unit="value alone", reasons=reasons, notes=("from elsewhere",))
    rows, tokens = limit.limits(int(view.usable.sum()))
    cost = view.cost[places]
    picks = maximise(objective, Limit(rows=rows) if tokens is None else Limit(tokens=tokens, cost=cost))
    assert subset.positions.tolist() == places[picks.order].tolist()
    assert subset.gains.tolist() == picks.gains.astype(np.float32).tolist()
    assert (
        len(subset.positions) == min(rows, len(places))
        if rows is not None
        else view.cost[subset.positions].sum() <= 900
    )
    alone = [value_of(objective, np.array([row])) for row in range(len(places))]
    assert subset.values is not None and np.allclose(subset.values[places], alone)
    assert np.isnan(np.delete(subset.values, places)).all()
    assert subset.unit == "value alone" and subset.notes[-1] == "from elsewhere"
    assert picks.bound is not None
    share = float(subset.notes[0].partition("at least ")[2].partition(" %")[0]) / 100
    assert share <= picks.value / picks.bound < share + 0.001 or (share == 1 and len(picks.order) == len(places))


def test_what_cannot_be_said_or_chosen_is_told(view: PoolView) -> None:
    places = np.flatnonzero(view.usable)
    cut = GraphCut(Dense(kernel_of(len(places))), 2.0)
    subset = subset_of(view, Budget(share=1.0), cut, places, unit="value alone")
    assert "no bound on the best possible: f is not monotone" in subset.notes[0]
    assert "picks made f smaller" in subset.notes[1]
    flat = FacilityLocation(Dense(np.ones((3, len(places)))))
    subset = subset_of(view, Budget(rows=5), flat, places, Maximiser(method="naive"), unit="value alone")
    assert subset.positions.tolist() == places[:5].tolist()
    assert subset.notes == (
        f"f(S) = 3, at least 100 {BOUND}",
        "the last 4 of 5 picks gained nothing: they are in the order of the pool",
    )
    with pytest.raises(BudgetTooSmall, match="smaller than the smallest row that can be chosen"):
        subset_of(view, Budget(tokens=1), flat, places, unit="value alone")
    with pytest.raises(DataError, match="no usable row is a candidate"):
        subset_of(view, Budget(rows=5), flat, places[:0], unit="value alone")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> small.World:
    return small.make_world(tmp_path_factory.mktemp("world"))


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
        raise SystemExit(0)
    out, err = capsys.readouterr()
    assert not left.value.code, err
    return out


@pytest.mark.soak  # 20 s: a pool and three selections by the command line
def test_select_says_the_bound_also_when_the_subset_comes_from_the_store(
    world: small.World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common: Sequence[object] = ("--workspace", tmp_path / "work", "--model", world.folder / "model", "--max-tokens", 96)
    files = sorted((world.folder / "pool").iterdir())
    said(capsys, "ingest", *files, "--out", tmp_path / "pool", "--max-bad", "50%")
    ask = ("select", tmp_path / "pool", "--with", "facility-location", "--budget", "25%", *common)
    first = [line for line in said(capsys, *ask).splitlines() if BOUND in line]
    assert len(first) == 1 and first[0].startswith("note: f(S) = ")
    again = json.loads(said(capsys, *ask, "--json"))
    assert [f"note: {note}" for note in again["notes"] if BOUND in note] == first
    mixed = said(capsys, *ask, "--mix", "equal")
    notes = [line for line in mixed.splitlines() if BOUND in line]
    assert len(notes) >= 2 and all(not line.startswith("note: f(S)") for line in notes), "each group has its own"


def test_a_run_says_the_bound_in_manifest_report_and_explanation(
    world: small.World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = world.recipe.read_text(encoding="utf-8").partition("scores:")[0]
    recipe = tmp_path / "short.yaml"
    recipe.write_text(text + "subset: {select: facility-location, budget: 25%}\n", encoding="utf-8")
    run = small.conduct(small.World(world.folder, recipe, world.rows), tmp_path / "work")
    note = next(note for note in run.manifest["notes"] if BOUND in note)
    assert note.startswith("subset: f(S) = ")
    assert note in html.unescape((run.folder / "report.html").read_text(encoding="utf-8"))
    key = pq.read_table(run.folder / "ledger.parquet").column("key")[0].as_py()
    assert f"note: {note}" in said(capsys, "explain", "latest", key, "--workspace", tmp_path / "work")
