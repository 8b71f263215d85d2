"""Each input format -> Pool -> the same format: equal content and order, and unknown fields stay."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.contents import content_digest
from tamis.errors import DataError, RecipeError
from tamis.ingest import ingest, readers
from tamis.ingest.formats import Draft, draft
from tamis.ingest.previews import as_row
from tamis.ingest.turns import RowFault
from tamis.restoring import FORMS, READ, restore
from tamis.store import Store

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda text: text.strip() != ""
)
LEAVES = st.one_of(st.integers(), st.booleans(), WORDS, st.lists(st.none(), max_size=2))
NAMES = st.one_of(
    st.sampled_from(["id", "score", "lang", "label", "a.b", "from", "weight"]),
    WORDS.filter(lambda name: name not in READ),
)
UNKNOWN = st.dictionaries(NAMES, LEAVES, max_size=4).map(
    lambda found: found | ({"label": "class"} if "label" in found else {})
)
EXTRAS = st.dictionaries(st.sampled_from(["train", "weight", "name"]), st.integers(), max_size=2)
CALL = st.builds(
    lambda name, given, number: {
        **({"id": number} if number else {}),
        "type": "function",
        "function": {"name": name, "arguments": {"x": given}},
    },
    WORDS,
    LEAVES,
    st.sampled_from(["", "7"]),
)
TOOLS: st.SearchStrategy[dict[str, Any]] = st.one_of(st.just({}), WORDS.map(lambda name: {"tools": [{"name": name}]}))


@st.composite
def conversations(draw: st.DrawFn, *, answered: bool = True) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = [{"role": "system", "content": draw(WORDS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        said.append({"role": "user", "content": draw(WORDS), **draw(EXTRAS)})
        if draw(st.integers(0, 3)) == 0:
            said.append({"role": "assistant", "content": draw(st.sampled_from(["", "hm"])), "tool_calls": [draw(CALL)]})
            said.append({"role": "tool", "content": draw(WORDS)})
        said.append({"role": "assistant", "content": draw(WORDS), **draw(EXTRAS)})
    return said if answered else said[:-1]


def sharegpt(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
    made = []
    for message in messages:
        rest = {key: value for key, value in message.items() if key not in ("role", "content", "tool_calls")}
        call = (message.get("tool_calls") or [None])[0]
        if call is not None and not message["content"] and "id" not in call:
            made.append({"from": "function_call", "value": json.dumps(call["function"], ensure_ascii=False), **rest})
        elif call is not None:
            made.append({"from": "gpt", "value": message["content"], "tool_calls": [call], **rest})
        else:
            made.append({"from": names[message["role"]], "value": message["content"], **rest})
    return made


PAIRS = st.lists(st.tuples(WORDS, WORDS).map(list), min_size=1, max_size=2)
TALKS = st.one_of(conversations(), conversations(answered=False))
RECORDS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "messages": st.builds(lambda talk, tools: {"messages": talk, **tools}, TALKS, TOOLS),
    "sharegpt": st.builds(lambda talk, tools: {"conversations": sharegpt(talk), **tools}, TALKS, TOOLS),
    "alpaca": st.fixed_dictionaries(
        {"instruction": WORDS, "input": st.just("")},
        optional={"output": WORDS, "system": WORDS, "history": PAIRS},
    ),
    "prompt/completion": st.fixed_dictionaries({"prompt": WORDS}, optional={"completion": WORDS}),
    "preference": st.one_of(
        st.fixed_dictionaries({"prompt": WORDS, "chosen": WORDS, "rejected": WORDS}),
        st.builds(
            lambda talk, other: {
                "prompt": talk[:-1],
                "chosen": [talk[-1]],
                "rejected": [{**talk[-1], "content": other}],
            },
            conversations().filter(lambda talk: len(talk) > 2),
            WORDS,
        ),
    ),
    "kto": st.fixed_dictionaries({"prompt": WORDS, "completion": WORDS, "label": st.booleans()}),
    "text": st.fixed_dictionaries({"text": WORDS}),
}


def parts(found: Draft) -> dict[str, Any]:
    """What a row is, without the words of its format."""
    names = [field.name for field in dataclasses.fields(found) if field.name not in ("form", "used")]
    return {name: getattr(found, name) for name in names}


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_record_comes_back_as_it_was(form: str, data: st.DataObject) -> None:
    record = data.draw(RECORDS[form])
    unknown = {key: value for key, value in data.draw(UNKNOWN).items() if key not in record}
    record = {**unknown, **record}
    found = draft(json.loads(json.dumps(record)))
    restored = restore(as_row(found), form)
    again = draft(json.loads(json.dumps(restored)))
    assert parts(again) == parts(found)
    assert content_digest(as_row(again)) == content_digest(as_row(found))
    assert restored == record


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    st.sampled_from(FORMS),
    st.dictionaries(
        st.sampled_from([*sorted(READ), "unknown"]), st.one_of(WORDS, st.booleans(), st.none(), st.just({"x": 1}))
    ),
)
def test_fields_that_a_reader_would_take_stay_unknown(data: st.DataObject, form: str, inside: dict[str, Any]) -> None:
    record = {**data.draw(RECORDS[form]), "meta": inside, "id": 1}
    found = draft(json.loads(json.dumps(record)))
    again = draft(json.loads(json.dumps(restore(as_row(found), form))))
    assert parts(again) == parts(found) and found.meta == {**inside, "id": 1}


@settings(max_examples=8, deadline=None)
@given(st.lists(st.one_of(*RECORDS.values()), min_size=1, max_size=8))
def test_files_come_back_in_order(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]) -> None:
    folder = tmp_path_factory.mktemp("round")
    store = Store(folder / "store")

    def through(name: str, written: list[dict[str, Any]]) -> list[Any]:
        (folder / name).mkdir()
        file = folder / name / "a.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in written), encoding="utf-8")
        return list(ingest([str(file)], store))

    rows = through("in", records)
    assert len(rows) == len(records)
    back = [restore(row, draft(record).form) for row, record in zip(rows, records, strict=True)]
    assert back == records
    again = through("out", back)
    assert [(row.content, row.kind, row.meta, row.source) for row in again] == [
        (row.content, row.kind, row.meta, row.source) for row in rows
    ]


def test_instruction_and_input_stay_joined() -> None:
    found = draft({"instruction": "q", "input": "i", "output": "a", "id": 1})
    restored = restore(as_row(found), "alpaca")
    assert restored == {"instruction": "q\n\ni", "input": "", "output": "a", "id": 1}
    assert parts(draft(restored)) == parts(found)


@pytest.mark.parametrize(
    ("record", "form", "reason"),
    [
        ({"text": "t"}, "alpaca", "the form carries rows of kind chat, prompt, rated"),
        ({"prompt": "q", "completion": "a"}, "preference", "the form carries rows of kind pair"),
        ({"prompt": "q", "completion": "a"}, "kto", "the form carries rows of kind rated"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "alpaca", "questions and answers alone"),
        (
            {"messages": [{"role": "user", "content": "q", "w": 1}, {"role": "assistant", "content": "a"}]},
            "alpaca",
            "a turn has more than a text",
        ),
    ],
)
def test_what_a_form_cannot_carry_is_refused(record: dict[str, Any], form: str, reason: str) -> None:
    with pytest.raises(DataError, match=f"cannot be written as {form}: .*{reason}"):
        restore(as_row(draft(record)), form)
    with pytest.raises(RecipeError, match="did you mean 'alpaca'"):
        restore(as_row(draft(record)), "alpacca")


def real_drafts(file: Path, mapping: dict[str, str] | None = None) -> Iterator[Draft]:
    for record in readers.read(file, readers.container(file, file.name, mapping)):
        try:
            if not record.fault:
                yield draft(record.value, mapping)
        except RowFault:
            continue


def check_file(file: Path, limit: int | None = None) -> int:
    number = 0
    for number, found in enumerate(real_drafts(file), 1):
        again = draft(json.loads(json.dumps(restore(as_row(found), found.form))))
        assert parts(again) == parts(found), (file.name, number)
        if number == limit:
            break
    return number


MAPPINGS = {
    "alpaca_eval": {"chosen": "messages", "rejected": "meta.other"},
    "hh_harmless": {"chosen": "messages", "rejected": "meta.rejected"},
    "llamafactory_dpo": {"chosen": "messages", "rejected": "meta.rejected"},
    "llamafactory_kto": {"messages": "messages", "label": "meta.label"},
    "oasst1_zh_rm": {"chosen": "messages", "rejected": "meta.ranked_answers.-1"},
}


def test_real_preferences_are_read_as_pairs_through_a_mapping(real_data: Path) -> None:
    files = sorted((real_data / "preference").iterdir())
    assert len(files) == 10
    for file in files:
        mapping = next(entries for start, entries in MAPPINGS.items() if file.name.startswith(start))
        packed = readers.container(file, file.name, mapping)
        drafts, refused = [], Counter[str]()
        for record in itertools.islice(readers.read(file, packed), 100):
            try:
                drafts.append(draft(record.value, mapping))
            except RowFault as fault:
                refused[str(fault)] += 1
        assert sum(refused.values()) <= 5, (file.name, refused)
        assert all(found.source and file.name.startswith(found.source) for found in drafts)
        assert {found.kind for found in drafts} == {"rated" if "kto" in file.name else "pair"}, file.name
        for found in drafts:
            assert parts(draft(json.loads(json.dumps(restore(as_row(found), found.form))))) == parts(found)
            if found.kind == "pair":
                assert found.chosen[-1]["role"] == found.rejected[-1]["role"] == "assistant"
                assert found.messages[-1]["role"] != "assistant"


def test_the_head_of_real_files_comes_back(real_data: Path) -> None:
    for file in sorted((real_data / "raw").iterdir()):
        check_file(file, 20)


@pytest.mark.real
def test_whole_real_files_come_back(real_data: Path) -> None:
    files = [file for group in ("pool", "preference", "raw") for file in sorted((real_data / group).iterdir())]
    assert sum(check_file(file) for file in files) > 50_000
