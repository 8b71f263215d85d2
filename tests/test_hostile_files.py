"""Hostile files: each is refused in words or read as far as it goes; nothing hangs, nothing outside is touched."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import socket
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hostile import KEPT, Case, check_files, rejects
from tamis.errors import DataError, RecipeError
from tamis.ingest import ingest, preview, readers
from tamis.pool import Pool
from tamis.store import Store

ROWS = [{"prompt": f"q {i}", "completion": "a"} for i in range(50)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
GZIP = gzip.compress(JSONL, mtime=0)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def parquet(table: pa.Table, **settings: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **settings)
    return bytes(sink.getvalue())


def arrow(table: pa.Table, *, stream: bool) -> bytes:
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def zipped(name: str = "a.jsonl", data: bytes = JSONL) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, data)
    return sink.getvalue()


def tarred(name: str, data: bytes = JSONL, mode: str = "w") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as file:  # type: ignore[call-overload]
        about = tarfile.TarInfo(name)
        about.size = len(data)
        file.addfile(about, io.BytesIO(data))
    return sink.getvalue()


class Runs:
    """A pickle that would write a file where it is loaded."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/tamis-was-here",)


TABLE = pa.Table.from_pylist(ROWS)
PARQUET = parquet(TABLE)
FILE, STREAM = arrow(TABLE, stream=False), arrow(TABLE, stream=True)
TEXT = '{"text": "ü"}\n' * 3
BREAKS = "the file breaks off here"


def nested_table(levels: int) -> pa.Table:
    array: Any = pa.array([1])
    for _ in range(levels):
        array = pa.array([[0]]).type and pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), array)
    return pa.table({"text": ["t"], "m": array})


CLASSES: dict[str, list[Case]] = {
    "empty files": [
        Case(b"", name="a.jsonl"),
        Case(b"", name="a.json"),
        Case(b"", name="a.csv"),
        Case(b"", name="a.parquet"),
        Case(b"", name="a.txt"),
        Case(b"\n\n \t\n", name="b.jsonl"),
        Case(gzip.compress(b""), name="a.jsonl.gz"),
        Case(zstd(b""), name="a.jsonl.zst"),
    ],
    "byte order marks and other encodings": [
        Case(TEXT.encode("utf-8-sig"), name="a.jsonl"),
        Case(TEXT.encode("utf-16"), "UTF-16 text: turn it into UTF-8", "b.jsonl"),
        Case(b"\xfe\xff" + TEXT.encode("utf-16-be"), "UTF-16 text", "c.jsonl"),
        Case(TEXT.encode("utf-32"), "UTF-32 text", "d.jsonl"),
        Case(b"\x00\x00\xfe\xff" + TEXT.encode("utf-32-be"), "UTF-32 text", "e.json"),
        Case(b"prompt,completion\nq,a\n".decode().encode("utf-16"), "UTF-16 text", "f.csv"),
        Case(TEXT.encode("utf-16-le"), "broken JSON|invalid UTF-8", "g.jsonl"),
        Case(TEXT.encode("latin-1"), "invalid UTF-8 at byte 10", "h.jsonl"),
    ],
    "truncated gzip and zstd": [
        Case(GZIP[:-5], BREAKS, "a.jsonl.gz"),
        Case(GZIP[:12], BREAKS, "b.jsonl.gz"),
        Case(GZIP[:2], BREAKS, "c.gz"),
        Case(GZIP[:40] + b"\xff" * 20 + GZIP[60:], BREAKS, "d.jsonl.gz"),
        Case(GZIP + b"junk", BREAKS, "e.jsonl.gz"),
        Case(zstd(JSONL)[:-9], BREAKS, "f.jsonl.zst"),
        Case(zstd(JSONL)[:6], BREAKS, "g.jsonl.zst"),
        Case(b"\x28\xb5\x2f\xfd" + b"\0" * 40, BREAKS, "h.jsonl.zst"),
    ],
    "archives that pose as data": [
        Case(zipped(), "a zip archive: unpack it", "a.jsonl"),
        Case(zipped("../../x"), "a zip archive", "b.csv"),
        Case(tarred("../../x"), "a tar archive", "c.jsonl"),
        Case(tarred("x", mode="w:gz"), "a tar archive", "d.jsonl.gz"),
        Case(bz2.compress(JSONL), "a bzip2 archive", "e.jsonl"),
        Case(lzma.compress(JSONL), "an xz archive", "f.jsonl"),
        Case(b"7z\xbc\xaf\x27\x1c" + b"x" * 99, "a 7z archive", "g.jsonl"),
        Case(gzip.compress(GZIP), "a gzip file inside", "h.jsonl.gz"),
    ],
    "programs, pickles and other files": [
        Case(pickle.dumps(Runs()), "a pickle: it may run code and is never opened", "a.jsonl"),
        Case(pickle.dumps(Runs(), 2), "a pickle", "b.parquet"),
        Case(pickle.dumps(Runs(), 3), "a pickle", "c.json"),
        Case(b"\x93NUMPY\x01\x00v\x00", "a NumPy array", "d.jsonl"),
        Case(b"\x7fELF" + b"\0" * 99, "a program", "e.jsonl"),
        Case(b"SQLite format 3\x00" + b"\0" * 99, "an SQLite database", "f.jsonl"),
        Case(b"%PDF-1.7\n%\xe2\xe3", "a PDF document", "g.txt"),
        Case(b"\x89PNG\r\n\x1a\n", "a picture", "h.json"),
    ],
    "broken Parquet": [
        Case(PARQUET[:-9], BREAKS, "a.parquet"),
        Case(PARQUET[:40], BREAKS, "b.parquet"),
        Case(b"PAR1" + b"\xff" * 200 + b"PAR1", BREAKS, "c.parquet"),
        Case(PARQUET[:-8] + b"\xff\xff\xff\x7fPAR1", BREAKS, "d.parquet"),
        Case(PARQUET[:30] + bytes(60) + PARQUET[90:], BREAKS, "e.parquet"),
        Case(b"PARE" + b"\0" * 100 + b"PARE", "an encrypted Parquet file", "f.parquet"),
        Case(parquet(pa.table({"n": [1, 2]})), r"no known fields \(found: n\)", "g.parquet"),
        Case(parquet(TABLE.slice(0, 0)), KEPT, "h.parquet"),
    ],
    "strange Parquet": [
        Case(parquet(pa.table({"text": [1, 2]})), "text is a number", "a.parquet"),
        Case(parquet(pa.table({"text": pa.array([b"\xff\xfe"])})), KEPT, "b.parquet"),
        Case(
            parquet(pa.table({"text": ["t"], "when": pa.array([2**61], pa.timestamp("us"))})),
            "cannot be read",
            "c.parquet",
        ),
        Case(parquet(nested_table(40)), KEPT, "d.parquet"),
        Case(parquet(pa.table({"text": ["t"], "m": pa.array([float("inf")])})), KEPT, "e.parquet"),
        Case(parquet(TABLE.replace_schema_metadata({"pandas": "{broken", "<script>": "\xff" * 9})), KEPT, "f.parquet"),
        Case(parquet(pa.table({f"c{n}": ["x"] for n in range(2000)})), "no known fields", "g.parquet"),
        Case(parquet(pa.table([["t"], ["u"]], ["text", "../../x\x1b[2J"])), KEPT, "h.parquet"),
    ],
    "broken Arrow": [
        Case(FILE[:-40], BREAKS, "a.arrow"),
        Case(FILE[:30], BREAKS, "b.feather"),
        Case(STREAM[:200], BREAKS, "c.arrow"),
        Case(b"ARROW1\0\0" + b"\xff" * 99, BREAKS, "d.arrow"),
        Case(b"\xff\xff\xff\xff\xff\xff\xff\x7f", BREAKS, "e.arrow"),
        Case(b"\xff\xff\xff\xff" + b"\0" * 64, BREAKS, "f.arrow"),
        Case(STREAM[:-30], BREAKS, "g.arrow"),
        Case(STREAM[: len(STREAM) // 2], BREAKS, "h.arrow"),
    ],
    "hostile CSV": [
        Case(b"prompt,completion\n=cmd|'/c calc'!A1,+1\n@SUM(1),-2\n", KEPT, "a.csv"),
        Case(b'prompt,completion\n"q,a\n' + b"x,y\n" * 2000, "cells where", "b.csv"),
        Case(b"prompt,completion\nq\0,a\n", "NUL", "c.csv"),
        Case(b"prompt,completion\nq;a\nq\ta\n", "1 cells where the first row has 2", "d.csv"),
        Case(b"prompt,completion\n" + b'"' * 9999 + b",a\n", "cells where|broken CSV", "e.csv"),
        Case(b"prompt,completion\nq" + b",a" * 50_000 + b"\n", "50001 cells where", "f.csv"),
        Case(b"prompt,prompt\nq,a\n", "no known fields", "g.csv"),
        Case(b"prompt,completion\rq,a\r", "cells|new-line|broken CSV|no known fields", "h.csv"),
    ],
    "broken JSON documents": [
        Case(b"[" + b'{"text": "a"},' * 9, "never closed|breaks off", "a.json"),
        Case(b'[{"text": "a"}]]]]', "text after the end", "b.json"),
        Case(b"{", "broken JSON|never closed", "c.json"),
        Case(b'{"data": [{"text": "a"}, {"text":', "breaks off", "d.json"),
        Case(b"nonsense", "broken JSON", "e.json"),
        Case(b'[{"text": "a"}, , {"text": "b"}]', KEPT, "f.json"),
        Case(b"[[[[[[", "broken JSON", "g.json"),
        Case(b'[{"text": "a"} {"text": "b"}]', "broken JSON", "h.json"),
    ],
}


@pytest.mark.parametrize("name", list(CLASSES))
def test_every_hostile_file_has_its_outcome(tmp_path: Path, name: str) -> None:
    cases = CLASSES[name]
    assert len(cases) == 8
    started = time.process_time()
    check_files(tmp_path, cases)
    assert time.process_time() - started < 5
    assert not Path("/tmp/tamis-was-here").exists()


def outside(folder: Path) -> Path:
    """A file that no input names."""
    (folder / "outside").mkdir()
    (folder / "outside" / "secret.jsonl").write_bytes(b'{"text": "secret"}\n')
    return folder / "outside" / "secret.jsonl"


def link(place: Path, target: Path | str) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)
    return place


def pipe(place: Path) -> Path:
    os.mkfifo(place)
    return place


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def unix_socket(place: Path) -> Path:
    here = Path.cwd()
    os.chdir(place.parent)  # the path of a socket is at most 108 bytes long
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(place.name)
    finally:
        os.chdir(here)
    return place


def dataset(folder: Path, state: Any, **files: bytes) -> Path:
    folder.mkdir()
    (folder / "dataset_info.json").write_text("{}", encoding="utf-8")
    (folder / "state.json").write_text(state if isinstance(state, str) else json.dumps(state), encoding="utf-8")
    for name, data in files.items():
        (folder / f"{name}.arrow").write_bytes(data)
    return folder


def splits(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / "dataset_dict.json").write_text(content, encoding="utf-8")
    return folder


def state(*names: str) -> dict[str, Any]:
    return {"_data_files": [{"filename": name} for name in names]}


NAMED: dict[str, list[tuple[Callable[[Path], Path | str], str]]] = {
    "links out of the folder and loops": [
        (lambda at: link(at / "in" / "a.jsonl", outside(at)).parent, "links to .*secret.jsonl, outside of the folder"),
        (lambda at: link(at / "in" / "a.jsonl", "/etc/passwd").parent, "links to /etc/passwd"),
        (
            lambda at: link(at / "in" / "deep" / "a.csv", "../../../../../../../../../etc/hostname").parent.parent,
            "links to",
        ),
        (lambda at: link(at / "a.jsonl", "a.jsonl"), "cannot be looked at .*symbolic links|no such file"),
        (
            lambda at: (link(at / "a.jsonl", "b.jsonl"), link(at / "b.jsonl", "a.jsonl"))[0],
            "symbolic links|no such file",
        ),
        (lambda at: link(at / "in" / "loop", "..").parent, "the folder holds no data file"),
        (lambda at: link(at / "a.jsonl", "gone.jsonl"), "there is no such file"),
        (lambda at: link(at / "in" / "a.jsonl", "/dev/zero").parent, "holds no data file|links to /dev/zero"),
    ],
    "pipes, devices, sockets and folders": [
        (lambda at: pipe(at / "a.jsonl"), "neither a file nor a folder"),
        (lambda at: pipe(at / "a.parquet"), "neither a file nor a folder"),
        (lambda at: "/dev/zero", "neither a file nor a folder"),
        (lambda at: "/dev/null", "neither a file nor a folder"),
        (lambda at: unix_socket(at / "a.jsonl"), "neither a file nor a folder"),
        (lambda at: pipe(at / "a.yaml"), "neither a file nor a folder"),
        (lambda at: f"llama_factory:{pipe(at / 'x')}", "no list of data sets"),
        (lambda at: folder(at / "a.jsonl"), "the folder holds no data file"),
    ],
    "names": [
        (lambda at: "x" * 5000, "cannot be looked at"),
        (lambda at: "a\0b.jsonl", "cannot be looked at|no such file"),
        (lambda at: at / ("../" * 40 + "nothing.jsonl"), "no such file"),
        (lambda at: "", "no data file|no such file|no input"),
        (lambda at: at / "[", "no such file|matches no file"),
        (lambda at: at / "**" / "*" / "**" / "x*", "matches no file"),
        (lambda at: "tamis:../../pyproject.toml", "ships no"),
        (lambda at: "-rf", "no such file"),
    ],
    "dataset folders that lie": [
        (lambda at: dataset(at / "d", state(str(outside(at)))), "names .*secret.jsonl', which does not lie beside it"),
        (lambda at: dataset(at / "d", state("../outside/secret.jsonl")), "does not lie beside it"),
        (lambda at: dataset(at / "d", state("gone.arrow")), "does not lie beside it"),
        (lambda at: dataset(at / "d", "{broken"), "is not what `datasets` writes"),
        (lambda at: dataset(at / "d", [1, 2]), "is not what `datasets` writes"),
        (lambda at: splits(at / "d", json.dumps({"splits": ["../../etc"]})), "does not lie beside it"),
        (lambda at: splits(at / "d", "[" * 100_000), "is not what `datasets` writes"),
        (lambda at: splits(at / "d", json.dumps({"splits": ["/etc"]})), "does not lie beside it"),
    ],
}


@pytest.mark.parametrize("name", list(NAMED))
def test_every_hostile_name_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(NAMED[name]) == 8
    for number, (make, message) in enumerate(NAMED[name]):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        given = str(make(folder))
        started = time.process_time()
        with pytest.raises((DataError, RecipeError), match=message):
            ingest([given], Store(folder / "store"))
        assert time.process_time() - started < 5, given
        assert not [entry for entry in Store(folder / "store").entries("shard")]


def test_links_that_stay_inside_are_followed_and_so_is_the_cache_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(JSONL)
    link(tmp_path / "in" / "b.jsonl", "a.jsonl")
    assert len(ingest([str(tmp_path / "in")], Store(tmp_path / "s"))) == 100
    hub = tmp_path / "hub" / "datasets--x"
    (hub / "blobs").mkdir(parents=True)
    (hub / "blobs" / "abc").write_bytes(JSONL)
    link(hub / "snapshots" / "1" / "a.jsonl", "../../blobs/abc")
    assert len(ingest([str(hub / "snapshots" / "1")], Store(tmp_path / "s"))) == 50


def test_a_dataset_folder_runs_no_script(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d", state("data.arrow"), data=STREAM)
    for name in ("d.py", "dataset.py", "conftest.py", "__init__.py"):
        (folder / name).write_text("open('/tmp/tamis-was-here', 'w')", encoding="utf-8")
    assert len(ingest([str(folder)], Store(tmp_path / "s"))) == 50
    assert not Path("/tmp/tamis-was-here").exists()


NAMES = (
    "a\nb.jsonl",
    "a\x1b[2J.jsonl",
    "\u202etxt.jsonl",
    "é" * 100 + ".jsonl",
    "a b'\";$(id).jsonl",
    "-n.jsonl",
    "<b>.jsonl",
    "x" * 240 + ".jsonl",
)


def test_files_of_any_name_are_read_and_their_names_steer_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tamis.cli import main

    for name in NAMES:
        (tmp_path / name).write_bytes(JSONL)
    with pytest.raises(SystemExit) as left:
        main(["ingest", *(str(tmp_path / name) for name in NAMES), "--out", str(tmp_path / "pool")])
    printed = capsys.readouterr().out
    assert left.value.code == 0 and len(Pool.open(tmp_path / "pool")) == 400
    assert {row.file for row in Pool.open(tmp_path / "pool")} == set(NAMES)
    assert "\x1b" not in printed and "\u202e" not in printed and "a\\nb.jsonl" in printed


def test_a_file_that_grows_or_vanishes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = readers.blocks
    for what, act in (
        ("grows", lambda file: file.write_bytes(JSONL * 2)),
        ("shrinks", lambda file: file.write_bytes(JSONL[:100])),
        ("is another", lambda file: (file.unlink(), file.write_bytes(JSONL))),
        ("vanishes", lambda file: file.unlink()),
    ):
        file = tmp_path / f"{what}.jsonl"
        file.write_bytes(JSONL)

        def acting(path: Path, packed: Any, file: Path = file, act: Any = act) -> Any:
            act(file)
            return real(path, packed)

        monkeypatch.setattr(readers, "blocks", acting)
        store = Store(tmp_path / f"store {what}")
        with pytest.raises(DataError, match="changed or vanished while it was read"):
            ingest([str(file)], store)
        assert not list(store.entries("rejects"))


def test_a_file_that_nobody_may_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tamis import digests

    file = tmp_path / "a.jsonl"
    file.write_bytes(JSONL)
    file.chmod(0)

    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(digests, "of_file", denied)  # root may read everything
    with pytest.raises(DataError, match=r"a.jsonl: cannot be read \(Permission denied\)"):
        ingest([str(file)], Store(tmp_path / "s"))


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(readers, "BOMB_BYTES", 1 << 19)
    monkeypatch.setattr(readers, "BOMB_TIMES", 20)
    pack = gzip.compress if kind == "gzip" else zstd
    cases = [
        Case(pack(bytes(4 << 20)), "bomb", "zeros"),
        Case(pack(b'{"text": "a"}\n' * 100_000), "expands to more than 20 times its size", "rows"),
        Case(pack(b"[" + b'{"text": "a"},' * 100_000), "expands to more than 20 times|bomb", "array.json"),
        Case(pack(b"prompt,completion\n" + b"q,a\n" * 400_000), "expands to more than 20 times", "table.csv"),
    ]
    started = time.process_time()
    for case in cases:
        (tmp_path / case.name).write_bytes(case.data)
        pool = ingest([str(tmp_path / case.name)], Store(tmp_path / "s"))
        assert any("bomb" in line["reason"] for line in rejects(pool)), case.name
        assert preview(str(tmp_path / case.name)) is not None
    assert time.process_time() - started < 8
