"""DEITA's judges of complexity and quality: the expected digit from 1 to 6, of every turn (Liu et al., ICLR 2024)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.rating_prompts import SHIPPED, RatingSet
from tamis.values import Need, Role

if TYPE_CHECKING:
    from tamis.values import Column
    from tamis.views import ShardSignals

Turns = Literal["mean", "sum", "max", "last"]
_NAMES = ("deita-complexity", "deita-quality")


def _set(name: str, *, raw: bool) -> RatingSet:
    return dataclasses.replace(SHIPPED[name], raw=raw)


def _need(by: Role, *asked: RatingSet) -> Need:
    sets = tuple(one.name if one == SHIPPED[one.name] else one for one in asked)
    return Need(kind="signal", name="ratings", settings=(("sets", sets),), by=by)


@dataclass(frozen=True, kw_only=True)
class DeitaComplexity:
    """DEITA's complexity of the instruction: expected digit from 1 to 6 of a judge (Liu et al., 2024).

    arXiv:2312.15685. score = Σ_c c · softmax(z)_c over the logits of the digits 1 to 6 at the first position of the
    answer; no answer is needed. Of several turns the `mean` (what the paper sums is complexity times quality by turn:
    scorer `deita`). `by`: the judge of the run; the released ones are hkust-nlp/deita-complexity-scorer and
    -quality-scorer, which are two models, so that each is a run of its own. `raw`: the bare prompt that those were
    trained on; false for a chat model as judge. Where the released code gives 3.0 to what failed, here is no value.
    No published value per row. Range [1, 6].
    """

    by: Role = "judge"
    turns: Turns = "mean"
    raw: bool = True
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The judge's answers."""
        return frozenset({_need(self.by, _set(_NAMES[0], raw=self.raw))})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Column `score`, points, and `outside`, the probability of tokens that are no such digit."""
        (need,) = self.needs
        return _one(have, need.key, _set(_NAMES[0], raw=self.raw), self.turns)


@dataclass(frozen=True, kw_only=True)
class DeitaQuality:
    """DEITA's quality of the response: expected digit from 1 to 6 of a judge (Liu et al., 2024).

    As `deita-complexity`, of the answer together with its instruction. Range [1, 6].
    """

    by: Role = "judge"
    turns: Turns = "mean"
    raw: bool = True
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The judge's answers."""
        return frozenset({_need(self.by, _set(_NAMES[1], raw=self.raw))})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Column `score`, points, and `outside`, the probability of tokens that are no such digit."""
        (need,) = self.needs
        return _one(have, need.key, _set(_NAMES[1], raw=self.raw), self.turns)


@dataclass(frozen=True, kw_only=True)
class Deita:
    """DEITA's score of a row: complexity times quality of every turn, added up (Liu et al., 2024).

    Σ_t c_t · q_t, as published, favours long dialogues; `turns: mean` does not. Rows of one turn are ordered as by the
    product of `deita-quality` and `deita-complexity`. One judge answers both questions. Range [1, 36] a turn.
    """

    by: Role = "judge"
    turns: Turns = "sum"
    raw: bool = True
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The judge's answers to both questions."""
        return frozenset({_need(self.by, *(_set(name, raw=self.raw) for name in _NAMES))})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Column `score`, points (the product has no unit of its own)."""
        import numpy as np

        from tamis.readouts import Readings
        from tamis.reductions import column
        from tamis.values import Reason

        (need,) = self.needs
        asked = [_set(name, raw=self.raw) for name in _NAMES]
        hard, good = (Readings.of(have[need.key], one) for one in asked)
        reasons = np.where(good.reasons > 0, good.reasons, hard.reasons).astype(np.uint8)
        both = (np.bincount(one.owner, minlength=len(reasons)) for one in (hard, good))
        uneven = np.not_equal(*both)
        reasons[(reasons == 0) & uneven] = Reason.NOT_MEASURED
        kept = [one.expected(asked[place])[reasons[one.owner] == 0] for place, one in enumerate((hard, good))]
        shared = dataclasses.replace(good, owner=good.owner[reasons[good.owner] == 0], reasons=reasons)
        return {"score": column(shared.by_row(kept[0] * kept[1], self.turns), reasons, "points")}


def _one(have: ShardSignals, key: str, asked: RatingSet, turns: Turns) -> Mapping[str, Column]:
    from tamis.readouts import Readings
    from tamis.reductions import column

    read = Readings.of(have[key], asked)
    return {
        "score": column(read.by_row(read.expected(asked), turns), read.reasons, "points"),
        "outside": column(read.by_row(read.outside()), read.reasons, "probability"),
    }
