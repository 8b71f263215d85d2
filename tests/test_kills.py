"""Real SIGKILLs in every stage: the same command again finishes, repeats no finished shard, selects the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

import small
from small import World

pytestmark = [pytest.mark.soak, pytest.mark.flow]

# When to kill, one after the other on one workspace: each run dies a little later than the one before.
KILLS: tuple[dict[str, Any], ...] = (
    {"event": "start", "stage": "ingest"},
    {"event": "shard", "signal": "lengths", "number": 2},
    {"event": "shard", "signal": "tokens", "number": 3},
    {"event": "start", "stage": "warmup"},
    {"event": "shard", "signal": "influence", "number": 1},
    {"event": "start", "stage": "subset"},
    {"event": "start", "stage": "final"},
    {"event": "arm", "number": 2},
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return small.make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_is_killed_in_every_stage_ends_as_if_nothing_had_been(
    world: World, workers: int, tmp_path: Path
) -> None:
    undisturbed = small.conduct(world, tmp_path / "plain")
    place = tmp_path / "work"
    command = ("run", world.recipe, "--workspace", place, "--workers", workers, "--json")
    for wanted in KILLS:
        run = small.tamis(*command)
        small.wait_for_event(run, place, **wanted)
        family = psutil.Process(run.pid).children(recursive=True)
        before = {kind: small.finished(place, kind) for kind in ("shard", "signal", "training", "items")}
        run.kill()
        run.communicate(timeout=180)
        assert not psutil.wait_procs(family, timeout=120)[1], f"left behind after {wanted}"
        now = {kind: small.finished(place, kind) for kind in before}
        assert all(before[kind].items() <= now[kind].items() for kind in before), f"finished work was lost at {wanted}"
    last = small.tamis(*command)
    out, err = last.communicate(timeout=900)
    assert last.returncode == 0, err[-3000:]
    assert all(now[kind].items() <= small.finished(place, kind).items() for kind in now), "finished work was repeated"
    folder = Path(json.loads(out)["run"])
    assert pq.read_table(folder / "subset.parquet").equals(pq.read_table(undisturbed.folder / "subset.parquet"))
    arms = [json.loads((one / "comparison.json").read_text())["arms"] for one in (folder, undisturbed.folder)]
    assert [[run["value"] for run in arm["runs"]] for arm in arms[0]] == [
        [run["value"] for run in arm["runs"]] for arm in arms[1]
    ]
