"""Constraint satisfaction: does an answer keep to what its prompt demands and a program can check?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.text.criteria import column
from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    from tamis.values import Row
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class ConstraintSatisfaction:
    """Share of a prompt's checkable constraints that the answer keeps (ACT, 2024; IFEval).

    Constraints are found in the prompt by patterns (`tamis.text.constraints`): numbers of words, sentences, paragraphs
    and bullets, words that must or must not occur, beginnings and ends, case, JSON, language. Our form, after IFEval;
    the paper has no list, and there is no published value. Several exchanges: over the constraints of all of them.
    `tolerance`: how far a plain "in 200 words" may be missed.

    Constraints are found in 2 % of the rows of 32 public sets, 60 % of them kept. Of original answers and their expert
    revisions (CaR, 178 rows with constraints) it tells the revised with an AUC of 0.56 [0.48, 0.64]: no clear signal.
    """

    tolerance: float = 0.1
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `score` in [0, 1], `found` and `broken` (counts). `score` is NaN where no constraint was found."""
        import numpy as np

        rows = have.shard.read()
        counts = np.array([self._of(row) for row in rows], np.float64).reshape(-1, 2)
        kept, found = counts[:, 0], counts[:, 1]
        unanswered = np.array([row.kind == "prompt" for row in rows])
        reasons = np.where(unanswered, int(Reason.NEEDS_ANSWER), 0).astype(np.uint8)
        none = np.where((found == 0) & (reasons == 0), int(Reason.NOTHING_TO_CHECK), reasons).astype(np.uint8)
        return {
            "score": column(kept / np.maximum(found, 1), "share kept", none),
            "found": column(found, "constraints", reasons),
            "broken": column(found - kept, "constraints", reasons),
        }

    def _of(self, row: Row) -> tuple[int, int]:
        from tamis.text.constraints import constraints_of
        from tamis.text.passages import exchanges

        kept = found = 0
        for asked, answer in exchanges(row):
            constraints = constraints_of(asked, self.tolerance)
            found += len(constraints)
            kept += sum(constraint.holds(answer) for constraint in constraints)
        return kept, found
