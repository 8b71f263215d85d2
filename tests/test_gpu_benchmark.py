"""Law: benchmarks/gpu.py runs from a checkout with torch, transformers, peft, safetensors, numpy and pyarrow alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = ("torch", "transformers", "peft", "safetensors", "numpy", "pyarrow")

COMMAND = ("benchmarks/gpu.py", "--quick", "--json", "--device", "cpu")
BLOCKED = """
import runpy, sys
from importlib.machinery import PathFinder
blocked = set(sys.argv.pop(1).split(","))

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def needed(names: tuple[str, ...]) -> set[str]:
    """Distributions that these need, themselves included, as far as they are installed; extras left out."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            wanted = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        waiting += [re.split(r"[\s<>=!~;\[(]", one)[0] for one in wanted if "extra ==" not in one]
    return found


@pytest.mark.soak
def test_the_gpu_benchmark_needs_six_packages_and_what_they_need() -> None:
    kept = needed(ALLOWED)
    owners = metadata.packages_distributions()
    blocked = [
        module
        for module, names in owners.items()
        if module.isidentifier() and not any(re.sub(r"[-_.]+", "-", name).lower() in kept for name in names)
    ]
    assert {"prefect", "datasets", "faiss", "polars", "sklearn", "plotly"} <= set(blocked)
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, ",".join(set(blocked) - {"tamis"}), *COMMAND],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["dtype"] == "float32" and found["peak_mb"] is None
    assert all(rate > 0 for rate in found["rows_per_second"].values())
