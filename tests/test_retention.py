"""`tamis gc`: what goes is what only removed runs have used, and a kill in between breaks nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import small
from tamis.errors import GateError, StoreError
from tamis.history.explanation import explain
from tamis.operations import locks, run_state, uses
from tamis.operations.retention import TRASH, Rules, collect
from tamis.store import Store

OLD = 86400 * 40


def identity(number: int) -> str:
    return f"{number:032x}"


def make_run(root: Path, name: str, entries: list[int], *, recipe: str = "r", ends: str = "finished") -> Path:
    """Make a run folder that has used entries of kind `signal` by number, as the flow and the store leave it."""
    folder = root / "runs" / f"{name}-{recipe}-abcdef"
    folder.mkdir(parents=True)
    store = uses.NotedStore(root / "store", notes=folder / uses.ENTRIES)
    run_state.begin(folder, recipe)
    for number in entries:
        store.get_or_make("signal", identity(number), fill)
    run_state.end(folder, ends)
    return folder


def fill(folder: Path) -> Mapping[str, int]:
    (folder / "values.bin").write_bytes(b"x" * 1000)
    return {"rows": 1}


def there(root: Path) -> set[int]:
    return {int(entry.path.name, 16) for entry in Store(root / "store").entries("signal")}


def runs_of(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "runs").iterdir())


def test_runs_beyond_the_last_go_with_what_only_they_have_used(tmp_path: Path) -> None:
    make_run(tmp_path, "1", [1, 2])
    make_run(tmp_path, "2", [2, 3])
    make_run(tmp_path, "3", [3, 4])
    found = collect(tmp_path, Rules(keep=1)).facts()
    assert there(tmp_path) == {3, 4} and runs_of(tmp_path) == ["3-r-abcdef"]
    assert found["entries"] == {"signal": {"count": 2, "mb": 0.0}} and found["kept_entries"] == 2
    assert found["runs"] == ["1-r-abcdef", "2-r-abcdef"] and not (tmp_path / TRASH).exists()


def test_a_dry_run_says_the_same_and_removes_nothing(tmp_path: Path) -> None:
    for name in "123":
        make_run(tmp_path, name, [int(name)])
    before = sorted(tmp_path.rglob("*"))
    said = collect(tmp_path, Rules(keep=1), dry_run=True).facts()
    assert sorted(tmp_path.rglob("*")) == before
    assert collect(tmp_path, Rules(keep=1)).facts() == said


def test_every_recipe_keeps_its_own_runs_and_names_are_protected(tmp_path: Path) -> None:
    make_run(tmp_path, "1", [1], recipe="weekly")
    make_run(tmp_path, "2", [2])
    make_run(tmp_path, "3", [3])
    make_run(tmp_path, "4", [4])
    collect(tmp_path, Rules(keep=1, protect=("2-r",)))
    assert runs_of(tmp_path) == ["1-weekly-abcdef", "2-r-abcdef", "4-r-abcdef"] and there(tmp_path) == {1, 2, 4}


def test_runs_that_did_not_finish_do_not_count_and_go_once_enough_finished_after_them(tmp_path: Path) -> None:
    make_run(tmp_path, "1", [1], ends="failed")
    make_run(tmp_path, "2", [2])
    make_run(tmp_path, "3", [3], ends="refused")
    collect(tmp_path, Rules(keep=1))
    assert runs_of(tmp_path) == ["2-r-abcdef", "3-r-abcdef"] and there(tmp_path) == {2, 3}


def test_what_verbs_pins_and_nobody_known_have_used_stays(tmp_path: Path) -> None:
    make_run(tmp_path, "1", [1, 2, 5])
    make_run(tmp_path, "2", [9])
    verb = uses.NotedStore(tmp_path / "store", notes=tmp_path / uses.ENTRIES)
    verb.get_or_make("signal", identity(2), fill)
    Store(tmp_path / "store").get_or_make("signal", identity(7), fill)
    (tmp_path / "pins" / "fit").mkdir(parents=True)
    pin = {"kind": "signal", "entry": identity(5), "shards": []}
    (tmp_path / "pins" / "fit" / "one.json").write_text(json.dumps(pin))
    collect(tmp_path, Rules(keep=1))
    assert there(tmp_path) == {2, 5, 7, 9}


def test_unused_days_removes_what_nobody_has_used_for_so_long(tmp_path: Path) -> None:
    make_run(tmp_path, "1", [1, 2])
    for number in (7, 8):
        entry = Store(tmp_path / "store").get_or_make("signal", identity(number), fill)
        old = time.time() - OLD
        os.utime(entry.path / "manifest.json", (old, old))
    uses.NotedStore(tmp_path / "store", notes=tmp_path / uses.ENTRIES).get("signal", identity(8))  # today
    collect(tmp_path, Rules(keep=1, unused_days=30))
    assert there(tmp_path) == {1, 2, 8}


def test_it_refuses_while_another_process_uses_the_workspace(tmp_path: Path) -> None:
    make_run(tmp_path, "1", [1])
    make_run(tmp_path, "2", [2])
    code = (
        f"from tamis.operations import locks; from pathlib import Path; locks.share(Path({str(tmp_path)!r})); input()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not locks.holders(tmp_path / locks.IN_USE) == [other.pid] and time.monotonic() < deadline:
            locks.leave(tmp_path / locks.IN_USE)
            time.sleep(0.05)
        with pytest.raises(StoreError, match=f"in use .process {other.pid}"):
            collect(tmp_path, Rules(keep=1))
        assert there(tmp_path) == {1, 2}
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    locks.leave(tmp_path / locks.IN_USE)
    collect(tmp_path, Rules(keep=1))  # the lock of the dead is free
    assert there(tmp_path) == {2}


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("moment", range(5))
def test_a_removal_that_is_killed_leaves_whole_entries_and_is_gone_on_with(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, "1", [1, 2])
    make_run(tmp_path, "2", [2, 3])
    make_run(tmp_path, "3", [4])
    rename = Path.rename
    done: list[Path] = []

    def dies(self: Path, target: Path) -> Path:
        if len(done) == moment:
            raise Killed
        done.append(self)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dies)
    try:
        collect(tmp_path, Rules(keep=1))
    except Killed:
        assert len(done) == moment
    monkeypatch.undo()
    assert Store(tmp_path / "store").verify() == [] and 4 in there(tmp_path)
    # somebody uses an entry of a run that was going, before the removal is gone on with
    make_run(tmp_path, "4", [2])
    collect(tmp_path, Rules(keep=2))
    assert there(tmp_path) == {2, 4} and runs_of(tmp_path) == ["3-r-abcdef", "4-r-abcdef"]
    assert not (tmp_path / TRASH).exists()


def test_a_run_from_before_uses_were_noted_keeps_the_store_as_it_is(tmp_path: Path) -> None:
    make_run(tmp_path, "1", [1])
    legacy = make_run(tmp_path, "2", [2])
    (legacy / uses.ENTRIES).unlink()
    found = collect(tmp_path, Rules(keep=1)).facts()
    assert runs_of(tmp_path) == ["2-r-abcdef"] and there(tmp_path) == {1, 2}
    assert legacy.name in found["notes"][0]


def test_the_state_of_a_run_that_was_killed_is_died(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "1-r-abcdef"
    folder.mkdir(parents=True)
    code = f"""
from pathlib import Path
from tamis.operations import run_state
run_state.begin(Path({str(folder)!r}), "r")
print("begun", flush=True)
input()
"""
    run = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert run.stdout is not None and run.stdout.readline() == b"begun\n"
    assert run_state.state_of(folder).outcome == "running"
    run.kill()
    run.communicate()
    assert run_state.state_of(folder).outcome == "died"


def test_a_line_of_uses_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    notes = tmp_path / uses.ENTRIES
    notes.write_text("2026-01-01 signal/00")
    uses.NotedStore(tmp_path / "store", notes=notes).get_or_make("signal", identity(3), fill)
    assert list(uses.read(notes)) == [("signal", identity(3))]


def test_scheduled_runs_of_a_workspace_take_turns(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from tamis.operations import locks
with locks.turn(Path({str(tmp_path)!r}), "NAME", 60):
    print(time.monotonic(), flush=True)
    time.sleep(0.5)
    print(time.monotonic(), flush=True)
"""
    both = [
        subprocess.Popen([sys.executable, "-c", code.replace("NAME", name)], stdout=subprocess.PIPE) for name in "ab"
    ]
    times = sorted(tuple(map(float, one.communicate(timeout=120)[0].split())) for one in both)
    assert times[0][1] <= times[1][0]


def test_a_run_that_has_waited_long_enough_is_refused_and_names_the_other(tmp_path: Path) -> None:
    with locks.turn(tmp_path, "nightly", 1), pytest.raises(GateError, match=r"nightly \(process"):
        with locks.turn(tmp_path, "weekly", 0.1):
            pass
    with locks.turn(tmp_path, "weekly", 0.1):
        pass


@pytest.mark.soak
def test_after_a_removal_the_run_that_stays_is_whole_and_its_repetition_measures_nothing(tmp_path: Path) -> None:
    world = small.make_world(tmp_path / "world")
    place = tmp_path / "work"
    small.conduct(world, place)
    world.append()
    stays = small.conduct(world, place)
    found = collect(place, Rules(keep=1)).facts()
    assert found["runs"] and found["entries"] and found["kept_runs"] == [stays.folder.name]
    row = pq.read_table(stays.folder / "ledger.parquet").to_pylist()[0]["key"]
    assert explain(stays.folder, row)["messages"]
    assert all((path.resolve() / "adapter_config.json").is_file() for path in (stays.folder / "checkpoints").iterdir())
    again = small.conduct(world, place)
    assert all(one["made"] == 0 for one in again.manifest["passes"])
    assert again.manifest["subset"]["digest"] == stays.manifest["subset"]["digest"]
    assert Store(place / "store").verify() == []
