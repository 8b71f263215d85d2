"""The GPU tier needs torch, transformers, peft, safetensors, numpy and pyarrow alone: run it with `PYTHONPATH=src`.

PYTHONPATH=src python -m pytest -m gpu --confcutdir tests/gpu tests/gpu
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(scope="session")
def device() -> str:
    """The first GPU; skipped with the reason where there is none."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return "cuda"
