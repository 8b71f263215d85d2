"""Laws of weights on their way: select, subset file, run folder, explain, comparison, exports, outside trainers."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import tiny
from cheap import ON
from tamis import recipe, runs, subsets
from tamis.api import export as export_verb
from tamis.api import open_subset, train
from tamis.cli import main
from tamis.errors import DataError, RecipeError, TrainError
from tamis.exporting import export
from tamis.history.explanation import explain
from tamis.models import ModelRef
from tamis.pool import Pool
from tamis.rendering import render_all, render_rows
from tamis.stages.conduct import Conductor
from tamis.stages.train import rows_for
from tamis.stages.workspace import Workspace
from tamis.trainers import sft
from tamis.trainers.command import Command
from tamis.trainers.hugging_face import check_weights
from tamis.training import TrainingRows, TrainingSubset
from tamis.training.weighting import check_of
from tamis.values import Seeds, TokenWeights

RECIPE = """
model: {{name: {model}, max_tokens: 64, dtype: float32}}
pool: {{files: [{rows}]}}
subset: {{select: longest, weigh: {{stm: {{threshold: 40}}}}, budget: 6}}
final: {{train: lora, on: "@subset", rank: 2, alpha: 4, epochs: 1, batch_rows: 3, learning_rate: 1e-2}}
proof: {{compare: "@subset", with: [plain], evaluate: {{files: [{rows}]}}, runs: 1, hooks: dft}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and a file of rows."""
    folder = tmp_path_factory.mktemp("weighed")
    model = tiny.make_model(folder / "model")
    lines = [json.dumps({"messages": list(row.messages)}) for row in tiny.make_rows(12, seed=3)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder, model


@pytest.fixture(scope="module")
def run(world: tuple[Path, Path]) -> tuple[Conductor, Path]:
    """The recipe carried out, and its run folder."""
    folder, model = world
    (folder / "recipe.yaml").write_text(RECIPE.format(model=model, rows=folder / "rows.jsonl"), encoding="utf-8")
    conductor = Conductor.of(recipe.load(str(folder / "recipe.yaml")), Workspace(folder / "work", ON, _ref(model)))
    conductor.ingest()
    for stage in conductor.recipe.stages:
        conductor.carry_out(stage)
    made = runs.start(conductor.recipe, folder / "runs")
    runs.finish(conductor, made, time.time())
    return conductor, made


def _ref(model: Path) -> ModelRef:
    return ModelRef(name=str(model), max_tokens=64, dtype="float32")


def test_a_mask_goes_from_the_recipe_to_the_trainer_the_run_folder_and_explain(run: tuple[Conductor, Path]) -> None:
    conductor, folder = run
    subset = conductor.outcomes["subset"].subset
    assert subset.tokens is not None and subset.tokens.masks and 0 < subset.tokens.values.mean() < 1
    trained = conductor.outcomes["final"].facts["trained_tokens"]
    assert trained == int(subset.tokens.values.sum()) < len(subset.tokens.values)
    file = subsets.read(folder)
    assert file.tokens is not None and file.tokens.digest == subset.tokens.digest
    assert conductor.pool is not None
    key = conductor.pool.read([int(subset.positions[2])])[0].key
    said = explain(folder, key)["weights"]
    own = subset.tokens.values[subset.tokens.offsets[2] : subset.tokens.offsets[3]]
    assert said["response_tokens"] == len(own) and said["response_tokens_with_weight"] == own.sum()
    assert said["token_weights"] == own.tolist() and said["row"] == 1
    left = next(place for place in range(12) if place not in subset.positions)
    assert explain(folder, conductor.pool.read([left])[0].key)["weights"] == {}
    notes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["notes"]
    share = f"{subset.tokens.values.mean():.1%} of {len(subset.tokens.values):,} response tokens have a weight"
    assert any(share in note for note in notes) and any("at most 40" in note for note in notes)


def test_the_arm_of_the_method_is_weighed_and_plain_is_not(run: tuple[Conductor, Path]) -> None:
    conductor, _ = run
    subset, proof = conductor.outcomes["subset"].subset, conductor.outcomes["proof"]
    arms = {arm["name"]: arm for arm in proof["arms"]}
    assert proof["method"] == "longest+stm+dft" and set(arms) == {"untouched", "longest+stm+dft", "plain"}
    assert arms["longest+stm+dft"]["trained_tokens"] == int(subset.tokens.values.sum())
    assert arms["plain"]["trained_tokens"] == len(subset.tokens.values) and arms["plain"]["rows"] == 6
    assert arms["plain"]["mean"] != arms["longest+stm+dft"]["mean"]


@pytest.fixture
def _quiet() -> Iterator[None]:
    """What the command line changes in the process is put back."""
    handler, logger = signal.getsignal(signal.SIGTERM), logging.getLogger("tamis")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    signal.signal(signal.SIGTERM, handler)
    logger.handlers, logger.level, logger.propagate = before


@pytest.mark.usefixtures("_quiet")
def test_the_command_line_weighs_and_python_trains_on_the_file(
    world: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = world
    out, pool = tmp_path / "subset.parquet", tmp_path / "pool"
    place = ["--model", str(model), "--max-tokens", "64", "--workspace", str(tmp_path / "work"), "--json"]

    def verb(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
            raise SystemExit(0)
        return int(left.value.code or 0), *capsys.readouterr()

    select = ["select", str(pool), "--with", "longest", "--budget", "4"]
    assert verb("ingest", str(folder / "rows.jsonl"), "--out", str(pool))[0] == 0
    code, told, _ = verb(*select, "--weigh", "stm", "--set", "weigh.threshold=40", "--out", str(out), *place)
    said = json.loads(told)
    assert code == 0 and any("response tokens have a weight" in note for note in said["notes"])
    assert "tokens" in said["passes"]
    for arguments, fault in (
        ((*select, "--set", "weigh.threshold=2"), "add --weigh NAME"),
        (("train", str(out), "--set", "hooks.dft.x=1"), "add --hooks dft"),
    ):
        code, _, told = verb(*arguments, *place)
        assert code == 2 and fault in told
    chosen = open_subset(out, model=str(model), work=str(tmp_path / "work"))
    assert chosen.subset.tokens is not None and chosen.subset.tokens.masks
    done = train(chosen, rank=2, alpha=4, epochs=1, hooks={"q-tuning": {"rows": 0.5}}, model=_ref(model))
    assert done.training.facts["rows"] == 4
    written = export_verb(chosen, "trl", tmp_path / "trl.jsonl", model=_ref(model))
    assert not any("token weights" in note for note in written.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("subset.weigh=stmm", "no weigher named 'stmm'; did you mean 'stm'"),
        ("subset.weigh={stm: {treshold: 2}}", "stm has no setting 'treshold'; did you mean 'threshold'"),
        ("subset.weigh=[stm, token-shift]", "names 2 weighers; expected one"),
        ("subset.weigh=iw-sft", "reference"),
        ("proof.with=[plan]", "did you mean 'plain'"),
        ("proof.hooks=dtf", "no hook named 'dtf'; did you mean 'dft'"),
        ("proof.hooks={greats: {keep: 50%}}", "greats needs a target"),
        ("final.train=trl-sft", "weighs its tokens.*use lora or full"),
    ],
)
def test_faults_of_weights_and_hooks_are_found_before_anything_runs(
    world: tuple[Path, Path], change: str, message: str
) -> None:
    folder, model = world
    file = folder / "checked.yaml"
    file.write_text(RECIPE.format(model=model, rows=folder / "rows.jsonl"), encoding="utf-8")
    with pytest.raises(RecipeError, match=f"(?s){message}"):
        recipe.load(str(file), [change])


# exports and outside trainers


@pytest.fixture(scope="module")
def pool(world: tuple[Path, Path]) -> Pool:
    return tiny.make_pool(world[0] / "four", tiny.make_rows(4, seed=6))


def weights(pool: Pool, model: ModelRef, values: tuple[float, ...]) -> TokenWeights:
    """Weights that repeat `values`; the third row has none."""
    lists, checks = [], []
    for row, one in enumerate(render_all(list(pool), model)):
        ids = one.ids[one.turn >= 0]
        lists.append(np.resize(np.array(values, np.float32), len(ids)) * (row != 2))
        checks.append(check_of(ids))
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
    return TokenWeights(
        values=np.concatenate(lists).astype(np.float32), offsets=offsets, checks=np.array(checks, np.uint32)
    )


def records(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "hf", "trl"])
@pytest.mark.parametrize("values", [(1.0, 0.0, 1.0), (0.5, 0.0, 2.0)], ids=["mask", "weights"])
def test_exports_mask_what_has_no_weight_and_carry_the_rest_or_say_so(
    world: tuple[Path, Path], pool: Pool, tmp_path: Path, form: str, values: tuple[float, ...]
) -> None:
    model = _ref(world[1])
    tokens = weights(pool, model, values)
    out = tmp_path / {"hf": "folder", "parquet": "x.parquet"}.get(form, "x.jsonl")
    written = export(pool, range(4), out, form, tokens=tokens, model=model)
    back = records(out / "data" / "chat.parquet" if form == "hf" else out)
    expected = render_rows(list(pool), model)
    kept = [0, 1, 3] if form == "trl" else [0, 1, 2, 3]
    assert len(back) == len(kept) and ("every response token has the weight 0" in " ".join(written.notes)) == (
        form == "trl"
    )
    for record, row in zip(back, kept, strict=True):
        span = slice(expected.offsets[row], expected.offsets[row + 1])
        laid = np.zeros(span.stop - span.start, np.float32)
        laid[expected.trained[span]] = tokens.values[tokens.offsets[row] : tokens.offsets[row + 1]]
        assert record["input_ids"] == expected.ids[span].tolist()
        assert record["labels"] == np.where(laid > 0, expected.ids[span], -100).tolist()
        assert record["token_weights"] == laid.tolist()
    assert any("weigh no tokens" in note for note in written.notes) == (form == "trl" and 0.5 in values)


def test_axolotl_reads_masks_as_token_ids_and_other_forms_say_that_they_carry_none(
    world: tuple[Path, Path], pool: Pool, tmp_path: Path
) -> None:
    model = _ref(world[1])
    tokens = weights(pool, model, (1.0, 0.0))
    written = export(pool, range(4), tmp_path / "a.jsonl", "axolotl", tokens=tokens, model=model)
    assert any("no place for masked tokens" in note for note in written.notes)
    masked = records(tmp_path / "a.tokenized.jsonl")
    assert len(masked) == 3 and all(-100 in one["labels"][-4:] for one in masked)
    for form, given, note in (
        ("llama-factory", model, "llama-factory has no place for them"),
        ("trl", None, "name the model that will be trained"),
        ("jsonl", None, "name the model that will be trained"),
    ):
        written = export(pool, [0, 1], tmp_path / form, form, tokens=_some(tokens, 2), model=given)
        assert any(note in one for one in written.notes), form
    with pytest.raises(DataError, match="token weights of 4 rows for 2 rows"):
        export(pool, [0, 1], tmp_path / "b.jsonl", "jsonl", tokens=tokens, model=model)
    with pytest.raises(DataError, match="is not that of the model that weighed them"):
        export(pool, [1, 0, 2, 3], tmp_path / "b.jsonl", "jsonl", tokens=tokens, model=model)
    assert not (tmp_path / "b.jsonl").exists()


def _some(tokens: TokenWeights, rows: int) -> TokenWeights:
    end = int(tokens.offsets[rows])
    return TokenWeights(values=tokens.values[:end], offsets=tokens.offsets[: rows + 1], checks=tokens.checks[:rows])


def test_trl_trains_masks_as_labels_and_refuses_weights(world: tuple[Path, Path], pool: Pool) -> None:
    model = _ref(world[1])
    rows = rows_for(sft.TrlSft(), pool, range(4), model, None, weights(pool, model, (1.0, 0.0)))
    assert isinstance(rows, TrainingRows) and rows.token_weights is not None
    check_weights("trl-sft", rows)
    columns = sft._columns(rows)
    assert len(columns["labels"]) == 3, "a row without a label is left out"
    labels = np.array(columns["labels"][0])
    span = slice(rows.offsets[0], rows.offsets[1])
    assert labels.tolist() == np.where(rows.token_weights[span] > 0, rows.ids[span], -100).tolist()
    with pytest.raises(TrainError, match="cannot weigh rows or tokens"):
        check_weights("trl-sft", dataclasses.replace(rows, token_weights=rows.token_weights * np.arange(rows.tokens)))
    with pytest.raises(TrainError, match="nothing to train on"):
        sft._columns(dataclasses.replace(rows, token_weights=rows.token_weights * 0))


@pytest.mark.parametrize(
    ("form", "values", "message"),
    [("llama-factory", (1.0, 0.0), "no place for them"), ("trl", (1.0, 0.5), "weigh no tokens")],
)
def test_a_command_is_not_given_less_than_was_asked_for(
    world: tuple[Path, Path], pool: Pool, tmp_path: Path, form: str, values: tuple[float, ...], message: str
) -> None:
    model = _ref(world[1])
    command = Command(command="false {subset} {out}", format=form)
    rows = rows_for(command, pool, [0, 1], model, None, _some(weights(pool, model, values), 2))
    assert isinstance(rows, TrainingSubset)
    with pytest.raises(TrainError, match=message):
        command.train(model, rows, Seeds(), (), tmp_path, ON)
