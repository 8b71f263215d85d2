"""The verbs of Python: light to import, chained by handles, the same as the command line, and honest in a notebook."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tamis
import tiny
from tamis.api import notebook
from tamis.api.handles import Chosen, Comparison, Scored, Shares
from tamis.cli import main, output
from tamis.errors import RecipeError
from tamis.models import ModelRef
from tamis.pool import Pool
from tamis.stages.workspace import Workspace
from tamis.values import Budget, Subset

HEAVY = "torch transformers datasets faiss polars prefect ray numpy pyarrow pydantic peft accelerate sklearn plotly trl"
VERBS = ("open_pool", "score", "filter", "select", "mix", "train", "compare", "export", "run")
HOSTILE = '<script>alert(1)</script>\x1b[31m\u202e & "quoted"'
SMALL = {"rank": 2, "alpha": 4, "epochs": 1, "batch_rows": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    tiny.make_model(folder / "model")
    rows = [{"instruction": f"add {place} and seven", "output": f"the total is {place}"} for place in range(24)]
    rows[3] = {"instruction": HOSTILE, "output": HOSTILE}
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:4]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def work(folder: Path) -> Workspace:
    model = ModelRef(name=str(folder / "model"), max_tokens=96, dtype="float32")
    return tamis.workspace(folder / "ws", model, workers=1)


@pytest.fixture(scope="module")
def pool(folder: Path, work: Workspace) -> Pool:
    return tamis.open_pool(folder / "data.jsonl", work)


def command_line(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0


def test_importing_tamis_and_naming_its_verbs_loads_nothing_heavy() -> None:
    code = f"""
import sys
import tamis
assert not [name for name in sys.modules if name.startswith("tamis.")]
for name in {VERBS!r}:
    assert callable(getattr(tamis, name)) and getattr(tamis, name).__doc__
heavy = set({HEAVY.split()!r}) & {{name.partition(".")[0] for name in sys.modules}}
assert not heavy, sorted(heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        _ = tamis.scores


def test_the_verbs_chain_from_data_to_verdict(pool: Pool, work: Workspace, folder: Path) -> None:
    scored = tamis.score(pool, {"perplexity": {"views": ["response"]}, "length": None}, work=work)
    assert isinstance(scored, Scored) and len(scored["perplexity"]) == len(pool) == 24
    assert scored.table().column_names[:4] == ["key", "file", "position", "source"]
    assert dict(tamis.columns(pool, work=work).columns).keys() == dict(scored.columns).keys()
    subset = tamis.select(pool, "bottom", 6, by="perplexity.response", where="length.words < 9", work=work)
    assert [row.key for row in subset] == subset.keys and len(subset) == 6
    assert np.all(np.diff(scored["perplexity"][subset.subset.positions]) >= 0)
    shares = tamis.mix(pool, "equal", 10, work=work)
    assert shares == {"data": Budget(rows=10)} and isinstance(shares, Shares)
    trained = tamis.train(subset, settings=SMALL)  # with the workspace and the model of the subset
    measured = tamis.evaluate(str(folder / "held_out.jsonl"), model=trained.model, work=work)
    assert measured.value == pytest.approx(measured.items.values.sum() / measured.items.weights.sum())
    found = tamis.compare(subset, str(folder / "held_out.jsonl"), against=["random"], runs=1, settings=SMALL)
    assert isinstance(found, Comparison) and json.loads(json.dumps(found))["verdict"] == found.verdict
    assert {arm["name"] for arm in found["arms"]} == {"untouched", "bottom", "random"}
    written = tamis.export(subset, "jsonl", folder / "out.jsonl")
    assert written.rows == 6 == len((folder / "out.jsonl").read_text(encoding="utf-8").splitlines())
    for value in (scored, subset, shares, trained, measured, found):
        assert str(value) and value._repr_html_().startswith("<div>")
    assert str(trained.path) in repr(trained) and f"{measured.value:.4f}" in repr(measured)


def test_a_filter_keeps_the_order_of_the_pool_and_counts_what_it_could_not_judge(pool: Pool, work: Workspace) -> None:
    words = tamis.score(pool, "length", work=work)["length.words"]
    kept = tamis.filter(pool, "length.words > 6", work=work)
    assert kept.subset.positions.tolist() == np.flatnonzero(words > 6).tolist() and kept.unscored == 0


def test_rows_that_are_left_out_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"instruction": "a", "output": "b"}\n{broken\n', encoding="utf-8")
    with caplog.at_level("WARNING", logger="tamis"):
        assert len(tamis.open_pool([str(file)], str(tmp_path / "work"))) == 1
    assert "cannot be used and are left out: 1" in caplog.text


def test_a_pool_or_a_file_serves_wherever_a_subset_does(pool: Pool, work: Workspace, folder: Path) -> None:
    subset = tamis.select(pool, "longest", 5, work=work)
    path = subset.save(folder / "longest.parquet")
    again = tamis.open_subset(path, work=work)
    assert again.keys == subset.keys and again.name == "longest"
    assert tamis.open_subset(again.save(), work=work).keys == subset.keys
    assert tamis.train(path, settings=SMALL, work=work).path == tamis.train(again, settings=SMALL).path
    assert tamis.train(pool, settings=SMALL, work=work).training.facts["rows"] == len(pool)


def test_the_command_line_finds_what_python_made(
    pool: Pool,
    work: Workspace,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output, "_STATE", {"json": False})
    tamis.score(pool, "perplexity", work=work)
    place = ["--workspace", str(work.root), "--json"]
    data = str(folder / "data.jsonl")
    command_line(["columns", data, *place])
    told = json.loads(capsys.readouterr().out)["columns"]
    assert set(told) == set(tamis.columns(pool, work=work).columns)
    out = folder / "cli.parquet"
    command_line(
        ["select", data, "--with", "top", "--set", "by=perplexity.response", "--budget", "3", "--out", str(out), *place]
    )
    capsys.readouterr()
    assert tamis.open_subset(out).keys == tamis.select(pool, "top", 3, by="perplexity.response", work=work).keys


def test_what_runs_a_model_asks_for_one(pool: Pool, folder: Path) -> None:
    bare = tamis.workspace(folder / "bare", workers=1)
    for verb in (
        lambda: tamis.score(pool, "perplexity", work=bare),
        lambda: tamis.filter(pool, "ifd < 1", work=bare),
        lambda: tamis.select(pool, "top", 3, by="ifd", work=bare),
        lambda: tamis.select(pool, "random", "100 tokens", work=bare),
        lambda: tamis.train(pool, work=bare),
        lambda: tamis.evaluate(str(folder / "held_out.jsonl"), work=bare),
    ):
        with pytest.raises(RecipeError, match="needs a model that reads the rows"):
            verb()
    assert len(tamis.select(pool, "random", 3, work=bare)) == 3, "counting rows runs no model"
    with pytest.raises(RecipeError, match="needs a target"):
        tamis.select(pool, "less", 3, work=bare, model=str(folder / "model"))
    with pytest.raises(RecipeError, match=r"random has no setting 'sede'; did you mean 'seed'\?"):
        tamis.select(pool, "random", 3, sede=1, work=bare)


def test_text_of_the_data_is_escaped_and_cut_in_a_notebook(pool: Pool, work: Workspace) -> None:
    subset = tamis.select(pool, "longest", 24, work=work)
    first = dataclasses.replace(subset, subset=Subset(positions=np.array([3]), gains=np.zeros(1, np.float32)))
    for value in (pool, first):
        assert isinstance(value, Pool | Chosen)
        page = value._repr_html_()
        assert "<script>" not in page and "&lt;script&gt;" in page and "&quot;quoted&quot;" in page
        assert not any(letter in page for letter in "\x1b\u202e")
    assert "24 rows of 1 file in 1 shard" in repr(pool) and "and 19 more" in repr(subset)
    card = notebook.Card("t", ("a",), [["x" * 900]])
    assert len(card.text().splitlines()[-1]) == notebook.NARROW and "x" * notebook.LONGEST not in card.html()
