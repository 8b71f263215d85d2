"""MoDS: which rows the model still needs, told from how good its own answer to them is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.answers.rating_prompts import GENERATED, RatingSet, rating_set
from tamis.answers.sampling import Sampling
from tamis.values import Need, Role

if TYPE_CHECKING:
    from tamis.values import Column
    from tamis.views import ShardSignals


ONE = Sampling(samples=1)


@dataclass(frozen=True, kw_only=True)
class ModsNecessity:
    """MoDS necessity: the rating of the model's own answer to the prompt, low where it needs the row.

    Du et al. 2023, arXiv:2311.15653: a row is necessary where a reward model puts the answer that the model generates
    below 0. Here a judge answers a question about the first answer that the pass `generations` drew (the greedy one
    where `sampling` asks for it): with yes-no, P(yes) < 1/2 is what a logit below 0 is. `threshold` is in the points of
    the `prompts`. `column`: ratings of generated answers made elsewhere, by a reward model for one. The paper generates
    with a model tuned on the seed set: name that as the model of the run for the published order of steps. No
    published value.

    Where something is known of the rows (right solutions, revised answers, judged and rated ones; 200 rows each,
    base-4m its own judge) it has no signal: AUC 0.52 to 0.53, Spearman -0.08 and 0.02, all intervals over none.
    """

    prompts: str | RatingSet = "yes-no"
    by: Role = "judge"
    threshold: float = 0.5
    column: str | None = None
    sampling: Sampling = ONE
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self._asked()

    def _asked(self) -> RatingSet:
        import dataclasses

        if isinstance(self.prompts, RatingSet):
            return dataclasses.replace(self.prompts, of="generated")
        return rating_set(self.prompts.removesuffix(GENERATED) + GENERATED)

    @property
    def needs(self) -> frozenset[Need]:
        """The judge's answers about generated answers, or the column."""
        if self.column is not None:
            return frozenset({Need(kind="column", name=self.column)})
        settings = (("sets", (self._asked(),)), ("sampling", self.sampling))
        return frozenset({Need(kind="signal", name="ratings", settings=settings, by=self.by)})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Column `score`, points of the generated answer, and `necessary`, 1 where that is below the threshold."""
        import numpy as np

        from tamis.answers.readouts import Readings
        from tamis.prediction.reductions import column

        if self.column is not None:
            given = have.column(self.column)
            values, reasons = np.array(given.values, np.float64), np.array(given.reasons, np.uint8)
        else:
            (need,) = self.needs
            asked = self._asked()
            read = Readings.of(have[need.key], asked)
            values, reasons = read.by_row(read.expected(asked)), read.reasons
        necessary = np.where(np.isfinite(values), values < self.threshold, np.nan)
        return {"score": column(values, reasons, "points"), "necessary": column(necessary, reasons, "0 or 1")}
