"""A parsed record to the parts of a row: which fields it has decides what it is, record by record.

| form | fields |
|---|---|
| messages | `messages` (role, content, tool_calls), `tools`; a lone `document` turn is plain text |
| sharegpt | `conversations` (from, value), `system`, `tools` |
| alpaca | `instruction`, `input`, `output`, `system`, `history` |
| prompt/completion | a name of `fields.PROMPTS` and, if answered, one of `fields.ANSWERS`; text or messages |
| preference | `chosen` and `rejected` (text, a message or messages) beside any prompt, or with the prompt inside one or
both of them: messages, or a transcript of turns that begin with `Human:` and `Assistant:` after an empty line |
| kto | `kto_tag`, or a `label` that is true or false, beside an answer |
| text | `text` |

A mapping replaces the detection or adds to it, see `mappings`. What no form uses goes to `meta`, so that nothing of
the record is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tamis.ingest import preferences, turns
from tamis.ingest.fields import ANSWERS, INPUTS, PROMPTS, TURNS, Fields
from tamis.ingest.mappings import nested, rules
from tamis.ingest.turns import RowFault, name_of, text
from tamis.values import Kind, Message


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The parts of a row that its record gives; `used`: canonical name -> field it came from."""

    kind: Kind
    form: str
    messages: tuple[Message, ...] = ()
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    label: bool | None = None
    tools: str | None = None
    source: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    used: Mapping[str, str] = field(default_factory=dict)


def draft(record: Any, mapping: Mapping[str, str] | None = None) -> Draft:
    """Find out what a record says. Raises RowFault with the reason where it says nothing usable."""
    if isinstance(record, list) and record and all(isinstance(turn, dict) for turn in record):
        record = {"messages": record}
    if not isinstance(record, Mapping):
        raise RowFault(f"wrong type: the record is {name_of(record)}, expected an object")
    fields = Fields.mapped(record, rules(mapping)) if mapping else Fields(record)
    form, messages = _messages(fields)
    if form == "text":
        return _finish(fields, "text", "text", messages)
    if fields.has("chosen") and fields.has("rejected"):
        return _pair(fields, form, messages)
    if not messages:
        raise RowFault(_unknown(fields, record, mapping))
    label = _label(fields, form, messages)
    form = "kto" if label is not None else form
    kind = _kind(messages, label)
    return _finish(fields, kind, form, messages, label=label)


def _unknown(fields: Fields, record: Mapping[str, Any], mapping: Mapping[str, str] | None) -> str:
    keys = ", ".join(map(str, list(record)[:20])) or "none"
    if mapping and (given := rules(mapping)).whole:
        missing = ", ".join(sorted(path for path in given.fields.values() if nested(record, path) is None))
        return f"mapped fields are not there: {missing} (found: {keys[:120]})"
    empty = [name for name in (*TURNS, *PROMPTS, "text") if name in record]
    if empty:
        return f"{empty[0]} is null"
    if record and all(str(key).isdigit() for key in record):
        keys = f"{keys}: the first line names none of them"
    return f"no known fields (found: {keys[:150]}); name them with --map"


def _finish(fields: Fields, kind: Kind, form: str, messages: list[Message], **more: Any) -> Draft:
    tools = fields.take("tools")
    source = fields.take("source") if isinstance(fields.left.get("source"), str) else None
    return Draft(
        kind=kind,
        form=form,
        messages=tuple(messages),
        tools=None if tools is None else turns.tools(tools),
        source=source or None,
        used=fields.used,
        meta=fields.meta(),
        **more,
    )


def _messages(fields: Fields) -> tuple[str, list[Message]]:
    """Give the form, and the messages up to and with the answer (for a preference: the prompt)."""
    if fields.has(*TURNS):
        form = "messages" if fields.has("messages") else "sharegpt"
        given = fields.take("messages", *TURNS)
        found = _with_system(fields, turns.messages(given, fields.used["messages"], fields.rules.words))
        if any(message["role"] == "document" for message in found):
            return "text", _document(found)
        _no_empty_turn(found, fields.rules.unanswered)
        return form, found
    if not fields.has(*PROMPTS):
        if not fields.has("text"):
            return "prompt/completion", []
        if not fields.has(*ANSWERS):
            return "text", _document([{"role": "document", "content": text(fields.take("text"), "text")}])
    return _prompt_and_answer(fields)


def _document(found: list[Message]) -> list[Message]:
    if len(found) != 1:
        raise RowFault("a document turn stands among other turns; expected it alone")
    if not found[0]["content"].strip():
        raise RowFault("empty text")
    return found


def _prompt_and_answer(fields: Fields) -> tuple[str, list[Message]]:
    alpaca = fields.has("instruction")
    wants_input = alpaca or fields.has("text") or fields.maps("input")
    given = fields.take("prompt", *PROMPTS, "text")
    field_name = fields.used["prompt"]
    if isinstance(given, list):
        found = turns.messages(given, field_name, fields.rules.words)
    elif not (found := preferences.opening(given) if fields.has("rejected") else []):
        prompt = text(given, field_name)
        if wants_input and (more := fields.take("input", *INPUTS)) is not None:
            prompt = fields.rules.join.join(part for part in (prompt, text(more, fields.used["input"])) if part.strip())
        if not prompt.strip():
            raise RowFault("empty prompt")
        found = [*_history(fields), {"role": "user", "content": prompt}]
    answer = fields.take("response", *ANSWERS)
    if answer is not None:
        found = [*found, *turns.answers(answer, fields.used["response"], fields.rules.words)]
    found = _with_system(fields, found)
    _no_empty_turn(found, fields.rules.unanswered)
    return ("alpaca" if alpaca else "prompt/completion"), found


def _history(fields: Fields) -> list[Message]:
    made: list[Message] = []
    if not isinstance(fields.left.get("history"), list):
        return made
    for pair in fields.take("history"):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowFault("wrong type: history holds something other than pairs of prompt and answer")
        made.append({"role": "user", "content": text(pair[0], "history")})
        made.append({"role": "assistant", "content": text(pair[1], "history")})
    return made


def _with_system(fields: Fields, found: list[Message]) -> list[Message]:
    if found[0]["role"] == "system" or not isinstance(fields.left.get("system"), str):
        return found
    system = fields.take("system")
    return [{"role": "system", "content": system}, *found] if system else found


def _empty(message: Message) -> bool:
    return not message["content"].strip() and not message.get("tool_calls")


def _no_empty_turn(found: list[Message], unanswered: bool) -> None:
    """Refuse an empty answer; the last one is left off where the rows are `unanswered` prompts."""
    if unanswered and len(found) > 1 and found[-1]["role"] == "assistant" and _empty(found[-1]):
        found.pop()
    for number, message in enumerate(found):
        if _empty(message) and message["role"] == "assistant":
            raise RowFault("empty answer" if number == len(found) - 1 else f"empty answer in turn {number}")
    if not any(message["role"] != "system" and message["content"].strip() for message in found):
        raise RowFault("no turn says anything")


def _pair(fields: Fields, form: str, prompt: list[Message]) -> Draft:
    prompt, chosen, rejected = preferences.read(fields, prompt)
    if not prompt:
        raise RowFault("a preference without a prompt")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer:
            raise RowFault(f"{name} holds no answer after the prompt")
        if not any(message["content"].strip() or message.get("tool_calls") for message in answer):
            raise RowFault(f"empty answer: {name}")
    return _finish(fields, "pair", "preference", prompt, chosen=tuple(chosen), rejected=tuple(rejected))


def _label(fields: Fields, form: str, messages: list[Message]) -> bool | None:
    if messages[-1]["role"] != "assistant":
        return None
    value = fields.left.get("kto_tag")
    name = "kto_tag" if value is not None else "label"
    value = fields.left.get(name)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        value = value.strip().lower() == "true"
    if (name == "kto_tag" or fields.maps("label")) and value in (0, 1):
        value = bool(value)
    if not isinstance(value, bool):
        return None
    fields.take("label", name)
    return value


def _kind(messages: list[Message], label: bool | None) -> Kind:
    if messages[-1]["role"] != "assistant":
        return "prompt"
    return "chat" if label is None else "rated"
