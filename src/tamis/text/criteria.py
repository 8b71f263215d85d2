"""Rules over statistics of a text: each criterion a column of its own, and how many of them a row meets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tamis.values import Column, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Field = Literal["prompt", "response"]


@dataclass(frozen=True)
class Criterion:
    """One statistic of n rows and the bounds, both included, within which it passes."""

    name: str
    values: NDArray[np.float64]
    unit: str
    least: float = float("-inf")
    most: float = float("inf")

    @property
    def met(self) -> NDArray[np.bool_]:
        """(n,) whether the value, as the column holds it, lies within the bounds."""
        import numpy as np

        values = self.values.astype(np.float32)  # what the reader of the column sees is what is judged
        return np.asarray((values >= np.float32(self.least)) & (values <= np.float32(self.most)))


def reasons_of(signal: Mapping[str, NDArray[Any]], field: Field) -> NDArray[np.uint8]:
    """(n,) why a row has no statistics of this field: it has no answer, or asks nothing."""
    import numpy as np

    from tamis.text.text_statistics import statistic

    if field == "response":
        return np.array(signal["reason"], np.uint8)
    empty = statistic(np.asarray(signal["prompt"]), "characters") == 0
    return np.where(empty, int(Reason.TOO_SHORT), 0).astype(np.uint8)


def columns_of(
    criteria: Sequence[Criterion], reasons: NDArray[np.uint8], judged: Collection[str] | None = None
) -> dict[str, Column]:
    """A column for each criterion, `passed` (share met, in [0, 1]) and `failed` (how many are not met).

    `judged`: names of those that count for the last two; None means all that have a bound.
    """
    import numpy as np

    bounded = [one for one in criteria if np.isfinite([one.least, one.most]).any()]
    counted = [one for one in bounded if judged is None or one.name in judged]
    met = np.sum([one.met for one in counted], axis=0)
    columns = {one.name: (one.values, one.unit) for one in criteria}
    columns |= {"passed": (met / len(counted), "share of rules"), "failed": (len(counted) - met, "rules")}
    return {name: column(values, unit, reasons) for name, (values, unit) in columns.items()}


def column(values: NDArray[Any], unit: str, reasons: NDArray[np.uint8]) -> Column:
    """A column of these values, NaN where there is a reason."""
    import numpy as np

    reasons = np.array(reasons, np.uint8)
    shown = np.array(values, np.float32)
    shown[reasons != 0] = np.nan
    return Column(values=shown, unit=unit, reasons=reasons)


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of a part in the whole; 0 where there is no whole."""
    import numpy as np

    return np.asarray(part / np.maximum(whole, 1))
