"""The untouched record of a row is what stands in the file, byte for byte, or it is refused."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import DataError
from tamis.ingest import Sample, ingest, originals, rendered
from tamis.pool import Pool
from tamis.store import Store

LINES = [
    b'{"prompt": "q\\u00e9 0",   "completion": "a", "n": 1.50}\n',
    b'  {"completion": "a", "prompt": "q 1"}\r\n',
    b'{"prompt": "q 2", "prompt": "twice", "x": NaN}\n',
    b'{"prompt": "last"}',
]


def pool_of(tmp_path: Path, name: str, data: bytes, **more: Any) -> Pool:
    (tmp_path / name).write_bytes(data)
    return ingest([str(tmp_path / name)], Store(tmp_path / "store"), **more)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_lines_of_json_come_back_byte_for_byte_in_any_order(tmp_path: Path, pack: Any) -> None:
    data = b"\xef\xbb\xbf" + LINES[0] + b"\n \nbroken\n" + b"".join(LINES[1:])
    pool = pool_of(tmp_path, "a.jsonl", pack(data), shard_rows=2)
    assert list(originals(pool, range(len(pool)))) == LINES
    assert list(originals(pool, [3, 0, 3])) == [LINES[3], LINES[0], LINES[3]]
    assert list(originals(pool, [])) == [] and rendered(pool) == ()


def test_rows_of_csv_come_back_with_their_quotes_and_line_ends(tmp_path: Path) -> None:
    rows = [b'"q ""1""\r\nsecond line", "a"\r\n', b"q,a\r\n", b"caf\xc3\xa9,b"]
    pool = pool_of(tmp_path, "a.csv", b"prompt,completion\r\n" + rows[0] + b"\r\n" + rows[1] + b"q\r\n" + rows[2])
    assert len(pool) == 3
    assert list(originals(pool, [0, 1, 2])) == rows


@pytest.mark.parametrize(
    ("name", "before", "between", "after"),
    [("a.json", b"[\n", b",\n", b"]"), ("w.json", b'{"data": [', b",", b'], "v": 1}'), ("o.json", b"", b"\n", b"\n")],
)
def test_elements_of_json_documents_come_back(
    tmp_path: Path, name: str, before: bytes, between: bytes, after: bytes
) -> None:
    elements = [json.dumps({"prompt": f"q {i}", "completion": "]},{ü"}, indent=2).encode() for i in range(3)]
    pool = pool_of(tmp_path, name, before + between.join(elements) + after)
    assert list(originals(pool, [2, 1, 0])) == elements[::-1]


def test_tables_give_lines_of_json_and_say_so(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["q", "ü"], "completion": ["a", "b"]}), tmp_path / "a.parquet")
    (tmp_path / "b.txt").write_bytes(b"one \r\ntwo")
    pool = ingest([str(tmp_path / "a.parquet"), str(tmp_path / "b.txt")], Store(tmp_path / "store"))
    assert list(originals(pool, [1, 2, 3])) == ['{"prompt":"ü","completion":"b"}\n'.encode(), b"one \r\n", b"two"]
    assert rendered(pool) == (str(tmp_path / "a.parquet"),)


def test_a_saved_pool_finds_its_files_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(b"".join(LINES))
    (tmp_path / "in" / "b.jsonl").write_bytes(LINES[0])
    monkeypatch.chdir(tmp_path)
    names = ["in/*.jsonl", "in/b.jsonl", "tamis:pool.jsonl.gz"]
    pool = ingest(names, Store(tmp_path / "store"), sample=Sample(2))
    pool.save(tmp_path / "store" / "pool.json")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    again = Pool.open(tmp_path / "store")
    found = list(originals(again, range(len(again))))
    assert len(found) == 6 and found[2] == found[3] == LINES[0]
    assert [json.loads(line).get("prompt") for line in found[:2]] == [row.messages[0]["content"] for row in pool][:2]


def test_remote_files_are_fetched_again(tmp_path: Path) -> None:
    import fsspec  # type: ignore[import-untyped]

    for number in range(2):
        with fsspec.open(f"memory://far/{number}.jsonl", "wb") as file:
            file.write(LINES[number])
    pool = ingest(["memory://far/*.jsonl"], Store(tmp_path / "store"))
    assert list(originals(pool, [1, 0])) == LINES[1::-1]
    with fsspec.open("memory://far/1.jsonl", "wb") as file:
        file.write(LINES[0])
    assert list(originals(pool, [0])) == [LINES[0]]
    with pytest.raises(DataError, match=r"memory:/+far/1\.jsonl has changed since it was ingested"):
        list(originals(pool, [0, 1]))


def test_a_file_that_changed_or_is_gone_is_refused(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, "a.jsonl", b"".join(LINES))
    (tmp_path / "a.jsonl").write_bytes(b"".join(LINES).replace(b"last", b"lost"))
    with pytest.raises(DataError, match="has changed since it was ingested"):
        list(originals(pool, [0]))
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataError, match=r"their file is gone: .*there is no such file"):
        list(originals(pool, [0]))
    with pytest.raises(DataError, match="row 9 asked of a pool of 4 rows"):
        list(originals(pool, [9]))


def test_a_pool_that_was_put_together_by_hand_is_refused(tmp_path: Path) -> None:
    one = pool_of(tmp_path, "a.jsonl", b"".join(LINES))
    other = pool_of(tmp_path, "b.jsonl", b"".join(LINES[::-1]))
    with pytest.raises(DataError, match="did not come from"):
        list(originals(Pool(other.shards, one.files), [0]))
    with pytest.raises(DataError, match="its files gave 0"):
        list(originals(Pool(other.shards), [0]))
    shutil.rmtree(tmp_path / "store")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=9), max_size=3), min_size=1, max_size=8),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
    st.booleans(),
    st.randoms(),
)
def test_any_records_come_back(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, str]], end: str, plain: bool, order: Any
) -> None:
    said = [json.dumps({**record, "text": f"t{i}"}, ensure_ascii=plain) for i, record in enumerate(records)]
    data = end.join(said).encode("utf-8", "replace")
    pool = pool_of(tmp_path_factory.mktemp("any"), "a.jsonl", data)
    lines = [line for line in data.splitlines(keepends=True) if line.strip()]
    places = list(range(len(pool)))
    order.shuffle(places)
    expected = [line for line in data.split(b"\n") if line.strip()]
    assert [line.rstrip(b"\n") for line in originals(pool, range(len(pool)))] == [e.rstrip(b"\n") for e in expected]
    assert len(lines) >= len(pool)
    straight = list(originals(pool, range(len(pool))))
    assert list(originals(pool, places)) == [straight[place] for place in places]


@pytest.mark.real
def test_real_files_come_back_byte_for_byte(real_data: Path, tmp_path: Path) -> None:
    file = real_data / "preference" / "hh_harmless_test.jsonl.gz"
    pool = ingest([str(file)], Store(tmp_path / "store"))
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    assert list(originals(pool, range(len(pool)))) == [lines[row.position] for row in pool]
