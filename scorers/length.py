"""Length: how much text a row is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    from tamis.views import ShardSignals

_VIEWS = {
    "tokens": ("tokens", "tokens"),
    "response": ("response_tokens", "tokens"),
    "characters": ("characters", "characters"),
    "words": ("words", "words"),
}


@dataclass(frozen=True, kw_only=True)
class Length:
    """Length in tokens (whole row, response), characters and words.

    Tokens are those of the model's template after truncation. NaN with "the chat template refuses the row" where there
    are no tokens; `response` is NaN with the reason where nothing can be trained on. Counts of our own: no source, and
    no published value. Range [0, inf).
    """

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths signal."""
        return frozenset({Need(kind="signal", name="lengths")})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `tokens`, `response` (tokens trained on), `characters`, `words`; counts of at least 0."""
        import numpy as np

        lengths = have["lengths"]
        columns = {}
        for view, (array, unit) in _VIEWS.items():
            values = np.asarray(lengths[array]).astype(np.float32)
            reasons = np.asarray(lengths["reason"]).copy()
            if view == "tokens":
                reasons[reasons != Reason.TEMPLATE] = 0
            elif view != "response":
                reasons[:] = 0
            values[reasons != 0] = np.nan
            columns[view] = Column(values=values, unit=unit, reasons=reasons)
        return columns
