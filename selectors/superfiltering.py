"""Superfiltering.D: facility location among the rows that a difficulty score has let through (Li et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import DataError, RecipeError
from tamis.submodular.maximise import Method, maximiser_of
from tamis.submodular.similar import Held
from tamis.values import Need
from tamis.vectors.embeddings import needs_of
from tamis.vectors.nearness import Duplicates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class SuperfilteringD:
    """Superfiltering.D: rows of high IFD below 1, and of those the ones that cover the rest (2024).

    Li et al. (ACL 2024, arXiv:2402.00530) take the highest `share` of the usable rows by the column `by` among those
    below `below` (20 % by the ratio of perplexities below 1), and of these, by facility location over their own
    similarities, the budget (2 %). `values` are those of `by`; a gain is what the row added to the objective.

    The released code embeds with all-MiniLM-L6-v2 and turns Euclidean distances into similarities; here they are
    cosines of the pooled hidden states of the `tokens` pass. `kernel`, `neighbours`, `maximiser`, `epsilon`, `seed` and
    `duplicates` are those of `facility-location`.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    by: str = "ifd.ppl"
    below: float = 1.0
    share: float = 0.2
    kernel: Held = "auto"
    neighbours: int = 64
    maximiser: Method = "lazy"
    epsilon: float = 0.1
    seed: int = 0
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise RecipeError(f"superfiltering-d: share lies in (0, 1], got {self.share}")
        if self.neighbours < 2:
            raise RecipeError(f"superfiltering-d: neighbours is at least 2, got {self.neighbours}")
        object.__setattr__(self, "nested", maximiser_of(self).nested)

    @property
    def needs(self) -> frozenset[Need]:
        """The column, pooled hidden states of the pool, and the lengths of rows."""
        return needs_of() | {Need(kind="column", name=self.by)}

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked."""
        import dataclasses

        import numpy as np

        from tamis.submodular.facility_location import FacilityLocation
        from tamis.submodular.selecting import subset_of
        from tamis.submodular.similar import kernel_of
        from tamis.vectors.embeddings import of_pool

        column = view.column(self.by)
        hard = self._hard(view, column.values)
        inside = np.zeros(len(view), np.bool_)
        inside[hard] = True
        rows = of_pool(dataclasses.replace(view, keep=inside), "superfiltering-d", self.duplicates)
        kernel, notes = kernel_of(rows.vectors, self.kernel, self.neighbours, on)
        note = f"{len(hard):,} of {int(view.usable.sum()):,} usable rows let through by {self.by}"
        return subset_of(
            view,
            budget,
            FacilityLocation(kernel),
            rows.places,
            maximiser_of(self),
            unit=column.unit,
            reasons=column.reasons,
            values=column.values,
            notes=(note, *notes),
        )

    def _hard(self, view: PoolView, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """Places of the highest share of the usable rows, among those below the limit."""
        from tamis.budgets import order_of

        order = order_of(values, view.usable & (values < self.below), high=True)
        if not len(order):
            raise DataError(f"superfiltering-d: no usable row has {self.by} below {self.below:g}")
        return order[: max(1, round(self.share * int(view.usable.sum())))]
