"""Axolotl's `datasets:` blocks: where the data lie, and what their types say about the fields.

Source: axolotl-ai-cloud/axolotl, `src/axolotl/utils/schemas/datasets.py`, `prompt_strategies/` and its documentation of
dataset formats. What decides how Axolotl renders and masks (templates, roles to train) is not data: it is noted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tamis.errors import DataError
from tamis.ingest.configs import Entry, not_read

RENDERING = "tamis renders with the chat template of the model"
MASKS = "tamis trains on every turn of the assistant; keys of a turn stay with it"
KEYS = {
    **dict.fromkeys(("path", "name", "split", "data_files", "ds_type", "type", "revision", "field", "roles"), ""),
    **dict.fromkeys(("field_messages", "field_system", "field_tools", "field_chosen", "field_rejected"), ""),
    **dict.fromkeys(("message_property_mappings", "message_field_role", "message_field_content"), ""),
    **dict.fromkeys(("chat_template", "chat_template_jinja", "conversation", "drop_system_message"), RENDERING),
    **dict.fromkeys(("split_thinking", "field_thinking", "template_thinking_key"), RENDERING),
    **dict.fromkeys(("roles_to_train", "train_on_eos", "train_on_inputs", "train_on_eot"), MASKS),
    **dict.fromkeys(("message_field_training", "message_field_training_detail"), MASKS),
    **dict.fromkeys(("shards", "shards_idx", "preprocess_shards"), "take a sample of the pool"),
    "trust_remote_code": "tamis runs no code of others",
}
BUILDERS = ("json", "csv", "parquet", "arrow", "text")
TYPES: dict[str, dict[str, str]] = {
    "alpaca": {"prompt": "instruction", "input": "input", "response": "output", "system": "system"},
    "gpteacher": {"prompt": "instruction", "input": "input", "response": "response"},
    "alpaca_chat.load_qa": {"prompt": "question", "response": "answer"},
    "alpaca_w_system.load_open_orca": {"system": "system_prompt", "prompt": "question", "response": "response"},
    "context_qa.load_v2": {"prompt": "question", "input": "context", "response": "answer"},
    "oasst": {"prompt": "INSTRUCTION", "response": "RESPONSE"},
    "sharegpt": {"messages": "conversations"},
    "chatml.intel": {"system": "system", "prompt": "question", "chosen": "chosen", "rejected": "rejected"},
    "chatml.icr": {"system": "system", "prompt": "input", "chosen": "chosen", "rejected": "rejected"},
    "chatml.prompt_pairs": {"system": "system", "prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    "chatml.argilla": {"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"},
    "chatml.ultra": {"system": "system", "prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
}
DEFINED = {"field_system": "system", "field_instruction": "prompt", "field_input": "input", "field_output": "response",
           "field_prompt": "prompt", "field_completion": "response", "field_chosen": "chosen",
           "field_rejected": "rejected", "field_label": "label"}  # fmt: skip


def read(value: Any, path: Path) -> list[Entry]:
    """The entries of a config, or of a list of data sets. Raises DataError where there are none."""
    found = value.get("datasets") if isinstance(value, dict) else value
    if not isinstance(found, list) or not found or not all(isinstance(entry, dict) for entry in found):
        raise DataError(f"{path}: expected Axolotl's `datasets:`, a list of blocks with `path` and `type`")
    aim = str(value.get("rl") or "") if isinstance(value, dict) else ""
    return [_entry(entry, path, aim) for entry in found]


def _entry(entry: Mapping[str, Any], path: Path, aim: str) -> Entry:
    name = str(entry.get("path") or "")
    if not name:
        raise DataError(f"{path}: a block of `datasets:` has no `path`")
    notes = not_read(entry, KEYS, name)
    kind = entry.get("type")
    if isinstance(kind, Mapping):
        notes += not_read(kind, dict.fromkeys(DEFINED, "") | dict.fromkeys(_FORMATS, RENDERING), f"{name}.type")
        mapping = {DEFINED[key]: str(field) for key, field in kind.items() if key in DEFINED and field}
    else:
        mapping = _mapping(str(kind or ""), entry, aim)
    if not mapping and kind is not None:
        notes.append(f"{name}: type {kind!r} is not known; the fields are detected")
    return Entry(name, tuple(_places(name, entry, path)), mapping, tuple(notes))


_FORMATS = ("system_prompt", "system_format", "format", "no_input_format", "prompt_format", "chosen_format",
            "rejected_format", "completion_format")  # fmt: skip


def _mapping(kind: str, entry: Mapping[str, Any], aim: str) -> dict[str, str]:
    if kind.startswith("chat_template"):
        return dict(_chat(entry, ranked=aim not in ("", "kto", "grpo")))
    if aim == "kto":
        return {}
    if kind == "completion" or kind.startswith("completion."):
        return {"text": str(entry.get("field") or "text")}
    known = kind.replace("llama3.", "chatml.")
    return dict(TYPES.get(known) or TYPES.get(known.partition(".")[0].partition(":")[0].removesuffix("_chat")) or {})


def _chat(entry: Mapping[str, Any], *, ranked: bool) -> Iterator[tuple[str, str]]:
    yield "messages", str(entry.get("field_messages") or "messages")
    yield "tools", str(entry.get("field_tools") or "tools")
    if entry.get("field_system"):
        yield "system", str(entry["field_system"])
    if ranked:
        yield "chosen", str(entry.get("field_chosen") or "chosen")
        yield "rejected", str(entry.get("field_rejected") or "rejected")
    said = entry.get("message_property_mappings") or {}
    for part in ("role", "content"):
        if field := said.get(part) or entry.get(f"message_field_{part}"):
            yield f"messages.{part}", str(field)
    for role, words in (entry.get("roles") or {}).items():
        yield from ((f"role.{word}", str(role)) for word in ([words] if isinstance(words, str) else words))


def _places(name: str, entry: Mapping[str, Any], path: Path) -> Iterator[str]:
    files = entry.get("data_files") or []
    files = [files] if isinstance(files, str) else [str(file) for file in files]
    local = _local(name, path)
    if name in BUILDERS and files:
        yield from (str(_local(file, path) or file) for file in files)
    elif local is not None:
        yield from (str(local / file) for file in files) if local.is_dir() and files else (str(local),)
    elif "://" in name:
        yield from (f"{name.rstrip('/')}/{file}" for file in files) if files else (name,)
    elif files:
        revision = f"@{entry['revision']}" if entry.get("revision") else ""
        yield from (f"hf://datasets/{name}{revision}/{file}" for file in files)
    elif name.count("/") == 1 and not name.startswith((".", "/", "~")):
        revision = f"@{entry['revision']}" if entry.get("revision") else ""
        config = f"/{entry['name']}" if entry.get("name") else ""
        yield f"hf://{name}{revision}{config}:{entry.get('split') or 'train'}"
    else:
        raise DataError(f"{path}: there is no file or folder {name!r}")


def _local(name: str, path: Path) -> Path | None:
    """Find a path beside the config or, as Axolotl does, from the folder one stands in."""
    found = (Path(name).expanduser(), path.parent / name)
    return next((place for place in found if place.exists()), None)
