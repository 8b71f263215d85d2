"""A file that grew: its rows keep their keys, its full shards stay as they are, and every key is one row's."""

from __future__ import annotations

import json
from pathlib import Path

from tamis.ingest import ingest
from tamis.pool import Pool
from tamis.store import Store


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"prompt": f"say {text}", "completion": text}).encode() + b"\n" for text in texts)


def read(folder: Path, *files: Path, shard_rows: int = 4) -> Pool:
    return ingest([str(file) for file in files], Store(folder / "store"), shard_rows=shard_rows)


def keys(pool: Pool) -> list[str]:
    return [str(key) for key in pool.table(["key"]).column("key").to_pylist()]


def test_rows_of_a_file_that_grew_keep_keys_and_full_shards(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines(*map(str, range(9)))[:-1])  # the last line has no end yet
    before = read(tmp_path, file)
    file.write_bytes(lines(*map(str, range(9))) + b"broken\n" + lines("new", "newer"))
    after = read(tmp_path, file)
    assert keys(after)[:9] == keys(before)
    assert [shard.digest for shard in after.shards[:2]] == [shard.digest for shard in before.shards[:2]]
    assert [shard.path for shard in after.shards[:2]] == [shard.path for shard in before.shards[:2]]
    assert after.shards[2].digest != before.shards[2].digest  # it was not full: its rows came together anew
    assert [file["quarantined"] for file in after.files] == [1]


def test_a_changed_row_changes_its_key_and_its_shard_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines(*map(str, range(12))))
    before = read(tmp_path, file)
    file.write_bytes(lines(*map(str, range(5)), "other", *map(str, range(6, 12))))
    after = read(tmp_path, file)
    assert [one == other for one, other in zip(keys(before), keys(after), strict=True)] == [*[True] * 5, False] + (
        [True] * 6
    )
    same = [one.digest == other.digest for one, other in zip(before.shards, after.shards, strict=True)]
    assert same == [True, False, True]


def test_equal_rows_at_equal_places_of_files_with_equal_names_have_keys_of_their_own(tmp_path: Path) -> None:
    files = [tmp_path / name / "train.jsonl" for name in ("one", "two", "three")]
    for file, texts in zip(files, (["a", "b"], ["a", "b", "c"], ["z", "b"]), strict=True):
        file.parent.mkdir()
        file.write_bytes(lines(*texts))
    pool = read(tmp_path, *files, files[0])
    assert len(set(keys(pool))) == len(pool) == 9
    assert keys(read(tmp_path, files[2])) == keys(pool)[5:7]  # another first record: nobody else enters its keys


def test_a_file_that_is_added_or_removed_leaves_the_shards_of_the_others(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.jsonl" for name in ("a", "b", "c")]
    for file in files:
        file.write_bytes(lines("same", file.stem))
    whole = read(tmp_path, *files)
    less = read(tmp_path, files[0], files[2])
    assert [shard.digest for shard in less.shards] == [whole.shards[0].digest, whole.shards[2].digest]
