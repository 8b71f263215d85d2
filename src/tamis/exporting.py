"""A subset as a file for somebody else's trainer. What a form cannot carry is said in `notes`, never dropped silently.

| form | holds |
|---|---|
| jsonl | key, source, kind, messages (or prompt, chosen, rejected), tools, label, meta, weight |
| trl | what TRL's trainers read: messages (or the columns of another kind); token ids and labels |
| parquet | the pool's own columns (messages as JSON text), rank and weight |
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tamis.catalogue import nearest
from tamis.errors import DataError, RecipeError
from tamis.ingest.tables import plain
from tamis.pool import Pool, encode, schema
from tamis.values import Kind, Message, Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.rendering import Rendered

    Render = Callable[[Row], Rendered]

FORMS = ("jsonl", "trl", "parquet")
IGNORED = -100  # the label that cross entropy leaves out, in torch and in TRL
BATCH = 4096


@dataclass(frozen=True)
class Export:
    """What was written: the file, how many rows it holds, and what it does not carry."""

    path: Path
    rows: int
    notes: tuple[str, ...] = ()


def export(
    pool: Pool,
    positions: Sequence[int] | NDArray[np.int64],
    out: Path,
    form: str,
    *,
    weights: Sequence[float] | NDArray[np.float32] | None = None,
    render: Render | None = None,
) -> Export:
    """Write the rows at `positions`, in this order, to the file `out`, whole or not at all.

    `weights`: one training weight a row. `render` gives the token ids and scored turns of a row; with it the form
    `trl` carries `input_ids` and `labels` that equal tamis's token for token. Raises RecipeError for an unknown form,
    DataError for weights that do not fit or a form that can carry none of the rows.
    """
    if form not in FORMS:
        raise RecipeError(f"there is no export form {form!r}{nearest(form, list(FORMS))} Known: {', '.join(FORMS)}")
    if weights is not None and len(weights) != len(positions):
        raise DataError(f"got {len(weights)} weights for {len(positions)} rows; expected one for each")
    places = [int(place) for place in positions]
    chosen = _Chosen(pool, places, None if weights is None else [float(weight) for weight in weights])
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    try:
        if form == "parquet":
            rows, notes = _parquet(chosen, partial)
        else:
            with partial.open("w", encoding="utf-8", newline="\n") as file:
                rows, notes = _jsonl(chosen, file) if form == "jsonl" else _Trl(chosen, render).write(file)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return Export(out, rows, tuple(notes))


@dataclass(frozen=True)
class _Chosen:
    pool: Pool
    places: list[int]
    weights: list[float] | None

    def batches(self) -> Iterator[list[tuple[int, Row, float | None]]]:
        """Rank, row and weight, some thousand rows at a time."""
        for start in range(0, len(self.places), BATCH):
            rows = self.pool.read(self.places[start : start + BATCH])
            yield [
                (start + i, row, self.weights[start + i] if self.weights is not None else None)
                for i, row in enumerate(rows)
            ]

    def __iter__(self) -> Iterator[tuple[int, Row, float | None]]:
        for batch in self.batches():
            yield from batch

    def kinds(self) -> Counter[Kind]:
        """How many rows there are of each kind."""
        import numpy as np

        if not self.places:
            return Counter()
        kinds = self.pool.table(["kind"]).column("kind").to_numpy(zero_copy_only=False)
        return Counter(kinds[np.asarray(self.places)].tolist())


def _parquet(chosen: _Chosen, path: Path) -> tuple[int, list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = schema().append(pa.field("rank", pa.int64()))
    if chosen.weights is not None:
        columns = columns.append(pa.field("weight", pa.float32()))
    with pq.ParquetWriter(path, columns, compression="zstd") as writer:
        for batch in chosen.batches():
            records = [encode(row) | {"rank": rank, "weight": weight} for rank, row, weight in batch]
            writer.write_table(pa.Table.from_pylist(records, schema=columns))
    return len(chosen.places), ["messages, chosen, rejected and meta are JSON text"]


def _jsonl(chosen: _Chosen, file: IO[str]) -> tuple[int, list[str]]:
    for _, row, weight in chosen:
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
        if weight is not None:
            record["weight"] = weight
        _line(file, record)
    return len(chosen.places), []


_LINE_ENDS = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}  # some readers end a line at these


def _line(file: IO[str], record: dict[str, Any]) -> None:
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    except ValueError:  # a number too large for a float, somewhere in meta: JSON has no infinity
        text = json.dumps(plain(record), ensure_ascii=False, allow_nan=False)
    file.write(text.translate(_LINE_ENDS) + "\n")


_WANTS: dict[Kind, str] = {
    "chat": "messages",
    "pair": "prompt, chosen, rejected",
    "rated": "prompt, completion, label",
    "text": "text",
    "prompt": "prompt",
}


class _Trl:
    """One JSON Lines file has one set of columns: that of the most common kind. Rows of other kinds are left out."""

    def __init__(self, chosen: _Chosen, render: Render | None) -> None:
        self.chosen = chosen
        kinds = chosen.kinds()
        self.kind: Kind = max(kinds, key=lambda kind: (kinds[kind], kind == "chat")) if kinds else "chat"
        self.render = render if self.kind in ("chat", "text") else None
        self.skipped: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.longest = 0

    def write(self, file: IO[str]) -> tuple[int, list[str]]:
        """Write the rows; returns their number and the notes."""
        tools = self._tools()
        written = 0
        for _, row, weight in self.chosen:
            if row.kind != self.kind:
                self.skipped[f"kind {row.kind} (the columns of this file are {_WANTS[self.kind]})"] += 1
                continue
            record = {"key": row.key, "source": row.source} | self._said(row)
            if tools:
                record["tools"] = row.tools or "[]"
            if weight is not None:
                record["weight"] = weight
            if self.render is not None:
                labelled = self._labelled(row)
                if labelled is None:
                    continue
                record |= labelled
            self.lost["meta"] += bool(row.meta)
            _line(file, record)
            written += 1
        if self.chosen.places and not written:
            raise DataError(f"TRL's form can carry none of the {len(self.chosen.places)} rows: {self._notes(tools)[0]}")
        return written, self._notes(tools)

    def _tools(self) -> bool:
        import numpy as np

        tools = self.chosen.pool.table(["tools"]).column("tools").is_valid().to_numpy(zero_copy_only=False)
        return bool(self.chosen.places) and bool(np.asarray(tools)[np.asarray(self.chosen.places)].any())

    def _said(self, row: Row) -> dict[str, Any]:
        if row.kind == "text":
            return {"text": row.messages[0]["content"]}
        said = self._plain(row.messages)
        if row.kind == "pair":
            return {"prompt": said, "chosen": self._plain(row.chosen), "rejected": self._plain(row.rejected)}
        if row.kind == "rated":
            return {"prompt": said[:-1], "completion": said[-1:], "label": row.label}
        return {"prompt" if row.kind == "prompt" else "messages": said}

    def _plain(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Messages with the arguments of tool calls as JSON text: objects of many shapes are no Arrow column."""
        made = []
        for message in messages:
            calls = message.get("tool_calls")
            if calls:
                self.lost["calls"] += 1
                message = {**message, "tool_calls": [_call(call) for call in calls]}
            made.append(message)
        return made

    def _labelled(self, row: Row) -> dict[str, Any] | None:
        assert self.render is not None
        rendered = self.render(row)
        if rendered.reason or not (rendered.turn >= 0).any():
            self.skipped[rendered.reason.text or "no token to train on is left"] += 1
            return None
        ids = rendered.ids.tolist()
        self.longest = max(self.longest, len(ids))
        self.lost["cut"] += rendered.truncated
        trained = (rendered.turn >= 0).tolist()
        return {"input_ids": ids, "labels": [token if on else IGNORED for token, on in zip(ids, trained, strict=True)]}

    def _notes(self, tools: bool) -> list[str]:
        notes = [f"{count} rows left out: {why}" for why, count in self.skipped.most_common()]
        if self.lost["meta"]:
            notes.append(f"meta of {self.lost['meta']} rows is not carried (its shapes make no column); key leads back")
        if self.lost["calls"]:
            notes.append("arguments of tool calls are JSON text")
        if tools:
            notes.append("tools are JSON text; rows without any carry an empty list")
        if self.chosen.weights is not None:
            notes.append("TRL's trainers do not use row weights; they stand in the column weight")
        if self.longest:
            notes.append(
                f"set max_length=None or at least {self.longest} in SFTConfig, so that TRL does not cut the labels"
            )
        if self.lost["cut"]:
            notes.append(f"the token ids of {self.lost['cut']} rows are cut at the model's max_tokens")
        if self.render is None:
            notes.append("no token ids and label masks: TRL will render the rows with its own template and masks")
        return notes


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    if not isinstance(function.get("arguments"), str):
        function["arguments"] = json.dumps(function.get("arguments"), ensure_ascii=False)
    return {**call, "function": function}
