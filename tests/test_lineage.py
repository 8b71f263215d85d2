"""Lineage: what a run can say of one row, SQL over what it left, and cards that describe its subset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.api import export
from tamis.errors import RecipeError
from tamis.exporting.provenance import of_run
from tamis.history import lineage, querying
from tamis.history.explanation import explain
from tamis.ingest import ingest
from tamis.pool import MANIFEST, Pool
from tamis.stages.signals import Signal
from tamis.store import Store, save_arrays, write_json

ROWS, SHARD = 12, 5
KEPT = (2, 9, 11)
TASKS = ["sums", "words"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as `tamis run` leaves it, with hidden states and influence of known values."""
    place = tmp_path_factory.mktemp("lineage")
    lines = [{"instruction": f"Say {word} {number}", "output": f"{word} {number}"} for number, word in enumerate(WORDS)]
    (place / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    pool = ingest([str(place / "rows.jsonl")], Store(place / "store"), shard_rows=SHARD)
    folder = place / "runs" / "one"
    folder.mkdir(parents=True)
    pool.save(folder / MANIFEST)
    _tables(folder, pool)
    vectors = _vectors()
    lineage.keep_signals(folder, {"tokens": _signal(place, "tokens", pool, {"pooled": vectors})})
    manifest = {
        "name": "one",
        "tamis": "0",
        "finished": "2026-11-26T00:00:00+0000",
        "subset": {"selector": "less", "budget": "3", "rows": 3, "tokens": 30, "usable": ROWS, "digest": "ab" * 16},
        "pool": {"files": [{"name": "/home/me/rows.jsonl", "digest": "cd" * 16, "rows": ROWS}]},
        "notes": [],
    }
    write_json(folder / "manifest.json", manifest)
    return folder


WORDS = ("red", "blue", "red", "green", "blue", "pink", "red", "grey", "blue", "blue", "teal", "pink")


def _vectors() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(ROWS, 4)).astype(np.float32)


def _signal(place: Path, name: str, pool: Pool, arrays: dict[str, np.ndarray]) -> Signal:
    folders = []
    for number, start in enumerate(pool.starts[:-1]):
        folder = place / name / str(number)
        folder.mkdir(parents=True)
        part = slice(start, pool.starts[number + 1])
        save_arrays(folder, {key: value[part] for key, value in arrays.items()})
        folders.append(folder)
    return Signal(name, tuple(folders), 0, 0.0)


def _tables(folder: Path, pool: Pool) -> None:
    table = pool.table(["key", "file", "source", "position"])
    verdicts = ["selected" if place in KEPT else "dropped" for place in range(ROWS)]
    more = {
        "verdict": verdicts,
        "step": ["less"] * ROWS,
        "reason": ["" if verdict == "selected" else "not among the picks" for verdict in verdicts],
        "value": pa.array(np.arange(ROWS), pa.float32()),
        "rank": pa.array([KEPT.index(place) if place in KEPT else -1 for place in range(ROWS)], pa.int32()),
        "gain": pa.array(np.zeros(ROWS), pa.float32()),
    }
    for name, values in more.items():
        table = table.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))
    pq.write_table(table, folder / "ledger.parquet")
    picked = table.take(list(KEPT)).select(["rank", "key", "file", "position", "source", "gain"])
    picked = picked.append_column("place", pa.array(KEPT, pa.int64()))
    picked = picked.append_column("weight", pa.array([1.0] * len(KEPT), pa.float32()))
    about = {"tamis.pool": str(folder / MANIFEST), "tamis.digest": pool.digest}
    pq.write_table(picked.replace_schema_metadata(about), folder / "subset.parquet")
    empty = pa.table({name: pa.array([], pa.string()) for name in ("key", "verdict", "step", "reason", "excerpt")})
    pq.write_table(empty, folder / "quarantine.parquet")


def test_the_nearest_kept_row_is_that_of_all_cosines(run: Path) -> None:
    unit = _vectors() / np.linalg.norm(_vectors(), axis=1, keepdims=True)
    keys = Pool.open(run / MANIFEST).table(["key"]).column("key").to_pylist()
    for place in range(ROWS):
        others = [kept for kept in KEPT if kept != place]
        cosines = unit[others] @ unit[place]
        found = lineage.nearest_kept(run, place)
        assert found is not None
        assert (found.key, found.by) == (keys[others[int(np.argmax(cosines))]], "hidden states")
        assert found.cosine == pytest.approx(float(cosines.max()), abs=1e-3)


def test_without_hidden_states_rows_are_compared_by_their_words(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    other.mkdir()
    for file in ("ledger.parquet", "subset.parquet"):
        (other / file).write_bytes((run / file).read_bytes())
    Pool.open(run / MANIFEST).save(other / MANIFEST)
    found = lineage.nearest_kept(other, 6)  # "red", as row 2 is
    assert found is not None
    assert found.by == "words"
    assert "red" in found.text


def test_a_row_is_explained_with_its_influence_by_task_largest_first(run: Path, tmp_path: Path) -> None:
    pool = Pool.open(run / MANIFEST)
    scores = np.stack([np.arange(ROWS), -np.arange(ROWS)], axis=1).astype(np.float32)
    tasks = np.frombuffer(json.dumps(TASKS).encode(), np.uint8)
    made = _signal(tmp_path, "influence", pool, {"scores": scores})
    for folder in made.folders:
        save_arrays(folder, {"tasks": tasks})
    before = (run / lineage.SIGNALS).read_text()
    lineage.keep_signals(run, {"influence": made})
    try:
        said = explain(run, "rows.jsonl:7")
        assert list(said["influence"].items()) == [("sums", 7.0), ("words", -7.0)]
        assert said["nearest_kept"] is not None
    finally:
        (run / lineage.SIGNALS).write_text(before)


def test_spans_that_a_cleaning_step_kept_are_shown_for_their_row(run: Path) -> None:
    key = Pool.open(run / MANIFEST).table(["key"]).column("key").to_pylist()[4]
    folder = run / "cleaned" / "contamination"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"key": [key, "x"], "start": [3, 4], "end": [9, 8]}), folder / "spans.parquet")
    assert explain(run, key)["spans"] == [{"step": "contamination", "table": "spans", "key": key, "start": 3, "end": 9}]


def test_sql_reads_ledger_subset_and_text_of_a_run(run: Path) -> None:
    counts = {row["verdict"]: row["rows"] for row in querying.query(run).to_dicts()}
    assert counts == {"selected": len(KEPT), "dropped": ROWS - len(KEPT)}
    joined = querying.query(run, "SELECT s.rank, r.messages FROM subset s JOIN rows r ON s.key = r.key ORDER BY s.rank")
    assert [WORDS[place] in text for place, text in zip(KEPT, joined["messages"], strict=True)] == [True] * len(KEPT)


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT nope FROM ledger", "SELECT * FROM nowhere"])
def test_sql_that_cannot_be_carried_out_names_the_tables(run: Path, sql: str) -> None:
    with pytest.raises(RecipeError, match=r"ledger \(key, "):
        querying.query(run, sql)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib", "ignore::DeprecationWarning:mlcroissant")
def test_a_card_and_a_valid_croissant_description_say_how_the_rows_were_chosen(run: Path, tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant validates the description: pip install it")
    export(run, "hf", tmp_path / "set")
    card = (tmp_path / "set" / "README.md").read_text(encoding="utf-8")
    assert all(line in card for line in of_run(run).lines)
    assert "/home/me" not in card
    described = mlcroissant.Dataset(jsonld=str(tmp_path / "set" / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    rows = list(described.records("chat"))
    assert [row["chat/rank"] for row in rows] == [0, 1, 2]
    words = [row["chat/messages"][1]["chat/messages/content"].decode().split()[0] for row in rows]
    assert words == [WORDS[place] for place in KEPT]
