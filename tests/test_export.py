"""An export holds every row or says which it does not, and its labels are tamis's own, token for token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from tamis.errors import DataError, RecipeError
from tamis.exporting import export
from tamis.ingest import ingest
from tamis.models import ModelRef
from tamis.pool import Pool
from tamis.rendering import render, render_rows
from tamis.store import Store
from tamis.values import Row

CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def lines(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """One row of every kind and shape."""
    user, answer = {"role": "user", "content": "Add 1."}, {"role": "assistant", "content": "2 ü\x85\u2028"}
    records: list[dict[str, Any]] = [
        {"messages": [user, answer], "meta": {"skill": "x", "big": 1}, "id": "a"},
        {"messages": [user, {"role": "assistant", "content": None, "tool_calls": [CALL]}], "tools": [{"name": "add"}]},
        {"prompt": "Which?", "chosen": "This.", "rejected": "That."},
        {"prompt": "Good?", "completion": "Yes.", "label": True},
        {"text": "Plain text."},
        {"instruction": "No answer yet."},
        {"messages": [user, answer, user, {"role": "assistant", "content": "3"}], "score": 2},
    ]
    return ingest([str(write(tmp_path / "mixed.jsonl", records))], Store(tmp_path / "store"), shard_rows=3)


def test_jsonl_can_be_read_back_whole_and_in_order(pool: Pool, tmp_path: Path) -> None:
    order = [6, 0, 2, 5, 1, 4, 3]
    weights = [0.5, 1, 2, 3, 4, 5, 6]
    written = export(pool, order, tmp_path / "out" / "subset.jsonl", "jsonl", weights=weights)
    again = ingest([str(written.path)], Store(tmp_path / "store"))
    rows, back = pool.read(order), list(again)
    assert written.rows == len(back) == 7 and written.notes == ()
    for row, other in zip(rows, back, strict=True):
        assert (row.content, row.kind, row.source, row.label) == (other.content, other.kind, other.source, other.label)
        assert row.messages == other.messages and row.tools == other.tools
        assert dict(row.meta).items() <= dict(other.meta).items()
    assert [record["key"] for record in lines(written.path)] == [row.key for row in rows]
    assert [record["weight"] for record in lines(written.path)] == weights


def test_a_number_beyond_floats_is_written_as_null(tmp_path: Path) -> None:
    file = tmp_path / "huge.jsonl"
    file.write_text('{"text": "t", "score": 1e999}\n', encoding="utf-8")
    out = export(ingest([str(file)], Store(tmp_path / "s")), [0], tmp_path / "o.jsonl", "jsonl").path
    assert lines(out)[0]["meta"] == {"score": None}


def test_parquet_holds_the_columns_of_the_pool_rank_and_weight(pool: Pool, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    written = export(
        pool, np.array([4, 1]), tmp_path / "subset.parquet", "parquet", weights=np.array([1, 2], np.float32)
    )
    table = pq.read_table(written.path)
    assert table.column("key").to_pylist() == [row.key for row in pool.read([4, 1])]
    assert table.column("rank").to_pylist() == [0, 1] and table.column("weight").to_pylist() == [1, 2]
    assert json.loads(table.column("messages").to_pylist()[0])[0]["content"] == "Plain text."


def test_the_original_rows_are_those_of_the_input_byte_for_byte(pool: Pool, tmp_path: Path) -> None:
    raw = (tmp_path / "mixed.jsonl").read_bytes().splitlines(keepends=True)
    order = [5, 0, 6, 1]
    written = export(pool, order, tmp_path / "mine.jsonl", "original", weights=[1, 2, 3, 4])
    assert Path(written.path).read_bytes() == b"".join(raw[place] for place in order)
    assert any("row weights" in note for note in written.notes)


def test_original_rows_of_an_array_are_an_array_again(tmp_path: Path) -> None:
    parts = ['{"text":  "a" }', '{\n "text": "b"\n}', '{"text": "c"}']
    (tmp_path / "in.json").write_text(f"[{', '.join(parts)}]", encoding="utf-8")
    made = ingest([str(tmp_path / "in.json")], Store(tmp_path / "store"))
    out = Path(export(made, [2, 1], tmp_path / "out.json", "original").path).read_text(encoding="utf-8")
    assert out == f"[\n{parts[2]},\n{parts[1]}\n]\n" and json.loads(out) == [{"text": "c"}, {"text": "b"}]


def test_original_rows_of_a_table_stand_without_header_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b'prompt,response\n"a, b?",c\nd,"e ""f"""\n')
    made = ingest([str(tmp_path / "in.csv")], Store(tmp_path / "store"))
    written = export(made, [1, 0], tmp_path / "out.csv", "original")
    assert Path(written.path).read_bytes() == b'd,"e ""f"""\n"a, b?",c\n'
    assert any("without their header" in note for note in written.notes)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_own_forms_carry_turn_masks_and_token_masks(tmp_path: Path, model: ModelRef, form: str) -> None:
    import pyarrow.parquet as pq

    made = tiny.make_pool(tmp_path / "p", [row for row in tiny.make_rows(9) if not render(row, model).reason])
    path = export(made, range(len(made)), tmp_path / "o", form, model=model).path
    records = lines(path) if form == "jsonl" else pq.read_table(path).to_pylist()
    assert [(one["input_ids"], one["labels"]) for one in records] == expected(list(made), model)
    for row, record in zip(made, records, strict=True):
        left = set(render(row, model).turn.tolist()) - {-1}
        answers = [place for place, one in enumerate(row.messages) if one["role"] == "assistant"]
        assert [place for place, on in enumerate(record["train"]) if on] == [answers[turn] for turn in sorted(left)]


def test_trl_leaves_nothing_out_in_silence(pool: Pool, tmp_path: Path) -> None:
    written = export(pool, range(7), tmp_path / "trl.jsonl", "trl", weights=[1.0] * 7)
    records = lines(written.path)
    assert written.rows == len(records) == 3
    assert [set(record) for record in records] == [{"key", "source", "messages", "tools", "weight"}] * 3
    assert records[1]["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    said = "\n".join(written.notes)
    for kind in ("pair", "rated", "text", "prompt"):
        assert f"1 rows left out: kind {kind}" in said
    for word in ("meta of 2 rows", "JSON text", "weights", "no token ids"):
        assert word in said


@pytest.mark.parametrize(
    ("place", "columns"),
    [(2, {"prompt", "chosen", "rejected"}), (3, {"prompt", "completion", "label"}), (4, {"text"}), (5, {"prompt"})],
)
def test_trl_has_the_columns_of_the_kind(pool: Pool, tmp_path: Path, place: int, columns: set[str]) -> None:
    record = lines(export(pool, [place], tmp_path / "one.jsonl", "trl").path)[0]
    assert set(record) == columns | {"key", "source"}


def test_wrong_requests_are_refused_and_leave_no_file(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'jsonl'"):
        export(pool, [0], tmp_path / "x", "json")
    with pytest.raises(DataError, match="got 1 weights for 2 rows"):
        export(pool, [0, 1], tmp_path / "x", "jsonl", weights=[1])
    with pytest.raises(DataError, match="row 9 asked of a pool of 7"):
        export(pool, [0, 9], tmp_path / "x", "jsonl")
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["mixed.jsonl"]


def test_a_recipe_with_an_unknown_form_is_refused_before_anything_runs(tmp_path: Path) -> None:
    from tamis import recipe

    file = tmp_path / "r.yaml"
    file.write_text(
        "pool: [tamis:pool.jsonl.gz]\nmodel: tamis:tiny-lm\n"
        "subset: {select: random, budget: 5}\nout: {export: axolotel, subset: '@subset', to: x.jsonl}\n"
    )
    with pytest.raises(RecipeError, match="did you mean 'axolotl'"):
        recipe.load(str(file), [])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return ModelRef(name=str(tiny.make_tokenizer(tmp_path_factory.mktemp("model"))), max_tokens=64)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, model: ModelRef) -> tuple[list[Row], Path]:
    folder = tmp_path_factory.mktemp("export")
    made = tiny.make_pool(folder, tiny.make_rows(24), shard_rows=10)
    rows = [row for row in made if not render(row, model).reason]
    keys = {row.key for row in rows}
    places = [place for place, row in enumerate(made) if row.key in keys]
    written = export(made, places, folder / "trl.jsonl", "trl", model=model)
    assert written.rows == len(rows) > 15
    return rows, Path(written.path)


def expected(rows: list[Row], model: ModelRef) -> list[tuple[list[int], list[int]]]:
    training = render_rows(rows, model)
    labels = np.where(training.trained, training.ids, -100)
    spans = list(zip(training.offsets[:-1], training.offsets[1:], strict=True))
    return [(training.ids[a:b].tolist(), labels[a:b].tolist()) for a, b in spans]


def test_trls_collator_gives_the_labels_that_tamis_trains_on(
    exported: tuple[list[Row], Path], model: ModelRef, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    collators = pytest.importorskip("trl.trainer.sft_trainer")
    rows, path = exported
    loaded = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path))
    batch = collators.DataCollatorForLanguageModeling(pad_token_id=0)([loaded[place] for place in range(len(rows))])
    for place, (ids, labels) in enumerate(expected(rows, model)):
        length = int(batch["attention_mask"][place].sum())
        assert batch["input_ids"][place, :length].tolist() == ids
        assert batch["labels"][place, :length].tolist() == labels
        assert (batch["labels"][place, length:] == -100).all()
        assert any(label != -100 for label in labels) and labels[0] == -100


def test_rows_without_a_token_to_train_are_named(tmp_path: Path, model: ModelRef) -> None:
    long = tiny.make_row(tiny.chat("stone " * 200, "apple"))
    short = tiny.make_row(tiny.chat("stone", "apple"))
    made = tiny.make_pool(tmp_path / "p", [long, short])
    written = export(made, [0, 1], tmp_path / "o.jsonl", "trl", model=model)
    assert written.rows == 1
    assert "1 rows left out: no token to score is left after truncation" in written.notes
