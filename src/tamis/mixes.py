"""Dividing a budget among groups exactly, and selecting inside each group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tamis.budgets import BudgetTooSmall
from tamis.errors import DataError
from tamis.values import Budget, Machine, Subset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.protocols import Mixer, Selector
    from tamis.views import PoolView


def holdings(view: PoolView, by: str, budget: Budget) -> dict[str, int]:
    """Count what each group with a usable row holds of them, in the unit of `budget`: rows, or tokens."""
    import numpy as np

    names, numbers = np.unique(view.groups(by)[view.usable], return_inverse=True)
    amounts = view.cost[view.usable] if budget.tokens is not None else np.ones(len(numbers), np.int64)
    held = np.zeros(len(names), np.int64)
    np.add.at(held, numbers, amounts)
    return {str(name): int(amount) for name, amount in zip(names, held, strict=True)}


def divide(budget: Budget, claims: Mapping[str, int], held: Mapping[str, int], *, usable: int) -> dict[str, Budget]:
    """`budget` divided in proportion to `claims`, no group above what it holds, as budgets of rows or of tokens.

    `claims` are whole numbers of at least 0; `usable` is the number of rows of which a share is one.
    """
    rows, tokens = budget.limits(usable)
    total = rows if rows is not None else tokens
    assert total is not None
    parts = apportion(total, claims, held)
    if rows is not None:
        return {name: Budget(rows=part) for name, part in parts.items()}
    return {name: Budget(tokens=part) for name, part in parts.items()}


def tempered(held: Mapping[str, int], alpha: float) -> dict[str, float]:
    """Weights n^alpha of groups that hold n, adding up to 1: alpha 1 proportional, 0 equal."""
    powers = {name: float(amount) ** alpha for name, amount in held.items()}
    total = sum(powers.values())
    return {name: power / total for name, power in powers.items()}


def claims_of(weights: Mapping[str, float]) -> dict[str, int]:
    """Weights (at least 0, finite) as whole claims in the same proportions, to 1e-12 of the largest.

    A weight above 0 has a claim of at least 1, so that it goes before weights of 0. The digits beyond are cut so that
    sums which differ by the order of rows make the same claims.
    """
    largest = max(weights.values(), default=0.0)
    return {name: max(1, round(weight / largest * 10**12)) if weight > 0 else 0 for name, weight in weights.items()}


def apportion(total: int, claims: Mapping[str, int], held: Mapping[str, int]) -> dict[str, int]:
    """Whole parts of `total` in proportion to `claims`, each at most `held`: water-filling, then largest remainders.

    A group whose part would exceed what it holds gets all of that, and the rest is divided among the others. Groups
    with a claim of 0 get nothing until all others are full; then they share what is left equally. The parts add up to
    min(total, sum(held)) and do not depend on the order of groups; equal remainders go to the lower name.
    """
    names = sorted(claims)
    left = min(total, sum(held[name] for name in names))
    parts = _filled(left, [name for name in names if claims[name]], claims, held)
    others = [name for name in names if not claims[name]]
    parts |= _filled(left - sum(parts.values()), others, dict.fromkeys(others, 1), held)
    return {name: parts[name] for name in names}


def _filled(total: int, names: list[str], claims: Mapping[str, int], held: Mapping[str, int]) -> dict[str, int]:
    """Parts of at most `total` among groups whose claims are above 0, names in order."""
    left = min(total, sum(held[name] for name in names))
    parts: dict[str, int] = {}
    while full := _overfull(left, [name for name in names if name not in parts], claims, held):
        for name in full:
            parts[name] = held[name]
        left -= sum(held[name] for name in full)
    open_names = [name for name in names if name not in parts]
    weight = sum(claims[name] for name in open_names)
    for name in open_names:
        parts[name] = left * claims[name] // weight
    spare = left - sum(parts[name] for name in open_names)
    by_remainder = sorted(open_names, key=lambda name: (-(left * claims[name] % weight), name))
    for name in by_remainder[:spare]:
        parts[name] += 1
    return parts


def _overfull(left: int, names: list[str], claims: Mapping[str, int], held: Mapping[str, int]) -> list[str]:
    weight = sum(claims[name] for name in names)
    return [name for name in names if left * claims[name] > held[name] * weight]


def select_by_mix(view: PoolView, mixer: Mixer, selector: Selector, budget: Budget, on: Machine) -> Subset:
    """`selector` run inside each group with the share that `mixer` gives it, groups in order of name.

    What the groups leave over (tokens smaller than their smallest row, rows they could not rank) is spent by the same
    selector on all rows that are left, first of the groups that have a share, then of the others too, so that the whole
    is as full as without a mix. A group in which the selector finds no candidate says so in a note; where that is so in
    every group, it is the DataError of the first.
    """
    import numpy as np

    shares = mixer.share(view, budget)
    groups = view.groups(mixer.by)
    mixed = _Mixed(view, selector, on)
    for name in sorted(shares):
        inside = view.usable & (groups == name)
        if share := _affordable(shares[name], view.cost[inside]):
            mixed.pick(name, inside, share)
    if not mixed.chosen and mixed.faults:
        raise mixed.faults[0]
    shared = np.isin(groups, [name for name, share in shares.items() if share.rows or share.tokens])
    for among in (shared, np.ones(len(view), np.bool_)):
        left = _left(view, mixed.chosen) & among
        if rest := _rest(view, mixed.chosen, budget, left):
            mixed.pick("what the shares left over", left, rest)
    return mixed.subset()


class _Mixed:
    """What was chosen, group by group. A row has the value on which its group's selection judged it."""

    def __init__(self, view: PoolView, selector: Selector, on: Machine) -> None:
        import numpy as np

        self.view, self.selector, self.on = view, selector, on
        self.chosen: list[Subset] = []
        self.notes: list[str] = []
        self.faults: list[DataError] = []
        self.values = np.full(len(view), np.nan, np.float32)
        self.reasons = view.signal("lengths", "reason").astype(np.uint8)
        self.judged = np.zeros(len(view), np.bool_)

    def pick(self, name: str, inside: NDArray[np.bool_], share: Budget) -> None:
        """Let the selector spend a share on the rows `inside` (n,)."""
        try:
            subset = self.selector.select(dataclasses.replace(self.view, keep=inside), share, self.on)
        except BudgetTooSmall:  # the smallest row has no value to be ranked on: the rest of the mix spends the share
            return
        except DataError as error:
            self.faults.append(error)
            self.notes.append(f"{name}: {error}")
            return
        self.chosen.append(subset)
        self.notes += [f"{name}: {note}" for note in subset.notes]
        if subset.values is not None and subset.reasons is not None:
            new = inside & ~self.judged
            self.values[new], self.reasons[new] = subset.values[new], subset.reasons[new]
            self.judged |= inside

    def subset(self) -> Subset:
        """All of it."""
        import numpy as np

        return Subset(
            positions=_joined([one.positions for one in self.chosen], np.int64),
            gains=_joined([one.gains for one in self.chosen], np.float32),
            values=self.values,
            reasons=self.reasons,
            weights=self._weights(),
            unit=self.chosen[0].unit if self.chosen else "",
            notes=tuple(self.notes),
        )

    def _weights(self) -> NDArray[np.float32] | None:
        """Row weights of the groups whose selection gave some, 1 in the others; None where none did."""
        import numpy as np

        if all(one.weights is None for one in self.chosen):
            return None
        parts = [np.ones(len(one.positions)) if one.weights is None else one.weights for one in self.chosen]
        return _joined(parts, np.float32)


def _affordable(share: Budget, cost: NDArray[np.int64]) -> Budget | None:
    """Return the share, or None where it buys no row of the group."""
    if not len(cost) or share.rows == 0 or (share.tokens is not None and share.tokens < cost.min()):
        return None
    return share


def _rest(view: PoolView, chosen: list[Subset], budget: Budget, left: NDArray[np.bool_]) -> Budget | None:
    """What of the budget is not spent, or None where it buys none of the rows that are left."""
    taken = _joined([subset.positions for subset in chosen], int)
    rows, tokens = budget.limits(int(view.usable.sum()))
    if rows is not None:
        return _affordable(Budget(rows=rows - len(taken)), view.cost[left])
    assert tokens is not None
    return _affordable(Budget(tokens=tokens - int(view.cost[taken].sum())), view.cost[left])


def _left(view: PoolView, chosen: list[Subset]) -> NDArray[np.bool_]:
    """(n,) usable rows not chosen yet."""
    left: NDArray[np.bool_] = view.usable.copy()
    left[_joined([subset.positions for subset in chosen], int)] = False
    return left


def _joined(parts: list[Any], dtype: Any) -> NDArray[Any]:
    import numpy as np

    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)
