"""The whole recipe: complete run folders, nothing done twice, a run that is stopped and killed goes on (issue 3)."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import small
from small import Run, World
from tamis.store import Store

STORED = ("shard", "signal", "columns", "subset", "training", "items")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return small.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plain")


@pytest.fixture(scope="module")
def plain(world: World, workspace: Path) -> Run:
    """Carry the recipe out once, undisturbed, by plain functions."""
    return small.conduct(world, workspace)


@pytest.fixture(scope="module")
def stopped(world: World, prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Start the command three times: SIGTERM while it scores, SIGKILL in the gradient pass, and then let be."""
    place = tmp_path_factory.mktemp("stopped")
    command = ("run", world.recipe, "--workspace", place, "--workers", 1, "--json")
    server = {"PREFECT_API_URL": prefect_api}

    scoring = small.tamis(*command, environment=server)
    small.wait_for_event(scoring, place, event="shard", signal="tokens")
    scoring.send_signal(signal.SIGTERM)
    out, err = scoring.communicate(timeout=60)

    gradients = small.tamis(*command, environment=server)
    small.wait_for_event(gradients, place, event="shard", signal="influence")
    gradients.kill()
    gradients.communicate(timeout=60)
    before = small.finished(place, "signal", "scores")

    last = small.tamis(*command)  # with a server of its own
    answer, log = last.communicate(timeout=240)
    assert last.returncode == 0, log[-3000:]
    return {"place": place, "code": scoring.returncode, "out": out, "err": err, "before": before, "answer": answer}


def check_folder(run: Run, world: World) -> None:
    """A run folder is complete, and every row read is in its ledger exactly once."""
    assert {path.name for path in run.folder.iterdir()} == small.RUN_FILES
    ledger = pq.read_table(run.folder / "ledger.parquet").to_pylist()
    assert len(ledger) == world.rows
    assert len({row["key"] for row in ledger}) == len({(row["file"], row["position"]) for row in ledger}) == world.rows
    verdicts = Counter(row["verdict"] for row in ledger)
    assert verdicts["quarantined"] == len(small.BROKEN)
    assert verdicts["selected"] == pq.read_metadata(run.folder / "subset.parquet").num_rows == 16  # 25 % of 64 usable
    assert verdicts["quarantined"] + verdicts["dropped"] + verdicts["selected"] == world.rows
    steps = {step["step"]: step["rows"] for step in run.manifest["funnel"]}
    assert steps == {"read": world.rows, "ingested": world.rows - len(small.BROKEN), "usable": 64, "selected": 16}
    assert all(row["reason"] for row in ledger if row["verdict"] != "selected")


def test_a_run_leaves_everything_that_a_reviewer_needs(plain: Run, world: World) -> None:
    check_folder(plain, world)
    assert len(pq.read_table(plain.folder / "quarantine.parquet")) == len(small.BROKEN)
    measured = {"rows", "rows_per_second", "peak_memory_mb"}
    assert {"name", "kind", "seconds", "detail"} | measured == set(plain.manifest["stages"][0])
    assert plain.manifest["subset"]["digest"] and plain.manifest["model"]["digest"] and plain.manifest["versions"]
    page = (plain.folder / "report.html").read_text(encoding="utf-8")
    assert "<html" in page and plain.manifest["name"] in page


def test_the_comparison_has_all_arms_with_equal_tokens_and_intervals(plain: Run) -> None:
    found = json.loads((plain.folder / "comparison.json").read_text(encoding="utf-8"))
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert set(arms) == {"less", "untouched", "random", "longest", "full"}
    assert {name: len(arm["runs"]) for name, arm in arms.items()} == {
        **{"less": 2, "random": 2, "longest": 2},
        **{"full": 1, "untouched": 1},
    }
    longest_row = 96
    for name in ("random", "longest"):
        assert 0 <= arms["less"]["tokens"] - arms[name]["tokens"] < longest_row
    assert len(found["differences"]) == 4 and found["verdict"]
    for difference in found["differences"]:
        assert difference["low"] <= difference["mean"] <= difference["high"]
        assert difference["over"] == ("items and runs" if difference["arm"] in ("random", "longest") else "items")
        assert len(difference["per_run"]) == 2


def test_a_second_run_on_unchanged_input_measures_and_trains_nothing(plain: Run, world: World, workspace: Path) -> None:
    before = {kind: small.finished(workspace, kind) for kind in STORED}
    assert len(before["training"]) == 1 + 3 * 2 + 1  # warm-up, three arms (final is run 0 of less), and full
    again = small.conduct(world, workspace)
    assert [one["made"] for one in again.manifest["passes"]] == [0] * len(plain.manifest["passes"])
    assert {kind: small.finished(workspace, kind) for kind in STORED} == before
    assert again.manifest["subset"]["digest"] == plain.manifest["subset"]["digest"]
    assert again.folder != plain.folder


def test_another_warm_up_makes_exactly_the_gradients_anew(plain: Run, world: World, workspace: Path) -> None:
    changed = small.conduct(world, workspace, ["warmup.epochs=1"])
    assert changed.made("lengths")[0] == changed.made("tokens")[0] == 0
    made, shards = changed.made("influence")
    assert made == shards == plain.made("influence")[1]


@pytest.mark.soak  # 20 s: a whole run more; workers against one process stand in test_engine too
def test_two_workers_give_the_subset_of_one(plain: Run, world: World, workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "store", tmp_path / "store", ignore=shutil.ignore_patterns("subset", "*.lock"))
    store = Store(tmp_path / "store")
    for identity in small.finished(tmp_path, "signal", "scores"):
        shutil.rmtree(store.path("signal", identity))
    twice = small.conduct(world, tmp_path, workers=2)
    assert twice.made("influence") == (9, 9)
    assert twice.manifest["subset"]["digest"] == plain.manifest["subset"]["digest"]


@pytest.mark.soak  # two runs more; test_pins appends in the default tier
def test_appended_data_leaves_finished_shards_alone(plain: Run, tmp_path: Path) -> None:
    world = small.make_world(tmp_path / "world")
    overrides = ["scores.score=[perplexity]"]
    small.conduct(world, tmp_path / "work", overrides)
    before = small.finished(tmp_path / "work", "signal", "nll")
    world.append()
    grown = small.conduct(world, tmp_path / "work", overrides)
    assert grown.made("tokens")[0] == 1 and grown.made("lengths")[0] == 1
    after = small.finished(tmp_path / "work", "signal", "nll")
    assert before.items() <= after.items() and len(after) == len(before) + 1


@pytest.mark.soak  # with the kill below: two starts and a whole run
def test_sigterm_ends_with_143_and_says_that_it_can_go_on(stopped: dict[str, Any]) -> None:
    assert stopped["code"] == 143
    assert "the same command goes on" in stopped["err"]
    assert json.loads(stopped["out"])["error"] == "Stopped"


@pytest.mark.soak
@pytest.mark.flow
def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_been(
    stopped: dict[str, Any], plain: Run, world: World
) -> None:
    answer = json.loads(stopped["answer"])
    folder = Path(answer["run"])
    run = Run(folder, json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    check_folder(run, world)
    made, shards = run.made("influence")
    assert 1 <= len(stopped["before"]) < shards, "the kill came before or after the gradient pass"
    assert made == shards - len(stopped["before"]) and run.made("tokens")[0] == 0
    assert stopped["before"].items() <= small.finished(stopped["place"], "signal", "scores").items()
    assert pq.read_table(folder / "subset.parquet").equals(pq.read_table(plain.folder / "subset.parquet"))
    assert run.manifest["subset"]["digest"] == plain.manifest["subset"]["digest"]
    assert answer["rows"] == 16 and Path(answer["report"]).is_file() and answer["verdict"]


@pytest.mark.soak  # with the kill below: two starts and a whole run
def test_the_command_that_went_on_prints_one_object_and_nothing_else(stopped: dict[str, Any]) -> None:
    assert len(stopped["answer"].splitlines()) == 1
    assert {"run", "report", "verdict", "rows", "shards_measured", "stages"} <= set(json.loads(stopped["answer"]))


def test_a_wrong_recipe_starts_nothing(world: World, tmp_path: Path) -> None:
    asked = small.tamis("run", world.recipe, "--workspace", tmp_path / "work", "--set", "subset.select=lesss")
    _, err = asked.communicate(timeout=120)
    assert asked.returncode == 2 and "less" in err
    assert not (tmp_path / "work").exists()
