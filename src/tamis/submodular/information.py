"""Information over a graph of concepts, as MIG defines it: what rows give, passed on along edges, in concave worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.maximise import Limit
    from tamis.submodular.objective import Picks
    from tamis.vectors.concepts import Concepts

SMALL = 1e-6  # a of φ(x) = (x + a)^b, so that its slope at 0 is finite
_DIGITS = 6  # of a cosine: beyond, it hangs on float32
_BLOCK = 1024  # concepts whose cosines with all are held at once
_ROWS = 65_536  # rows whose gifts are made at once


@dataclass(frozen=True)
class Graph:
    """Shares that concepts pass on, in sparse rows: concept a gives `shares[…]` of what it gets to `ids[…]`."""

    indptr: NDArray[np.int64]
    ids: NDArray[np.int64]
    shares: NDArray[np.float64]


def graph_of(vectors: NDArray[np.float64], threshold: float, spread: float) -> Graph:
    """The graph of concepts with vectors (K, d): edges where the cosine is at least `threshold`.

    A concept weighs 1 for itself, an edge `spread` times its cosine; columns are then scaled to sum to 1.
    """
    import numpy as np

    from tamis.vectors.index import unit

    vectors = np.nan_to_num(unit(vectors))
    rows, ids, shares = [], [], []
    for start in range(0, len(vectors), _BLOCK):
        cosines = np.round(vectors[start : start + _BLOCK] @ vectors.T, _DIGITS).astype(np.float64)
        weights = np.where(cosines >= threshold, spread * cosines, 0)
        within = np.arange(len(cosines))
        weights[within, start + within] = 1
        row, column = np.nonzero(weights)
        rows.append(start + row)
        ids.append(column)
        shares.append(weights[row, column])
    row, column, share = np.concatenate(rows), np.concatenate(ids), np.concatenate(shares)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(vectors)))]).astype(np.int64)
    return Graph(indptr, column.astype(np.int64), share / np.bincount(column, share)[column])


def gifts_of(
    found: Concepts,
    qualities: NDArray[np.float64],
    able: NDArray[np.int64],
    graph: Graph | None,
    power: float,
    *,
    exact: bool,
) -> Gifts:
    """Gifts of the rows `able`, candidate i being row able[i]: a row's quality to each of its concepts, passed on."""
    import numpy as np

    parts = [_passed_on(found, qualities, able[start : start + _ROWS], graph) for start in range(0, len(able), _ROWS)]
    sizes, ids, values = (np.concatenate([part[k] for part in parts] or [np.zeros(0)]) for k in range(3))
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Gifts(indptr, ids.astype(np.int32), values, len(found.names), power, exact)


def _passed_on(
    found: Concepts, qualities: NDArray[np.float64], rows: NDArray[np.int64], graph: Graph | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Number of entries of every row, their concepts ascending, and what each gets."""
    import numpy as np

    owner, own = _entries(found.indptr, rows)
    ids = found.ids[own]
    values = qualities[rows][owner]
    if graph is not None:
        edge_of, edges = _entries(graph.indptr, ids)
        owner, values, ids = owner[edge_of], values[edge_of] * graph.shares[edges], graph.ids[edges]
    width = len(found.names)
    keys, inverse = np.unique(owner * width + ids, return_inverse=True)
    given = np.bincount(inverse, values, len(keys)).astype(np.float64)
    return np.bincount(keys // width, minlength=len(rows)), keys % width, given


def _entries(indptr: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every entry of these sparse rows, row by row: the number of its row among `rows`, and its place."""
    import numpy as np

    sizes = indptr[rows + 1] - indptr[rows]
    starts = np.cumsum(sizes) - sizes
    owner = np.repeat(np.arange(len(rows)), sizes)
    return owner, np.arange(int(sizes.sum())) + (indptr[rows] - starts)[owner]


@dataclass(frozen=True)
class Gifts:
    """What every candidate gives to concepts, in sparse rows: `values[indptr[i]:indptr[i + 1]]` to `ids[…]`, > 0.

    Worth of concepts that have got x: Σ φ(x) - φ(0), φ(x) = (x + 1e-6)^`power`; `exact`: gains are true, otherwise they
    are slopes of the worth, which true gains never exceed. An `Objective` of `tamis.submodular`.
    """

    indptr: NDArray[np.int64]
    ids: NDArray[np.int64]
    values: NDArray[np.float64]
    concepts: int
    power: float
    exact: bool
    submodular: ClassVar[bool] = True
    monotone: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def begin(self) -> Information:
        """No concept has got anything."""
        import numpy as np

        return Information(self, np.zeros(self.concepts))


@dataclass
class Information:
    """What every concept has got (K,)."""

    gifts: Gifts
    got: NDArray[np.float64]

    @property
    def value(self) -> float:
        """Worth of what was given, 0 at first."""
        return float((self._phi(self.got) - SMALL**self.gifts.power).sum())

    def gains(self, rows: NDArray[np.int64], /) -> NDArray[np.float64]:
        """Of every row (m,): what it would add, or the slope of the worth along what it gives."""
        import numpy as np

        gifts = self.gifts
        owner, entries = _entries(gifts.indptr, rows)
        got, given = self.got[gifts.ids[entries]], gifts.values[entries]
        if gifts.exact:
            worth = self._phi(got + given) - self._phi(got)
        else:
            worth = given * (gifts.power * (got + SMALL) ** (gifts.power - 1))
        # one entry is added after another: no sum depends on which other rows were asked for
        return np.bincount(owner, worth, len(rows)).astype(np.float64)

    def add(self, row: int, /) -> None:
        """Give what the row gives."""
        entries = slice(self.gifts.indptr[row], self.gifts.indptr[row + 1])
        self.got[self.gifts.ids[entries]] += self.gifts.values[entries]

    def _phi(self, got: NDArray[np.float64]) -> NDArray[np.float64]:
        worth: NDArray[np.float64] = (got + SMALL) ** self.gifts.power
        return worth


def judged(gifts: Gifts, order: NDArray[np.int64], limit: Limit) -> Picks:
    """Picks (k,) made by slopes as their true gains judge them, with a bound on what is possible within `limit`."""
    import dataclasses

    import numpy as np

    from tamis.submodular.bounds import most_of
    from tamis.submodular.objective import Picks

    state = dataclasses.replace(gifts, exact=True).begin()
    worth = [0.0]
    for row in order.tolist():
        state.add(row)
        worth.append(state.value)
    rest = np.setdiff1d(np.arange(len(gifts)), order)
    cost = np.ones(len(gifts), np.int64) if limit.cost is None else limit.cost
    gains = [state.gains(rest[start : start + _ROWS]) for start in range(0, len(rest), _ROWS)]
    more, _ = most_of(np.concatenate([np.zeros(0), *gains]), cost[rest], limit.most)
    return Picks(order, np.diff(worth), state.value, state.value + more, len(rest), nested=limit.rows is not None)
