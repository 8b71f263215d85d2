"""Modular functions, and weighted sums of objectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.errors import RecipeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.objective import Objective, State


@dataclass(frozen=True, eq=False)
class Modular:
    """f(S) = Σ_{j in S} worth_j, `worth` (n,) float. A gain never changes."""

    worth: NDArray[Any]
    submodular = True

    def __post_init__(self) -> None:
        from tamis.submodular.kernels import checked

        checked(self.worth, 1, "worths")

    @property
    def monotone(self) -> bool:
        """Whether no worth is negative."""
        return bool((self.worth >= 0).all())

    def __len__(self) -> int:
        return len(self.worth)

    def begin(self) -> _Added:
        """Evaluation at the empty set."""
        return _Added(self.worth.astype("float64"))


class _Added:
    """Sum of worths."""

    def __init__(self, worth: NDArray[np.float64]) -> None:
        self._worth = worth
        self.value = 0.0

    def gains(self, rows: NDArray[np.int64], /) -> NDArray[np.float64]:
        return self._worth[rows]

    def add(self, row: int, /) -> None:
        self.value += float(self._worth[row])


@dataclass(frozen=True, eq=False)
class WeightedSum:
    """f(S) = Σ_p weight_p · f_p(S), over (weight, objective) pairs of the same candidates.

    Monotone and submodular where every part is and no weight is negative; a part that is modular may have any weight.
    """

    parts: tuple[tuple[float, Objective], ...]

    def __post_init__(self) -> None:
        if not self.parts or len({len(objective) for _, objective in self.parts}) != 1:
            raise RecipeError("a weighted sum has at least one part, and all parts have the same candidates")

    @property
    def submodular(self) -> bool:
        """Whether every part is submodular and enters with a weight of at least 0, or is modular."""
        return all(isinstance(part, Modular) or (weight >= 0 and part.submodular) for weight, part in self.parts)

    @property
    def monotone(self) -> bool:
        """Whether every part is monotone and enters with a weight of at least 0."""
        return all(weight >= 0 and part.monotone for weight, part in self.parts)

    def __len__(self) -> int:
        return len(self.parts[0][1])

    def begin(self) -> _Mixed:
        """Evaluation at the empty set."""
        return _Mixed([(weight, part.begin()) for weight, part in self.parts])


class _Mixed:
    """The states of the parts, walked forward together."""

    def __init__(self, parts: list[tuple[float, State]]) -> None:
        self._parts = parts

    @property
    def value(self) -> float:
        return sum(weight * state.value for weight, state in self._parts)

    def gains(self, rows: NDArray[np.int64], /) -> NDArray[np.float64]:
        import numpy as np

        total = np.zeros(len(rows))
        for weight, state in self._parts:
            total += weight * state.gains(rows)
        return total

    def add(self, row: int, /) -> None:
        for _, state in self._parts:
            state.add(row)
