"""Ratings of a row by a model or a judge, read off the distribution of the answer's one token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.answers.rating_prompts import RatingSet, rating_set
from tamis.values import Need, Role

if TYPE_CHECKING:
    from tamis.values import Column
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Rating:
    """Rating: the expected answer to a question about the row, read off digits, without generation.

    `prompts`: a shipped set (yes-no, alpagasus, selectit, …) or one of your own: `{name: clarity, templates: ["…
    {instruction} … {response} …"], labels: ["1", "2", "3"]}`. A label counts its number, words count from 0, so that
    the score of yes-no is P(yes | yes or no). The mean over templates, and over `turns` for sets asked by turn. `by`:
    the run's own model, or its judge. The readout of DEITA's judges (Liu et al., 2024, arXiv:2312.15685) for any
    question. No published value. Range: the labels'.
    """

    prompts: str | RatingSet = "yes-no"
    by: Role = "model"
    turns: Literal["mean", "sum", "max", "last"] = "mean"
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        rating_set(self.prompts)

    @property
    def needs(self) -> frozenset[Need]:
        """The answers to these prompts."""
        return frozenset({Need(kind="signal", name="ratings", settings=(("sets", (self.prompts,)),), by=self.by)})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Column `score`, in points, and `outside`, the probability of all tokens that are no label.

        Where `outside` is near 1, the model did not take the question up, and the score says little.
        """
        from tamis.answers.readouts import Readings
        from tamis.prediction.reductions import column

        one = rating_set(self.prompts)
        (need,) = self.needs
        read = Readings.of(have[need.key], one)
        return {
            "score": column(read.by_row(read.expected(one), self.turns), read.reasons, "points"),
            "outside": column(read.by_row(read.outside()), read.reasons, "probability"),
        }
