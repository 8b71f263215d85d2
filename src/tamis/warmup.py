"""What passes over the checkpoints of a warm-up share: model, weights, formula, examples of rows, target vectors."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import DataError
from tamis.influence import PROFILES, Formula
from tamis.models import ModelRef
from tamis.values import Reason

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.checkpoints import Checkpoint
    from tamis.influence import Example, Loss, Objective, Opened, Tokens
    from tamis.pool import Pool
    from tamis.values import Machine, Row

log = logging.getLogger(__name__)


def base_of(checkpoints: Sequence[Checkpoint]) -> ModelRef:
    """Return the model that all checkpoints were trained from; DataError where there is none, or more than one."""
    if not checkpoints:
        raise DataError("influence needs at least one checkpoint: name a warm-up that keeps every epoch")
    bases = [ModelRef(**checkpoint.facts["base"]) for checkpoint in checkpoints]
    if any(base != bases[0] for base in bases):
        raise DataError("the checkpoints were not all trained from one model; influence cannot add them up")
    return bases[0]


def weights_of(checkpoints: Sequence[Checkpoint]) -> list[float]:
    """Weight of every checkpoint: the mean learning rate of its epoch, scaled to sum to 1."""
    rates = [checkpoint.learning_rate for checkpoint in checkpoints]
    return [rate / sum(rates) for rate in rates]


def formula_of(component: Any) -> Formula:
    """Return the formula of a pass: its `profile`, with every setting of the formula that the pass has not left out."""
    own = {item.name: getattr(component, item.name, None) for item in dataclasses.fields(Formula)}
    return PROFILES[component.profile].but(**own)


def groups_of(target: Pool, by: str) -> list[str]:
    """Task of every target row."""
    from tamis.views import PoolView

    return [str(name) for name in PoolView(target).groups(by)]


def examples(rows: list[Row], ref: ModelRef, loss: Loss) -> tuple[list[Example], NDArray[np.uint8]]:
    """(ids, labels) of every row, of both sides where the loss is DPO's, and why a row has no label."""
    import numpy as np

    from tamis.rendering import render_all

    def tokens(side: Literal["chosen", "rejected"]) -> tuple[list[Tokens], NDArray[np.uint8]]:
        rendered = render_all(rows, ref, side=side)
        return [(one.ids, one.turn >= 0) for one in rendered], np.array([int(one.reason) for one in rendered], np.uint8)

    chosen, reason = tokens("chosen")
    if loss == "sft":
        return list(chosen), reason
    rejected, other = tokens("rejected")
    reason = np.where(reason > 0, reason, other)
    reason[[row.kind != "pair" for row in rows]] = Reason.WRONG_KIND
    return list(zip(chosen, rejected, strict=True)), reason


def target_vectors(
    opened: Opened, base: ModelRef, target: Pool, by: str, formula: Formula, objective: Objective, on: Machine
) -> dict[str, torch.Tensor]:
    """V of the target's tasks, sorted by name, by layer; rows that cannot be used are left out with a warning.

    Errors: DataError where a task has no row left.
    """
    import numpy as np

    from tamis.influence import task_vectors

    groups = groups_of(target, by)
    names = sorted(set(groups))
    task = np.array([names.index(name) for name in groups], np.int64)
    rows, reason = examples(list(target), base, objective.loss)
    usable = np.flatnonzero(reason == 0)
    _check_tasks(names, task[usable], f"of {len(rows)} target rows {len(usable)} can be used")
    chosen = [rows[place] for place in usable]
    vectors, dropped = task_vectors(opened, chosen, task[usable], formula.subtask_agg, on, objective)
    kept = np.delete(usable, dropped)
    _check_tasks(names, task[kept], f"{len(dropped)} target rows give values that are not finite")
    if len(kept) < len(rows):
        log.warning(
            "%d of %d target rows cannot be used for influence and are left out", len(rows) - len(kept), len(rows)
        )
    return vectors


def _check_tasks(names: list[str], task: NDArray[np.int64], found: str) -> None:
    empty = [name for number, name in enumerate(names) if number not in set(task.tolist())]
    if not names or empty:
        raise DataError(
            f"{found}: no row is left for {', '.join(map(repr, empty)) or 'the target'}. Target rows need a non-empty "
            "answer that is not cut off by the model's max_tokens"
        )
