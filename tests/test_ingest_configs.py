"""The data lists of LLaMA-Factory and Axolotl are read as they are, and what of them is not read is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tamis.errors import DataError
from tamis.ingest import configs, ingest, originals, previews, sources
from tamis.pool import Pool
from tamis.store import Store

ALPACA = {"instruction": "q", "input": "i", "output": "a", "id": 7}
TALK = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


def write(path: Path, records: list[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def info(tmp_path: Path, **entries: Any) -> Path:
    path = tmp_path / "dataset_info.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def read(tmp_path: Path, *names: str) -> Pool:
    return ingest(names, Store(tmp_path / "store"))


def said(pool: Pool) -> list[list[str]]:
    return [[f"{message['role']}:{message['content']}" for message in row.messages] for row in pool]


def test_entries_of_llama_factory_are_read_with_columns_and_tags(tmp_path: Path) -> None:
    write(tmp_path / "plain.jsonl", [ALPACA])
    write(tmp_path / "own.jsonl", [{"q": "ask", "more": "m", "a": "say", "past": [["1", "2"]], "sys": "s"}])
    turns = [{"who": "me", "what": "q"}, {"who": "it", "what": "a"}, {"who": "seen", "what": "s"}]
    write(tmp_path / "talk.jsonl", [{"talk": turns, "rule": "be kind", "tools": '[{"name": "f"}]'}])
    write(tmp_path / "rank.jsonl", [{"conversations": TALK[:1], "up": TALK[1], "down": {"from": "gpt", "value": "b"}}])
    write(tmp_path / "kto.jsonl", [{"messages": TALK, "tag": False}, {"messages": TALK, "tag": True}])
    columns = {"prompt": "q", "query": "more", "response": "a", "history": "past", "system": "sys"}
    tags = {"role_tag": "who", "content_tag": "what", "user_tag": "me", "assistant_tag": "it"}
    path = info(
        tmp_path,
        plain={"file_name": "plain.jsonl", "num_samples": 5, "colour": "red"},
        own={"file_name": "own.jsonl", "columns": columns},
        talk={
            "file_name": "talk.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "talk", "system": "rule", "tools": "tools", "images": "pics"},
            "tags": {**tags, "observation_tag": "seen"},
        },
        rank={
            "file_name": "rank.jsonl",
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {"messages": "conversations", "chosen": "up", "rejected": "down"},
        },
        kto={"file_name": "kto.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages", "kto_tag": "tag"}},
    )
    pool = read(tmp_path, str(path))
    assert said(pool) == [
        ["user:q\ni", "assistant:a"],
        ["system:s", "user:1", "assistant:2", "user:ask\nm", "assistant:say"],
        ["system:be kind", "user:q", "assistant:a", "tool:s"],
        ["user:q"],
        ["user:q", "assistant:a"],
        ["user:q", "assistant:a"],
    ]
    rows = list(pool)
    assert [row.source for row in rows] == ["plain", "own", "talk", "rank", "kto", "kto"]
    assert (rows[3].chosen[0]["content"], rows[3].rejected[0]["content"]) == ("a", "b")
    assert [row.label for row in rows[4:]] == [False, True] and rows[2].tools == '[{"name":"f"}]'
    assert rows[0].meta == {"id": 7}
    notes = [file.get("notes", []) for file in pool.files]
    assert len(notes[0]) == 2 and "num_samples is not read" in notes[0][0] and "'colour' is not known" in notes[0][1]
    assert notes[2] == ["talk.columns: images is not read; tamis reads text; the field stays in meta"]
    assert notes[1] == notes[3] == notes[4] == []
    assert json.loads(next(originals(pool, [1])))["q"] == "ask"


def test_entries_are_asked_for_by_name_number_and_folder(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        write(tmp_path / f"{name}.jsonl", [{"instruction": name}])
    path = info(tmp_path, **{name: {"file_name": f"{name}.jsonl"} for name in ("one", "two", "three")})
    assert [row.source for row in read(tmp_path, f"{path}#three,one")] == ["three", "one"]
    assert [row.source for row in read(tmp_path, f"llama_factory:{tmp_path}#two")] == ["two"]
    path.rename(tmp_path / "list.json")
    assert [row.source for row in read(tmp_path, f"llama_factory:{tmp_path}/list.json#1")] == ["two"]
    with pytest.raises(DataError, match=r"no entry 'tree'.*did you mean 'three'"):
        read(tmp_path, f"llama_factory:{tmp_path}/list.json#tree")
    with pytest.raises(DataError, match=r"expected \{name:"):
        read(tmp_path, f"llama_factory:{tmp_path}/one.jsonl")
    with pytest.raises(DataError, match="there is no such file"):
        read(tmp_path, f"llama_factory:{tmp_path}/none.json")
    far = info(tmp_path, far={"ms_hub_url": "a/b"})
    with pytest.raises(DataError, match="far lies at ms_hub_url, which tamis does not read"):
        read(tmp_path, str(far))


def test_blocks_of_axolotl_are_read_with_their_fields_and_roles(tmp_path: Path) -> None:
    turns = [{"from": "customer", "value": "q", "train": False}, {"from": "gpt", "value": "a", "train": True}]
    write(tmp_path / "talk.jsonl", [{"conv": turns, "fn": [{"name": "f"}]}])
    write(tmp_path / "text.jsonl", [{"body": "t"}])
    write(tmp_path / "own.jsonl", [{"q": "ask", "a": "say", "s": "rule"}])
    write(tmp_path / "alpaca.jsonl", [ALPACA])
    write(tmp_path / "odd.jsonl", [{"messages": TALK}])
    (tmp_path / "many").mkdir()
    for name in ("x", "y", "z"):
        write(tmp_path / "many" / f"{name}.jsonl", [{"question": name, "answer": "a"}])
    path = tmp_path / "train.yaml"
    path.write_text(
        f"""
base_model: some/model
datasets:
  - path: talk.jsonl
    ds_type: json
    type: chat_template
    field_messages: conv
    field_tools: fn
    message_property_mappings: {{role: from, content: value}}
    roles: {{user: [customer, human], assistant: [gpt]}}
    roles_to_train: [assistant]
    message_field_training: train
    colour: red
  - {{path: {tmp_path}/text.jsonl, type: completion, field: body}}
  - path: json
    data_files: [{tmp_path}/own.jsonl]
    type: {{field_instruction: q, field_output: a, field_system: s, format: "[INST]{{instruction}}[/INST]"}}
  - {{path: alpaca.jsonl, type: alpaca}}
  - {{path: odd.jsonl, type: my.own_strategy}}
  - {{path: many, data_files: [z.jsonl, x.jsonl], type: alpaca_chat.load_qa}}
""",
        encoding="utf-8",
    )
    pool = read(tmp_path, str(path))
    assert said(pool) == [
        ["user:q", "assistant:a"],
        ["document:t"],
        ["system:rule", "user:ask", "assistant:say"],
        ["user:q\n\ni", "assistant:a"],
        ["user:q", "assistant:a"],
        ["user:z", "assistant:a"],
        ["user:x", "assistant:a"],
    ]
    rows = list(pool)
    assert [message["train"] for message in rows[0].messages] == [False, True] and rows[0].tools == '[{"name":"f"}]'
    notes = [" | ".join(file.get("notes", [])) for file in pool.files]
    for part in ("roles_to_train is not read", "message_field_training is not read", "'colour' is not known"):
        assert part in notes[0]
    assert "format is not read" in notes[2] and "my.own_strategy' is not known; the fields are detected" in notes[4]
    assert notes[1] == notes[3] == notes[5] == ""
    assert [row.source for row in read(tmp_path, f"{path}#1,alpaca.jsonl")] == ["text.jsonl", "alpaca.jsonl"]


def test_preferences_of_axolotl_are_pairs(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"question": "q", "chosen": "a", "rejected": "b", "system": "s"}])
    ask, say = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    write(tmp_path / "b.jsonl", [{"messages": [ask], "chosen": say, "worse": {**say, "content": "b"}}])
    blocks = [
        {"path": "a.jsonl", "type": "chatml.intel"},
        {"path": "b.jsonl", "type": "chat_template.default", "field_rejected": "worse"},
    ]
    (tmp_path / "dpo").write_text(json.dumps({"rl": "dpo", "datasets": blocks}), encoding="utf-8")
    pool = read(tmp_path, f"axolotl:{tmp_path}/dpo")
    assert [row.kind for row in pool] == ["pair", "pair"]
    assert said(pool) == [["system:s", "user:q"], ["user:q"]]
    assert [(row.chosen[0]["content"], row.rejected[0]["content"]) for row in pool] == [("a", "b")] * 2


def test_a_yaml_that_is_no_data_list_is_refused(tmp_path: Path) -> None:
    for text, reason in (
        ("a: [", "cannot be read as a list"),
        ("a: 1", "expected Axolotl's"),
        ("- type: x", "no `path`"),
    ):
        (tmp_path / "x.yml").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=reason):
            read(tmp_path, str(tmp_path / "x.yml"))
    (tmp_path / "x.yml").write_text("- path: ./none.jsonl", encoding="utf-8")
    with pytest.raises(DataError, match="there is no file or folder"):
        read(tmp_path, str(tmp_path / "x.yml"))


def test_places_on_the_hub_are_named_whole(tmp_path: Path) -> None:
    path = info(
        tmp_path,
        hub={"hf_hub_url": "org/set", "subset": "en", "split": "dev", "revision": "v1"},
        cloud={"cloud_file_name": "s3://bucket/x.json"},
    )
    assert [entry.files for entry in configs.entries(str(path)) or []] == [
        ("hf://org/set@v1/en:dev",),
        ("s3://bucket/x.json",),
    ]
    (tmp_path / "a.yaml").write_text(
        "- {path: org/set, name: en, split: dev}\n- {path: org/set, data_files: x.json}\n- {path: 's3://b/x.json'}",
        encoding="utf-8",
    )
    found = configs.entries(str(tmp_path / "a.yaml")) or []
    assert [entry.files for entry in found] == [
        ("hf://org/set/en:dev",),
        ("hf://datasets/org/set/x.json",),
        ("s3://b/x.json",),
    ]
    assert sources.resolve([str(path)], tmp_path, fetch=False) == []


def test_revision_configuration_and_split_reach_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[Any] = []

    def load(path: str, **settings: Any) -> Any:
        asked.append((path, settings))
        return datasets.Dataset.from_list([ALPACA])

    monkeypatch.setattr(datasets, "load_dataset", load)
    path = info(tmp_path, hub={"hf_hub_url": "org/set", "subset": "en", "split": "train[:10]", "revision": "v1"})
    pool = read(tmp_path, str(path))
    assert asked == [("org/set", {"split": "train[:10]", "name": "en", "revision": "v1"})]
    assert said(pool) == [["user:q\ni", "assistant:a"]] and pool.files[0]["name"] == f"{path}#0"
    assert json.loads(next(originals(pool, [0]))) == ALPACA and len(asked) == 2
    with pytest.raises(DataError, match="expected hf://org/set"):
        read(tmp_path, "hf://@x")


def test_a_folder_does_not_take_its_data_list_for_data(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.jsonl", [ALPACA])
    info(tmp_path / "in", a={"file_name": "a.jsonl"})
    assert [file["rows"] for file in read(tmp_path, str(tmp_path / "in")).files] == [1]


def test_remote_patterns_and_compressed_memory_files(tmp_path: Path) -> None:
    import gzip

    import fsspec  # type: ignore[import-untyped]

    for name in ("b", "a"):
        with fsspec.open(f"memory://lots/{name}.jsonl.gz", "wb") as file:
            file.write(gzip.compress(json.dumps({"text": name}).encode()))
    pool = read(tmp_path, "memory://lots/*.gz")
    assert said(pool) == [["document:a"], ["document:b"]]
    assert [row.source for row in pool] == ["a", "b"]  # by the remote name, not by the copy's
    with pytest.raises(DataError, match="matches no file"):
        read(tmp_path, "memory://lots/*.csv")


def test_a_preview_covers_every_file_of_a_list(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [ALPACA] * 9)
    write(tmp_path / "b.jsonl", [{"text": "t"}])
    path = info(tmp_path, a={"file_name": "a.jsonl", "num_samples": 1}, b={"file_name": "b.jsonl", "formatting": "new"})
    seen = list(previews([str(path)], 3))
    assert [(one.format, len(one.rows)) for one in seen] == [("jsonl: prompt/completion", 3), ("jsonl: text", 1)]
    assert seen[0].mapping == {"prompt": "instruction", "input": "input", "response": "output", "input.join": "\\n"}
    assert "num_samples" in seen[0].notes[0] and "formatting 'new' is not known" in seen[1].notes[0]
