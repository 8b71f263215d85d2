"""AlpaGasus: a judge's rating from 0 to 5, given with the data or asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.answers.rating_prompts import RatingSet, rating_set
from tamis.errors import DataError
from tamis.values import Need, Reason, Role

if TYPE_CHECKING:
    from tamis.values import Column
    from tamis.views import ShardSignals

HIGHEST = 5


@dataclass(frozen=True, kw_only=True)
class AlpaGasus:
    """AlpaGasus: accuracy of the response from 0 to 5, from a column or a judge (Chen et al., 2024).

    arXiv:2307.08701 keeps rows rated 4.5 or more by ChatGPT (9,229 of Alpaca's 52,002). `column`: a rating that came
    with the data (`meta.rating`) or a column of ratings; below 0 (the released code writes -1 where it could not read
    an answer) there is no value. Without it, the expected digit of the run's judge, which generates nothing: a mean
    where the paper has one digit, so that a threshold keeps fewer rows. `prompts` ask for accuracy; give others for
    helpfulness. Ratings by a model fall on few values and are hard on code. No published value per row. Range [0, 5].
    """

    column: str | None = None
    prompts: str | RatingSet = "alpagasus"
    by: Role = "judge"
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The column, or a judge's answers."""
        if self.column is not None:
            return frozenset({Need(kind="column", name=self.column)})
        return frozenset({Need(kind="signal", name="ratings", settings=(("sets", (self.prompts,)),), by=self.by)})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Column `score`, points. DataError for a column with values above 5."""
        import numpy as np

        from tamis.answers.readouts import Readings
        from tamis.prediction.reductions import column

        if self.column is None:
            (need,) = self.needs
            one = rating_set(self.prompts)
            read = Readings.of(have[need.key], one)
            return {"score": column(read.by_row(read.expected(one)), read.reasons, "points")}
        given = have.column(self.column)
        values, reasons = np.array(given.values, np.float64), np.array(given.reasons, np.uint8)
        reasons[(reasons == 0) & (values < 0)] = Reason.NOT_MEASURED
        if (values[reasons == 0] > HIGHEST).any():
            raise DataError(
                f"alpagasus: {self.column} has values up to {np.nanmax(values):g}, and the scale ends at {HIGHEST}: "
                "select by that column itself, or rescale it"
            )
        return {"score": column(values, reasons, "points")}
