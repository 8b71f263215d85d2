"""Blocks of a file, judged by however many processes, give one pool: the same bits, in memory that does not grow."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.ingest import Sample, blocks, ingest, readers
from tamis.pool import Pool
from tamis.store import Store
from tamis.values import Machine


def dirty(n: int) -> bytes:
    lines = [json.dumps({"prompt": f"q {i}", "completion": f"a {i % 7}", "n": i}) for i in range(n)]
    lines[3::11] = ["{broken"] * len(lines[3::11])
    return "\n\n".join(lines).encode()


def files(folder: Path) -> list[str]:
    """Every container that is cut in another way, and files that break off inside a block."""
    rows = [{"prompt": f"q {i}", "completion": f"a {i}"} for i in range(40)]
    (folder / "a.jsonl").write_bytes(dirty(50))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(dirty(45), mtime=0))
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(dirty(300), mtime=0)[:-40])
    (folder / "c.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "d.csv").write_text("prompt,completion\n" + "q,a\n" * 33, encoding="utf-8")
    (folder / "e.txt").write_text("a line\n" * 31, encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), folder / "f.parquet", row_group_size=13)
    return [str(folder / name) for name in sorted(path.name for path in folder.iterdir())]


def held(pool: Pool) -> Any:
    """Everything a pool says, by content."""
    rejects = [pq.read_table(file).to_pylist() for file in pool.rejects]
    return pool.digest, [{**about, "path": ""} for about in pool.files], rejects


@pytest.mark.parametrize("rows", [1, 7])
def test_how_blocks_are_cut_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    (tmp_path / "in").mkdir()
    names = files(tmp_path / "in")
    for number, sample in enumerate((None, Sample(5, seed=1, skip=2))):
        monkeypatch.setattr(readers, "BLOCK_ROWS", 1 << 30)
        whole = ingest(names, Store(tmp_path / f"whole{number}"), shard_rows=40, sample=sample)
        monkeypatch.setattr(readers, "BLOCK_ROWS", rows)
        cut = ingest(names, Store(tmp_path / f"cut{number}"), shard_rows=40, sample=sample)
        assert held(cut) == held(whole)
        for about in cut.files:
            assert about["rows"] == about["kept"] + about["quarantined"] + about["dropped"]


def test_a_block_ends_at_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK_BYTES", 100)
    (tmp_path / "a.jsonl").write_bytes(dirty(50))
    found = list(readers.blocks(tmp_path / "a.jsonl", readers.Container("jsonl")))
    assert [block.first for block in found] == [sum(one.size for one in found[:number]) for number in range(len(found))]
    assert sum(block.size for block in found) == 50
    assert max(sum(map(len, block.raws[:-1])) for block in found) < 100


@pytest.mark.soak  # workers are spawned twice
def test_workers_give_the_pool_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK_ROWS", 5)
    monkeypatch.setattr(blocks, "ALONE", 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(dirty(120))
    names = [str(tmp_path / "in" / "a.jsonl")]
    one = ingest(names, Store(tmp_path / "one"), shard_rows=16)
    two = ingest(names, Store(tmp_path / "two"), shard_rows=16, on=Machine(workers=2))
    assert held(two) == held(one) and len(one) > 100


def test_a_shard_of_long_rows_ends_at_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.ingest.assembly.SHARD_BYTES", 2000)
    long = [json.dumps({"text": "x" * (700 if place % 3 else 10)}) for place in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(long), encoding="utf-8")
    pools = []
    for rows in (1, 4, 1024):
        monkeypatch.setattr(readers, "BLOCK_ROWS", rows)
        pools.append(ingest([str(tmp_path / "a.jsonl")], Store(tmp_path / f"s{rows}")))
    assert len({pool.digest for pool in pools}) == 1 and len(pools[0]) == 30
    sizes = [sum(len(row.messages[0]["content"]) for row in shard.read()) for shard in pools[0].shards]
    assert len(sizes) > 5 and max(sizes) < 2800
