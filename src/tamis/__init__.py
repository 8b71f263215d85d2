"""tamis chooses the fine-tuning data that is worth training on, and proves it."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_VERBS = ("open_pool", "score", "filter", "select", "mix", "train", "evaluate", "compare", "export", "run", "workspace")
_LAZY: dict[str, str] = dict.fromkeys(_VERBS, "tamis.api")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tamis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_LAZY, "__version__"])
