"""What tamis keeps and others may have tampered with: pools, subsets, ratings, models. Refused, and nothing is run."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny
from tamis import subsets
from tamis.cli import output
from tamis.errors import DataError, ModelError
from tamis.ingest import ingest
from tamis.pool import Pool
from tamis.stages import columns_io
from tamis.store import Store
from tamis.time_limits import TooSlow, time_limit
from tamis.values import Subset

MARK = Path("/tmp/tamis-was-here")
ROWS = 20


class Runs:
    """A pickle that would write a file where it is loaded."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {MARK}",)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool in a folder, and a subset of it."""
    folder = tmp_path_factory.mktemp("made")
    lines = [json.dumps({"prompt": f"q {n}", "completion": "a", "id": n}) for n in range(ROWS)]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    pool = ingest([str(folder / "a.jsonl")], Store(folder / "pool"))
    pool.save(folder / "pool" / "pool.json")
    subset = Subset(positions=np.array([3, 1]), gains=np.ones(2, np.float32))
    subsets.save(folder / "subset.parquet", pool, folder / "pool" / "pool.json", subset)
    return folder


def changed(made: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    manifest = json.loads((made / "pool" / "pool.json").read_text(encoding="utf-8"))
    answer = change(manifest)
    return answer if isinstance(answer, str) else json.dumps(manifest)


MANIFESTS: dict[str, list[tuple[Callable[[dict[str, Any]], Any], str]]] = {
    "manifests of pools that lie": [
        (lambda m: m["shards"][0].update(path="../../../../etc"), "is not there"),
        (lambda m: m["shards"][0].update(path="/etc"), "is not there"),
        (lambda m: m["shards"][0].update(digest="0" * 32), "holds other rows"),
        (lambda m: m["shards"][0].update(rows=10**12), "holds other rows"),
        (lambda m: m["shards"][0].update(rows=-1), "holds other rows"),
        (lambda m: m.update(rejects=["/etc/passwd"]), "is not there"),
        (lambda m: m["files"][0].update(rows="many"), "not a manifest of a pool"),
        (lambda m: m["files"][0].pop("kept"), "not a manifest of a pool"),
    ],
    "manifests of pools that are none": [
        (lambda m: "", "not a manifest of a pool"),
        (lambda m: "[]", "not a manifest of a pool"),
        (lambda m: "[" * 100_000, "not a manifest of a pool"),
        (lambda m: '{"shards": 1}', "not a manifest of a pool"),
        (lambda m: '{"shards": [{"path": 3}], "files": [], "rejects": []}', "not a manifest of a pool"),
        (lambda m: '{"shards": [], "files": [7], "rejects": []}', "not a manifest of a pool"),
        (lambda m: '{"shards": [], "files": [], "rejects": [null]}', "not a manifest of a pool"),
        (lambda m: '{"shards": {"a": "b"}, "files": [], "rejects": []}', "not a manifest of a pool"),
    ],
}


@pytest.mark.parametrize("name", list(MANIFESTS))
def test_every_tampered_pool_is_refused(made: Path, tmp_path: Path, name: str) -> None:
    assert len(MANIFESTS[name]) == 8
    for number, (change, message) in enumerate(MANIFESTS[name]):
        file = made / "pool" / f"{name[-4:]}{number}.json"
        file.write_text(changed(made, change), encoding="utf-8")
        with pytest.raises(DataError, match=message):
            Pool.open(file)
    assert len(Pool.open(made / "pool")) == ROWS and Path("/etc/passwd").is_file()


def table_of(made: Path, **columns: Any) -> pa.Table:
    table = pq.read_table(made / "subset.parquet")
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return table


SUBSETS: list[tuple[Callable[[Path], Any], str]] = [
    (lambda made: table_of(made, place=[3, 10**9]), "names rows that the pool of 20 rows does not have"),
    (lambda made: table_of(made, place=[3, -1]), "names rows that the pool"),
    (lambda made: table_of(made, place=["a", "b"]), "no column place of int64"),
    (lambda made: table_of(made).drop_columns(["gain"]), "no column gain"),
    (lambda made: table_of(made, weight=pa.array([np.nan, 1.0], pa.float32())), "weights that are not finite"),
    (lambda made: table_of(made).replace_schema_metadata({"tamis.pool": "/etc/passwd"}), "does not name its pool"),
    (
        lambda made: table_of(made).replace_schema_metadata({"tamis.pool": "/etc", "tamis.digest": "0"}),
        "/etc is not a pool",
    ),
    (lambda made: pickle.dumps(Runs()), "is not a subset"),
]


def test_every_tampered_subset_is_refused(made: Path, tmp_path: Path) -> None:
    assert len(SUBSETS) == 8
    for number, (change, message) in enumerate(SUBSETS):
        file, found = tmp_path / f"{number}.parquet", change(made)
        if isinstance(found, bytes):
            file.write_bytes(found)
        else:
            pq.write_table(found, file)
        with pytest.raises(DataError, match=message):
            subsets.read(file)
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(DataError, match="is not a subset"):
        subsets.read(tmp_path / "pipe.parquet")
    assert len(subsets.read(made / "subset.parquet").positions) == 2 and not MARK.exists()


RATINGS: list[tuple[str, bytes, str]] = [
    ("a.parquet", b"PAR1" + b"\xff" * 99, "cannot be read as parquet"),
    ("b.parquet", pickle.dumps(Runs()), "cannot be read as parquet"),
    ("c.csv", b"", "cannot be read as csv"),
    ("d.csv", b"position,r\n0,1\n0,2\n", "rates 1 rows more than once"),
    ("e.csv", b"position,r\n0,1e300\n", "must be finite 32-bit numbers"),
    ("f.jsonl", b'{"position": 0, "r": ' + b"[" * 5000, "cannot be read as jsonl"),
    ("g.csv", b"position,r\n0,1,2,3\n", "cannot be read as csv"),
    ("h.csv", b"position,=cmd|'/c calc'!A1\n0,x\n", "has no column of numbers"),
]


def test_every_broken_file_of_ratings_is_refused(made: Path, tmp_path: Path) -> None:
    pool = Pool.open(made / "pool")
    assert len(RATINGS) == 8
    for name, data, message in RATINGS:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=message):
            columns_io.read_ratings(pool, tmp_path / name)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="is no file"):
        columns_io.read_ratings(pool, tmp_path / "pipe.csv")
    assert not MARK.exists()


TEXTS = (
    "\x1b[2J\x1b[1;1H", "\x1b]0;owned\x07", "\x1b[32mTRAINED\x1b[0m", "\x9b31mred", "back\x08\x08\x08space",
    "over\rwritten", "\u202egnp.exe", "\x1bP0;1|17/ab\x1b\\",
)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_text_on_the_terminal_steers_nothing(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    output.result({}, [f"row: {text}", *output.table([[text, 1]], ["name", "n"])])
    output.report_failure(DataError(f"{text} is broken"))
    shown = capsys.readouterr()
    for sign in ("\x1b", "\x9b", "\x08", "\r", "\x07", "\u202e"):
        assert sign not in shown.out and sign not in shown.err


LOOPS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(10**12) %}x{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('touch /tmp/tamis-was-here').read() }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 1 // 0 }}",
    "{% for m in messages %}{{ m.content",
]


@pytest.mark.soak
def test_hostile_chat_templates_run_no_code_and_end(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from tamis.chat_template import ChatTemplate, RowRefused

    tokenizer: Any = AutoTokenizer.from_pretrained(str(tiny.make_tokenizer(tmp_path / "t")))
    for template in LOOPS:
        tokenizer.chat_template = template
        started = time.monotonic()
        try:
            text = ChatTemplate("hostile", tokenizer).prompt([{"role": "user", "content": "{{ 7 * 7 }}"}])
            assert "49" not in text and "<class" not in text
        except (RowRefused, ModelError):
            pass
        assert time.monotonic() - started < 60, template
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    said = "{{ ''.__class__ }}{% for i in range(9) %}x{% endfor %}{# #}"
    assert ChatTemplate("plain", tokenizer).prompt([{"role": "user", "content": said}]) == said
    assert not MARK.exists()


def test_a_time_limit_ends_a_loop_and_only_that() -> None:
    with time_limit(60):
        pass
    with pytest.raises(TooSlow), time_limit(0.05):
        while True:
            pass
    time.sleep(0.6)  # a look of the watching thread after the block: nothing is raised here


def broken_model(folder: Path, change: Callable[[Path], Any]) -> Path:
    tiny.make_model(folder)
    change(folder)
    return folder


def swap(file: str, data: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes(data)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs()))


def with_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "hostile", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "code.py").write_text(f"open('{MARK}', 'w')", encoding="utf-8")


MODELS: list[tuple[Callable[[Path], Any], str]] = [
    (swap("tokenizer.json", b"{}"), "no tokenizer can be read"),
    (swap("tokenizer.json", b'{"model": {"type": "BPE", "vocab": 3}}'), "no tokenizer can be read"),
    (swap("tokenizer.json", b"[" * 100_000), "no tokenizer can be read"),
    (swap("model.safetensors", b"\xff" * 7 + b"\x7f" + b"{}"), "no causal language model can be read"),
    (swap("model.safetensors", (10).to_bytes(8, "little") + b"{broken   "), "no causal language model can be read"),
    (swap("config.json", b"{broken"), "no tokenizer can be read|no causal language model"),
    (pickled, "no causal language model can be read"),
    (with_code, "no tokenizer can be read|no causal language model can be read"),
]


@pytest.mark.soak
def test_every_broken_or_hostile_model_is_refused_and_none_runs_code(tmp_path: Path) -> None:
    from tamis.models import ModelRef, open_model, open_tokenizer

    assert len(MODELS) == 8
    for number, (change, message) in enumerate(MODELS):
        folder = broken_model(tmp_path / str(number), change)
        with pytest.raises(ModelError, match=message):
            open_tokenizer(str(folder))
            open_model(ModelRef(name=str(folder)), "cpu")
    assert not MARK.exists()
