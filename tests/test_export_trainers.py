"""What is written for Axolotl, LLaMA-Factory and the hub satisfies their documented forms, and masks as tamis does.

The masks of trainers that are not installed are worked out here from their documentation, by the slow plain way.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import tiny
from tamis.errors import DataError
from tamis.exporting import Export, export
from tamis.exporting.chosen import IGNORED
from tamis.models import ModelRef, open_tokenizer, shipped
from tamis.pool import Pool
from tamis.rendering import render_all, render_rows
from tamis.values import Row

CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def lines(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def load(path: Path | str, cache: Path) -> list[dict[str, Any]]:
    datasets = pytest.importorskip("datasets")
    return list(datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache)))


def block_of(written: Export) -> dict[str, Any]:
    (path,) = [file for file in map(Path, written.files) if file.suffix == ".yaml"]
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelRef]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: ModelRef(name=str(tiny.make_tokenizer(folder / name, template=name)), max_tokens=400)
        for name in ("marks", "plain")
    }


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return tiny.make_pool(tmp_path_factory.mktemp("pool"), tiny.make_rows(16), shard_rows=7)


@pytest.fixture
def others(tmp_path: Path) -> Pool:
    """Rows that are not plain chats: pairs, rated answers, texts, tools."""
    ask, answer = {"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This."}
    worse = {"role": "assistant", "content": "That."}
    call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    result = {"role": "tool", "content": "2", "tool_call_id": "1"}
    rows = [
        tiny.make_row([ask], kind="pair", chosen=(answer,), rejected=(worse,), meta={"a": 1}),
        tiny.make_row([ask], kind="pair", chosen=(answer, ask, answer), rejected=(worse,)),
        tiny.make_row([{"role": "system", "content": "Be brief."}, ask, answer], kind="rated", label=False),
        tiny.make_row([ask, answer, ask, worse], kind="rated", label=True),
        tiny.make_row([{"role": "document", "content": "stone river"}], kind="text"),
        tiny.make_row([ask, call, result, answer], tools=json.dumps([TOOL])),
        tiny.make_row([ask, {**call, "content": "Let me see."}, result, answer], tools=json.dumps([TOOL])),
        tiny.make_row([ask, answer, answer]),
        tiny.make_row([ask, call, result, result, answer]),
        tiny.make_row([ask], kind="prompt"),
    ]
    return tiny.make_pool(tmp_path / "pool", rows, shard_rows=4)


def expected(rows: list[Row], model: ModelRef) -> list[tuple[list[int], list[int]]]:
    """Ids and labels as tamis trains on them."""
    training = render_rows(rows, model)
    labels = np.where(training.trained, training.ids, IGNORED)
    spans = list(zip(training.offsets[:-1], training.offsets[1:], strict=True))
    return [(training.ids[a:b].tolist(), labels[a:b].tolist()) for a, b in spans]


# ---- Axolotl


def axolotl_mask(record: dict[str, Any], tokenizer: Any) -> tuple[list[int], list[int]]:
    """`type: chat_template` with `train_on_eos: turn`: the content of trained turns, and the end token behind each.

    The content of a turn is where the ids differ from those of the same conversation with other words in that turn.
    """
    said = [{key: message[key] for key in ("role", "content")} for message in record["messages"]]

    def ids_of(turns: list[dict[str, Any]]) -> list[int]:
        made: list[int] = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        return made

    ids = ids_of(said)
    labels = [IGNORED] * len(ids)
    for place, message in enumerate(record["messages"]):
        if not message["train"]:
            continue
        assert not message.get("train_detail")
        full = ids_of(said[: place + 1])
        other = ids_of([*said[:place], {**said[place], "content": "[[dummy_message]]"}])
        start = next(i for i, (one, two) in enumerate(zip(full, other, strict=False)) if one != two)
        behind = next(i for i, (one, two) in enumerate(zip(full[::-1], other[::-1], strict=False)) if one != two)
        end = len(full) - behind
        labels[start:end] = ids[start:end]
        stop = ids.index(tokenizer.eos_token_id, end)
        if stop - end <= 3:
            labels[stop] = ids[stop]
    return ids, labels


def test_axolotls_rule_on_the_messages_gives_tamis_masks(
    chats: Pool, models: dict[str, ModelRef], tmp_path: Path
) -> None:
    written = export(chats, range(16), tmp_path / "sft.jsonl", "axolotl", model=models["marks"])
    assert [Path(file).name for file in written.files] == ["sft.jsonl", "sft.yaml"]
    (block,) = block_of(written)["datasets"]
    assert block == {
        "path": (tmp_path / "sft.jsonl").as_posix(),
        "ds_type": "json",
        "type": "chat_template",
        "field_messages": "messages",
        "message_property_mappings": {"role": "role", "content": "content"},
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
        "message_field_training": "train",
        "message_field_training_detail": "train_detail",
    }
    tokenizer = open_tokenizer(models["marks"].name)
    records = load(written.path, tmp_path / "cache")
    assert [axolotl_mask(record, tokenizer) for record in records] == expected(list(chats), models["marks"])
    assert not [finding for finding in written.masks.findings] if written.masks else False


def test_where_axolotls_rule_masks_otherwise_its_block_reads_tamis_token_ids(
    chats: Pool, models: dict[str, ModelRef], tmp_path: Path
) -> None:
    written = export(chats, range(16), tmp_path / "sft.jsonl", "axolotl", model=models["plain"], weights=[2.0] * 16)
    (block,) = block_of(written)["datasets"]
    assert block == {"path": (tmp_path / "sft.tokenized.jsonl").as_posix(), "ds_type": "json", "type": None}
    records = load(Path(block["path"]), tmp_path / "cache")
    assert set(records[0]) == {"input_ids", "attention_mask", "labels"}  # exactly these, says the documentation
    assert [(one["input_ids"], one["labels"]) for one in records] == expected(list(chats), models["plain"])
    said = "\n".join(written.notes)
    assert "line ends" in said and "row weights" in said
    messages = [record["messages"] for record in lines(written.path)]
    assert all(one["train"] == (one["role"] == "assistant") for turns in messages for one in turns)


def test_parts_of_a_turn_become_train_detail(tmp_path: Path) -> None:
    folder = tiny.make_tokenizer(tmp_path / "model", template="marks")
    thinking = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}{% if m['role'] == 'assistant' %}"
        "{% set parts = m['content'].split('</think>') %}"
        "{% if parts | length > 1 %}{{ parts[0] + '</think>' }}{% endif %}"
        "{% generation %}{{ parts[-1] + '<|end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|end|>' }}"
        "{% endif %}{{ '\n' }}{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(thinking)
    rows = [tiny.make_row(tiny.chat("seven?", "<think>count</think>eleven.", "eight?", "twelve."))]
    pool = tiny.make_pool(tmp_path / "pool", rows)
    written = export(pool, [0], tmp_path / "o.jsonl", "axolotl", model=ModelRef(name=str(folder)))
    (_, first, _, second) = lines(written.path)[0]["messages"]
    assert first["train_detail"] == [
        {"begin_offset": 0, "end_offset": 19, "train": False},
        {"begin_offset": 20, "end_offset": 26, "train": True},
    ]
    assert "train_detail" not in second and second["train"]
    assert block_of(written)["datasets"][0]["path"].endswith(".tokenized.jsonl")


def test_turns_that_the_template_leaves_out_of_the_loss_are_not_trained(tmp_path: Path) -> None:
    folder = tiny.make_tokenizer(tmp_path / "model", template="marks")
    last = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}{% if m['role'] == 'assistant' and loop.last %}"
        "{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|end|>' }}"
        "{% endif %}{{ '\n' }}{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(last)
    model = ModelRef(name=str(folder))
    pool = tiny.make_pool(tmp_path / "pool", [tiny.make_row(tiny.chat("a?", "stone.", "b?", "apple."))])
    written = export(pool, [0], tmp_path / "o.jsonl", "axolotl", model=model)
    record = lines(written.path)[0]
    assert [message["train"] for message in record["messages"]] == [False, False, False, True]
    assert [axolotl_mask(record, open_tokenizer(str(folder)))] == expected(list(pool), model)
    factory = export(pool, [0], tmp_path / "f.json", "llama-factory", model=model)
    assert any("mask of turns" in note for note in factory.notes)
    assert lines(export(pool, [0], tmp_path / "j.jsonl", "jsonl", model=model).path)[0]["train"] == [
        False,
        False,
        False,
        True,
    ]


def test_axolotl_preferences_have_the_documented_fields(others: Pool, tmp_path: Path) -> None:
    pairs = export(others, [0, 1], tmp_path / "dpo.jsonl", "axolotl")
    config = block_of(pairs)
    assert config["rl"] == "dpo" and config["datasets"][0]["type"] == "chat_template.default"
    (record,) = lines(pairs.path)
    assert [record[name] for name in ("messages", "chosen", "rejected")] == [
        [{"role": "user", "content": "Which?"}],
        {"role": "assistant", "content": "This."},
        {"role": "assistant", "content": "That."},
    ]
    assert "1 rows left out: answers of several messages" in "\n".join(pairs.notes)
    rated = export(others, [2, 3], tmp_path / "kto.jsonl", "axolotl")
    config = block_of(rated)
    assert config["rl"] == "kto" and config["datasets"][0]["type"] == "chatml.ultra"
    (record,) = lines(rated.path)
    assert {"system": "Be brief.", "prompt": "Which?", "completion": "This.", "label": False}.items() <= record.items()
    assert "conversation of several turns" in rated.notes[0]


def test_axolotl_tools_are_text_with_their_nulls_and_the_order_of_their_keys(others: Pool, tmp_path: Path) -> None:
    (record,) = lines(export(others, [5], tmp_path / "t.jsonl", "axolotl").path)
    assert record["tools"] == json.dumps([TOOL])
    assert json.loads(record["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {"a": 1}


@pytest.mark.parametrize(
    ("template", "answer", "reads", "why"),
    [
        ("{{ m['content'] + '<|end|>' }}", "stone.", "chat_template", ""),
        ("{{ m['content'] + '\n<|end|>' }}", "stone.", None, "line ends"),
        ("{{ m['content'] }}", "stone.", None, "line ends or nothing behind"),
        ("{{ m['content'] + '<|end|>' }}", "\n\nstone.", None, "first token begins before"),
        ("{{ m['content'] | trim + '<|end|>' }}", "\n\nstone.", "chat_template", ""),
        ("{{ m['content'] | upper + '<|end|>' }}", "stone.", None, "not the content of its turn"),
        ("{{ m['content'] + '<|tool|>' }}", "stone.", "chat_template", ""),
        ("{{ m['content'] + '<|tool|>' + eos_token }}", "stone.", None, "line ends"),
        ("{{ m['content'] + '<|' + 'tool|>' }}", "stone.", None, "does not spell out"),
    ],
)
def test_messages_go_to_axolotl_only_where_its_rule_is_tamis_mask(
    tmp_path: Path, template: str, answer: str, reads: str | None, why: str
) -> None:
    folder = tmp_path / "model"  # the shipped tokenizer has a token of two line ends, which begins before an answer
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((shipped("tamis:tiny-lm") / name).read_bytes())
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
        + template
        + "{% endgeneration %}{{ '\n' }}{% else %}{{ m['content'] + '\n' }}{% endif %}{% endfor %}"
    )
    pool = tiny.make_pool(tmp_path / "pool", [tiny.make_row(tiny.chat("seven?", answer))])
    made = export(pool, [0], tmp_path / "o.jsonl", "axolotl", model=ModelRef(name=str(folder)))
    config = block_of(made)
    assert config["datasets"][0]["type"] == reads
    assert why in "\n".join(made.notes)
    assert config.get("eot_tokens") == (["<|tool|>"] if "'<|tool|>' }}" in template and reads else None)


def test_axolotl_texts_are_read_as_tokens_where_a_model_is_given(
    others: Pool, models: dict[str, ModelRef], tmp_path: Path
) -> None:
    plain = export(others, [4], tmp_path / "t.jsonl", "axolotl")
    assert block_of(plain)["datasets"][0]["type"] == "completion" and lines(plain.path)[0]["text"] == "stone river"
    made = export(others, [4], tmp_path / "m.jsonl", "axolotl", model=models["marks"])
    (record,) = lines(Path(block_of(made)["datasets"][0]["path"]))
    assert [(record["input_ids"], record["labels"])] == expected(others.read([4]), models["marks"])


# ---- LLaMA-Factory


def factory_mask(record: dict[str, Any], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Questions masked, answers trained whole: each encoded on its own, with the slots of a template like `plain`."""

    def encoded(text: str) -> list[int]:
        made: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return made

    slots = {"human": "<|user|>\n{}<|end|>\n<|assistant|>\n", "gpt": "{}<|end|>\n"}
    source = f"<|system|>\n{record['system']}<|end|>\n" if record["system"] else ""
    ids: list[int] = []
    labels: list[int] = []
    turns = record["conversations"]
    for ask, answer in zip(turns[::2], turns[1::2], strict=True):
        question = encoded(source + slots[ask["from"]].format(ask["value"]))
        target = encoded(slots[answer["from"]].format(answer["value"]))
        ids += question + target
        labels += [IGNORED] * len(question) + target
        source = ""
    return ids, labels


def test_llama_factorys_rule_gives_tamis_masks(chats: Pool, models: dict[str, ModelRef], tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"mine": {"file_name": "mine.json"}}', encoding="utf-8")
    written = export(chats, range(16), tmp_path / "sft.json", "llama-factory", model=models["plain"])
    assert [Path(file).name for file in written.files] == ["sft.json", "dataset_info.json"]
    info = json.loads((tmp_path / "dataset_info.json").read_text(encoding="utf-8"))
    assert info["mine"] == {"file_name": "mine.json"}
    entry = info["sft"]
    assert entry["file_name"] == "sft.json" and entry["formatting"] == "sharegpt" and "ranking" not in entry
    assert entry["columns"] == {"messages": "conversations", "system": "system"}
    records = load(written.path, tmp_path / "cache")
    tokenizer = open_tokenizer(models["plain"].name)
    assert [factory_mask(record, tokenizer) for record in records] == expected(list(chats), models["plain"])
    assert any("no token masks" in note for note in written.notes)


def test_llama_factory_takes_turns_by_turns_and_says_what_it_cannot_hold(others: Pool, tmp_path: Path) -> None:
    written = export(others, [5, 6, 7, 8, 9], tmp_path / "t.json", "llama-factory")
    (record,) = json.loads(Path(written.path).read_text(encoding="utf-8"))
    assert [turn["from"] for turn in record["conversations"]] == ["human", "function_call", "observation", "gpt"]
    assert json.loads(record["conversations"][1]["value"]) == {"name": "add", "arguments": {"a": 1}}
    assert json.loads(record["tools"]) == [TOOL]
    said = "\n".join(written.notes)
    for why in ("text beside a tool call", "2 rows left out: turns that are not", "prompt without an answer"):
        assert why in said
    assert "keys of messages" in said  # tool_call_id


def test_llama_factory_preferences_and_texts_have_the_documented_fields(others: Pool, tmp_path: Path) -> None:
    info = tmp_path / "dataset_info.json"
    export(others, [0, 1], tmp_path / "dpo.json", "llama-factory")
    export(others, [2, 3], tmp_path / "kto.json", "llama-factory")
    export(others, [4], tmp_path / "pt.json", "llama-factory")
    entries = json.loads(info.read_text(encoding="utf-8"))
    assert entries["dpo"]["ranking"] is True
    assert {"chosen": "chosen", "rejected": "rejected"}.items() <= entries["dpo"]["columns"].items()
    assert entries["kto"]["columns"]["kto_tag"] == "kto_tag"
    assert entries["pt"] == {"file_name": "pt.json", "columns": {"prompt": "text"}}
    (pair,) = json.loads((tmp_path / "dpo.json").read_text(encoding="utf-8"))
    assert pair["conversations"] == [{"from": "human", "value": "Which?"}]
    assert pair["chosen"] == {"from": "gpt", "value": "This."}
    first, second = json.loads((tmp_path / "kto.json").read_text(encoding="utf-8"))
    assert (first["kto_tag"], second["kto_tag"]) == (False, True) and first["system"] == "Be brief."


def test_a_broken_dataset_info_is_not_overwritten(others: Pool, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="repair or move it"):
        export(others, [0], tmp_path / "dpo.json", "llama-factory")
    assert (tmp_path / "dataset_info.json").read_text() == "{" and not (tmp_path / "dpo.json").exists()
    assert not list(tmp_path.glob(".*partial"))


# ---- Hugging Face folder


def test_a_dataset_folder_is_loaded_whole_with_masks(
    chats: Pool, others: Pool, models: dict[str, ModelRef], tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [*chats, *others]
    pool = tiny.make_pool(tmp_path / "both", rows)
    order = list(range(len(rows)))[::-1]
    weights = [1 + place / 2 for place in order]
    written = export(pool, order, tmp_path / "out", "hf", weights=weights, model=models["marks"])
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset(str(written.path), split="train", cache_dir=cache)  # chat is the default
    wanted = [place for place in order if rows[place].kind == "chat"]
    assert loaded["key"] == [rows[place].key for place in wanted]
    assert loaded["weight"] == [1 + place / 2 for place in wanted]
    for record, place in zip(loaded, wanted, strict=True):
        said = [{key: one[key] for key in ("role", "content")} for one in record["messages"]]
        assert said == [{key: one[key] for key in ("role", "content")} for one in rows[place].messages]
        rendered = render_all([rows[place]], models["marks"])[0]
        assert record["input_ids"] == rendered.ids.tolist()
        trained = [label != IGNORED for label in record["labels"]]
        assert trained == (rendered.turn >= 0).tolist()
        assert record["train"] == [one["role"] == "assistant" and any(trained) for one in rows[place].messages]
    pairs = datasets.load_dataset(str(written.path), "pair", split="train", cache_dir=cache)
    assert pairs[1]["chosen"][0]["content"] == "This." and json.loads(pairs[1]["meta"]) == {"a": 1}
    total = sum(
        len(datasets.load_dataset(str(written.path), kind, split="train", cache_dir=cache))
        for kind in ("chat", "pair", "rated", "text", "prompt")
    )
    assert total == written.rows == len(rows)


def test_a_dataset_folder_has_a_card_and_replaces_only_itself(others: Pool, tmp_path: Path) -> None:
    out = tmp_path / "set"
    export(others, range(10), out, "hf")
    front = yaml.safe_load((out / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert {one["config_name"] for one in front["configs"]} == {"chat", "pair", "rated", "text", "prompt"}
    assert [one["config_name"] for one in front["configs"] if one.get("default")] == ["chat"]
    export(others, [0], out, "hf")
    assert [file.name for file in (out / "data").iterdir()] == ["pair.parquet"]
    (out / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="new folder"):
        export(others, [0], out, "hf")
    assert (out / "mine.txt").read_text() == "mine"


# ---- TRL preferences


def test_trls_own_code_takes_the_preferences(others: Pool, tmp_path: Path) -> None:
    data_utils = pytest.importorskip("trl.data_utils")
    (pair, _) = load(export(others, [0, 1], tmp_path / "dpo.jsonl", "trl").path, tmp_path / "cache")
    assert data_utils.is_conversational(pair)
    tokenizer = open_tokenizer(str(tiny.make_tokenizer(tmp_path / "model", template="marks")))
    made = data_utils.apply_chat_template({key: pair[key] for key in ("prompt", "chosen", "rejected")}, tokenizer)
    assert made["prompt"].endswith("<|assistant|>\n") and made["chosen"].startswith("This.<|end|>")
    rated = load(export(others, [2, 3], tmp_path / "kto.jsonl", "trl").path, tmp_path / "cache")
    assert [record["label"] for record in rated] == [False, True]
    assert [len(record["completion"]) for record in rated] == [1, 1] and len(rated[0]["prompt"]) == 2
