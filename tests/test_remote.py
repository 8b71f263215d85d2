"""Remote storage: what is read from and written to an S3-compatible server of the test's own is what lies here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import small
import tiny
from tamis import remote
from tamis.errors import DataError
from tamis.exporting import export
from tamis.ingest import ingest
from tamis.ingest.sources import resolve
from tamis.remote import publish, send, writable
from tamis.store import Store

ROWS = "".join(json.dumps({"instruction": f"say {number}", "output": str(number)}) + "\n" for number in range(7))
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
SERVER = """
import sys
from werkzeug.serving import make_server
from moto.server import DomainDispatcherApplication, create_backend_app
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.port, flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Address of an S3-compatible server in a process of its own on 127.0.0.1; stopped by its id."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        assert port, "the server did not come up"
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(20)


@pytest.fixture
def lake(s3: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty bucket, with the credentials of somebody who may use it in the environment."""
    import s3fs  # type: ignore[import-untyped]

    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": s3}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.mkdir("s3://lake")
    yield system
    system.rm("s3://lake", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.soak
def test_files_of_a_bucket_are_read_one_by_one_and_by_pattern(lake: Any, tmp_path: Path) -> None:
    lake.pipe({"lake/in/a.jsonl": ROWS.encode(), "lake/in/b.jsonl": ROWS[:-1].encode(), "lake/in/c.txt": b"no"})
    pool = ingest(["s3://lake/in/*.jsonl"], Store(tmp_path / "store"))
    assert [file["name"] for file in pool.files] == ["s3://lake/in/a.jsonl", "s3://lake/in/b.jsonl"]
    assert len(pool) == 14
    for name, said in (
        ("s3://lake/in/none.jsonl", "there is no such remote file"),
        ("s3://nobody/a.jsonl", "there is no such remote file"),
        ("s3://lake/out/*.jsonl", "the pattern matches no file"),
        ("gs://lake/a.jsonl", "pip install 'gcsfs'"),
    ):
        with pytest.raises(DataError, match=said):
            resolve([name], tmp_path / "scratch")


@pytest.mark.soak
def test_exports_and_columns_that_are_sent_are_those_that_lie_here(lake: Any, tmp_path: Path) -> None:
    pool = tiny.make_pool(tmp_path / "pool", tiny.make_rows(9))
    for form, name in (("jsonl", "x.jsonl"), ("axolotl", "y.jsonl"), ("hf", "folder")):
        here = export(pool, [4, 2, 7], tmp_path / "here" / name, form)
        there = export(pool, [4, 2, 7], f"s3://lake/out/{name}", form)
        assert str(there.path) == f"s3://lake/out/{name}" and there.rows == here.rows
        for file in (tmp_path / "here").rglob(f"{Path(name).stem}*/**/*.parquet" if form == "hf" else f"{name}"):
            place = file.relative_to(tmp_path / "here").as_posix()
            assert lake.cat(f"lake/out/{place}") == file.read_bytes(), place
    assert b"s3://lake/out/y.jsonl" in lake.cat("lake/out/y.yaml")  # where the trainer will find it


@pytest.mark.soak
def test_what_cannot_be_sent_is_said_and_nothing_half_written_stays(
    lake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    with pytest.raises(DataError, match="there is no such bucket or folder"):
        send(tmp_path, files, "s3://nobody/x")
    (tmp_path / "b.txt").chmod(0)
    gone = [*files[:1], tmp_path / "c.txt"]
    with pytest.raises(DataError):
        send(tmp_path, gone, "s3://lake/x")
    assert not lake.find("lake"), "the first file was taken back"
    with pytest.raises(RuntimeError, match="on purpose"), writable("s3://lake/y.csv") as file:
        file.write_text("half")
        raise RuntimeError("on purpose")
    assert not lake.find("lake")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DataError, match="Unable to locate credentials"):
        send(tmp_path, files[:1], "s3://lake/x")


def test_denied_is_said_with_what_to_look_at() -> None:
    with pytest.raises(DataError, match=r"s3://lake/x: access denied \(Forbidden\); check the credentials"):
        with remote.told("s3://lake/x"):
            raise PermissionError("Forbidden")


@pytest.mark.soak
@pytest.mark.flow
def test_a_run_from_a_bucket_is_published_to_it_whole_and_manifest_last(lake: Any, s3: str, tmp_path: Path) -> None:
    lake.pipe("lake/in/a.jsonl", ROWS.encode())
    recipe = tmp_path / "remote.yaml"
    recipe.write_text(
        "pool: {files: ['s3://lake/in/a.jsonl']}\nscores: {score: length}\n"
        "subset: {select: top, budget: 3, by: length.response}\npublish: s3://lake/runs\n"
    )
    ways = {**ENVIRONMENT, "AWS_ENDPOINT_URL": s3}
    run = small.tamis("run", recipe, "--workspace", tmp_path / "work", "--json", environment=ways)
    out, err = run.communicate(timeout=900)
    assert run.returncode == 0, err[-3000:]
    found = json.loads(out)
    folder = Path(found["run"])
    assert found["published"] == f"s3://lake/runs/{folder.name}"
    names = {"subset.parquet", "ledger.parquet", "report.html", "manifest.json", "recipe.lock.yaml"}
    for name in names:
        assert lake.cat(f"lake/runs/{folder.name}/{name}") == (folder / name).read_bytes(), name
    times = {Path(place).name: about["LastModified"] for place, about in lake.find("lake/runs", detail=True).items()}
    assert times["manifest.json"] == max(times.values()) and "pool.json" not in times
    later = small.tamis("publish", "--workspace", tmp_path / "work", "--to", "s3://nobody/x", environment=ways)
    _, err = later.communicate(timeout=300)
    assert later.returncode == 2 and "there is no such bucket or folder" in err and "Traceback" not in err


def test_folders_are_addresses_too_and_an_unfinished_run_is_not_published(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "assets").mkdir(parents=True)
    (run / "assets" / "plot.js").write_text("js")
    with pytest.raises(DataError, match="the run is not finished"):
        publish(run, f"file://{tmp_path}/to")
    for name in ("manifest.json", "subset.parquet", "pool.json", ".hidden"):
        (run / name).write_text(name)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "warmup").symlink_to(tmp_path, target_is_directory=True)
    sent = publish(run, f"file://{tmp_path}/to")
    assert [address.removeprefix(f"file://{tmp_path}/to/run/") for address in sent] == [
        "assets/plot.js",
        "subset.parquet",
        "manifest.json",
    ]
    assert (tmp_path / "to" / "run" / "assets" / "plot.js").read_text() == "js"
