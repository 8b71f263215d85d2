"""DEITA's judges of complexity and quality: the expected digit from 1 to 6, of every turn (Liu et al., ICLR 2024)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.answers.rating_prompts import RatingSet, rating_set
from tamis.values import Need, Reason, Role

if TYPE_CHECKING:
    from tamis.values import Column
    from tamis.views import ShardSignals

Turns = Literal["mean", "sum", "max", "last"]


def _need(by: Role, *sets: str | RatingSet) -> Need:
    return Need(kind="signal", name="ratings", settings=(("sets", sets),), by=by)


@dataclass(frozen=True, kw_only=True)
class DeitaComplexity:
    """DEITA's complexity of the instruction: expected digit from 1 to 6 of a judge (Liu et al., 2024).

    arXiv:2312.15685. score = Σ_c c · softmax(z)_c over the logits of the digits 1 to 6 at the first position of the
    answer; the row needs no answer. Of several turns the `mean` (what the paper adds up is complexity times quality by
    turn: scorer `deita`). `by`: the run's judge, or its own model. `prompts`: deita-complexity is the bare text that
    the released judge hkust-nlp/deita-complexity-scorer was trained on; for a chat model as judge take
    deita-complexity-chat. Where the released code writes 3.0 for what failed, here is no value. No published value per
    row. Range [1, 6].
    """

    prompts: str | RatingSet = "deita-complexity"
    by: Role = "judge"
    turns: Turns = "mean"
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The judge's answers."""
        return frozenset({_need(self.by, self.prompts)})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Column `score`, points, and `outside`, the probability of tokens that are no such digit."""
        return _one(have, _need(self.by).key, rating_set(self.prompts), self.turns)


@dataclass(frozen=True, kw_only=True)
class DeitaQuality:
    """DEITA's quality of the response: expected digit from 1 to 6 of a judge (Liu et al., 2024).

    As `deita-complexity`, of the answer together with its instruction; the released judge is
    hkust-nlp/deita-quality-scorer, another model: score with it in a run of its own. No published value per row. Range
    [1, 6].
    """

    prompts: str | RatingSet = "deita-quality"
    by: Role = "judge"
    turns: Turns = "mean"
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The judge's answers."""
        return frozenset({_need(self.by, self.prompts)})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Column `score`, points, and `outside`, the probability of tokens that are no such digit."""
        return _one(have, _need(self.by).key, rating_set(self.prompts), self.turns)


@dataclass(frozen=True, kw_only=True)
class Deita:
    """DEITA's score of a row: complexity times quality of every turn, added up (Liu et al., 2024).

    Σ_t c_t · q_t, as published, favours long dialogues; `turns: mean` does not. Rows of one turn are ordered as by the
    product of `deita-quality` and `deita-complexity`. `complexity_by` and `quality_by`: the released judges are two
    models; with `quality_by: reference` the run's reference is the second of them. No published value per row. Range
    [1, 36] a turn.
    """

    complexity: str | RatingSet = "deita-complexity"
    quality: str | RatingSet = "deita-quality"
    complexity_by: Role = "judge"
    quality_by: Role = "judge"
    turns: Turns = "sum"
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The judge's answers to both questions."""
        return frozenset({_need(self.complexity_by, self.complexity), _need(self.quality_by, self.quality)})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Column `score`, points (the product has no unit of its own)."""
        import numpy as np

        from tamis.answers.readouts import Readings
        from tamis.prediction.reductions import column

        asked = [rating_set(self.complexity), rating_set(self.quality)]
        keys = [_need(by).key for by in (self.complexity_by, self.quality_by)]
        hard, good = (Readings.of(have[key], one) for key, one in zip(keys, asked, strict=True))
        reasons = np.where(good.reasons > 0, good.reasons, hard.reasons).astype(np.uint8)
        turns = [np.bincount(one.owner, minlength=len(reasons)) for one in (hard, good)]
        reasons[(reasons == 0) & (turns[0] != turns[1])] = Reason.NOT_MEASURED
        points = [one.expected(each)[reasons[one.owner] == 0] for one, each in zip((hard, good), asked, strict=True)]
        both = dataclasses.replace(good, owner=good.owner[reasons[good.owner] == 0], reasons=reasons)
        return {"score": column(both.by_row(points[0] * points[1], self.turns), reasons, "points")}


def _one(have: ShardSignals, key: str, asked: RatingSet, turns: Turns) -> Mapping[str, Column]:
    from tamis.answers.readouts import Readings
    from tamis.prediction.reductions import column

    read = Readings.of(have[key], asked)
    return {
        "score": column(read.by_row(read.expected(asked), turns), read.reasons, "points"),
        "outside": column(read.by_row(read.outside()), read.reasons, "probability"),
    }
