"""Explain: everything that a run knows of one row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tamis.errors import DataError
from tamis.pool import MANIFEST, Pool


def explain(run: Path, row: str) -> dict[str, Any]:
    """Verdict, scores and text of a row of a run, by key (or its beginning) or `FILE:POSITION`."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        ledger = pq.read_table(run / "ledger.parquet")
    except OSError as error:
        raise DataError(f"{run} holds no ledger.parquet: the run did not finish; run it again") from error
    name, _, position = row.rpartition(":")
    if name and position.isdigit():
        mask = pc.and_(pc.equal(ledger.column("file"), name), pc.equal(ledger.column("position"), int(position)))
    else:
        changed = pc.is_in(ledger.column("key"), value_set=_children(run, row))
        mask = pc.or_(pc.starts_with(ledger.column("key"), row), changed)
    at = pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist()
    found = ledger.take(at).to_pylist()
    if len(found) != 1:
        what = "no row" if not found else f"{len(found)} rows"
        raise DataError(
            f"{what} of {run.name} match {row!r}; give a longer key, or FILE:POSITION as the ledger has them"
        )
    facts: dict[str, Any] = {key: (None if value != value else value) for key, value in found[0].items()}
    columns = run / "columns.parquet"
    values = pq.read_table(columns, filters=[("key", "=", facts["key"])]).to_pylist() if columns.is_file() else []
    facts["columns"] = {
        key: round(value, 5) if value == value else "not scored"
        for key, value in (values or [{}])[0].items()
        if key != "key"
    }
    facts["read_as"], facts["changed_by"] = _changes(run, facts["key"])
    facts |= _lineage(run, at[0], [facts["key"], *([facts["read_as"]] if facts["read_as"] else [])])
    facts["weights"] = _weights(run, facts["key"])
    facts["notes"] = _notes(run)
    facts["messages"], facts["excerpt"] = _text(run, facts["key"])
    return facts


def _lineage(run: Path, place: int, keys: list[str]) -> dict[str, Any]:
    """Nearest kept row, influence by task and spans; rows that never came into the pool have spans alone."""
    import dataclasses

    from tamis.history import lineage

    inside = place < len(Pool.open(run / MANIFEST))  # the ledger has the rows of the pool first, in order
    nearest = lineage.nearest_kept(run, place) if inside else None
    return {
        "nearest_kept": None if nearest is None else dataclasses.asdict(nearest),
        "influence": lineage.influences(run, place) if inside else {},
        "spans": lineage.spans(run, keys),
    }


def _children(run: Path, row: str) -> Any:
    """Keys of rows that transforms made of rows whose key begins so."""
    import pyarrow as pa
    import pyarrow.compute as pc

    pool = Pool.open(run / MANIFEST)
    if not any(step["changed"] for step in pool.steps):
        return pa.array([], pa.string())
    table = pool.table(["key", "parent"])
    return table.filter(pc.fill_null(pc.starts_with(table.column("parent"), row), False)).column("key").combine_chunks()


def _changes(run: Path, key: str) -> tuple[str, list[str]]:
    """Key of a row as it was read ("" where it is that row still), and the steps that may have changed it."""
    import pyarrow.compute as pc

    pool = Pool.open(run / MANIFEST)
    steps = [step["step"] for step in pool.steps if step["changed"]]
    if not steps:
        return "", []
    table = pool.table(["key", "parent"])
    found = table.filter(pc.equal(table.column("key"), key)).column("parent").to_pylist()
    return (found[0], steps) if found and found[0] else ("", [])


def _weights(run: Path, key: str) -> dict[str, Any]:
    """Training weight of a row that was selected, and what is left of its response tokens; nothing of other rows."""
    import pyarrow.parquet as pq

    file = run / "subset.parquet"
    found = pq.read_table(file, filters=[("key", "=", key)]).to_pylist() if file.is_file() else []
    if not found:
        return {}
    said: dict[str, Any] = {"row": found[0]["weight"]}
    tokens = found[0].get("token_weights")
    if tokens is not None:
        said["response_tokens"] = len(tokens)
        said["response_tokens_with_weight"] = sum(weight > 0 for weight in tokens)
        said["token_weights"] = tokens
    return said


def _notes(run: Path) -> list[str]:
    """What the run says of its signals: approximations and fallbacks."""
    import json

    try:
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    except OSError:
        return []
    return [str(sentence) for sentence in manifest.get("notes", ())]


def _text(run: Path, key: str) -> tuple[list[dict[str, Any]], str]:
    import pyarrow.parquet as pq

    from tamis.pool import ROWS, decode

    pool = Pool.open(run / MANIFEST)
    for shard in pool.shards:
        records = pq.read_table(shard.path / ROWS, filters=[("key", "=", key)]).to_pylist()
        if records:
            row = decode(records[0])
            return [*row.messages, *row.chosen], ""
    rejects = pq.read_table(run / "quarantine.parquet", filters=[("key", "=", key)]).to_pylist()
    return [], rejects[0]["excerpt"] if rejects else ""
