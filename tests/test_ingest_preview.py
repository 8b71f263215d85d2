"""The verb `ingest`: what it shows before, what it refuses after, and how mappings are said to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tamis.cli import main
from tamis.errors import GateError
from tamis.ingest.formats import draft
from tamis.ingest.previews import as_row, marked
from tamis.models import ModelRef
from tamis.rendering import render

REF = ModelRef(name="tamis:tiny-lm")
RECORDS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": "Was ist zwölf?"},
            {"role": "assistant", "content": "Zwölf ist 12, ünd?"},
        ]
    },
    {"prompt": "What?", "chosen": "good", "rejected": "bad"},
    {"text": "plain words"},
    {"prompt": "alone"},
]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.mark.parametrize("record", RECORDS)
def test_marked_tokens_are_the_trained_tokens(record: dict[str, Any]) -> None:
    from tamis.chat_template import chat_template

    tokenizer: Any = chat_template(REF.name).tokenizer
    row = as_row(draft(record))
    for side, text in marked(row, REF):
        rendered = render(row, REF, side="rejected" if side == "rejected" else "chosen")
        inside = "".join(part.partition("⟧")[0] for part in text.split("⟦")[1:])
        trained = [int(token) for token, turn in zip(rendered.ids, rendered.turn, strict=True) if turn >= 0]
        assert inside == tokenizer.decode(trained)
        whole = text.replace("⟦", "").replace("⟧", "").partition(" (no token is trained: needs an answer)")
        assert whole[0] == tokenizer.decode([int(token) for token in rendered.ids])
        assert bool(whole[1]) == (row.kind == "prompt")


def test_a_preview_prints_format_mapping_and_rows_with_marks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.jsonl"
    rows = [{"ask": f"q{number}", "sol": f"a{number}", "id": 1} for number in range(9)]
    file.write_text("oops\n" + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, out, _ = run(capsys, "ingest", str(file), "--preview", "5", "--map", "prompt=ask,response=sol")
    assert code == 0
    assert f"{file}: jsonl: prompt/completion" in out and "  prompt <- ask" in out and "  response <- sol" in out
    assert "! record 0: broken JSON" in out and "--- row 4 [chat, meta: id]" in out and "row 5" not in out
    assert out.count("⟦") == 5 + 1 and "⟦a4" in out.replace("⟦ ", "⟦") and "\033[" not in out
    code, out, _ = run(capsys, "ingest", str(file), "--preview", "2", "--map", "prompt=ask,response=sol", "--json")
    seen = json.loads(out)["files"][0]
    assert seen["format"] == "jsonl: prompt/completion" and len(seen["rows"]) == 2
    assert "⟦" in seen["rows"][0]["rendered"][""]


def test_too_many_bad_rows_end_with_3_on_the_command_line_and_in_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("oops\n" + json.dumps({"text": "t"}) + "\n", encoding="utf-8")
    out = str(tmp_path / "pool")
    code, _, error = run(capsys, "ingest", str(file), "--out", out, "--max-bad", "0.1%")
    assert code == 3 and "1 of 2 rows were quarantined, more than max_bad 0.1% allows" in error
    assert run(capsys, "ingest", str(file), "--out", out, "--max-bad", "50%")[0] == 0
    assert run(capsys, "ingest", str(file), "--out", out, "--max-bad", "0")[0] == 3

    from tamis.api import workspace
    from tamis.stages.sources import ingest_source

    work = workspace(tmp_path / "work", workers=1)
    source = {"files": [str(file)], "map": {"text": "text"}}
    assert len(ingest_source({**source, "max_bad": "50%"}, work)) == 1
    with pytest.raises(GateError, match="1 of 2 rows"):
        ingest_source({**source, "max_bad": "0.1%"}, work)


def test_faults_of_a_recipes_map_are_named_before_the_run(tmp_path: Path) -> None:
    from tamis.errors import RecipeError
    from tamis.recipe import load

    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "t"}) + "\n", encoding="utf-8")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"model: tamis:tiny-lm\npool:\n  files: [{tmp_path}/a.jsonl]\n  map: {{promt: q, role.x: owner}}\n"
        "choose: {select: random, budget: 1}\n",
        encoding="utf-8",
    )
    with pytest.raises(RecipeError) as caught:
        load(str(recipe))
    faults = "\n".join(caught.value.faults)
    assert "did you mean 'prompt'" in faults and "there is no role 'owner'" in faults


def test_a_wrong_bound_of_bad_rows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text("oops\n", encoding="utf-8")
    code, _, error = run(capsys, "ingest", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "p"), "--max-bad", "few")
    assert code == 2 and "max_bad 'few'" in error
