"""Axolotl: JSON Lines, and beside it a YAML file with the `datasets:` block that reads them.

| kind | type of the block | fields |
|---|---|---|
| chat | chat_template | messages with `train` (a turn) and `train_detail` (characters of a turn), tools (text) |
| text | completion | text |
| pair | chat_template.default (rl: dpo) | messages, chosen, rejected |
| rated | chatml.ultra (rl: kto) | system, prompt, completion, label |

Axolotl trains the content of a turn and the first end token within three tokens behind it (`axolotl_rule`). Where
tamis's mask is another one (line ends inside it, parts of a turn, a token across the border, rows cut at max_tokens),
and for text, whose end Axolotl adds itself,
`NAME.tokenized.jsonl` holds `input_ids`, `attention_mask` and `labels`, which Axolotl takes as they are, and the block
reads that file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import IO, Any

from tamis.exporting.axolotl_rule import NO_TEMPLATE, RuleCheck
from tamis.exporting.chosen import Chosen, Files, Item, Notes, dump, labels, unlabelled, with_text_arguments
from tamis.exporting.turns import turn_masks
from tamis.values import Kind, Message, Row

TOKENIZED = ".tokenized.jsonl"

_BLOCKS: dict[Kind, str] = {
    "chat": """    type: chat_template
    field_messages: messages
    message_property_mappings:
      role: role
      content: content
    roles_to_train: [assistant]
    train_on_eos: turn
    message_field_training: train
    message_field_training_detail: train_detail
""",
    "text": "    type: completion\n    field: text\n",
    "pair": """    split: train
    type: chat_template.default
    field_messages: messages
    field_chosen: chosen
    field_rejected: rejected
    message_property_mappings:
      role: role
      content: content
    roles:
      user: [user]
      assistant: [assistant]
      system: [system]
      tool: [tool]
""",
    "rated": "    split: train\n    type: chatml.ultra\n",
}
_RL: dict[Kind, str] = {"pair": "rl: dpo\n", "rated": "rl: kto\nremove_unused_columns: false\n"}


@dataclass
class _State:
    """What is learned about the rows while they are written."""

    kind: Kind
    rule: RuleCheck
    longest: int = 0
    end: str = ""  # of a turn, where it is not the end of sequence


def write(chosen: Chosen, files: Files, notes: Notes) -> None:
    """Write the rows of the most common kind, the block and, where needed, the tokenized rows."""
    rule = RuleCheck(chosen.model_name)
    state = _State(chosen.main_kind(), rule)
    with_ids = chosen.model is not None and state.kind in ("chat", "text")
    tokens = files.text(files.beside(TOKENIZED)) if with_ids else None
    with files.text(files.out) as file:
        for item in chosen:
            _row(item, state, notes, file, tokens)
    state.end = rule.end_token() if rule.ends else ""
    if tokens is not None and not rule.differ:
        files.drop(files.beside(TOKENIZED))
    with files.text(files.beside(".yaml")) as block:
        block.write(_block(chosen, files, state))
    _say(chosen, files, state, notes)


def _row(item: Item, state: _State, notes: Notes, file: IO[str], tokens: IO[str] | None) -> None:
    record = _refused(item, state) or _record(item, state)
    if isinstance(record, str):
        notes.skip(record)
        return
    _count_losses(item.row, notes)
    if item.weight is not None:
        record["weight"] = item.weight
    if tokens is not None and item.rendered is not None:
        made = labels(item)
        if item.tokens is not None and not (item.tokens > 0).all():
            state.rule.differ["it has no place for masked tokens"] += 1
        tokens.write(dump({**made, "attention_mask": [1] * len(made["input_ids"])}) + "\n")
        state.longest = max(state.longest, len(made["input_ids"]))
    file.write(dump(record) + "\n")
    notes.written += 1


def _count_losses(row: Row, notes: Notes) -> None:
    if row.meta:
        notes.lost["meta"] += 1
    if row.tools is not None and row.kind in ("pair", "rated"):
        notes.lost["tools"] += 1


def _refused(item: Item, state: _State) -> str:
    row = item.row
    if row.kind == "prompt":
        return "a prompt without an answer"
    if row.kind != state.kind:
        return f"kind {row.kind} (this file holds rows of kind {state.kind})"
    if item.rendered is not None and row.kind in ("chat", "text"):
        return unlabelled(item)
    if row.kind in ("pair", "rated") and any(
        "tool_calls" in one for one in (*row.messages, *row.chosen, *row.rejected)
    ):
        return "tool calls, which Axolotl's preference types leave out"
    return ""


def _record(item: Item, state: _State) -> dict[str, Any] | str:
    row = item.row
    base: dict[str, Any] = {"key": row.key, "source": row.source}
    if row.kind == "text":
        if item.rendered is not None:
            state.rule.differ["Axolotl puts an end token of its own behind a text"] += 1
        return base | {"text": row.messages[0]["content"]}
    if row.kind == "pair":
        if len(row.chosen) != 1 or len(row.rejected) != 1:
            return "answers of several messages, of which Axolotl takes the last alone"
        return base | {"messages": _bare(row.messages), "chosen": row.chosen[0], "rejected": row.rejected[0]}
    if row.kind == "rated":
        return _rated(row, base)
    made = base | {"messages": _messages(item, state)}
    return made | ({"tools": _tools(row.tools)} if row.tools is not None else {})


def _tools(text: str) -> str:
    """A list of tools as JSON text, which Axolotl reads; objects would lose their nulls and the order of their keys."""
    tools = json.loads(text)
    return text if isinstance(tools, list) else dump([tools])


def _bare(messages: tuple[Message, ...]) -> list[Message]:
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _rated(row: Row, base: dict[str, Any]) -> dict[str, Any] | str:
    roles = [message["role"] for message in row.messages]
    said = [message["content"] for message in row.messages]
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        return "a conversation of several turns, which Axolotl's KTO types cannot hold"
    system = said[0] if len(said) == 3 else ""
    return base | {"system": system, "prompt": said[-2], "completion": said[-1], "label": row.label}


def _messages(item: Item, state: _State) -> list[Message]:
    messages = [
        {key: value for key, value in message.items() if key not in ("train", "train_detail")}
        | {"train": message["role"] == "assistant"}
        for message in with_text_arguments(item.row.messages)
    ]
    if item.rendered is None:
        return messages
    masks = turn_masks(item.row, item.rendered, state.rule.model)
    state.rule.add(item.row, item.rendered, masks)
    for mask in masks:
        message = messages[mask.message]
        message["train"] = mask.train
        if mask.spans is not None:
            message["train_detail"] = _detail(mask.spans, len(str(message["content"])))
    return messages


def _detail(spans: tuple[tuple[int, int], ...], size: int) -> list[dict[str, Any]]:
    """The whole content as pieces that are trained or not; ends are inclusive, as Axolotl counts."""
    pieces = []
    last = 0
    for low, high in [*spans, (size, size)]:
        if low > last:
            pieces.append({"begin_offset": last, "end_offset": low - 1, "train": False})
        if high > low:
            pieces.append({"begin_offset": low, "end_offset": high - 1, "train": True})
        last = high
    return pieces


def _block(chosen: Chosen, files: Files, state: _State) -> str:
    path, differ = json.dumps(files.name(files.out)), state.rule.differ
    lines = ["# Written by tamis. Paste into the Axolotl config; the path is read from the folder axolotl runs in.\n"]
    lines.append(_RL.get(state.kind, ""))
    templated = state.kind in ("chat", "pair") and NO_TEMPLATE not in differ
    lines.append("chat_template: tokenizer_default\n" if templated else "")
    limit = f"sequence_len: {max(state.longest, chosen.model.max_tokens)}\n" if chosen.model is not None else ""
    lines += [limit, _end_tokens(state), "datasets:\n"]
    own = f"  - path: {path}\n    ds_type: json\n{_BLOCKS.get(state.kind, '')}"
    if not differ:
        return "".join([*lines, own])
    tokenized = json.dumps(files.name(files.beside(TOKENIZED)))
    lines.append(f"  - path: {tokenized}\n    ds_type: json\n    type:\n")
    lines.append("# Or the messages, masked by Axolotl's own rule, which is another one for these rows:\n")
    lines += [f"#   {why} ({count} rows)\n" for why, count in differ.most_common()]
    return "".join([*lines, *(f"# {line}\n" for line in own.splitlines())])


def _end_tokens(state: _State) -> str:
    return f"eot_tokens:\n  - {json.dumps(state.end)}\n" if state.end else ""


def _say(chosen: Chosen, files: Files, state: _State, notes: Notes) -> None:
    notes.say("meta has no one shape and makes no column; key leads back to it", notes.lost["meta"])
    notes.say("Axolotl does not use row weights; they stand in the column weight", chosen.weights is not None)
    notes.say("tools and the arguments of tool calls are JSON text", chosen.has_tools())
    if state.rule.differ:
        name = files.beside(TOKENIZED).name
        why = "; ".join(why for why, _ in state.rule.differ.most_common())
        text = f"Axolotl's own rule would mask otherwise ({why}): the block reads the token ids in {name}"
        notes.say(text)
        notes.say("the token ids carry no row weights", chosen.weights is not None)
    notes.say("no model was given, so no mask was checked", chosen.model is None and state.kind in ("chat", "text"))
    if state.kind == "rated":
        notes.say("Axolotl's KTO types write ChatML or Llama 3 (llama3.ultra), not the tokenizer's template")
    if state.kind == "pair":
        notes.say("Axolotl renders chosen and rejected apart from the prompt")
    limit = f"rows longer than sequence_len are dropped by Axolotl; the longest here has {state.longest} tokens"
    notes.say(limit, state.longest)
