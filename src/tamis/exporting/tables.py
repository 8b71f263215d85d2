"""The forms of tamis itself, which carry rows of every kind: JSON Lines and Parquet; and the untouched input rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from tamis.exporting.chosen import Chosen, Files, Item, Notes, dump, labels
from tamis.exporting.turns import turn_masks
from tamis.pool import encode, schema


def masks(item: Item, model: str) -> dict[str, list[Any]]:
    """`train` (one flag per message) and `labels` of a rendered row; empty lists where none is trained."""
    assert item.rendered is not None
    flags = [False] * len(item.row.messages)
    if item.row.kind == "text":
        flags = [not item.rendered.reason] * len(flags)
    elif not item.rendered.reason:
        for mask in turn_masks(item.row, item.rendered, model):
            flags[mask.message] = mask.train
    return {"train": flags, **labels(item)}


def write_jsonl(chosen: Chosen, files: Files, notes: Notes) -> None:
    """Key, source, kind, messages (or prompt, chosen, rejected), tools, label, meta, weight, masks: one row a line."""
    with files.text(files.out) as file:
        for item in chosen:
            record = _record(item)
            if item.rendered is not None:
                record |= masks(item, chosen.model_name)
            file.write(dump(record) + "\n")
            notes.written += 1
    say_masks(chosen, notes)


def _record(item: Item) -> dict[str, Any]:
    row = item.row
    record: dict[str, Any] = {"key": row.key, "source": row.source, "kind": row.kind}
    if row.kind == "pair":
        record |= {"prompt": list(row.messages), "chosen": list(row.chosen), "rejected": list(row.rejected)}
    else:
        record["messages"] = list(row.messages)
    if row.tools is not None:
        record["tools"] = json.loads(row.tools)
    if row.label is not None:
        record["label"] = row.label
    record["meta"] = dict(row.meta)
    if item.weight is not None:
        record["weight"] = item.weight
    return record


def write_parquet(chosen: Chosen, files: Files, notes: Notes) -> None:
    """The pool's own columns (messages as JSON text), rank, weight, and the masks where a model is given."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = schema().append(pa.field("rank", pa.int64()))
    if chosen.weights is not None:
        columns = columns.append(pa.field("weight", pa.float32()))
    if chosen.model is not None:
        for name, kind in mask_types(chosen).items():
            columns = columns.append(pa.field(name, kind))
    with pq.ParquetWriter(files.pending(files.out), columns, compression="zstd") as writer:
        for batch in chosen.batches():
            records = []
            for item in batch:
                record = encode(item.row) | {"rank": item.rank, "weight": item.weight}
                records.append(record | (masks(item, chosen.model_name) if item.rendered is not None else {}))
            writer.write_table(pa.Table.from_pylist(records, schema=columns))
            notes.written += len(batch)
    notes.say("messages, chosen, rejected and meta are JSON text")
    say_masks(chosen, notes)


def mask_types(chosen: Chosen) -> Mapping[str, Any]:
    """Arrow types of the columns of `masks`."""
    import pyarrow as pa

    types = {"train": pa.list_(pa.bool_()), "input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())}
    return types | ({"token_weights": pa.list_(pa.float32())} if chosen.tokens is not None else {})


def say_masks(chosen: Chosen, notes: Notes) -> None:
    """Say which rows have no masks."""
    pairs = chosen.kinds()["pair"] if chosen.model is not None else 0
    notes.say(f"{pairs} pairs carry no token ids: trainers of preferences render prompt and answers themselves", pairs)


def write_original(chosen: Chosen, files: Files, notes: Notes) -> None:
    """The rows as they stood in the input files, byte for byte, in the order picked, one after the other.

    Rows of JSON arrays alone become an array again; nothing else is put around them.
    """
    from tamis.ingest import originals, rendered

    names = {item.row.file for item in Chosen(chosen.pool, chosen.places)}  # without the folders of the pool's names
    known = {str(file["name"]): str(file["format"]).partition(":")[0] for file in chosen.pool.files}
    used = {name: form for name, form in known.items() if PurePath(name).name in names} or known
    forms = set(used.values())
    array = bool(forms) and all(form.partition("+")[0] in ("json", "json-wrapped") for form in forms)
    with files.binary(files.out) as file:
        file.write(b"[\n" if array else b"")
        for raw in originals(chosen.pool, chosen.places):
            file.write(b",\n" if array and notes.written else b"")
            file.write(raw if array or raw.endswith(b"\n") else raw + b"\n")
            notes.written += 1
        file.write(b"\n]\n" if array else b"")
    notes.say("the input rows carry no row weights", chosen.weights is not None)
    notes.say("the input rows carry no turn and token masks")
    notes.say(f"rows of several formats one after the other: {', '.join(sorted(forms))}", len(forms) > 1)
    notes.say("rows of tables stand without their header", any(form.startswith(("csv", "tsv")) for form in forms))
    lines = sorted(set(used) & set(rendered(chosen.pool)))
    notes.say(f"these files hold no bytes of a row, so it is a line of JSON: {', '.join(lines)}", lines)
