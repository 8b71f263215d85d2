"""Hostile input at its full size, through the command line: lines of 100 MB, bombs of gigabytes; all bounded."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

LINE, BOMB = 100 << 20, 4 << 30
GOOD = b'{"text": "a good row"}\n'


def many(member: bytes, expands_to: int) -> bytes:
    """Members of a gzip or zstd file one after the other, which is one such file."""
    return member * (BOMB // expands_to)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def parquet_bomb(file: Path) -> None:
    """20 GB of text in a few kilobytes: one value of 1 MB, 20,000 times."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * (1 << 20)]))
    pq.write_table(pa.table({"text": column}), file, compression="zstd", row_group_size=20_000)


FILES: dict[str, Callable[[], bytes]] = {
    "line.jsonl": lambda: b'{"text": "' + b"x" * LINE + b'"}\n' + GOOD,
    "array.json": lambda: b'[{"text": "' + b"x" * LINE + b'"}, {"text": "a good row"}]',
    "open.json": lambda: b'[{"text": "' + b"x" * LINE,
    "digits.jsonl": lambda: b"1" * LINE + b"\n" + GOOD,
    "quote.csv": lambda: b'prompt,completion\n"' + b"x" * LINE + b'",a\nq,a\n',
    "quotes.csv": lambda: b"prompt,completion\n" + b'"' * LINE + b"\nq,a\n",
    "text.txt": lambda: b"x" * LINE + b"\na good row\n",
    "zeros.jsonl.gz": lambda: many(gzip.compress(bytes(16 << 20)), 16 << 20),
    "zeros.jsonl.zst": lambda: many(zstd(bytes(64 << 20)), 64 << 20),
    "zeros.xz": lambda: lzma.compress(bytes(64 << 20), preset=0) * 10,
    "spaces.json.gz": lambda: many(gzip.compress(b"[" + b" " * (16 << 20)), 16 << 20),
}


METERED = """
import json, resource, subprocess, sys
done = subprocess.run([sys.executable, "-c", "from tamis.cli import main; main()", *sys.argv[1:]])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"code": done.returncode, "seconds": used.ru_utime + used.ru_stime, "kilobytes": used.ru_maxrss}))
"""  # in a process of its own: the peak of children is that of all that a process ever had


def run(*arguments: object, seconds: int = 900) -> tuple[dict[str, Any], int]:
    """What the command says as JSON, and the peak of its memory in MB."""
    command = [sys.executable, "-c", METERED, *map(str, arguments), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds, check=False)
    *_, said, used = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(said)
    metered: dict[str, Any] = json.loads(used)
    assert "Traceback" not in done.stderr and metered["code"] in (0, 1, 2), done.stderr[-2000:]
    assert metered["seconds"] < 30
    return found, metered["kilobytes"] // 1024


@pytest.mark.soak
@pytest.mark.parametrize("name", list(FILES))
def test_what_is_far_too_large_is_refused_in_bounded_memory(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name]())
    found, megabytes = run("ingest", tmp_path / name, "--out", tmp_path / "pool")
    about = found["files"][0]
    assert about["quarantined"] >= 1 and about["rows"] == about["kept"] + about["quarantined"], about
    assert about["kept"] <= 1
    assert any(
        part in reason for reason in found["quarantine"] for part in ("16 MiB", "breaks off", "xz", "CSV", "cells")
    )
    assert megabytes < 1000, f"{megabytes} MB"
    assert {path.name for path in tmp_path.iterdir()} == {name, "pool"}


@pytest.mark.soak
def test_a_table_that_expands_is_read_in_bounded_memory(tmp_path: Path) -> None:
    from tamis.ingest import readers

    parquet_bomb(tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 1 << 20
    packed = readers.container(tmp_path / "bomb.parquet", "bomb.parquet")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = 0
    for block in readers.blocks(tmp_path / "bomb.parquet", packed):
        rows += sum(1 for _ in readers.records(block, packed))
        if rows >= 2000:
            break
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_200_000  # kilobytes; all of it is 20 GB
