"""LLaMA-Factory's `dataset_info.json`: formatting alpaca, sharegpt and openai, with columns and tags.

Source: hiyouga/LLaMA-Factory, `src/llamafactory/data/parser.py` and `converter.py`. As there, `columns` and `tags`
replace their defaults as a whole, and prompt and query are joined by one line end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tamis.errors import DataError
from tamis.ingest.configs import Entry, not_read

HUBS = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "file_name")
COLUMNS = {"prompt": "prompt", "query": "input", "response": "response", "history": "history"}
SHARED = {"system": "system", "tools": "tools", "kto_tag": "label"}
RANKED = {"chosen": "chosen", "rejected": "rejected"}
ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
SHAREGPT = {"messages": "conversations"}
TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
ROLES = {"user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool", "function_tag": "function_call",
         "system_tag": "system"}  # fmt: skip
MEDIA = dict.fromkeys(("images", "videos", "audios"), "tamis reads text; the field stays in meta")
KEYS = {
    **dict.fromkeys((*HUBS, "formatting", "ranking", "subset", "split", "revision", "columns", "tags"), ""),
    "folder": "name its files",
    "num_samples": "take a sample of the pool",
}


def describes(value: Any) -> bool:
    """Whether this is the content of such a file: every entry names a place for its data."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(entry, dict) and any(hub in entry for hub in HUBS) for entry in value.values())
    )


def read(value: Any, path: Path) -> list[Entry]:
    """All entries. Raises DataError where the file is something else."""
    if not describes(value):
        raise DataError(f"{path}: expected {{name: {{file_name or hf_hub_url: …, …}}}}, as in LLaMA-Factory")
    return [_entry(name, entry, path) for name, entry in value.items()]


def _entry(name: str, entry: Mapping[str, Any], path: Path) -> Entry:
    formatting = entry.get("formatting", "alpaca")
    notes = not_read(entry, KEYS, name)
    if formatting not in ("alpaca", "sharegpt", "openai"):
        notes.append(f"{name}: formatting {formatting!r} is not known; the fields are detected")
        return Entry(name, (_place(name, entry, path),), {}, tuple(notes))
    columns = entry.get("columns", ALPACA if formatting == "alpaca" else SHAREGPT)
    own = COLUMNS if formatting == "alpaca" else {"messages": "messages"}
    known = {**own, **SHARED, **(RANKED if entry.get("ranking") else {})}
    notes += not_read(columns, {**dict.fromkeys({**own, **SHARED, **RANKED}, ""), **MEDIA}, f"{name}.columns")
    mapping = {known[key]: str(field) for key, field in columns.items() if key in known and field}
    if formatting == "alpaca":
        mapping["input.join"] = "\\n"
    else:
        tags = entry.get("tags", TAGS)
        notes += not_read(tags, dict.fromkeys(TAGS, ""), f"{name}.tags")
        mapping.update(_turns(tags))
    return Entry(name, (_place(name, entry, path),), mapping, tuple(notes))


def _turns(tags: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, name in (("role_tag", "messages.role"), ("content_tag", "messages.content")):
        if tags.get(key):
            yield name, str(tags[key])
    for key, role in ROLES.items():
        if tags.get(key):
            yield f"role.{tags[key]}", role


def _place(name: str, entry: Mapping[str, Any], path: Path) -> str:
    if hub := entry.get("hf_hub_url"):
        revision = f"@{entry['revision']}" if entry.get("revision") else ""
        config = f"/{entry['subset']}" if entry.get("subset") else ""
        return f"hf://{hub}{revision}{config}:{entry.get('split', 'train')}"
    if file := entry.get("cloud_file_name"):
        return str(file)
    if file := entry.get("file_name"):
        return str(path.parent / str(file))
    hubs = ", ".join(hub for hub in HUBS if entry.get(hub)) or "no place"
    raise DataError(f"{path}: {name} lies at {hubs}, which tamis does not read; download it and give its file_name")
