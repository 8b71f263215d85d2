"""TRL: JSON Lines with the columns that its trainers read, and `input_ids` with `labels` where a model is given.

One file has one set of columns: that of the most common kind (SFT: messages or text; DPO: prompt, chosen, rejected;
KTO: prompt, completion, label). Rows of other kinds are left out, and said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tamis.exporting.chosen import Chosen, Files, Item, Notes, dump, labels, unlabelled, with_text_arguments
from tamis.values import Kind, Message, Row

WANTS: dict[Kind, str] = {
    "chat": "messages",
    "pair": "prompt, chosen, rejected",
    "rated": "prompt, completion, label",
    "text": "text",
    "prompt": "prompt",
}


def write(chosen: Chosen, files: Files, notes: Notes) -> None:
    """Write the rows of the most common kind; what TRL does not carry goes to `notes`."""
    kind = chosen.main_kind()
    labelled = chosen.model is not None and kind in ("chat", "text")
    tools = chosen.has_tools()
    longest = cut = calls = 0
    with files.text(files.out) as file:
        for item in chosen:
            why = _refused(item, kind, labelled)
            if why:
                notes.skip(why)
                continue
            record = {"key": item.row.key, "source": item.row.source} | _said(item.row)
            if tools:
                record["tools"] = item.row.tools or "[]"
            if item.weight is not None:
                record["weight"] = item.weight
            if labelled and item.rendered is not None:
                record |= labels(item)
                longest = max(longest, len(item.rendered.ids))
                cut += item.rendered.truncated
            calls += any(message.get("tool_calls") for message in item.row.messages)
            if item.row.meta:
                notes.lost["meta"] += 1
            file.write(dump(record) + "\n")
            notes.written += 1
    notes.say("meta has no one shape and makes no column; key leads back to it", notes.lost["meta"])
    notes.say("arguments of tool calls are JSON text", calls)
    notes.say("tools are JSON text; rows without any carry an empty list", tools)
    notes.say("TRL's trainers do not use row weights; they stand in the column weight", chosen.weights is not None)
    limit = f"set max_length=None or at least {longest} in SFTConfig, so that TRL does not cut the labels"
    notes.say(limit, longest)
    notes.say(f"the token ids of {cut} rows are cut at the model's max_tokens", cut)
    notes.say("no token ids and label masks: TRL will render the rows with its own template and masks", not labelled)


def _refused(item: Item, kind: Kind, labelled: bool) -> str:
    if item.row.kind != kind:
        return f"kind {item.row.kind} (the columns of this file are {WANTS[kind]})"
    return unlabelled(item) if labelled else ""


def _said(row: Row) -> dict[str, Any]:
    if row.kind == "text":
        return {"text": row.messages[0]["content"]}
    said = _plain(row.messages)
    if row.kind == "pair":
        return {"prompt": said, "chosen": _plain(row.chosen), "rejected": _plain(row.rejected)}
    if row.kind == "rated":
        return {"prompt": said[:-1], "completion": said[-1:], "label": row.label}
    return {"prompt" if row.kind == "prompt" else "messages": said}


def _plain(messages: Sequence[Message]) -> list[Message]:
    return with_text_arguments(messages)
