"""A deployment is run by a real worker from a schedule, over SQLite and over a real Postgres (issue 8, hold 7)."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import small
from pages import ROOT
from prefect_world import PREFECT, ask, postgres, postgres_programs, prefect_server, worker
from small import World

pytestmark = [pytest.mark.soak, pytest.mark.flow]
RECIPE = """\
name: {name}
model: {{name: {folder}/model, max_tokens: 96, dtype: float32}}
pool: {{files: [pool/*.jsonl]}}
subset: {{select: random, budget: 8}}
final: {{train: lora, on: "@subset", epochs: 1, rank: 2, alpha: 4, batch_rows: 4}}
proof: {{compare: "@subset", with: [random], evaluate: {{files: [eval.jsonl]}}, runs: 1, draws: 50}}
"""
RUNS = 2  # of each of two recipes
SECONDS = 1500
EVERY = "30s"
TELL = {
    "name": "tell",
    "trigger": {
        "type": "event",
        "posture": "Reactive",
        "expect": ["tamis.run.finished"],
        "match": {"prefect.resource.id": "tamis.recipe.*"},
        "threshold": 1,
        "within": 0,
    },
    "actions": [{"type": "do-nothing"}],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real server: over Postgres where there is one, else over SQLite."""
    place = tmp_path_factory.mktemp("prefect")
    with ExitStack() as inside:
        there = postgres_programs() is not None
        database = inside.enter_context(postgres()) if there else f"sqlite+aiosqlite:///{place}/prefect.db"
        yield inside.enter_context(prefect_server(place, database))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = small.make_world(tmp_path_factory.mktemp("world"))
    for name in ("one", "two"):
        text = RECIPE.format(name=name, folder=world.folder)
        (world.folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return world


def tamis(world: World, environment: Mapping[str, str], *words: object) -> tuple[int, dict[str, Any], str]:
    """Run a command in the folder of the world: code, the object that it prints, and its log."""
    there = Path.cwd()
    os.chdir(world.folder)
    try:
        run = small.tamis(*words, "--json", environment=environment)
    finally:
        os.chdir(there)
    out, err = run.communicate(timeout=600)
    return run.returncode, json.loads(out), err


def test_the_history_is_in_postgres(server: dict[str, str]) -> None:
    if postgres_programs() is None:
        pytest.skip("no Postgres on this machine: apt-get install postgresql")
    assert not list(Path(server["PREFECT_HOME"]).glob("*.db"))


def test_two_recipes_on_one_workspace_run_from_their_schedules_in_turn(
    world: World, server: dict[str, str], tmp_path: Path
) -> None:
    place = tmp_path / "work"
    options = ("--pool", "own", "--workspace", place, "--workers", 1)
    code, said, _ = tamis(world, server, "deploy", "one.yaml", *options)
    assert code == 2 and "--create-pool" in said["faults"][0]
    code, first, err = tamis(world, server, "deploy", "one.yaml", *options, "--create-pool", "--cron", "0 3 * * *")
    assert code == 0 and first["pool_made"], err
    code, again, _ = tamis(world, server, "deploy", "one.yaml", *options, "--every", EVERY)
    assert code == 0 and again["id"] == first["id"] and not again["pool_made"]
    code, other, _ = tamis(world, server, "deploy", "two.yaml", *options, "--every", EVERY)
    assert code == 0 and other["id"] != first["id"]

    deployments = ask(server, "deployments/filter", {})
    assert {one["name"] for one in deployments} >= {"tamis-one", "tamis-two"}
    mine = next(one for one in deployments if one["id"] == first["id"])
    assert [one["schedule"]["interval"] for one in mine["schedules"]] == [30]
    assert mine["entrypoint"] == "tamis.flows.curate.curate"
    assert mine["global_concurrency_limit"]["limit"] == 1
    assert mine["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"

    code, _, _ = tamis(world, server, "health", "--workspace", place)
    assert code == 1, "no worker yet"
    told = ask(server, "automations/", TELL)["id"]
    with worker(tmp_path, "own", server):
        states = wait_for_runs(place, tmp_path)
        check_health(world, server, place)
        for name in ("one", "two"):  # nothing new is started before the worker is stopped
            assert tamis(world, server, "deploy", f"{name}.yaml", *options)[0] == 0
        assert ask(server, "deployments/filter", {})[0]["schedules"] == []
        wait_until_idle(place)
    spans = sorted((state["began"], state["ended"]) for state in states)
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans)), "one at a time"
    assert "Downloading" not in (tmp_path / "worker.log").read_text(), "the folder of the data is not copied"
    check_folders(place)
    check_events(server, place)
    wait_until_fired(server, told)


def test_a_file_for_git_and_the_automations_are_what_prefect_takes(
    world: World, server: dict[str, str], tmp_path: Path
) -> None:
    options = ("--pool", "filed", "--workspace", tmp_path / "work", "--every", "1h", "--name", "filed")
    code, said, err = tamis(world, server, "deploy", "one.yaml", *options, "--to", tmp_path / "prefect.yaml")
    assert code == 0 and said["file"] == str(tmp_path / "prefect.yaml"), err
    for words in (
        ["work-pool", "create", "filed", "--type", "process"],
        ["--no-prompt", "deploy", "--prefect-file", "prefect.yaml", "--all"],
        ["automation", "create", "--from-file", str(ROOT / "deploy" / "automations.yaml")],
    ):
        done = subprocess.run([PREFECT, *words], cwd=tmp_path, env=server, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    filed = next(one for one in ask(server, "deployments/filter", {}) if one["name"] == "filed")
    code, again, err = tamis(world, server, "deploy", "one.yaml", *options)
    assert code == 0 and again["id"] == filed["id"], err
    same = next(one for one in ask(server, "deployments/filter", {}) if one["name"] == "filed")
    alike = ("entrypoint", "parameters", "job_variables", "concurrency_options", "tags", "work_pool_name", "pull_steps")
    assert {key: filed[key] for key in alike} == {key: same[key] for key in alike}
    assert [one["schedule"]["interval"] for one in (*filed["schedules"], *same["schedules"])] == [3600, 3600]


def wait_for_runs(place: Path, logs: Path) -> list[dict[str, Any]]:
    """States of the finished runs, as soon as every recipe has as many as wanted."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        found = [json.loads(file.read_text()) for file in place.glob("runs/*/state.json")]
        done = [one for one in found if one["outcome"] == "finished"]
        assert not [one for one in found if one["outcome"] not in ("finished", "running")], found
        if all(sum(one["recipe"] == name for one in done) >= RUNS for name in ("one", "two")):
            return done
        time.sleep(0.5)
    raise AssertionError((logs / "worker.log").read_text()[-5000:])


def wait_until_idle(place: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = [json.loads(file.read_text())["outcome"] for file in place.glob("runs/*/state.json")]
        if "running" not in found:
            return
        time.sleep(0.5)


def check_health(world: World, server: dict[str, str], place: Path) -> None:
    code, health, err = tamis(world, server, "health", "--workspace", place, "--max-age", 1)
    checks = {one["what"]: one for one in health["checks"]}
    assert code == 0, (health, err)
    assert {"workspace", "disk", "store", "prefect", "work pool own", "run one", "run two"} <= set(checks)
    assert "1 of 1 known workers alive" in checks["work pool own"]["found"]


def check_folders(place: Path) -> None:
    """Every finished run has its verdict; the second run of a recipe has measured nothing."""
    for name in ("one", "two"):
        folders = sorted(path for path in place.glob(f"runs/*-{name}-*") if (path / "report.html").is_file())
        assert len(folders) >= RUNS
        for number, folder in enumerate(folders):
            manifest = json.loads((folder / "manifest.json").read_text())
            assert json.loads((folder / "comparison.json").read_text())["verdict"]
            assert json.loads((folder / "state.json").read_text())["verdict"]
            assert number == 0 or all(one["made"] == 0 for one in manifest["passes"])


def wait_until_fired(server: dict[str, str], automation: str) -> None:
    """The server has carried out the action of an automation that waits for an event of tamis."""
    deadline, what = time.monotonic() + 60, {"event": {"prefix": ["prefect.automation.action.executed"]}}
    while time.monotonic() < deadline:
        found = ask(server, "events/filter", {"filter": what, "limit": 50})["events"]
        if any(one["resource"]["prefect.resource.id"] == f"prefect.automation.{automation}" for one in found):
            return
        time.sleep(0.5)
    pytest.fail(f"the automation never fired; executed: {found}")


def check_events(server: dict[str, str], place: Path) -> None:
    """What an automation would be triggered by has come to the server, with its facts."""
    deadline = time.monotonic() + 60
    wanted = {"tamis.run.started", "tamis.run.finished", "tamis.rows.quarantined"}
    while time.monotonic() < deadline:
        found = ask(server, "events/filter", {"filter": {"event": {"prefix": ["tamis."]}}, "limit": 50})["events"]
        if wanted <= {one["event"] for one in found}:
            break
        time.sleep(0.5)
    by_name = {one["event"]: one for one in found}
    assert wanted <= set(by_name)
    finished = by_name["tamis.run.finished"]
    assert finished["payload"]["rows"] == 8 and finished["payload"]["verdict"]
    assert Path(finished["payload"]["report"]).is_file()
    assert finished["resource"]["tamis.workspace"] == str(place)
    assert by_name["tamis.rows.quarantined"]["payload"]["rows"] == len(small.BROKEN)
