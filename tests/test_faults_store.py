"""Faults of disks, by hand: what is cut short or flipped is found, said and made anew; a full disk is one message."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import small
from tamis import digests, intact, writing
from tamis import recipe as recipes
from tamis.engine import machine
from tamis.errors import DataError, GateError, StoreError
from tamis.ingest import ingest
from tamis.models import ModelRef
from tamis.pool import MANIFEST as POOL
from tamis.pool import ROWS, Pool, Shard
from tamis.stages import room
from tamis.stages.conduct import Conductor
from tamis.stages.measure import measure
from tamis.stages.workspace import Workspace
from tamis.store import MANIFEST, Store, save_arrays, scratch, write_text
from tamis.values import Machine, Need
from tamis.views import ShardSignals

KEY = "ab" * 16
ROW = '{"instruction": "add seven", "output": "eleven"}\n'


def make(folder: Path) -> dict[str, int]:
    save_arrays(folder, {"x": np.arange(2000, dtype=np.float32), "y": np.zeros(3)})
    return {"rows": 2000}


def flip(file: Path, place: int = -1, *, keep_times: bool = False) -> None:
    """Turn one bit of a file, in its middle by default; `keep_times` sets the time of its content back."""
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[place if place >= 0 else len(data) // 2] ^= 1
    file.write_bytes(data)
    if keep_times:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def leave(store: Store, what: str) -> None:
    """Damage the entry in one way."""
    entry = store.get("signal", KEY)
    assert entry is not None
    if what == "flipped":
        flip(entry.file("x.npy"))
    elif what == "flipped, times set back":
        flip(entry.file("x.npy"), keep_times=True)
    elif what == "cut short":
        os.truncate(entry.file("x.npy"), 100)
    elif what == "missing":
        entry.file("y.npy").unlink()
    elif what == "manifest flipped":
        text = entry.file(MANIFEST).read_text()
        entry.file(MANIFEST).write_text(text.replace('"rows": 2000', '"rows": 2001'))
    else:
        entry.file(MANIFEST).write_text("{")


@pytest.mark.parametrize(
    "what", ["flipped", "flipped, times set back", "cut short", "missing", "manifest flipped", "manifest broken"]
)
def test_damage_is_found_said_and_made_anew(tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    first = store.get_or_make("signal", KEY, make)
    leave(store, what)
    with caplog.at_level(logging.WARNING):
        again = store.get_or_make("signal", KEY, make)
    assert again.made and again.digest == first.digest and again.facts == {"rows": 2000}
    assert "damaged" in caplog.text and KEY[:8] in caplog.text
    (said,) = store.damages()
    assert said["kind"] == "signal" and said["identity"] == KEY and store.damages(since=1) == []
    assert not store.get_or_make("signal", KEY, make).made


def test_a_bit_that_turned_without_a_write_is_found_where_everything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intact, "_stamp", lambda found: [1, 1])  # as if no time had changed
    store = Store(tmp_path)
    flip(store.get_or_make("signal", KEY, make).file("x.npy"))
    assert store.get("signal", KEY) is not None, "the times say that nothing was written"
    (found,) = store.verify()
    assert "x.npy" in found.what and store.get("signal", KEY) is not None
    monkeypatch.setenv(intact.VERIFY, "always")
    assert store.get("signal", KEY) is None
    monkeypatch.delenv(intact.VERIFY)
    flip(store.get_or_make("signal", KEY, make).file("y.npy"))
    assert len(store.verify(mend=True)) == 1 and store.verify() == []


def test_a_copied_store_is_read_once_and_believed_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path / "one").get_or_make("signal", KEY, make)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    read: list[str] = []
    of_file = digests.of_file

    def noted(path: Path) -> str:
        read.append(path.name)
        return of_file(path)

    monkeypatch.setattr(digests, "of_file", noted)
    store = Store(tmp_path / "two")
    assert store.get("signal", KEY) is not None and sorted(read) == ["x.npy", "y.npy"]
    assert store.get("signal", KEY) is not None and len(read) == 2
    text = store.path("signal", KEY).joinpath(MANIFEST).read_text()
    assert json.loads(text)["facts"] == {"rows": 2000}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_disk_is_full_at_any_file_of_an_entry(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store, put, done = Store(tmp_path), writing.put, []

    def full(temporary: Path, path: Path, *, durable: bool) -> None:
        done.append(path)
        if len(done) == number:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        put(temporary, path, durable=durable)

    monkeypatch.setattr(writing, "put", full)
    with pytest.raises(StoreError, match=r"no space left while writing .* goes on where this one stopped"):
        store.get_or_make("signal", KEY, make)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{KEY}.lock"]
    assert store.get_or_make("signal", KEY, make).made


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EFBIG, "x"), True),
        (OSError("3200 requested and 12 written"), True),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EACCES, "no space left for courtesy"), False),
        (ValueError("7 requested"), False),
    ],
)
def test_a_full_disk_is_known_in_every_tongue(error: Exception, full: bool) -> None:
    assert writing.no_space(error) is full


LIMITED = """
import resource, sys
import numpy as np, pyarrow as pa
from pathlib import Path
from tamis.errors import StoreError
from tamis.store import Store, save_arrays, write_table
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
noise = np.random.default_rng(0).bytes(400_000)
made = {
    "npy": lambda folder: save_arrays(folder, {"x": np.frombuffer(noise, np.uint8)}),
    "parquet": lambda folder: write_table(pa.table({"x": [noise]}), folder / "x.parquet"),
}
for name, make in made.items():
    try:
        Store(Path(sys.argv[1])).get_or_make("signal", "ab" * 16, make)
    except StoreError as error:
        print(name, error)
"""


def test_a_limit_of_file_sizes_is_a_full_disk(tmp_path: Path) -> None:
    out = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert [line.split(" while")[0] for line in out.stdout.splitlines()] == [
        "npy no space left",
        "parquet no space left",
    ]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{KEY}.lock"], out.stderr


def _dead_pid() -> int:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return gone.pid


def test_what_dead_processes_left_is_swept_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = store.get_or_make("signal", KEY, make)
    dead, here = _dead_pid(), writing._HOST
    stale = [
        store.path("signal", "cd" * 16).with_name("partial-" + "cd" * 16),
        tmp_path / f"scratch-{here}-{dead}-x",
        tmp_path / f".damage.jsonl.{here}-{dead}.tmp",
        tmp_path / f".old.json.{here}-{os.getpid()}.tmp",  # of another process that had our number
        tmp_path / f".other.json.elsewhere-{os.getpid()}.tmp",
    ]
    kept = [
        store.path("training", "ef" * 16).with_name("resumable-" + "ef" * 16),
        tmp_path / f".new.json.{here}-{os.getpid()}.tmp",
        tmp_path / f".young.json.elsewhere-{dead}.tmp",
        tmp_path / ".mine.tmp",
    ]
    for path in (*stale, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if path.suffix == "" else path.write_text("x")
    for path in stale[3:]:
        os.utime(path, (time.time() - 200_000,) * 2)
    made = store.path("signal", "aa" * 16)
    made.with_name(f"partial-{made.name}").mkdir(parents=True)
    with scratch(tmp_path) as mine, store._lock(made):
        assert store.sweep() == len(stale)
        assert mine.is_dir() and made.with_name(f"partial-{made.name}").is_dir()
    assert not any(path.exists() for path in stale) and all(path.exists() for path in kept)
    assert store.get("signal", KEY) == entry.__class__(entry.path, entry.facts, entry.digest, entry.seconds)


def test_a_damaged_shard_of_a_pool_is_refused_with_what_to_do_and_made_anew_by_that(tmp_path: Path) -> None:
    data, out = tmp_path / "rows.jsonl", tmp_path / "pool"
    data.write_text(ROW * 5)
    pool = ingest([str(data)], Store(out), shard_rows=2)
    pool.save(out / POOL)
    assert len(Pool.open(out)) == 5
    flip(pool.shards[1].path / ROWS)
    with pytest.raises(DataError, match=r"damaged.*tamis ingest"):
        Pool.open(out)
    kept = (pool.shards[0].path / ROWS).stat().st_mtime_ns
    again = ingest([str(data)], Store(out), shard_rows=2)
    again.save(out / POOL)
    assert again.digest == pool.digest == Pool.open(out).digest
    assert (pool.shards[0].path / ROWS).stat().st_mtime_ns == kept, "what was whole is left alone"


def test_a_file_of_other_content_with_name_size_and_time_of_before_is_read(tmp_path: Path) -> None:
    data, store = tmp_path / "rows.jsonl", Store(tmp_path / "store")
    data.write_text(ROW)
    before, times = ingest([str(data)], store), data.stat()
    data.write_text(ROW.replace("seven", "eight"))
    os.utime(data, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert data.stat().st_size == times.st_size
    after = ingest([str(data)], store)
    assert after.digest != before.digest and "eight" in after.shards[0].read()[0].messages[0]["content"]


def test_text_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a", "old")
    monkeypatch.setattr(writing, "fsync", lambda path: (_ for _ in ()).throw(OSError(errno.EIO, "bad disk")))
    with pytest.raises(OSError, match="bad disk"):
        write_text(tmp_path / "a", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


@pytest.fixture(scope="module")
def conductor(tmp_path_factory: pytest.TempPathFactory) -> Conductor:
    """A recipe whose rows have been read."""
    folder = tmp_path_factory.mktemp("room")
    world = small.make_world(folder / "world")
    recipe = recipes.load(str(world.recipe))
    made = Conductor.of(recipe, Workspace(folder / "work", machine(workers=1), recipe.model))
    made.ingest()
    return made


def test_a_run_that_the_disk_cannot_hold_is_refused_with_what_is_missing(
    conductor: Conductor, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage: Any = namedtuple("usage", "total used free")
    room.check_room(conductor)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1_000_000))
    with pytest.raises(GateError) as refused:
        room.check_room(conductor)
    assert refused.value.exit_code == 3
    assert re.search(r"1 MB are free .*: 6\d\.\d MB are missing", str(refused.value))
    with room.check_kept(False):
        room.check_room(conductor)
    with pytest.raises(GateError):
        room.check_room(conductor)


@dataclass(frozen=True, kw_only=True)
class Fussy:
    """A pass that cannot take one row, as long as a file stands there."""

    stands: str
    revision: ClassVar[int] = 1
    needs: ClassVar[frozenset[Need]] = frozenset()

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> dict[str, Any]:
        """One number a row, or an error."""
        rows = shard.read()
        if Path(self.stands).exists() and any("eight" in row.messages[0]["content"] for row in rows):
            raise ValueError("no room for eight")
        return {"value": np.ones(len(rows), np.float32)}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_an_error_in_one_batch_loses_no_row_silently_and_no_finished_one_at_all(tmp_path: Path, workers: int) -> None:
    data, stands = tmp_path / "rows.jsonl", tmp_path / "stands"
    data.write_text(ROW * 4 + ROW.replace("seven", "eight") + ROW)
    stands.touch()
    work = Workspace(tmp_path / "work", machine(workers=workers, device="cpu"), ModelRef(name="tamis:tiny-lm"))
    pool = ingest([str(data)], work.store, shard_rows=2)
    with pytest.raises(ValueError, match="no room for eight"):
        measure(pool, "fussy", Fussy(stands=str(stands)), work)
    finished = small.finished(tmp_path / "work", "signal")
    assert len(finished) == 2, "the shards before it"
    stands.unlink()
    found = measure(pool, "fussy", Fussy(stands=str(stands)), work)
    assert found.made == 1 and finished.items() <= small.finished(tmp_path / "work", "signal").items()
    assert sum(len(np.load(folder / "value.npy")) for folder in found.folders) == len(pool) == 6
