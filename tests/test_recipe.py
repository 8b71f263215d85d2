"""Laws of recipes: all faults at once with line and fix, references are the graph, nothing is executed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tamis import recipe
from tamis.errors import RecipeError
from tamis.recipe.marked import read

GOOD = """
model: {name: "tamis:tiny-lm", max_tokens: 128}
pool: {files: ["tamis:pool.jsonl.gz"]}
target: {files: ["tamis:target/arithmetic.jsonl"]}
subset: {select: less, from: "@influence", budget: 5%}
influence: {pass: influence, checkpoints: "@warmup"}
warmup: {train: lora, on: {select: random, budget: 5%, seed: 1}, epochs: 2, keep: every-epoch}
final: {train: lora, on: "@subset"}
proof: {compare: "@subset", with: [random], evaluate: {files: ["tamis:eval/arithmetic.jsonl"]}, runs: 2}
"""


def _write(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def _faults(folder: Path, text: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        recipe.load(_write(folder, text), overrides)
    return caught.value.faults


def test_every_stage_comes_after_those_it_refers_to(tmp_path: Path) -> None:
    found = recipe.load(_write(tmp_path, GOOD))
    assert [stage.name for stage in found.stages] == ["warmup", "influence", "subset", "final", "proof"]
    assert found.main_subset() == "subset"
    assert found.training_of(found.stage("proof")) == ("lora", {})


@pytest.mark.parametrize("name", sorted(recipe.shipped()))
def test_every_shipped_recipe_is_good(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in ("data/pool", "data/target", "data/preference", "models/base-4m"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("TAMIS_REAL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TAMIS_REAL_MODELS", str(tmp_path / "models"))
    text = recipe.shipped()[name].read_text(encoding="utf-8")
    for word in text.replace('"', " ").replace("]", " ").replace(",", " ").split():
        if word.startswith("${TAMIS_REAL_DATA") and word.endswith((".gz", ".zst", ".jsonl")):
            (tmp_path / "data" / word.partition("}/")[2]).touch()
    assert recipe.load(name).stages


def test_all_faults_are_listed_at_once_with_file_and_line(tmp_path: Path) -> None:
    text = GOOD.replace("select: less", "select: lesss").replace("epochs: 2", "epoch: 2").replace("runs: 2", "runs: 0")
    text = text.replace("tamis:pool.jsonl.gz", "no/such.jsonl").replace("max_tokens: 128", "max_token: 128")
    faults = "\n".join(_faults(tmp_path, text))
    for line, word in (
        (2, "'max_tokens'"),
        (3, "no/such.jsonl"),
        (5, "did you mean 'less'"),
        (7, "'epochs'"),
        (9, "runs"),
    ):
        assert any(f"recipe.yaml:{line}:" in fault and word in fault for fault in faults.splitlines()), (
            line,
            word,
            faults,
        )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('"@influence"', '"@influenze"'), "did you mean 'influence'"),
        (("on: {select: random, budget: 5%, seed: 1}", 'on: "@subset"'), "cycle"),
        (("budget: 5%}", "budget: 0%}"), "budget"),
        (("budget: 5%}", "budget: lots}"), "budget"),
        (("budget: 5%}", 'budget: 5%, where: "ifd <"}'), "where"),
        (("budget: 5%}", "budget: 5%, where: \"__import__('os').system('x')\"}"), "where"),
        (("final: {train: lora", "final: {train: lora, select: top"), "exactly one"),
        (('checkpoints: "@warmup"', 'checkpoints: "@subset"'), "train"),
        (('train: lora, on: "@subset"', 'train: lora, on: "@proof"'), "select"),
        (("with: [random]", "with: [randon]"), "baseline"),
        (("target: {files", "targett: {files"), "target"),
        (('model: {name: "tamis:tiny-lm"', 'model: {name: "./no/such/folder"'), "no folder"),
        (("max_tokens: 128", "max_tokens: 1"), "at least 2"),
        (("max_tokens: 128", "dtype: float17"), "float32"),
        (("final: {", "warmup: {"), "twice"),
        (("pool: {files", "pool: !!python/object:os.system {files"), "tag"),
    ],
)
def test_a_wrong_recipe_says_what_and_where(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    assert change[0] in GOOD
    faults = "\n".join(_faults(tmp_path, GOOD.replace(*change, 1)))
    assert expected in faults and "recipe.yaml" in faults


def test_overrides_and_environment_reach_any_setting(tmp_path: Path) -> None:
    path = Path(_write(tmp_path, "a: {b: 1, c: '${X:-7}'}\nd: ${Y:-8}\ne: ${Z}\n"))
    marked = read(path, ["a.b=[1, 2]", "f.g=5%"], {"X": "x", "Z": "3"})
    assert marked.values == {"a": {"b": [1, 2], "c": "x"}, "d": 8, "e": 3, "f": {"g": "5%"}}
    assert not marked.faults
    assert any("Z" in fault for fault in read(path, [], {}).faults)
    assert any("NAME=VALUE" in fault for fault in read(path, ["a.b"], {"Z": "1"}).faults)


def test_yaml_never_builds_objects(tmp_path: Path) -> None:
    path = Path(_write(tmp_path, "a: !!python/object/apply:os.system ['touch x']\n"))
    marked = read(path)
    assert marked.faults and marked.values == {"a": None}
    assert not (tmp_path / "x").exists() and not Path("x").exists()


def test_a_recipe_that_cannot_be_read_is_one_clear_fault(tmp_path: Path) -> None:
    assert "not YAML" in _faults(tmp_path, "a: [1, 2\nb: {")[0]
    assert "mapping" in _faults(tmp_path, "- 1\n")[0]
    with pytest.raises(RecipeError, match="no recipe"):
        recipe.load("lesss")
    with pytest.raises(RecipeError, match="did you mean 'less'"):
        recipe.load("lesss")
    with pytest.raises(RecipeError, match="no recipe file"):
        recipe.load("missing.yaml")


def test_a_pipe_a_socket_and_a_folder_are_no_recipes_and_nothing_waits_for_them(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.yaml"))
        for name in ("pipe.yaml", "folder.yaml", "socket.yaml", ""):
            with pytest.raises(RecipeError, match="is no file"):
                recipe.load(str(tmp_path / name))
    with pytest.raises(RecipeError, match="is no file"):
        recipe.load("/dev/zero")
