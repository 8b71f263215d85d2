"""Tasks of a pool: groups with a mean embedding each, and how SMART weighs them (Renduchintala et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tamis.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tamis.vectors.embeddings import Embeddings
    from tamis.views import PoolView

_ROUND = 9  # digits of a cosine: sums over rows do not depend on the order of rows beyond


@dataclass(frozen=True)
class Tasks:
    """Groups of the rows that have an embedding, by name in order.

    `vectors`: (t, d) float32 of unit length, the mean embedding of each group's rows. `members`: for each group, the
    places among the embeddings of its rows, ascending.
    """

    names: tuple[str, ...]
    vectors: NDArray[np.float32]
    members: tuple[NDArray[np.int64], ...]


@dataclass(frozen=True)
class Weighted:
    """Tasks in the order picked (names), the gain of each when it was picked, and its weight; weights add up to 1."""

    names: tuple[str, ...]
    gains: NDArray[np.float64]
    weights: NDArray[np.float64]

    def by_name(self, names: Sequence[str]) -> dict[str, float]:
        """The weight of each of `names`, 0 for a task that was not picked."""
        picked = dict(zip(self.names, self.weights.tolist(), strict=True))
        return {name: picked.get(name, 0.0) for name in names}


def tasks_of(view: PoolView, found: Embeddings, by: str) -> Tasks:
    """The groups of the rows that have an embedding. A group whose embeddings cancel out has the zero vector."""
    import numpy as np

    names, numbers = np.unique(view.groups(by)[found.places], return_inverse=True)
    by_group = np.argsort(numbers, kind="stable")
    members = np.split(by_group, np.cumsum(np.bincount(numbers))[:-1])
    means = np.stack([found.vectors[rows].mean(axis=0, dtype=np.float64) for rows in members])
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    vectors = np.divide(means, lengths, out=np.zeros_like(means), where=lengths > 1e-12).astype(np.float32)
    return Tasks(tuple(str(name) for name in names), vectors, tuple(members))


def weigh(tasks: Tasks, *, keep: int | None, lam: float, temperature: float, normalise: bool) -> Weighted:
    """SMART's weights: greedy graph cut over the tasks' vectors, and the Taylor softmax of its gains.

    f(X) = sum over all i and j in X of s_ij - lam · sum over i, j in X of s_ij, cosines s. `keep`: most tasks picked
    (default: all of them). With `normalise` gains are divided by the number of tasks. Time O(t² d).
    """
    import numpy as np

    from tamis.submodular.cosines import Cosine
    from tamis.submodular.graph_cut import GraphCut
    from tamis.submodular.maximise import Limit, Maximiser, maximise

    there = np.flatnonzero(tasks.vectors.any(axis=1))
    if not len(there):
        raise DataError("the embeddings of every task cancel out: there is nothing to weigh tasks by")
    cut = GraphCut(Cosine(tasks.vectors[there]), lam)
    picks = maximise(cut, Limit(rows=min(keep or len(there), len(there))), Maximiser(method="naive"))
    given = picks.gains / len(there) if normalise else picks.gains
    names = tuple(tasks.names[place] for place in there[picks.order].tolist())
    return Weighted(names, picks.gains, taylor_softmax(given, temperature))


def taylor_softmax(gains: NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    """Second-order Taylor softmax p ~ 1 + g + g²/2 of g = gain / temperature, from -1 up (SMART's `taylor_softmax_v1`).

    Below -1 the polynomial rises again, so that a worse task would weigh more: there g counts as -1. For gains far
    above the temperature it is a normalisation of squared gains.
    """
    import numpy as np

    scaled = np.maximum(np.asarray(gains, np.float64) / temperature, -1.0)
    grown = 1 + scaled + scaled**2 / 2
    weights: NDArray[np.float64] = grown / grown.sum()
    return weights


def cosines_to(tasks: Tasks, target: NDArray[np.float32]) -> Mapping[str, float]:
    """Cosine of every task's mean embedding with the mean of the target's (q, d) unit embeddings, by name."""
    import numpy as np

    goal = target.mean(axis=0, dtype=np.float64)
    goal = goal / max(float(np.linalg.norm(goal)), 1e-12)
    values = np.round(tasks.vectors.astype(np.float64) @ goal, _ROUND)
    return dict(zip(tasks.names, values.tolist(), strict=True))


def check(who: str, keep: int | None, lam: float, temperature: float) -> None:
    """RecipeError where a setting of SMART has no meaning."""
    if keep is not None and keep < 1:
        raise RecipeError(f"{who}: tasks must be at least 1, got {keep}")
    if not lam >= 0:
        raise RecipeError(f"{who}: lam must be at least 0, got {lam}")
    if not temperature > 0:
        raise RecipeError(f"{who}: temperature must be above 0, got {temperature}")
