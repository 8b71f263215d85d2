"""Selective Reflection-Tuning: which rewriting of a row is kept, judged by the model that is to be tuned (2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.errors import DataError, RecipeError
from tamis.grouping import groups_of
from tamis.grouping import needs_of as group_needs
from tamis.values import Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class SelectiveReflection:
    """Takes a rewritten instruction where IFD rises, a rewritten answer where r-IFD falls (2024).

    Selective Reflection-Tuning (Li et al., arXiv:2402.10110): a teacher rewrites instruction (Q*) and answer (A*). The
    rows of one original share the field `sample`, and `variant` says which it is, by the names in `variants`: the
    original, Q*, A* and both. Q* is accepted where its IFD is above the original's; then A* where its r-IFD is below
    that of the row without it. What is left is kept where both ratios are below 1. A row without a `sample` stands
    alone: it is an original that nobody rewrote. A variant that is missing or has no ratio is not accepted.

    `keep`: `accepted`, the row that the rules end at, which may be the original (the paper); `answers`, as released:
    only rows whose A* was accepted. The paper takes all rows that are left; within a budget the lowest r-IFD comes
    first, ties to the lower place. `values` are r-IFD.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    sample: str = "meta.sample"
    variant: str = "meta.variant"
    variants: tuple[str, str, str, str] = ("original", "instruction", "answer", "both")
    ifd: str = "ifd.ppl"
    reversed_ifd: str = "r-ifd.ppl"
    keep: Literal["accepted", "answers"] = "accepted"

    def __post_init__(self) -> None:
        if len(set(self.variants)) != len(self.variants):
            raise RecipeError(f"selective-reflection: variants must differ, got {list(self.variants)}")

    @property
    def needs(self) -> frozenset[Need]:
        """Both ratios, the lengths of rows, and what the groups are read from."""
        columns = frozenset(Need(kind="column", name=name) for name in (self.ifd, self.reversed_ifd))
        return columns | {Need(kind="signal", name="lengths")} | group_needs(self.sample) | group_needs(self.variant)

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, at most one of each sample, lowest r-IFD first."""
        import dataclasses

        import numpy as np

        from tamis.budgets import order_of, pick

        forward, backward = view.column(self.ifd), view.column(self.reversed_ifd)
        kept, notes = self._accepted(view, forward.values, backward.values)
        order = order_of(backward.values, view.usable & kept, high=False)
        reasons = np.where(backward.reasons > 0, backward.reasons, forward.reasons).astype(np.uint8)
        subset = pick(view, order, budget, backward.values, unit=backward.unit, reasons=reasons)
        return dataclasses.replace(subset, notes=(*subset.notes, notes))

    def _accepted(
        self, view: PoolView, ifd: NDArray[np.float32], reverse: NDArray[np.float32]
    ) -> tuple[NDArray[np.bool_], str]:
        """(n,) rows that the rules end at and keep, and how many of each variant there are among them."""
        import numpy as np

        kept = np.zeros(len(view), np.bool_)
        counts = dict.fromkeys(self.variants, 0)
        for rows in self._samples(view):
            variant = accept(rows, self.variants, ifd, reverse)
            answered = variant in self.variants[2:]
            if variant is not None and (answered or self.keep == "accepted"):
                kept[rows[variant]] = True
                counts[variant] += 1
        said = ", ".join(f"{count:,} {variant}" for variant, count in counts.items())
        return kept, f"rows that the rules left: {said}"

    def _samples(self, view: PoolView) -> list[dict[str, int]]:
        """Usable rows of every sample: variant -> place."""
        found: dict[str, dict[str, int]] = {}
        alone: list[dict[str, int]] = []
        samples, variants = groups_of(view, self.sample), groups_of(view, self.variant)
        for place in view.usable.nonzero()[0].tolist():
            sample, variant = str(samples[place]), str(variants[place])
            if not sample:
                alone.append({self.variants[0]: place})
            elif variant not in self.variants:
                known = ", ".join(self.variants)
                raise DataError(f"selective-reflection: row {place} is the variant {variant!r}; expected {known}")
            elif variant in found.setdefault(sample, {}):
                raise DataError(f"selective-reflection: sample {sample!r} has two rows of the variant {variant!r}")
            else:
                found[sample][variant] = place
        return [*found.values(), *alone]


def accept(
    rows: dict[str, int],
    variants: tuple[str, str, str, str],
    ifd: NDArray[np.float32],
    reverse: NDArray[np.float32],
) -> str | None:
    """The variant that the rules end at, or None where it does not have both ratios below 1.

    `rows`: variant -> place of one sample; `variants`: the names of original, rewritten instruction, rewritten answer,
    both; `ifd` and `reverse` (n,) by place, NaN where not known. NaN fails every comparison.
    """
    original, asked, answered, both = variants
    if original not in rows:
        return None
    now = asked if asked in rows and ifd[rows[asked]] > ifd[rows[original]] else original
    better = both if now == asked else answered
    if better in rows and reverse[rows[better]] < reverse[rows[now]]:
        now = better
    return now if ifd[rows[now]] < 1 and reverse[rows[now]] < 1 else None
