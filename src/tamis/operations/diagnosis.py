"""Diagnose: what this machine can do, and what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path
from typing import Any

REQUIRED = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "faiss-cpu",
    "scikit-learn",
    "polars",
    "pyarrow",
    "prefect",
)
OPTIONAL = {"trl": "tamis[trl]", "ray": "tamis[ray]", "lm-eval": "tamis[eval]"}
FREE_BYTES = 2 << 30


def diagnose(workspace: Path) -> dict[str, Any]:
    """Checks, each with `what`, `ok`, `found` and whether it is optional."""
    checks = [_check("python", sys.version_info >= (3, 11), sys.version.split()[0])]
    for name in REQUIRED:
        version = _version(name)
        checks.append(_check(name, version is not None, version or "missing: pip install tamis"))
    for name, extra in OPTIONAL.items():
        version = _version(name)
        checks.append(
            _check(name, version is not None, version or f"not installed: pip install '{extra}'", optional=True)
        )
    checks += [_cores(), _gpu(), _disk(workspace), _model()]
    return {"checks": checks}


def _check(what: str, ok: bool, found: str, *, optional: bool = False) -> dict[str, Any]:
    return {"what": what, "ok": ok, "found": found, "optional": optional}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cores() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return _check("cores and memory", True, f"{cores} cores, {pages:.0f} GiB")


def _gpu() -> dict[str, Any]:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return _check("GPU", True, ", ".join(names))
    return _check("GPU", False, "none: passes and training run on the CPU in float32", optional=True)


def _disk(workspace: Path) -> dict[str, Any]:
    place = workspace.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return _check("disk", free > FREE_BYTES, f"{free / 2**30:.1f} GiB free at {place}")


def _model() -> dict[str, Any]:
    from tamis.errors import TamisError
    from tamis.models import describe, shipped

    try:
        facts = describe(shipped("tamis:tiny-lm"))
    except TamisError as error:
        return _check("shipped model", False, str(error))
    return _check(
        "shipped model", True, f"tamis:tiny-lm, {facts['num_hidden_layers']} layers of {facts['hidden_size']}"
    )
