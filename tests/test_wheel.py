"""The wheel holds recipes, data and model as plain files and works from an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.soak
def test_the_wheel_checks_a_shipped_recipe_from_an_empty_folder(tmp_path: Path) -> None:
    built = tmp_path / "built"
    tree = tmp_path / "tree"  # a copy: building leaves a folder behind
    ignored = shutil.ignore_patterns(".venv", ".git", "build", "*.egg-info", ".tamis", "__pycache__")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(built), str(tree)]
    subprocess.run(pip, check=True, timeout=300)
    wheel = next(built.glob("tamis-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("tamis/recipes/less.yaml", "tamis/data/pool.jsonl.gz", "tamis/data/tiny-lm/model.safetensors"):
        assert name in names
    assert {"tamis/selectors/less.py", "tamis/cleaners/allowed.py"} <= set(names) and not any(
        name.startswith("selectors/") for name in names
    )
    home = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(home)
    empty = tmp_path / "empty"
    empty.mkdir()
    # The dependencies of this environment without its own, editable tamis: `.pth` files are not read here.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(home), sysconfig.get_paths()["purelib"]])}
    code = (
        "import tamis, sys; from tamis.cli import main; print(tamis.__file__, file=sys.stderr); main(['check', 'less'])"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=empty, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert str(home) in done.stderr and "no fault found" in done.stdout
    assert not list(empty.iterdir())
