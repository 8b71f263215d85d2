"""Every usual shape of a record becomes the row it means, and what means nothing is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from tamis.errors import RecipeError
from tamis.ingest.formats import Draft, draft
from tamis.ingest.mappings import check_mapping, flatten
from tamis.ingest.turns import RowFault


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


ASK, SAY = turn("user", "q"), turn("assistant", "a")
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


def said(found: Draft) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in found.messages]


@pytest.mark.parametrize(
    ("record", "kind", "messages"),
    [
        ({"instruction": "q", "input": "", "output": "a"}, "chat", "user:q assistant:a"),
        ({"instruction": "q", "input": "i", "output": "a"}, "chat", "user:q\n\ni assistant:a"),
        ({"instruction": "q", "input": None}, "prompt", "user:q"),
        ({"instruction": "q", "context": "c", "response": "a"}, "chat", "user:q\n\nc assistant:a"),
        (
            {"instruction": "q", "output": "a", "system": "s", "history": [["1", "2"]]},
            "chat",
            "system:s user:1 assistant:2 user:q assistant:a",
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            "chat",
            "user:q assistant:a",
        ),
        ({"conversations": [{"from": "human", "value": "q"}], "system": "s"}, "prompt", "system:s user:q"),
        ({"conversations": '[{"from": "human", "value": "q"}]'}, "prompt", "user:q"),
        ({"messages": [ASK, SAY]}, "chat", "user:q assistant:a"),
        ({"messages": [turn("developer", "s"), ASK, SAY]}, "chat", "system:s user:q assistant:a"),
        ([ASK, SAY], "chat", "user:q assistant:a"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "r"}]}]},
            "prompt",
            "user:qr",
        ),
        ({"messages": [turn("document", "t")]}, "text", "document:t"),
        ({"text": "t"}, "text", "document:t"),
        ({"text": "q", "input": "", "output": "a"}, "chat", "user:q assistant:a"),
        ({"prompt": "q", "completion": "a"}, "chat", "user:q assistant:a"),
        ({"question": "q", "answer": "a"}, "chat", "user:q assistant:a"),
        ({"query": "q", "response": "a"}, "chat", "user:q assistant:a"),
        ({"prompt": [ASK], "completion": [SAY]}, "chat", "user:q assistant:a"),
        ({"prompt": "q"}, "prompt", "user:q"),
    ],
)
def test_a_record_becomes_the_row_it_means(record: Any, kind: str, messages: str) -> None:
    found = draft(record)
    assert found.kind == kind
    assert " ".join(f"{role}:{content}" for role, content in said(found)) == messages


def test_tool_calls_survive_in_openai_and_sharegpt_words() -> None:
    openai = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"x": 1}'}}],
    }
    found = draft({"messages": [ASK, openai, turn("tool", "2", tool_call_id="1"), SAY], "tools": '[{"name": "f"}]'})
    assert found.messages[1]["tool_calls"] == [{"id": "1", **CALL}]
    assert found.messages[2] == turn("tool", "2", tool_call_id="1")
    assert found.tools == '[{"name":"f"}]'
    turns = [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "a"},
    ]
    other = draft({"conversations": turns, "tools": [{"name": "f"}]})
    assert other.messages[1]["tool_calls"] == [CALL] and other.tools == found.tools
    assert [message["role"] for message in other.messages] == ["user", "assistant", "tool", "assistant"]
    assert draft({"messages": [ASK, openai]}).kind == "chat"


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": [ASK], "chosen": [turn("assistant", "good")], "rejected": [turn("assistant", "bad")]},
        {"prompt": "q", "chosen": [ASK, turn("assistant", "good")], "rejected": [ASK, turn("assistant", "bad")]},
        {"chosen": [ASK, turn("assistant", "good")], "rejected": [ASK, turn("assistant", "bad")]},
        {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"},
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
    ],
)
def test_a_preference_is_a_prompt_and_two_answers(record: dict[str, Any]) -> None:
    found = draft(record)
    assert found.kind == "pair" and said(found) == [("user", "q")]
    assert found.chosen == (turn("assistant", "good"),) and found.rejected == (turn("assistant", "bad"),)


@pytest.mark.parametrize(
    ("record", "label"),
    [
        ({"prompt": "q", "completion": "a", "label": True}, True),
        ({"prompt": "q", "completion": "a", "label": "False"}, False),
        ({"messages": [ASK, SAY], "kto_tag": False}, False),
        ({"instruction": "q", "output": "a", "kto_tag": 1}, True),
    ],
)
def test_a_label_makes_a_rated_row(record: dict[str, Any], label: bool) -> None:
    found = draft(record)
    assert (found.kind, found.label, found.form) == ("rated", label, "kto")


def test_a_label_that_is_a_class_is_meta() -> None:
    found = draft({"messages": [ASK, SAY], "label": "card_arrival"})
    assert (found.kind, found.label, found.meta) == ("chat", None, {"label": "card_arrival"})


def test_nothing_of_a_record_is_lost() -> None:
    record = {
        "id": "1",
        "source": "s",
        "messages": [ASK, SAY],
        "meta": {"id": "inner", "k": [1]},
        "score": 5,
        "null": None,
    }
    found = draft(record)
    assert found.source == "s"
    assert found.meta == {"id": "inner", "record_id": "1", "k": [1], "score": 5}
    assert draft({"text": "t", "source": 3, "meta": "m"}).meta == {"source": 3, "meta": "m"}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"instruction": "q", "output": " \n"}, "empty answer"),
        ({"messages": [ASK, turn("assistant", "")]}, "empty answer"),
        ({"messages": [ASK, turn("assistant", ""), ASK, SAY]}, "empty answer in turn 1"),
        ({"prompt": "q", "chosen": "", "rejected": "b"}, "empty answer: chosen"),
        ({"prompt": " ", "completion": "a"}, "empty prompt"),
        ({"text": " "}, "empty text"),
        ({"messages": []}, "messages is empty"),
        ({"messages": "hello"}, "messages is text, expected a list"),
        ({"messages": "[1"}, "no JSON list"),
        ({"messages": {"role": "user"}}, "messages is an object, expected a list"),
        ({"messages": [ASK, "a"]}, r"messages\[1\] is text, expected an object"),
        ({"messages": [turn("wizard", "q")]}, "unknown role 'wizard'"),
        ({"messages": [{"content": "q"}]}, "unknown role 'None'"),
        ({"messages": [{"role": "user", "content": 5}]}, "content is a number"),
        ({"messages": [{"role": "user"}]}, "has no content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "type 'image_url'"),
        ({"messages": [ASK, {"role": "assistant", "tool_calls": [{"x": 1}]}]}, "names no function"),
        ({"messages": [turn("document", "t"), ASK]}, "among other turns"),
        ({"messages": [turn("system", "s")]}, "no turn says anything"),
        ({"instruction": "q", "output": ["a"]}, r"unknown role|output\[0\] is text"),
        ({"instruction": 3, "output": "a"}, "instruction is a number"),
        ({"prompt": "q", "completion": 7}, "completion is a number"),
        ({"chosen": "a", "rejected": "b"}, "a preference without a prompt"),
        ({"messages": [ASK, SAY], "tools": "{"}, "tools is text that is no JSON"),
        ({"messages": [ASK, SAY], "tools": 3}, "tools is a number"),
        ({"foo": 1, "bar": 2}, r"no known fields \(found: foo, bar\)"),
        ({}, r"no known fields \(found: none\)"),
        ({"instruction": None, "output": "a"}, "instruction is null"),
        (5, "the record is a number"),
        ("x", "the record is text"),
        (None, "the record is null"),
        ([], "the record is a list"),
    ],
)
def test_what_means_nothing_is_refused_with_a_reason(record: Any, reason: str) -> None:
    with pytest.raises(RowFault, match=reason):
        draft(record)


def test_a_mapping_overrides_detection_and_reaches_into_records() -> None:
    record = {"q": {"text": ["one", "two"]}, "sol": "a", "instruction": "not this", "src": "s"}
    found = draft(record, {"prompt": "q.text.1", "response": "sol", "source": "src"})
    assert said(found) == [("user", "two"), ("assistant", "a")] and found.source == "s"
    assert found.meta == {"q": {"text": ["one", "two"]}, "instruction": "not this"}
    assert found.used == {"prompt": "q.text.1", "response": "sol", "source": "src"}
    with pytest.raises(RowFault, match="mapped fields are not there: nope"):
        draft(record, {"prompt": "nope"})
    with pytest.raises(RowFault, match="q is a number"):
        draft({"q": 1}, {"prompt": "q"})


def test_a_mapping_without_a_main_field_adds_to_the_detection() -> None:
    record = {"instruction": "q", "output": "a", "answer": "b", "meta": {"good": 0}, "source": "mine", "from": "s"}
    found = draft(record, {"response": "answer", "label": "meta.good", "source": "from"})
    assert said(found) == [("user", "q"), ("assistant", "b")]
    assert (found.form, found.label, found.source) == ("kto", False, "s")
    assert found.meta == {"good": 0, "output": "a", "source": "mine"}


def test_custom_roles_and_names_of_turn_fields_are_read() -> None:
    turns = [
        {"speaker": "customer", "said": {"text": "q"}, "role": "boss", "at": 1},
        {"speaker": "bot", "said": {"text": "a"}},
        {"speaker": "API", "said": {"text": '{"name": "f", "arguments": {"x": 1}}'}},
        {"speaker": "7", "said": {"text": "2"}},
    ]
    mapping = flatten(
        {
            "messages": {"field": "talk.0", "role": "speaker", "content": "said.text"},
            "roles": {"user": ["human", "customer"], "assistant": "bot", "function_call": ["API"]},
            "role": {"7": "tool"},
        }
    )
    assert mapping["role.human"] == "user" and mapping["messages"] == "talk.0"
    check_mapping(mapping)
    found = draft({"talk": [turns], "id": 1}, mapping)
    assert said(found) == [("user", "q"), ("assistant", "a"), ("assistant", ""), ("tool", "2")]
    assert found.messages[0]["turn_role"] == "boss" and found.messages[0]["at"] == 1
    assert found.messages[2]["tool_calls"] == [CALL]
    alone = draft({"messages": [turn("bot", "hi"), turn("guest", "q")]}, {"role.guest": "user"})
    assert said(alone) == [("assistant", "hi"), ("user", "q")]
    with pytest.raises(RowFault, match="unknown role 'guest'"):
        draft({"messages": [turn("guest", "q")]}, {"role.other": "user"})


@pytest.mark.parametrize(
    ("mapping", "rejected"),
    [
        ({"chosen": "messages", "rejected": "meta.other"}, "worse"),
        ({"chosen": "messages", "rejected": "meta.rejected"}, "bad"),
        ({"chosen": "messages", "rejected": "meta.ranked_answers.1"}, "mid"),
        ({"chosen": "meta.ranked_answers.0", "rejected": "meta.ranked_answers.-1", "prompt": "meta.ask"}, "worst"),
    ],
)
def test_losers_kept_in_meta_make_pairs(mapping: dict[str, str], rejected: str) -> None:
    meta = {
        "other": "worse",
        "rejected": [ASK, turn("assistant", "bad")],
        "ranked_answers": ["a", "mid", "worst"],
        "ask": "q",
    }
    found = draft({"id": "1", "messages": [ASK, SAY], "meta": meta}, mapping)
    assert found.kind == "pair" and said(found) == [("user", "q")]
    assert found.chosen == (SAY,) and found.rejected == (turn("assistant", rejected),)


def test_transcripts_in_a_preference_become_messages() -> None:
    start = "\n\nHuman: Hi\n\nthere?\n\nAssistant: Yes.\n\nHuman: Sure?\n\nAssistant:"
    talk = [turn("user", "Hi\n\nthere?"), turn("assistant", "Yes."), turn("user", "Sure?")]
    found = draft({"chosen": f"{start} Of course.", "rejected": f"{start} No."})
    assert list(found.messages) == talk and found.chosen == (turn("assistant", "Of course."),)
    other = draft({"prompt": start, "chosen": " Of course.", "rejected": " No."})
    assert list(other.messages) == talk and other.rejected == (turn("assistant", " No."),)
    plain = draft({"prompt": start, "completion": "x"})
    assert said(plain)[0] == ("user", start)
    with pytest.raises(RowFault, match="empty answer: rejected"):
        draft({"chosen": f"{start} a", "rejected": start})


def test_a_wrong_mapping_is_refused() -> None:
    with pytest.raises(RecipeError, match="did you mean 'prompt'"):
        check_mapping({"promt": "q"})
    with pytest.raises(RecipeError, match="there is no role 'owner'; expected system, user"):
        check_mapping({"role.me": "owner"})
    with pytest.raises(RecipeError, match="a preference has both"):
        check_mapping({"chosen": "x"})
    with pytest.raises(RecipeError, match="expected the name of a field"):
        flatten({"prompt": ["q"]})
    check_mapping({})


def test_rows_without_an_answer_are_prompts_where_the_mapping_says_so() -> None:
    unanswered = {"answer.empty": "prompt"}
    for record in ({"instruction": "q", "output": " \n"}, {"messages": [ASK, turn("assistant", "")]}):
        found = draft(record, unanswered)
        assert found.kind == "prompt" and [one["role"] for one in found.messages] == ["user"]
    answered = {"messages": [ASK, SAY]}
    assert draft(answered, unanswered) == draft(answered)
    with pytest.raises(RowFault, match="empty answer in turn 1"):
        draft({"messages": [ASK, turn("assistant", ""), ASK, SAY]}, unanswered)
