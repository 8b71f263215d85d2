"""The README tells the truth: its Python runs, its table is the catalogue, its recipe and verbs exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tamis.catalogue import CATALOGUE

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_table_names_every_component_once() -> None:
    rows = re.findall(r"^\| (\w+) \| `([a-z0-9-]+)` \| .+ \|$", README, re.MULTILINE)
    assert sorted(rows) == sorted((kind, name) for kind, table in CATALOGUE.items() for name in table)


def test_the_python_block_runs(tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(_blocks("python")[0], encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "longest.jsonl").read_text(encoding="utf-8").count("\n") == 59


def test_the_verbs_of_the_console_blocks_exist() -> None:
    from typer.main import get_command

    from tamis.cli import app

    known = set(getattr(get_command(app), "commands", {}))
    used = set(re.findall(r"^\$ tamis ([a-z]+)", README, re.MULTILINE)) | set(re.findall(r"`tamis ([a-z]+)", README))
    assert used and used <= known, used - known


def test_the_recipe_block_has_no_fault_but_its_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tamis import recipe

    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    for name in ("raw/a.jsonl", "few_shot.jsonl", "held_out.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "my.yaml").write_text(_blocks("yaml")[0], encoding="utf-8")
    assert [stage.name for stage in recipe.load("my.yaml").stages] == [
        "warmup",
        "influence",
        "subset",
        "final",
        "proof",
    ]
