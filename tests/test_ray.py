"""The engine over Ray: the bits of the local engine, lost workers replaced, nobody left behind, nodes checked."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pyarrow.parquet as pq
import pytest

import small
import tiny
from small import Run, World
from tamis import ray_cluster, ray_engine
from tamis.engine import machine, map_jobs
from tamis.errors import DataError, RecipeError, StoreError
from tamis.models import ModelRef, content_digest, folder_of
from tamis.stages.train import TrainingJob, train_one
from tamis.store import Store
from tamis.values import Machine, Seeds

SAME = ("subset.parquet", "columns.parquet", "ledger.parquet", "quarantine.parquet")
NODES = (
    {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 4.0}},
    {"Alive": True, "Resources": {"CPU": 3.0}},
    {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return small.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def local(world: World, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of the local engine."""
    return small.conduct(world, tmp_path_factory.mktemp("local"))


def over_ray(world: World, place: Path) -> subprocess.Popen[str]:
    options = ("--workers", 2, "--device", "cpu", "--engine", "ray", "--json")
    return small.tamis("run", world.recipe, "--workspace", place, *options)


def same_as(local: Run, folder: Path) -> None:
    """Rows, columns, verdicts and arms are those of the local run, to the last bit."""
    for name in SAME:
        ours, theirs = (pq.read_table(one / name).to_pandas() for one in (folder, local.folder))
        assert ours.equals(theirs), name  # NaN is NaN
    arms = [json.loads((one / "comparison.json").read_text())["arms"] for one in (folder, local.folder)]
    assert [[run["value"] for run in arm["runs"]] for arm in arms[0]] == [
        [run["value"] for run in arm["runs"]] for arm in arms[1]
    ]
    assert len(pq.read_table(folder / "ledger.parquet")) == local.manifest["funnel"][0]["rows"]


def kill_a_worker(run: subprocess.Popen[str], seconds: float = 120) -> int:
    """SIGKILL for one process of Ray that is at work."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and run.poll() is None:
        for process in psutil.Process(run.pid).children(recursive=True):
            try:
                if process.name().startswith("ray::Worker.run"):  # an idle one has no job to lose
                    process.kill()
                    return int(process.pid)
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.01)
    raise AssertionError("no worker of Ray was seen at work")


@pytest.mark.soak
@pytest.mark.flow
@pytest.mark.parametrize("killed", [False, True])
def test_a_run_over_ray_is_the_local_run_to_the_last_bit_also_when_workers_are_killed(
    world: World, local: Run, killed: bool, tmp_path: Path
) -> None:
    run = over_ray(world, tmp_path)
    if killed:
        small.wait_for_event(run, tmp_path, event="shard", signal="tokens", number=2)
        kill_a_worker(run)
        small.wait_for_event(run, tmp_path, event="arm", number=1)
        kill_a_worker(run)
    family = psutil.Process(run.pid).children(recursive=True)
    out, err = run.communicate(timeout=1800)
    assert run.returncode == 0, err[-3000:]
    assert (("was lost" in err) or not killed) and not psutil.wait_procs(family, timeout=60)[1]
    same_as(local, Path(json.loads(out)["run"]))
    assert not list((tmp_path / "store").glob(".seen-*")) and not list((tmp_path / "store").rglob("partial-*"))


@pytest.mark.soak
@pytest.mark.flow
def test_a_run_over_ray_that_is_stopped_leaves_nobody_behind_and_the_local_engine_goes_on(
    world: World, local: Run, tmp_path: Path
) -> None:
    for stop, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        run = over_ray(world, tmp_path)
        small.wait_for_event(run, tmp_path, event="shard", signal="tokens" if code > 0 else "influence", number=1)
        family = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(stop)
        run.communicate(timeout=120)
        assert run.returncode == code
        assert not psutil.wait_procs(family, timeout=180)[1]  # after SIGKILL Ray's agents look for their GCS for 60 s
    last = small.tamis("run", world.recipe, "--workspace", tmp_path, "--workers", 1, "--json")
    out, err = last.communicate(timeout=1800)
    assert last.returncode == 0, err[-3000:]
    same_as(local, Path(json.loads(out)["run"]))


@pytest.mark.soak
def test_a_training_of_two_processes_runs_on_a_node_that_holds_both(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    pool = tiny.make_pool(tmp_path / "pool", tiny.make_rows(24))
    model = ModelRef(name=str(tiny.make_model(tmp_path / "model")), max_tokens=64, dtype="float32")
    job = TrainingJob(
        store=Store(tmp_path / "local"),
        trainer="lora",
        settings={"epochs": 1, "rank": 4, "alpha": 8, "dropout": 0.0, "batch_rows": 8},
        model=model,
        rows_of=pool,
        positions=tuple(range(len(pool))),
        seeds=Seeds(),
        machine=Machine(tokens_per_batch=256),
    )
    two = Machine(engine="ray", workers=1, processes=2, tokens_per_batch=256)
    alone = train_one(job)
    together = train_one(dataclasses.replace(job, store=Store(tmp_path / "ray"), machine=two))
    assert list((tmp_path / "ray").rglob("launch.log")), "accelerate launch started both"
    left, right = (load_file(run.checkpoints[-1].path / "adapter_model.safetensors") for run in (alone, together))
    assert left.keys() == right.keys()
    assert all(abs(left[name] - right[name]).max() < 1e-5 for name in left)


def square(job: int) -> int:
    return job * job


def refuse(job: int) -> int:
    raise DataError(f"row {job} is wrong")


def die_always(job: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return job


@pytest.mark.soak
def test_results_come_in_order_errors_as_they_are_and_a_deadly_job_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from tamis.engine import WorkerLost, workers_kept

    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]  # actors find the functions of this file
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    on = machine(engine="ray", device="cpu", workers=2)
    before = signal.getsignal(signal.SIGTERM)
    with ray_cluster.kept():
        with workers_kept():
            assert list(map_jobs(square, range(7), on)) == [job * job for job in range(7)]
            assert list(map_jobs(square, [3], on)) == [9]
            with pytest.raises(DataError, match="row 0 is wrong"):
                list(map_jobs(refuse, [0, 0], on))
        with pytest.raises(WorkerLost, match="lost its worker 3 times"):
            list(map_jobs(die_always, [1], on))
        assert signal.getsignal(signal.SIGTERM) is before
    assert not psutil.Process().children(recursive=True)


def test_room_counts_whole_workers_on_living_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: NODES))
    assert ray_cluster.room(1, 0) == 16 + 3
    assert ray_cluster.room(2, 0) == 8 + 1
    assert ray_cluster.room(1, 1) == 4
    assert ray_cluster.room(3, 3) == 1  # three GPUs of one node, never of two
    assert ray_cluster.room(8, 8) == 0


def test_a_node_must_see_the_store_and_run_the_same_tamis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray_engine, "SEEN_SECONDS", 0.0)
    probes: list[Path] = []
    with ray_engine._probed([SimpleNamespace(store=Store(tmp_path / "work" / "store"))], probes):
        worker = ray_engine.Worker(1, str(tmp_path / "nowhere"))
        monkeypatch.setitem(ray_engine._INSIDE, "worker", False)
        found = worker.ready([str(probe) for probe in probes])
        ray_engine._check_node(found, probes)
        elsewhere = worker.ready([str(tmp_path / "other" / "probe")])
        with pytest.raises(StoreError, match=r"does not see the workspace .*work: --workspace must lie on storage"):
            ray_engine._check_node(elsewhere, probes)
        with pytest.raises(RecipeError, match=r"runs tamis 0\.0, this machine"):
            ray_engine._check_node({**found, "tamis": "0.0"}, probes)
        ray_engine._check_node({**found, "torch": "1.0"}, probes)
    assert "torch 1.0 and" in caplog.text
    assert not list((tmp_path / "work" / "store").iterdir())


def test_a_model_that_differs_on_a_node_is_refused_before_a_job_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAMIS_UNTIL", "inf")  # a job sets it: put back at the end
    worker = ray_engine.Worker(1, str(tmp_path / "nowhere"))
    monkeypatch.setitem(ray_engine._INSIDE, "worker", False)
    model = ModelRef(name="tamis:tiny-lm")
    job = SimpleNamespace()
    digest = content_digest(folder_of(model.name))
    assert ray_engine.models_in(Trained(model, Inner(model))) == {model.name: digest}
    assert worker.run(square, 4, {model.name: digest}, "") == (16, [])
    with pytest.raises(StoreError, match="is another than on the machine that started the run"):
        worker.run(square, job, {model.name: "0" * 32}, "")


@dataclasses.dataclass(frozen=True)
class Inner:
    """A component with a model."""

    model: ModelRef


@dataclasses.dataclass(frozen=True)
class Trained:
    """A job with a model, and one in a component."""

    model: ModelRef
    component: Inner


def test_an_engine_that_is_not_there_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="there is no engine 'spark'; engines: local, ray"):
        machine(engine="spark", device="cpu")
    monkeypatch.setattr(ray_cluster, "installed", lambda: False)
    with pytest.raises(RecipeError, match=r"pip install 'tamis\[ray\]'"):
        machine(engine="ray", device="cpu")


def test_a_cluster_that_does_not_answer_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "installed", lambda: True)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(RecipeError, match=r"no Ray cluster answers at RAY_ADDRESS=127\.0\.0\.1:.*ray start --head"):
            machine(engine="ray")


def test_logs_of_clusters_whose_process_is_dead_are_removed_and_no_others(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    for name in (f"tamis-ray-{dead.pid}-a", f"tamis-ray-{os.getpid()}-b", "tamis-ray-mine-c", "other"):
        (tmp_path / name).mkdir()
    ray_cluster._sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"tamis-ray-{os.getpid()}-b", "tamis-ray-mine-c", "other"}


def test_workers_and_what_only_this_process_sees_are_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "installed", lambda: True)
    on = machine(engine="ray", device="cpu")
    assert (on.engine, on.workers, on.processes) == ("ray", 0, 1)
    assert (on.alone.engine, on.alone.workers) == ("local", 1)
    assert (on.here.engine, on.here.workers) == ("local", len(os.sched_getaffinity(0)))
