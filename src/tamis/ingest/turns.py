"""Turns of a conversation, in sharegpt's or OpenAI's words, to OpenAI messages with text contents."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tamis.ingest.mappings import Words, nested
from tamis.values import Message

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "function_call",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "document": "document",
}
PLAIN = Words()


class RowFault(Exception):
    """Why a record cannot become a row; the ingest turns it into a line of the quarantine."""


def name_of(value: Any) -> str:
    """Say what a JSON value is, in words."""
    words = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return "null" if value is None else words.get(type(value), type(value).__name__)


def text(value: Any, field: str) -> str:
    """`value` if it is text; otherwise a fault that names the field."""
    if not isinstance(value, str):
        raise RowFault(f"wrong type: {field} is {name_of(value)}, expected text")
    return value


def as_list(value: Any, field: str) -> list[Any]:
    """Take a list, or a list written as JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowFault(f"wrong type: {field} is text that is no JSON list ({error})") from error
    if not isinstance(value, list):
        raise RowFault(f"wrong type: {field} is {name_of(value)}, expected a list of messages")
    return value


def messages(value: Any, field: str, words: Words = PLAIN) -> list[Message]:
    """Messages of a list of turns. Raises RowFault for an unknown role or a content that is not text."""
    turns = as_list(value, field)
    if not turns:
        raise RowFault(f"{field} is empty")
    return [message(turn, f"{field}[{number}]", words) for number, turn in enumerate(turns)]


def answers(value: Any, field: str, words: Words = PLAIN) -> list[Message]:
    """Read the answer of a prompt: text, one message, or a list of messages."""
    if isinstance(value, dict):
        said = _role(value, words)
        return [message(value if said else {**value, words.role or "role": "assistant"}, field, words)]
    if isinstance(value, list):
        return messages(value, field, words)
    return [{"role": "assistant", "content": text(value, field)}]


def message(turn: Any, field: str, words: Words = PLAIN) -> Message:
    """One turn as a message. Keys that are not known stay, nulls go."""
    if not isinstance(turn, Mapping):
        raise RowFault(f"wrong type: {field} is {name_of(turn)}, expected an object")
    said = _role(turn, words)
    role = _meant(said, words)
    if role is None:
        raise RowFault(f"unknown role {str(said)[:40]!r} in {field}")
    calls = _calls(turn, field)
    content = _content(turn, field, words, absent_allowed=bool(calls))
    if role == "function_call":
        role = "assistant"
        if not calls and (calls := _calls_in(content)):
            content = ""
    made: Message = {"role": role, "content": content}
    if calls:
        made["tool_calls"] = calls
    return made | _rest(turn, words)


def _role(turn: Mapping[str, Any], words: Words) -> Any:
    if words.role:
        return nested(turn, words.role)
    return turn.get("role") if turn.get("role") is not None else turn.get("from")


def _meant(said: Any, words: Words) -> str | None:
    if not isinstance(said, str):
        return words.roles.get(str(said))
    return words.roles.get(said) or ROLES.get(said.lower())


def _rest(turn: Mapping[str, Any], words: Words) -> dict[str, Any]:
    """Keep what is neither role nor content; a name that a message uses itself gets `turn_` before it."""
    role, content = words.role or "role", words.content or "content"
    used = {role, content, "tool_calls", "function_call"}
    used |= {"from"} if not words.role else set()
    used |= {"value"} if not words.content else set()
    left = {key: value for key, value in turn.items() if value is not None and key not in used}
    return {f"turn_{key}" if key in ("role", "content") else key: value for key, value in left.items()}


def _content(turn: Mapping[str, Any], field: str, words: Words, *, absent_allowed: bool) -> str:
    value = nested(turn, words.content) if words.content else turn.get("content")
    if value is None and not words.content:
        value = turn.get("value")
    if value is None:
        if absent_allowed:
            return ""
        raise RowFault(f"{field} has no content")
    if isinstance(value, list):
        return "".join(_part(part, field) for part in value)
    return text(value, f"{field}.content")


def _part(part: Any, field: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise RowFault(f"wrong type: a content part of {field} is {name_of(part)}")
    if part.get("type", "text") not in ("text", "input_text", "output_text"):
        raise RowFault(f"content part of type {str(part.get('type'))[:40]!r} in {field}: only text can be used")
    return text(part.get("text"), f"{field}.content")


def _calls(turn: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    found = turn.get("tool_calls")
    if not found and isinstance(turn.get("function_call"), Mapping):
        found = [{"function": turn["function_call"]}]
    if not found:
        return []
    return [_call(call, field) for call in as_list(found, f"{field}.tool_calls")]


def _call(call: Any, field: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowFault(f"a tool call of {field} names no function")
    made: dict[str, Any] = {
        "type": "function",
        "function": {"name": function["name"], "arguments": _arguments(function)},
    }
    if isinstance(call.get("id"), str):
        made = {"id": call["id"], **made}
    return made


def _arguments(function: Mapping[str, Any]) -> Any:
    """Arguments as an object, which chat templates expect; text that is no JSON stays text."""
    given = function.get("arguments", function.get("parameters", {}))
    if isinstance(given, str):
        try:
            return json.loads(given)
        except (ValueError, RecursionError):
            return given
    return given


def _calls_in(content: str) -> list[dict[str, Any]]:
    """Tool calls of a sharegpt `function_call` turn; none where its text is no JSON (it then stays text)."""
    try:
        found = json.loads(content)
        return [_call(call, "function_call") for call in (found if isinstance(found, list) else [found])]
    except (ValueError, RecursionError, RowFault):
        return []


def tools(value: Any) -> str | None:
    """Tool descriptions as JSON text with sorted keys; None where there are none."""
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowFault(f"tools is text that is no JSON ({error})") from error
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or any(not isinstance(tool, Mapping) for tool in value):
        raise RowFault(f"wrong type: tools is {name_of(value)}, expected a list of objects")
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")) if value else None
