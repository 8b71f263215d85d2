"""Laws of the store: whole entries or none, one maker, nothing damaged is used."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tamis import digests
from tamis.errors import StoreError
from tamis.store import MANIFEST, Store, load_arrays, save_arrays


def _make(folder: Path) -> dict[str, int]:
    save_arrays(folder, {"x": np.arange(2000, dtype=np.float32)})
    return {"rows": 2000}


def test_an_entry_is_made_once_and_found_after(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.get_or_make("signal", "ab" * 16, _make)
    again = store.get_or_make("signal", "ab" * 16, lambda folder: pytest.fail("made twice"))
    assert first.made and not again.made
    assert again.facts == {"rows": 2000} and again.digest == first.digest and again.seconds == first.seconds
    assert np.array_equal(load_arrays(again.path)["x"], np.arange(2000, dtype=np.float32))


def test_a_maker_that_fails_leaves_no_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fails(folder: Path) -> None:
        (folder / "half.npy").write_bytes(b"half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.get_or_make("signal", "cd" * 16, fails)
    assert store.get("signal", "cd" * 16) is None
    assert store.get_or_make("signal", "cd" * 16, _make).facts == {"rows": 2000}
    assert not (store.path("signal", "cd" * 16) / "half.npy").exists()


def test_a_resumable_maker_finds_what_the_killed_one_left(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def stops(folder: Path) -> None:
        (folder / "step").write_text("7")
        raise KeyboardInterrupt

    def goes_on(folder: Path) -> dict[str, str]:
        return {"from": (folder / "step").read_text()}

    with pytest.raises(KeyboardInterrupt):
        store.get_or_make("training", "ef" * 16, stops, resumable=True)
    assert store.get_or_make("training", "ef" * 16, goes_on, resumable=True).facts == {"from": "7"}


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    file = store.get_or_make("signal", "ab" * 16, _make).file("x.npy")
    if damage == "missing":
        file.unlink()
    else:
        os.truncate(file, 100)
    assert store.get("signal", "ab" * 16) is None
    assert store.get_or_make("signal", "ab" * 16, _make).made


def test_a_full_disk_is_said_and_leaves_no_entry(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(tmp_path)
    with pytest.raises(StoreError, match="no space left"):
        store.get_or_make("signal", "ab" * 16, full)
    assert store.get("signal", "ab" * 16) is None


_SLOW = """
import sys, time
from pathlib import Path
from tamis.store import Store
def make(folder):
    (folder / "part").write_text("x")
    print("making", flush=True)
    time.sleep(float(sys.argv[2]))
    return {"by": sys.argv[3]}
print(Store(Path(sys.argv[1])).get_or_make("signal", "ab" * 16, make).facts["by"], flush=True)
"""


def _slow(root: Path, seconds: float, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _SLOW, str(root), str(seconds), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    dead = _slow(tmp_path, 60, "dead")
    assert dead.stdout is not None
    assert dead.stdout.readline() == "making\n"
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    dead.stdout.close()
    started = time.monotonic()
    alive = _slow(tmp_path, 0, "alive")
    out, _ = alive.communicate(timeout=20)
    assert out == "making\nalive\n" and time.monotonic() - started < 20


def test_two_processes_make_one_entry(tmp_path: Path) -> None:
    first = _slow(tmp_path, 1.0, "first")
    assert first.stdout is not None
    assert first.stdout.readline() == "making\n"
    second = _slow(tmp_path, 0, "second")
    out, _ = second.communicate(timeout=20)
    assert out == "first\n"
    assert first.communicate(timeout=20)[0] == "first\n"


def test_an_identity_depends_on_content_and_not_on_order_of_keys() -> None:
    assert digests.of_json({"a": 1, "b": [1.5, None]}) == digests.of_json({"b": (1.5, None), "a": 1})
    assert digests.of_json({"a": 1}) != digests.of_json({"a": 2})
    with pytest.raises(TypeError, match="identity"):
        digests.of_json({"a": object()})


def test_the_manifest_names_every_file_with_its_digest(tmp_path: Path) -> None:
    entry = Store(tmp_path).get_or_make("signal", "ab" * 16, _make)
    manifest = json.loads(entry.file(MANIFEST).read_text())
    assert manifest["files"]["x.npy"]["digest"] == digests.of_file(entry.file("x.npy"))
