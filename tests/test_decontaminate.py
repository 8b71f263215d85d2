"""Law: one command tells which evaluation items stand in which rows of a pool or a subset, and stops or cleans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import tamis
import tiny
from tamis.api.handles import Chosen
from tamis.cli import main
from tamis.errors import GateError, RecipeError
from tamis.history.explanation import explain
from tamis.stages.contamination import leaks_of
from tamis.stages.workspace import Workspace
from tamis.values import Subset

ITEMS = (
    "A robe takes 2 bolts of blue fiber and half that much white fiber; how many bolts in total does it take?",
    "Every day Wendi feeds each of her 20 chickens three cups of mixed feed, so how many cups does she need a week?",
    "Are all limbs required for jujutsu?",
)
CLEAN = ("Name a fruit that is red.", "Sort the words apple, pear and plum by their length.", "Say hello in French.")


def line(*texts: str, **more: Any) -> str:
    return json.dumps({"messages": list(tiny.chat(*texts)), **more})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decontaminate")
    pair = [{"role": "assistant", "content": text} for text in ("An apple.", f"Well. {ITEMS[0].upper()}")]
    rows = [
        line(CLEAN[0], "An apple."),
        line(ITEMS[1].replace(",", " -"), "420"),
        line(CLEAN[1], "No.", "Then: are all limbs required for JUJUTSU?", "No."),
        json.dumps({"messages": [{"role": "user", "content": CLEAN[2]}], "chosen": pair[:1], "rejected": pair[1:]}),
        line(ITEMS[1].replace("20", "30"), "630"),
    ]
    (folder / "pool.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "eval.jsonl").write_text("\n".join(line(text, "3") for text in ITEMS) + "\n", encoding="utf-8")
    return folder


def told(world: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    """Exit code, the object printed with --json, and standard error."""
    code = 0
    try:
        main(["decontaminate", *arguments, "--json", "--workspace", str(world / "work")])
    except SystemExit as left:
        code = int(left.code or 0)
    out, err = capsys.readouterr()
    return code, json.loads(out) if out.strip().startswith("{") else {}, err


def test_the_command_reports_by_item_and_drops_into_a_pool(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool, against = str(world / "pool.jsonl"), ["--against", str(world / "eval.jsonl")]
    code, found, _ = told(
        world, capsys, pool, *against, "--items", str(world / "i.csv"), "--spans", str(world / "s.parquet")
    )
    assert (code, found["rows"], found["contaminated"], found["items"], found["other_numbers"]) == (0, 5, 3, 3, 1)
    assert {(one["position"], one["rows"], one["kinds"]) for one in found["per_item"]} == {
        *[(0, 1, "words"), (1, 1, "words"), (2, 1, "whole")]
    }
    spans = pq.read_table(world / "s.parquet").to_pylist()
    assert {(one["place"], one["field"], one["message"]) for one in spans if one["kind"] != "numbers"} == {
        *[(1, "messages", 0), (2, "messages", 2), (3, "rejected", 0)]
    }
    assert (world / "i.csv").read_text(encoding="utf-8").count("\n") == 4
    code, found, _ = told(world, capsys, pool, *against, "--action", "drop", "--out", str(world / "clean"))
    assert (code, found["left"]) == (0, 2)
    left = tamis.open_pool(world / "clean")
    assert [row.position for row in left] == [0, 4] and left.files[0]["dropped"] == 3
    assert [one["component"] for one in left.steps] == ["contamination"]
    code, found, _ = told(world, capsys, str(world / "clean"), *against, "--action", "fail")
    assert (code, found["contaminated"]) == (0, 0)


def test_fail_is_exit_code_3_with_counts_and_examples(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (str(world / "pool.jsonl"), "--against", str(world / "eval.jsonl"), "--action", "fail")
    code, _, err = told(world, capsys, *arguments)
    assert code == 3 and "3 of 5 rows hold 3 of 3 evaluation items" in err and "robe takes 2 bolts" in err.lower()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--set", "n=3"), "n: 3 is not in 8 to 13"),
        (("--set", "coverrage=1"), "did you mean 'coverage'"),
        (("--items", "x.json"), "x.json: tables are written as .parquet or .csv"),
    ],
)
def test_wrong_input_is_exit_code_2(
    world: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    code, _, err = told(world, capsys, str(world / "pool.jsonl"), "--against", str(world / "eval.jsonl"), *arguments)
    assert code == 2 and said in err


def subset_of(world: Path, *places: int) -> Chosen:
    work = tamis.workspace(world / "work")
    pool = tamis.open_pool(str(world / "pool.jsonl"), work)
    subset = Subset(positions=np.array(places), gains=np.ones(len(places), np.float32))
    return Chosen(pool, subset, work, "picked")


def test_items_are_found_in_the_rows_of_a_subset_alone(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = subset_of(world, 3, 0)
    found = tamis.decontaminate(chosen, str(world / "eval.jsonl"), work=chosen.work)
    assert (found.rows, found.facts["rows"], found.items.column("position").to_pylist()) == (2, 1, [0])
    path = chosen.save(world / "picked.parquet")
    code, said, _ = told(world, capsys, str(path), "--against", str(world / "eval.jsonl"))
    assert (code, said["rows"], said["contaminated"]) == (0, 2, 1)
    with pytest.raises(RecipeError, match="drop the rows from the pool"):
        tamis.decontaminate(chosen, str(world / "eval.jsonl"), action="drop", work=chosen.work)
    with pytest.raises(GateError, match="1 of 2 rows"):
        tamis.decontaminate(chosen, str(world / "eval.jsonl"), action="fail", work=chosen.work)


def test_a_comparison_warns_of_items_in_its_rows_or_is_stopped(world: Path) -> None:
    chosen = subset_of(world, 2, 0)
    held_out = tamis.open_pool(str(world / "eval.jsonl"), chosen.work)
    work: Workspace = chosen.work
    facts = leaks_of(chosen.pool, chosen.subset, held_out, work, "warn")
    assert (facts["subset"]["items"], facts["pool"]["items"]) == (1, 3)
    assert "1 stand in 1 selected rows and 3 in 3 rows of the pool" in work.work.warnings[-1]
    before = len(work.work.warnings)
    assert leaks_of(chosen.pool, chosen.subset, held_out, work, "ignore") == {} and len(work.work.warnings) == before
    with pytest.raises(GateError, match="1 of 2 rows"):
        leaks_of(chosen.pool, chosen.subset, held_out, work, "fail")
    other = world / "other.jsonl"
    other.write_text(line("What is the longest river of the world, and where does it begin?", "The Nile."), "utf-8")
    apart = leaks_of(chosen.pool, chosen.subset, tamis.open_pool(str(other), work), work, "fail")
    assert apart["pool"]["rows"] == 0


RECIPE = """
model: {{name: "tamis:tiny-lm", max_tokens: 128}}
pool: {{files: [{pool}]}}
clean: [{{contamination: {{against: [{against}], action: {action}}}}}, {{where: {{keep: "kind == 'chat'"}}}}]
subset: {{select: random, budget: 2}}
final: {{train: lora, on: "@subset", epochs: 1}}
proof: {{compare: "@subset", with: [random], evaluate: {against}, runs: 1, contamination: {gate}}}
"""


def recipe(world: Path, action: str, gate: str) -> Path:
    path = world / f"{action}-{gate}.yaml"
    names = {"pool": world / "pool.jsonl", "against": world / "eval.jsonl"}
    path.write_text(RECIPE.format(action=action, gate=gate, **names), encoding="utf-8")
    return path


def test_a_recipe_names_the_gate_and_its_faults_have_lines(world: Path) -> None:
    from tamis import recipe as recipes

    assert recipes.load(str(recipe(world, "drop", "fail"))).clean[0].name == "contamination"
    with pytest.raises(RecipeError) as caught:
        recipes.load(str(recipe(world, "dropp", "off")))
    assert {"4", "7"} == {fault.partition(".yaml:")[2].partition(":")[0] for fault in caught.value.faults}


@pytest.mark.soak
def test_a_run_stops_at_the_gate_with_code_3_or_explains_what_it_dropped(world: Path) -> None:
    place = ["--workspace", str(world / "runs")]
    for action, gate in (("fail", "warn"), ("report", "fail")):
        with pytest.raises(SystemExit) as stopped:
            main(["run", str(recipe(world, action, gate)), *place])
        assert stopped.value.code == 3
    with pytest.raises(SystemExit) as ended:
        main(["run", str(recipe(world, "drop", "fail")), *place])
    assert ended.value.code == 0
    run = max((world / "runs" / "runs").iterdir())
    found = explain(run, "pool.jsonl:1")
    assert found["step"] == "contamination" and "of prompt 1 of eval.jsonl" in found["reason"]
    assert any(one.get("kind") == "words" and one["text"] for one in found["spans"])
    comparison = json.loads((run / "comparison.json").read_text(encoding="utf-8"))
    assert comparison["contamination"]["pool"]["rows"] == 0


def test_evaluation_items_without_answers_are_looked_for(tmp_path: Path) -> None:
    item = "How many eggs do nine ducks lay in one week if each of them lays two a day?"
    held_out, data = tmp_path / "held_out.jsonl", tmp_path / "data.jsonl"
    held_out.write_text(json.dumps({"instruction": item, "output": ""}) + "\n", encoding="utf-8")
    rows = [{"instruction": item, "output": "126"}, {"instruction": "Say hello.", "output": "Hello."}]
    data.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    reported = tamis.decontaminate(str(data), str(held_out), work=tmp_path / "work")
    dropped = tamis.decontaminate(
        str(data), str(held_out), action="drop", out=tmp_path / "clean", work=tmp_path / "work"
    )
    assert reported.facts["rows"] == 1 and len(dropped.pool) == 1
