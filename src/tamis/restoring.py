"""A row back in the words of the format it came in: the inverse of reading, for JSON lines and for other trainers.

What `restore` writes is read as the same row again: kind, messages, answers, label, tools and meta. Unknown fields
stand where they were; those that a reader would take for a part of the row stand in a `meta` object, which reading
opens. What was joined on reading (instruction and input) stays joined; `tamis.ingest.originals` has the bytes.

| form | fields |
|---|---|
| messages | messages, tools |
| sharegpt | conversations (from, value), tools |
| alpaca | instruction, input (empty), output, system, history |
| prompt/completion | prompt and completion: text for one question and answer, else messages |
| preference | prompt, chosen, rejected: text for one question and two answers, else messages |
| kto | prompt, completion, label |
| text | text |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tamis.catalogue import nearest
from tamis.errors import DataError, RecipeError
from tamis.values import Message, Row

FORMS = ("messages", "sharegpt", "alpaca", "prompt/completion", "preference", "kto", "text")
# Names that a reader takes for a part of the row; as unknown fields they go into the `meta` object.
READ = frozenset(
    (
        *("messages", "conversations", "conversation", "system", "tools", "source", "history", "input", "context"),
        *("instruction", "prompt", "question", "query", "problem", "text", "chosen", "rejected"),
        *("output", "response", "completion", "answer", "solution", "label", "kto_tag", "meta"),
    )
)
NAMES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def restore(row: Row, form: str) -> dict[str, Any]:
    """The record of a row in `form`, a name of `FORMS` as the pool's files state it ("prompt-completion" too).

    Raises RecipeError for an unknown form, and DataError where the form cannot carry the row, saying why.
    """
    name = form.replace("prompt-completion", "prompt/completion")
    if name not in FORMS:
        raise RecipeError(f"there is no form {form!r}{nearest(form, list(FORMS))} Known: {', '.join(FORMS)}")
    record = _WRITERS[name](row)
    if row.tools is not None:
        record["tools"] = json.loads(row.tools)
    if row.source and row.source != row.file and not row.file.startswith(f"{row.source}."):
        record["source"] = row.source
    return record | _unknown(row.meta, record)


def _unknown(meta: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Unknown fields beside the record's own; a null, which reading drops, stays only inside `meta`."""
    inside = {key: value for key, value in meta.items() if key in record or value is None or _is_read(key, value)}
    return {key: value for key, value in meta.items() if key not in inside} | ({"meta": inside} if inside else {})


def _is_read(key: str, value: Any) -> bool:
    """Whether a reader takes a field of this name; it leaves a label that is a class, and a source that is no text."""
    if key == "label":
        return isinstance(value, bool) or str(value).strip().lower() in ("true", "false")
    return key in READ and (key != "source" or isinstance(value, str))


def _refuse(row: Row, form: str, why: str) -> DataError:
    place = f"{row.file}:{row.position}" if row.file else f"row {row.key[:8]}"
    return DataError(f"{place} ({row.kind}) cannot be written as {form}: {why}")


def _expect(row: Row, form: str, *kinds: str) -> None:
    if row.kind not in kinds:
        raise _refuse(row, form, f"the form carries rows of kind {', '.join(kinds)}")


def _messages(row: Row) -> dict[str, Any]:
    _expect(row, "messages", "chat", "prompt", "rated", "text")
    record: dict[str, Any] = {"messages": [dict(message) for message in row.messages]}
    return record if row.label is None else record | {"label": row.label}


def _sharegpt(row: Row) -> dict[str, Any]:
    _expect(row, "sharegpt", "chat", "prompt", "rated")
    record: dict[str, Any] = {"conversations": [_turn(message) for message in row.messages]}
    return record if row.label is None else record | {"label": row.label}


def _turn(message: Message) -> dict[str, Any]:
    """A turn in sharegpt's words; a call that `function_call` cannot carry whole keeps its OpenAI field."""
    said = {key: value for key, value in message.items() if key not in ("role", "content", "tool_calls")}
    calls = message.get("tool_calls")
    if not calls:
        return {"from": NAMES[message["role"]], "value": message["content"], **said}
    if message["content"] or any(set(call) != {"type", "function"} for call in calls):
        return {"from": "gpt", "value": message["content"], "tool_calls": calls, **said}
    functions = [call["function"] for call in calls]
    value = json.dumps(functions[0] if len(functions) == 1 else functions, ensure_ascii=False)
    return {"from": "function_call", "value": value, **said}


def _alpaca(row: Row) -> dict[str, Any]:
    _expect(row, "alpaca", "chat", "prompt", "rated")
    rest = list(row.messages)
    record: dict[str, Any] = {"system": rest.pop(0)["content"]} if rest[0]["role"] == "system" else {}
    answer = rest.pop()["content"] if row.kind != "prompt" else None
    roles = [message["role"] for message in rest]
    if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
        raise _refuse(row, "alpaca", f"it has turns of questions and answers alone, this row has {', '.join(roles)}")
    if any(set(message) != {"role", "content"} for message in row.messages) or record.get("system") == "":
        raise _refuse(row, "alpaca", "a turn has more than a text")
    record = {"instruction": rest.pop()["content"], "input": "", **record}
    if rest:
        texts = [message["content"] for message in rest]
        record["history"] = [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    if answer is not None:
        record["output"] = answer
    return record if row.label is None else record | {"label": row.label}


def _prompt(row: Row) -> dict[str, Any]:
    _expect(row, "prompt/completion", "chat", "prompt", "rated")
    record = _texts(prompt=row.messages) if row.kind == "prompt" else {}
    record = record or _texts(prompt=row.messages[:-1], completion=row.messages[-1:])
    return record if row.label is None else record | {"label": row.label}


def _preference(row: Row) -> dict[str, Any]:
    _expect(row, "preference", "pair")
    return _texts(prompt=row.messages, chosen=row.chosen, rejected=row.rejected)


def _kto(row: Row) -> dict[str, Any]:
    _expect(row, "kto", "rated")
    return _prompt(row)


def _text(row: Row) -> dict[str, Any]:
    _expect(row, "text", "text")
    return {"text": row.messages[0]["content"]}


def _texts(**parts: Sequence[Message]) -> dict[str, Any]:
    """Each part as text if all of them are one plain turn of the expected speaker, else each as messages."""
    plain = all(
        len(part) == 1
        and set(part[0]) == {"role", "content"}
        and part[0]["role"] == ("user" if name == "prompt" else "assistant")
        for name, part in parts.items()
    )
    if plain:
        return {name: part[0]["content"] for name, part in parts.items()}
    return {name: [dict(message) for message in part] for name, part in parts.items()}


_WRITERS: dict[str, Callable[[Row], dict[str, Any]]] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt/completion": _prompt,
    "preference": _preference,
    "kto": _kto,
    "text": _text,
}
