"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tamis"


def _modules() -> list[str]:
    folders = [SOURCE, *(path for path in SOURCE.iterdir() if path.is_dir())]
    files = {file for folder in folders for file in folder.glob("*.py")} | set((SOURCE / "scorers/passes").glob("*.py"))
    with_examples = sorted(file for file in files if ">>> " in file.read_text(encoding="utf-8"))
    return [".".join(file.relative_to(SOURCE.parent).with_suffix("").parts) for file in with_examples]


@pytest.mark.parametrize("module", _modules())
def test_the_examples_of_a_module_hold(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried and not failed
