"""Similarity of every row's gradient to each task of a target: the influence signal as columns."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.values import Column, Need

if TYPE_CHECKING:
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class GradientSimilarity:
    """Influence of every row on each target task; in LESS the cosine of its Adam direction.

    Xia et al. 2024 (LESS, arXiv:2402.04333), by the pass `influence`, whose profile says which formula. No published
    value per row. Range: [-1, 1] for cosines, any number for inner products.
    """

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The influence signal."""
        return frozenset({Need(kind="signal", name="influence")})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """One column a task, named after it: a cosine in [-1, 1], or what the pass says; NaN where it gave a reason."""
        import numpy as np

        signal = have["influence"]
        reasons = np.asarray(signal["reason"], np.uint8)
        names = view_names(json.loads(bytes(np.asarray(signal["tasks"], np.uint8))))
        scores = np.asarray(signal["scores"], np.float32)
        unit = bytes(np.asarray(signal["unit"], np.uint8)).decode() if "unit" in signal else "cosine"
        return {
            name: Column(values=scores[:, number].copy(), unit=unit, reasons=reasons)
            for number, name in enumerate(names)
        }


def view_names(tasks: list[str]) -> list[str]:
    """Task names fit for columns: lower case, letters, digits, - and _; a number is added where two would be equal."""
    names: list[str] = []
    for task in tasks:
        plain = re.sub(r"[^a-z0-9_]+", "-", task.lower()).strip("-") or "task"
        count = 2
        name = plain
        while name in names:
            name, count = f"{plain}-{count}", count + 1
        names.append(name)
    return names
