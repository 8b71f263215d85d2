"""LLaMA-Factory: a sharegpt file as a JSON array, and its entry in the `dataset_info.json` beside it.

| kind | entry | fields |
|---|---|---|
| chat | sharegpt | conversations (human, gpt, function_call, observation), system, tools |
| pair | sharegpt, ranking | conversations, chosen, rejected |
| rated | sharegpt with kto_tag | conversations, kto_tag |
| text | alpaca with prompt alone | text |

It wants questions (human, observation) and answers (gpt, function_call) in turn and leaves other rows out itself; they
are left out here, and said.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tamis.errors import DataError
from tamis.exporting.answers import find_answers
from tamis.exporting.chosen import Chosen, Files, Item, Notes, dump, unlabelled
from tamis.exporting.turns import turn_masks
from tamis.values import Kind, Message, Row

INFO = "dataset_info.json"
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_ASKS, _ANSWERS = ("human", "observation"), ("gpt", "function_call")
_NAMES = {"user": "human", "assistant": "gpt", "tool": "observation"}


class _Refused(Exception):
    """Why LLaMA-Factory cannot hold a row."""


def write(chosen: Chosen, files: Files, notes: Notes) -> None:
    """Write the rows of the most common kind as one JSON array, and the entry named like the file."""
    kind = chosen.main_kind()
    tools = chosen.has_tools() and kind != "text"
    with files.text(files.out) as file:
        file.write("[")
        for item in chosen:
            try:
                record = _record(item, kind, tools)
            except _Refused as error:
                notes.skip(str(error))
                continue
            _count_losses(item, chosen.model_name, notes)
            if item.weight is not None:
                record["weight"] = item.weight
            file.write(("," if notes.written else "") + "\n" + dump(record))
            notes.written += 1
        file.write("\n]\n")
    with files.text(files.out.with_name(INFO)) as info:
        info.write(json.dumps(_info(files.out, kind, tools), ensure_ascii=False, indent=2) + "\n")
    _say(chosen, files, kind, notes)


def _record(item: Item, kind: Kind, tools: bool) -> dict[str, Any]:
    row = item.row
    if row.kind == "prompt":
        raise _Refused("a prompt without an answer")
    if row.kind != kind:
        raise _Refused(f"kind {row.kind} (this file holds rows of kind {kind})")
    if why := unlabelled(item):
        raise _Refused(why)
    base: dict[str, Any] = {"key": row.key, "source": row.source}
    if kind == "text":
        return base | {"text": row.messages[0]["content"]}
    base["system"], turns = _turns(row.messages, answered=kind != "pair")
    base["conversations"] = turns
    if tools:
        base["tools"] = row.tools or ""
    if kind == "rated":
        base["kto_tag"] = row.label
    if kind == "pair":
        base |= {"chosen": _answer(row.chosen), "rejected": _answer(row.rejected)}
    return base


def _answer(messages: Sequence[Message]) -> dict[str, str]:
    if len(messages) != 1:
        raise _Refused("answers of several messages")
    turn = _turn(messages[0])
    if turn["from"] not in _ANSWERS:
        raise _Refused("an answer that is not the assistant's")
    return turn


def _turns(messages: Sequence[Message], *, answered: bool) -> tuple[str, list[dict[str, str]]]:
    """The system text ("" without one) and the turns, questions and answers by turns."""
    system = str(messages[0]["content"]) if messages and messages[0]["role"] == "system" else ""
    said = messages[1:] if messages and messages[0]["role"] == "system" else messages
    turns = [_turn(message) for message in said]
    for place, turn in enumerate(turns):
        if turn["from"] not in (_ASKS, _ANSWERS)[place % 2]:
            raise _Refused("turns that are not question and answer by turns (LLaMA-Factory leaves such rows out)")
    if not turns or (len(turns) % 2 == 0) != answered:
        raise _Refused("a conversation that does not end where an answer is wanted")
    return system, turns


def _turn(message: Message) -> dict[str, str]:
    calls, content = message.get("tool_calls"), str(message.get("content") or "")
    if not calls:
        return {"from": _NAMES.get(message["role"], str(message["role"])), "value": content}
    if content.strip():
        raise _Refused("text beside a tool call, for which sharegpt has no place")
    functions = [_function(call) for call in calls]
    return {"from": "function_call", "value": dump(functions if len(functions) > 1 else functions[0])}


def _function(call: dict[str, Any]) -> dict[str, Any]:
    arguments = call["function"].get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise _Refused("arguments of a tool call that are not JSON") from error
    return {"name": call["function"]["name"], "arguments": arguments}


def _count_losses(item: Item, model: str, notes: Notes) -> None:
    row = item.row
    if row.meta:
        notes.lost["meta"] += 1
    if _more_than_text(row):
        notes.lost["keys of messages other than role, content and tool calls"] += 1
    if row.kind != "chat" or item.rendered is None:
        return
    masks = turn_masks(row, item.rendered, model)
    if any(not mask.train or mask.spans is not None for mask in masks):
        notes.lost["the mask of turns, or of parts of turns,"] += 1
    if item.rendered.truncated:
        notes.lost["the cut at max_tokens (set cutoff_len)"] += 1
        return
    trained = {mask.message for mask in masks if mask.train}
    answers = find_answers(row, item.rendered, model) or []
    if any(item.rendered.turn[one.first] < 0 for one in answers if one.first < one.stop and one.message in trained):
        notes.lost["the token across the start of an answer (LLaMA-Factory encodes apart what precedes it)"] += 1


def _more_than_text(row: Row) -> bool:
    return any(set(one) - {"role", "content", "tool_calls"} for one in (*row.messages, *row.chosen, *row.rejected))


def _info(out: Path, kind: Kind, tools: bool) -> dict[str, Any]:
    """The `dataset_info.json` that lies there, with the entry of this file put in."""
    path = out.with_name(INFO)
    known: Any = {}
    if path.is_file():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(
                f"{path} is no JSON ({error}); repair or move it, so that the entry can be added"
            ) from error
        if not isinstance(known, dict):
            raise DataError(f"{path} does not hold an object of data sets; move it, so that the entry can be added")
    return {**known, out.stem: _entry(out.name, kind, tools)}


def _entry(name: str, kind: Kind, tools: bool) -> dict[str, Any]:
    if kind == "text":
        return {"file_name": name, "columns": {"prompt": "text"}}
    columns = {"messages": "conversations", "system": "system"}
    columns |= {"tools": "tools"} if tools else {}
    columns |= {"kto_tag": "kto_tag"} if kind == "rated" else {}
    columns |= {"chosen": "chosen", "rejected": "rejected"} if kind == "pair" else {}
    ranking = {"ranking": True} if kind == "pair" else {}
    return {"file_name": name, "formatting": "sharegpt", **ranking, "columns": columns, "tags": _TAGS}


def _say(chosen: Chosen, files: Files, kind: Kind, notes: Notes) -> None:
    notes.say(f"dataset: {files.out.stem}, dataset_dir: {files.folder} in LLaMA-Factory's config")
    notes.say("meta has no one shape and makes no column; key leads back to it", notes.lost["meta"])
    notes.say("LLaMA-Factory does not use row weights; they stand in the field weight", chosen.weights is not None)
    if kind == "text":
        notes.say("stage: pt trains every token of a text and the end token that LLaMA-Factory adds")
        return
    notes.say(
        "no token masks: LLaMA-Factory renders with the template named in `template:` and trains every assistant turn "
        "whole, with the closing of that template"
    )
