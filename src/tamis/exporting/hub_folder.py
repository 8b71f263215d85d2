"""A Hugging Face dataset folder: `data/KIND.parquet` and a dataset card, as `datasets.load_dataset(folder)` reads it.

`croissant.json` describes it for everybody else (MLCommons' Croissant).

Every kind of row is a configuration of its own, the most common one is the default, so that no row is left out.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tamis.errors import DataError
from tamis.exporting import croissant
from tamis.exporting.chosen import Chosen, Files, Item, Notes, dump, with_text_arguments
from tamis.exporting.tables import mask_types, masks, say_masks
from tamis.store import write_json
from tamis.values import Kind, Message

CARD = "README.md"
_MESSAGES: dict[Kind, tuple[str, ...]] = {
    "chat": ("messages",),
    "pair": ("prompt", "chosen", "rejected"),
    "rated": ("prompt", "completion"),
    "text": (),
    "prompt": ("prompt",),
}
_ABOUT = {
    "key": "identity of the row: its input file and its place there",
    "source": "name of the source",
    "rank": "place in the order picked",
    "weight": "training weight",
    "messages": "the conversation",
    "prompt": "the conversation up to the answer",
    "completion": "the answer",
    "chosen": "the better answer",
    "rejected": "the worse answer",
    "label": "whether the answer is good",
    "text": "plain text",
    "tools": "descriptions of tools as JSON text",
    "meta": "other fields of the input row as JSON text",
    "train": "for every message, whether any token of it is trained",
    "input_ids": "token ids under the model's template",
    "labels": "the token id where it is trained, -100 elsewhere",
    "token_weights": "training weight of every token id, 0 where it is not trained",
}


def write(chosen: Chosen, files: Files, notes: Notes) -> None:
    """Write all rows, one Parquet file a kind, and the card; refuses a folder that holds anything else."""
    _check_folder(files.out)
    folder = files.pending(files.out)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    kinds = chosen.kinds()
    sources: Counter[str] = Counter()
    tables = {kind: _Table(folder / "data" / f"{kind}.parquet", kind, chosen) for kind in kinds}
    try:
        for batch in chosen.batches():
            for kind in {item.row.kind for item in batch}:
                tables[kind].add([item for item in batch if item.row.kind == kind])
            sources.update(item.row.source for item in batch)
            notes.written += len(batch)
    finally:
        for table in tables.values():
            table.close()
    for what in sorted({what for table in tables.values() for what in table.lost}):
        notes.say(what)
    notes.say("tools, meta and the arguments of tool calls are JSON text")
    say_masks(chosen, notes)
    columns = [name for table in tables.values() for name in table.names]
    card = _card(files.out.name, chosen, sources, list(dict.fromkeys(columns)), notes)
    (folder / CARD).write_text(card, encoding="utf-8")
    parts = {str(kind): folder / "data" / f"{kind}.parquet" for kind in sorted(kinds)}
    text = " ".join([f"{len(chosen.places):,} rows of fine-tuning data, selected with tamis.", *chosen.about.lines])
    made, digest = chosen.about.made or time.strftime("%Y-%m-%d"), chosen.about.digest
    described = croissant.describe(files.out.name, text, parts, _ABOUT, made=made, digest=digest)
    write_json(folder / croissant.NAME, described)


def _check_folder(out: Path) -> None:
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= {CARD, croissant.NAME, "data"}):
        raise DataError(f"{out} exists and is not a dataset folder of tamis; give the name of a new folder")


class _Table:
    """The rows of one kind as one Parquet file."""

    def __init__(self, path: Path, kind: Kind, chosen: Chosen) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.kind = kind
        self.model = chosen.model_name if kind != "pair" else ""
        self.extra = _extra_keys(chosen, kind)
        self.lost = [
            f"{key} of messages is JSON text, for its values are of several types"
            for key, texts in self.extra.items()
            if not texts
        ]
        self.schema = pa.schema(self._fields(chosen))
        self.names = self.schema.names
        self.writer = pq.ParquetWriter(path, self.schema, compression="zstd")

    def _fields(self, chosen: Chosen) -> Iterator[tuple[str, Any]]:
        import pyarrow as pa

        yield from (("key", pa.string()), ("source", pa.string()), ("rank", pa.int64()))
        if chosen.weights is not None:
            yield "weight", pa.float32()
        for name in _MESSAGES[self.kind]:
            yield name, pa.list_(_message_type(list(self.extra)))
        if self.kind == "text":
            yield "text", pa.string()
        if self.kind == "rated":
            yield "label", pa.bool_()
        yield from (("tools", pa.string()), ("meta", pa.string()))
        if self.model:
            yield from mask_types(chosen).items()

    def add(self, items: Sequence[Item]) -> None:
        """Append these rows."""
        import pyarrow as pa

        self.writer.write_table(pa.Table.from_pylist([self._record(item) for item in items], schema=self.schema))

    def close(self) -> None:
        """End the file."""
        self.writer.close()

    def _record(self, item: Item) -> dict[str, Any]:
        row = item.row
        made: dict[str, Any] = {"key": row.key, "source": row.source, "rank": item.rank, "weight": item.weight}
        made |= {"tools": row.tools, "meta": dump(dict(row.meta)), "label": row.label}
        if row.kind == "text":
            made["text"] = row.messages[0]["content"]
        elif row.kind == "rated":
            made |= {"prompt": self._plain(row.messages[:-1]), "completion": self._plain(row.messages[-1:])}
        elif row.kind == "chat":
            made["messages"] = self._plain(row.messages)
        else:
            made |= {"prompt": self._plain(row.messages)}
            made |= {"chosen": self._plain(row.chosen), "rejected": self._plain(row.rejected)}
        return made | (masks(item, self.model) if item.rendered is not None else {})

    def _plain(self, messages: Sequence[Message]) -> list[Message]:
        as_text = [key for key, texts in self.extra.items() if not texts]
        return [
            message | {key: dump(message[key]) for key in as_text if key in message}
            for message in with_text_arguments(messages)
        ]


def _message_type(extra: Sequence[str]) -> Any:
    import pyarrow as pa

    function = pa.struct([("name", pa.string()), ("arguments", pa.string())])
    call = pa.struct([("id", pa.string()), ("type", pa.string()), ("function", function)])
    fields: list[tuple[str, Any]] = [("role", pa.string()), ("content", pa.string())]
    if "tool_calls" in extra:
        fields.append(("tool_calls", pa.list_(call)))
    return pa.struct(fields + [(key, pa.string()) for key in extra if key != "tool_calls"])


def _extra_keys(chosen: Chosen, kind: Kind) -> dict[str, bool]:
    """Keys of messages beside role and content: whether all their values are text (tool_calls has its own type)."""
    found: dict[str, bool] = {}
    plain = Chosen(chosen.pool, chosen.places)
    for item in plain:
        if item.row.kind != kind:
            continue
        for message in (*item.row.messages, *item.row.chosen, *item.row.rejected):
            for key in set(message) - {"role", "content"}:
                text = key == "tool_calls" or isinstance(message[key], str)
                found[key] = found.get(key, True) and text
    return dict(sorted(found.items()))


def _card(name: str, chosen: Chosen, sources: Counter[str], columns: list[str], notes: Notes) -> str:
    kinds = chosen.kinds()
    main = chosen.main_kind()
    lines = ["---", f"pretty_name: {json.dumps(name)}", "tags:", "- tamis", "task_categories:", "- text-generation"]
    lines += ["size_categories:", f"- {_size(len(chosen.places))}", *(["configs:"] if kinds else [])]
    for kind in sorted(kinds):
        lines += [f"- config_name: {kind}", *(["  default: true"] if kind == main else [])]
        lines += ["  data_files:", "  - split: train", f"    path: data/{kind}.parquet"]
    lines += ["---", "", f"# {name}", "", f"{len(chosen.places):,} rows of fine-tuning data, selected with tamis.", ""]
    if chosen.about.lines:
        lines += ["## How the rows were chosen", "", *(f"- {line}" for line in chosen.about.lines), "", "## Rows", ""]
    lines += ["| configuration | rows |", "|---|---|", *(f"| {kind} | {count:,} |" for kind, count in kinds.items())]
    lines += ["", "| source | rows |", "|---|---|"]
    lines += [f"| {_cell(source)} | {count:,} |" for source, count in sources.most_common(50)]
    lines += ["", "| column | holds |", "|---|---|", *(f"| {column} | {_ABOUT[column]} |" for column in columns)]
    lines += ["", *(f"- {note}" for note in notes.lines()), ""]
    lines += ["```python", "import datasets", "", f'rows = datasets.load_dataset("{name}", split="train")', "```", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _size(rows: int) -> str:
    limits = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for limit, name in limits if rows < limit), "1M<n<10M" if rows < 10_000_000 else "n>10M")
