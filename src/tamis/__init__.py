"""tamis chooses the fine-tuning data that is worth training on, and proves it.

The verbs are imported when they are first used, so that `import tamis` loads nothing heavy:

    pool = tamis.open_pool("data.jsonl")
    subset = tamis.select(pool, "less", budget="5%", target="few_shot.jsonl", model="folder-or-hub-name")
    tamis.compare(subset, "held_out.jsonl")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time `__getattr__` imports what is asked for
    from tamis.api import add_columns as add_columns
    from tamis.api import calibrate as calibrate
    from tamis.api import clean as clean
    from tamis.api import columns as columns
    from tamis.api import compare as compare
    from tamis.api import decontaminate as decontaminate
    from tamis.api import diff as diff
    from tamis.api import evaluate as evaluate
    from tamis.api import export as export
    from tamis.api import filter as filter  # noqa: A004 - the verb's name
    from tamis.api import load_checkpoints as load_checkpoints
    from tamis.api import mix as mix
    from tamis.api import open_pool as open_pool
    from tamis.api import open_subset as open_subset
    from tamis.api import plan as plan
    from tamis.api import run as run
    from tamis.api import score as score
    from tamis.api import select as select
    from tamis.api import train as train
    from tamis.api import workspace as workspace

__version__ = "0.1.0"

_VERBS = (
    *("open_pool", "clean", "score", "columns", "add_columns", "filter", "select", "mix", "open_subset", "train"),
    "evaluate",
    *("load_checkpoints", "compare", "decontaminate", "export", "run", "workspace", "plan", "calibrate", "diff"),
)
_LAZY: dict[str, str] = dict.fromkeys(_VERBS, "tamis.api")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tamis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_LAZY, "__version__"])
