"""Law: adding a scorer is one file, one catalogue line, one settings row and one README row, as the guide says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pages import ROOT, blocks

GUIDE = ROOT / "CONTRIBUTING.md"
LEFT_OUT = (".*", "__pycache__", "*.egg-info", "site", "build", "dist", "benchmarks", "docs")


def steps() -> list[str]:
    """What each step of the list says is to be written, or the file to make."""
    listed = re.findall(r"^\d\. .+?: (`{1,2})(.+)\1;?$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    return [text for _, text in listed]


def insert(file: Path, before: str, line: str, indent: str = "    ") -> None:
    """Write one line before the first one that begins with `before`."""
    text = file.read_text(encoding="utf-8")
    at = text.index(f"\n{before}") + 1
    file.write_text(f"{text[:at]}{indent}{line}\n{text[at:]}", encoding="utf-8")


@pytest.mark.soak
def test_the_scorer_of_the_guide_is_added_by_its_four_edits_and_passes_the_contract_suite(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    file, catalogue, settings, row = steps()
    (component,) = blocks([GUIDE], language="python", mark="component")
    (copy / file).write_text(component.text, encoding="utf-8")
    insert(copy / "src/tamis/catalogue.py", '    "token-shift": "tamis.scorers', catalogue)
    insert(copy / "tests/cheap.py", '    ("scorers", "token-shift")', settings)
    insert(copy / "README.md", "| scorers | `token-shift`", row, "")
    (command,) = [line for block in blocks([GUIDE], language="console") for line in block.lines if "pytest" in line]
    suite, wanted = command.partition(" -k ")[::2]
    done = subprocess.run(
        [sys.executable, *suite.split()[1:], "-k", wanted.strip('"'), "-q", "-p", "no:cacheprovider"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": f"{copy}/src:{copy}/tests"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) >= 7
