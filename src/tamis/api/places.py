"""Where a verb works: its workspace, its model and its pool."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tamis.errors import RecipeError
from tamis.models import ModelRef
from tamis.pins import Refit
from tamis.pool import MANIFEST, Pool
from tamis.stages.workspace import Workspace
from tamis.values import Machine, Need

log = logging.getLogger(__name__)
Files = str | Sequence[str]
Rows = Pool | Files
Place = Workspace | str | Path | None
Model = ModelRef | str | None
Settings = Mapping[str, Any] | None
TRIAL_MODEL = "tamis:tiny-lm"


def workspace(
    root: str | Path | None = None,
    model: Model = None,
    *,
    judge: Model = None,
    reference: Model = None,
    max_tokens: int = 2048,
    refit: str = "20%",
    **machine: Any,
) -> Workspace:
    """A workspace (default: `TAMIS_WORKSPACE`, else `./.tamis`) with its model and this machine.

    `model`: what reads the rows. Without one the shipped tamis:tiny-lm counts tokens, and what runs a model refuses.
    `judge`, `reference`: second models, for scorers that need one. `max_tokens`: rows are cut there. `refit`: when
    what was fitted on a pool is fitted again after the pool has changed, see `tamis.pins`. `machine`: `device`,
    `workers`, `threads`, `tokens_per_batch`.
    """
    from tamis import engine

    on = engine.machine(**machine)
    ref = _ref(model or TRIAL_MODEL, max_tokens, on.device)
    second = {"judge": judge, "reference": reference}
    others: dict[str, Any] = {role: _ref(one, max_tokens, on.device) for role, one in second.items() if one is not None}
    place = Path(root or os.environ.get("TAMIS_WORKSPACE") or ".tamis").resolve()
    return Workspace(place, on, ref, assumed=model is None, refit=Refit.parse(refit), **others)


def _ref(model: ModelRef | str, max_tokens: int, device: str) -> ModelRef:
    ref = model if isinstance(model, ModelRef) else ModelRef(name=model, max_tokens=max_tokens)
    return ref.resolved(device)


def open_pool(
    files: Files | Path,
    work: Place = None,
    *,
    out: str | Path | None = None,
    sample: Mapping[str, int] | None = None,
    **settings: Any,
) -> Pool:
    """A pool from its folder, or from data files (paths, globs, hf:// names). `out`: folder to keep the pool in.

    `settings` are those of `tamis.ingest.ingest`: `mapping`, `source`, `shard_rows`. Rows that cannot be used are
    quarantined with a reason, never lost. Raises DataError for files that are missing or cannot be read.
    """
    from tamis.ingest import Sample, ingest
    from tamis.store import Store

    names = [str(files)] if isinstance(files, (str, Path)) else [str(name) for name in files]
    if len(names) == 1 and (Path(names[0]) / MANIFEST).is_file():
        return Pool.open(Path(names[0]))
    store = Store(Path(out)) if out is not None else work_of(work).store
    on = work.machine.here if isinstance(work, Workspace) else Machine(workers=len(os.sched_getaffinity(0)))
    pool = ingest(names, store, sample=Sample(**sample) if sample else None, on=on, **settings)
    if out is not None:
        pool.save(Path(out) / MANIFEST)
    elif refused := sum(int(file.get("quarantined", 0)) for file in pool.files):
        log.warning("rows that cannot be used and are left out: %d; `tamis ingest` says which and why", refused)
    return pool


def work_of(
    work: Place = None, model: Model = None, *, judge: Model = None, reference: Model = None, why: str = ""
) -> Workspace:
    """The workspace of a verb. `why`: what runs a model; RecipeError where nobody has named one."""
    at = work if isinstance(work, Workspace) else workspace(work, model)
    given = {"model": model, "judge": judge, "reference": reference}
    named: dict[str, Any] = {
        role: _ref(one, at.model.max_tokens, at.machine.device) for role, one in given.items() if one is not None
    }
    at = dataclasses.replace(at, **named, assumed=at.assumed and model is None)
    if why and at.assumed:
        raise RecipeError(
            f"{why} needs a model that reads the rows: say `model` (--model on the command line), a folder or a hub "
            f"name; {TRIAL_MODEL} is shipped, for trying"
        )
    return at


def pool_of(rows: Rows | Path, work: Workspace) -> Pool:
    """The pool itself, or that of its folder or files."""
    return rows if isinstance(rows, Pool) else open_pool(rows, work)


def reads_rows(needs: Sequence[Need]) -> bool:
    """Whether the run's own model is run; counting lengths takes its tokenizer only, and some passes have no model."""
    from tamis.catalogue import load
    from tamis.stages.serving import has_model

    names = {need.name for need in needs if need.kind == "signal" and need.by == "model"} - {"lengths"}
    return any(has_model(load("passes", name)) for name in names)
