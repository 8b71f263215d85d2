"""Faults that really befall a whole run; after each the same subset, a ledger that adds up, and nothing left over."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

import small
from small import Run, World
from tamis import writing
from tamis.errors import StoreError
from tamis.operations import deadline
from tamis.pool import ROWS
from tamis.store import Store

pytestmark = pytest.mark.soak
KILLS = 20
PLAIN = """
import json, resource, sys
from pathlib import Path
import small
from tamis.errors import TamisError
from tamis.writing import no_space
folder, recipe, rows, place, workers, most = sys.argv[1:]
if int(most):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
try:
    run = small.conduct(small.World(Path(folder), Path(recipe), int(rows)), Path(place), workers=int(workers))
except TamisError as error:
    sys.exit(f"tamis: {error}")
print(json.dumps({"run": str(run.folder)}))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return small.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def plain(world: World, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Carry the recipe out once, undisturbed."""
    return small.conduct(world, tmp_path_factory.mktemp("plain"))


def start(world: World, place: Path, *, workers: int = 1, most: int = 0) -> subprocess.Popen[str]:
    """Start the recipe in a process of its own, by plain functions; `most`: bytes that a file may have."""
    arguments = [world.folder, world.recipe, world.rows, place, workers, most]
    return subprocess.Popen(
        [sys.executable, "-c", PLAIN, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def finish(run: subprocess.Popen[str]) -> Run:
    """Wait for a run that ends well."""
    out, err = run.communicate(timeout=600)
    assert run.returncode == 0, err[-3000:]
    folder = Path(json.loads(out.splitlines()[-1])["run"])
    return Run(folder, json.loads((folder / "manifest.json").read_text(encoding="utf-8")))


def check(run: Run, plain: Run, world: World) -> None:
    """The run ended as if nothing had been: same subset and arms, every row read in the ledger, nothing left over."""
    assert pq.read_table(run.folder / "subset.parquet").equals(pq.read_table(plain.folder / "subset.parquet"))
    ledger = pq.read_table(run.folder / "ledger.parquet")
    assert len(ledger) == len(set(ledger.column("key").to_pylist())) == world.rows
    assert values(run) == values(plain)
    assert leftovers(run.folder.parents[1]) == []


def values(run: Run) -> list[list[float]]:
    """What every run of every arm was measured to."""
    arms = json.loads((run.folder / "comparison.json").read_text(encoding="utf-8"))["arms"]
    return [[one["value"] for one in arm["runs"]] for arm in arms]


def leftovers(workspace: Path) -> list[str]:
    """Temporary files and folders of a workspace."""
    return [
        path.relative_to(workspace).as_posix()
        for path in workspace.rglob("*")
        if path.name.startswith(("partial-", "resumable-", "scratch-")) or path.name.endswith(".tmp")
    ]


def test_twenty_kills_at_random_moments_of_a_whole_run(world: World, plain: Run, tmp_path: Path) -> None:
    draw = random.Random(20)
    begun = time.monotonic()
    finish(start(world, tmp_path / "timed"))
    whole = time.monotonic() - begun
    kills, place, ends = 0, tmp_path / "work-0", 0
    while kills < KILLS:
        run, begun = start(world, place, workers=1 + kills % 4 // 3), time.monotonic()  # every fourth with workers
        try:
            run.wait(timeout=draw.uniform(0.2, 0.8) * whole)
        except subprocess.TimeoutExpired:
            family = psutil.Process(run.pid).children(recursive=True)
            run.kill()
            run.communicate()
            assert not psutil.wait_procs(family, timeout=60)[1], "workers outlive their parent"
            kills += 1
            continue
        check(finish(run), plain, world)  # finished before the moment came: the next kills fall on a fresh run
        whole = min(whole, time.monotonic() - begun)  # the machine may have been busier when it was timed
        ends += 1
        place = tmp_path / f"work-{ends}"
    check(finish(start(world, place)), plain, world)


def test_two_runs_at_once_on_one_workspace(world: World, plain: Run, tmp_path: Path) -> None:
    both = [start(world, tmp_path) for _ in range(2)]
    for run in [finish(one) for one in both]:
        check(run, plain, world)
    everything = {kind: small.finished(tmp_path, kind) for kind in ("shard", "signal", "training", "items")}
    third = finish(start(world, tmp_path))
    assert {kind: small.finished(tmp_path, kind) for kind in everything} == everything
    assert sum(one["made"] for one in third.manifest["passes"]) == 0


def damaged_in(place: Path) -> dict[str, Callable[[bytes], bytes]]:
    """A file of every kind of entry, by name, and what becomes of its bytes."""

    def flipped(data: bytes) -> bytes:
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]

    def cut(data: bytes) -> bytes:
        return data[: len(data) // 3]

    found: dict[str, Callable[[bytes], bytes]] = {}
    for kind, name, how in (
        ("shard", ROWS, flipped),
        ("shard", ROWS, cut),
        ("signal", "nll.npy", flipped),
        ("signal", "scores.npy", cut),
        ("columns", "*.npy", flipped),
        ("items", "values.npy", flipped),
        ("training", "*/*.safetensors", cut),
    ):
        files = [file for entry in Store(place / "store").entries(kind) for file in sorted(entry.path.glob(name))]
        files = [file for file in files if file.name != "manifest.json" and str(file) not in found]
        found[str(files[len(files) // 2])] = how
    return found


def test_files_of_the_store_that_are_cut_short_or_flipped_are_made_anew_and_it_is_said(
    world: World, plain: Run, tmp_path: Path
) -> None:
    small.conduct(world, tmp_path)
    before = {kind: small.finished(tmp_path, kind) for kind in ("shard", "signal", "training")}
    spoiled = damaged_in(tmp_path)
    for name, how in spoiled.items():
        Path(name).write_bytes(how(Path(name).read_bytes()))
    run = small.conduct(world, tmp_path)
    check(run, plain, world)
    entries = {Path(name).relative_to(tmp_path / "store").parts[2] for name in spoiled}
    seen = [event for event in small.events(tmp_path) if event["event"] == "damaged"]
    parents = {event["entry"] for event in seen if event["entry_kind"] == "rejects"}  # a file is read again for a shard
    assert len(parents) == 1 and {event["entry"] for event in seen} == entries | parents
    assert len(run.manifest["warnings"]) == len(seen)
    assert all("damaged" in one and "made anew" in one for one in run.manifest["warnings"])
    assert "is damaged" in (run.folder / "report.html").read_text(encoding="utf-8")
    after = {kind: small.finished(tmp_path, kind) for kind in before}
    for kind, known in before.items():
        assert {name for name in known if known[name] != after[kind][name]} <= entries, "what is whole is left alone"
    assert Store(tmp_path / "store").verify() == []


def test_the_disk_is_full_at_some_write(
    world: World, plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, counted = writing.put, [0]

    def counting(temporary: Path, path: Path, *, durable: bool) -> None:
        counted[0] += 1
        if counted[0] == counted[-1] and len(counted) > 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        put(temporary, path, durable=durable)

    monkeypatch.setattr(writing, "put", counting)
    small.conduct(world, tmp_path / "counted")
    for moment in sorted(random.Random(8).sample(range(1, counted[0]), 5)):
        counted[:] = [0, moment]
        with pytest.raises(StoreError, match="no space left"):
            small.conduct(world, tmp_path / f"full-{moment}")
        counted[:] = [0]
        check(small.conduct(world, tmp_path / f"full-{moment}"), plain, world)


def test_a_limit_of_file_sizes_in_the_middle_of_a_run(world: World, plain: Run, tmp_path: Path) -> None:
    run = start(world, tmp_path, most=9_000)
    _, err = run.communicate(timeout=300)
    assert run.returncode == 1 and "tamis: no space left while writing" in err and "Traceback" not in err, err[-2000:]
    check(finish(start(world, tmp_path)), plain, world)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory that holds very little."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tamis-test", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # this process still maps files of it


def test_a_disk_that_is_really_full(world: World, plain: Run, tiny_disk: Path) -> None:
    with pytest.raises(StoreError, match="no space left"):
        small.conduct(world, tiny_disk)
    subprocess.run(["mount", "-o", "remount,size=200m", str(tiny_disk)], check=True)
    check(small.conduct(world, tiny_disk), plain, world)


def test_batches_without_memory_are_halved_in_passes_training_and_influence(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers.models.llama.modeling_llama import LlamaModel

    still = [f"{stage}.dropout=0.0" for stage in ("warmup", "final")]  # it is drawn by micro batch
    roomy = small.conduct(world, tmp_path / "roomy", still)
    forward, refused = LlamaModel.forward, []

    def narrow(self: Any, input_ids: Any = None, *rest: Any, **more: Any) -> Any:
        if input_ids is not None and input_ids.numel() > 100:
            refused.append((torch.is_grad_enabled(), input_ids.numel()))
            if len(refused) % 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return forward(self, input_ids, *rest, **more)

    monkeypatch.setattr(LlamaModel, "forward", narrow)
    short = small.conduct(world, tmp_path / "short", still)
    assert {grad for grad, _ in refused} == {False, True}
    assert (
        pq.read_table(short.folder / "subset.parquet")
        .column("key")
        .equals(pq.read_table(roomy.folder / "subset.parquet").column("key"))
    )
    one, other = (pq.read_table(run.folder / "columns.parquet") for run in (roomy, short))
    for name in one.column_names[1:]:
        first, second = (table.column(name).to_numpy() for table in (one, other))
        spread = float(np.nanstd(first))
        assert np.allclose(first, second, atol=1e-4 * spread + 1e-7, rtol=0, equal_nan=True), name
    for mine, theirs in zip(values(roomy), values(short), strict=True):
        assert np.allclose(mine, theirs, rtol=1e-4)


STOPS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


@pytest.mark.flow
@pytest.mark.parametrize(("stop", "code"), STOPS)
def test_a_run_that_is_stopped_says_so_in_one_line_and_goes_on(
    world: World, plain: Run, tmp_path: Path, stop: signal.Signals, code: int
) -> None:
    command = ("run", world.recipe, "--workspace", tmp_path, "--workers", 2)
    run = small.tamis(*command)
    small.wait_for_event(run, tmp_path, event="shard", signal="tokens")
    stopped(run, stop, code)
    again = small.tamis(*command, "--json")
    out, err = again.communicate(timeout=600)
    assert again.returncode == 0, err[-3000:]
    folder = Path(json.loads(out)["run"])
    check(Run(folder, json.loads((folder / "manifest.json").read_text())), plain, world)


@pytest.mark.parametrize(("stop", "code"), STOPS)
def test_a_verb_that_is_stopped_says_so_in_one_line_and_goes_on(
    world: World, tmp_path: Path, stop: signal.Signals, code: int
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join((world.folder / "pool" / "first.jsonl").read_text() for _ in range(60)))
    command = ("score", data, "--with", "perplexity,ifd", "--model", world.folder / "model", "--workspace", tmp_path)
    run = small.tamis(*command, "--workers", 2)
    deadline_at = time.monotonic() + 300
    while not any((tmp_path / "store" / "signal").glob("*/*/manifest.json")):
        assert time.monotonic() < deadline_at and run.poll() is None, run.communicate()
        time.sleep(0.01)
    stopped(run, stop, code)
    again = small.tamis(*command, "--workers", 2, "--json")
    out, err = again.communicate(timeout=600)
    assert again.returncode == 0, err[-3000:]
    made = json.loads(out)["passes"]
    assert sum(one["made"] for one in made.values()) < sum(one["shards"] for one in made.values())
    assert leftovers(tmp_path) == []


def stopped(run: subprocess.Popen[str], stop: signal.Signals, code: int) -> None:
    """Stop a command as a terminal does (Ctrl-C) or a service; it ends with the code, a line, and nobody left."""
    family = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(stop)
    _, err = run.communicate(timeout=120)
    assert run.returncode == code, err[-3000:]
    said = [line for line in err.splitlines() if line.startswith("tamis: ")]
    assert len(said) == 1 and said[0].endswith("the same command goes on where this one stopped")
    assert "Traceback" not in err
    assert not psutil.wait_procs(family, timeout=60)[1]


def test_a_deadline_stops_between_shards_arms_stages_and_steps_and_every_run_goes_on(
    world: World, plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, until = [0], [1]

    def is_up() -> bool:
        asked[0] += 1
        return asked[0] >= until[0]

    monkeypatch.setattr(deadline, "is_up", is_up)
    said = []
    for _ in range(60):
        asked[0], until[0] = 0, until[0] + 5  # every run gets a little further into what is left
        try:
            run = small.conduct(world, tmp_path)
            break
        except deadline.TimeUp as error:
            assert error.exit_code == 130
            said.append(str(error))
    check(run, plain, world)
    together = "\n".join(said)
    for words in ("pass tokens stands at", "a training stands at step", "done: ingest", "left: ", "goes on where"):
        assert words in together, together
