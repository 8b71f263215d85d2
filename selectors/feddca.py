"""FedDCA: centres of clients' data that cover the pool, and the rows nearest to each (Wang et al., Findings 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis import grouping
from tamis.errors import DataError, RecipeError
from tamis.values import Need
from tamis.vectors.embeddings import needs_of
from tamis.vectors.nearness import Duplicates

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.vectors.embeddings import Embeddings
    from tamis.views import PoolView

_DIGITS = 9  # of a mean of cosines: beyond, it hangs on the order of rows


@dataclass(frozen=True, kw_only=True)
class FedDca:
    """FedDCA: a centre of each client's data, taken to cover the pool, draws near rows (2409.20135).

    Every client has `centres` by spherical k-means over its embeddings (pooled hidden states of `tokens`). A server
    takes one after another the centre that raises the coverage of the pool most, mean over rows of the largest cosine
    to a centre taken (facility location; negative cosines count as 0), at most `keep` of a client, until every client
    has had its own. Each centre then draws its nearest rows; centres take turns and no row is drawn twice, where the
    paper's clients draw by themselves and may meet. This is the centralised form: no encoder of clients is trained,
    nothing is federated.

    Clients are groups `by` source, kind, file, meta.NAME, clusters:K or a column, of the rows of the `pool`, or of the
    `target` (`clients: target`), which stands for clients' private data beside a public pool, as in the paper. A gain
    is the cosine that a row was drawn on, a value the largest cosine to a centre taken. `duplicates`: `once` lets only
    the first of rows with equal text take part.

    Time: k-means, O(n K d) for the cosines of K = clients times centres, O(n K) for each of clients times `keep` steps
    (at least half of the best coverage, the bound of a partition matroid), and sorts. Memory: n K float32.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    by: str = "source"
    clients: Literal["pool", "target"] = "pool"
    centres: int = 10
    keep: int = 1
    seed: int = 0
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= self.centres:
            raise RecipeError(f"feddca: keep lies between 1 and centres ({self.centres}), got {self.keep}")
        grouping.needs_of(self.by, self.clients)

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of the pool, of the target where it holds the clients, and what groups are read from."""
        return needs_of("target" if self.clients == "target" else None) | grouping.needs_of(self.by, self.clients)

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, centres in turn."""
        import dataclasses

        import numpy as np

        from tamis.budgets import order_for, pick, round_robin
        from tamis.vectors.embeddings import of_pool
        from tamis.vectors.index import similarities

        rows = of_pool(view, "feddca", self.duplicates)
        found, clients = self._centres(view, rows)
        cosines = similarities(rows.vectors, found, np.arange(len(found)))
        taken = covering_centres(cosines, clients, self.keep)
        scores = np.full((len(view), len(taken)), np.nan, np.float32)
        scores[rows.places] = cosines[:, taken]
        nearest = np.full(len(view), np.nan)
        nearest[rows.places] = scores[rows.places].max(axis=1)
        order, picked_on = order_for(view, budget, lambda limit: round_robin(scores, view.usable, limit))
        gains = nearest.copy()
        gains[order] = picked_on
        subset = pick(view, order, budget, nearest, gains=gains, unit="cosine", reasons=rows.reasons)
        covered = float(np.maximum(0, nearest[rows.places]).mean())
        many = len(np.unique(clients))
        note = f"{len(taken)} centres of {many} clients cover the pool to a mean cosine of {covered:.3f}"
        return dataclasses.replace(subset, notes=(note,))

    def _centres(self, view: PoolView, rows: Embeddings) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Centres (K, d) of all clients, in order of name, and the number of the client of each."""
        import numpy as np

        from tamis.vectors.clusters import k_means

        vectors, names, keys = self._data(view, rows)
        order = np.argsort(np.array(keys), kind="stable")  # k-means starts from rows by their place
        vectors, names = vectors[order], names[order]
        centres = [k_means(vectors[names == name], self.centres, self.seed).centres for name in np.unique(names)]
        return np.concatenate(centres), np.repeat(np.arange(len(centres)), [len(own) for own in centres])

    def _data(self, view: PoolView, rows: Embeddings) -> tuple[NDArray[np.float32], NDArray[np.str_], Sequence[str]]:
        """The clients' rows: embeddings, client, key."""
        import numpy as np

        from tamis.vectors.index import unit

        if self.clients == "pool":
            keys = view.pool.table(["key"]).column("key").take(rows.places).to_pylist()
            return rows.vectors, self._clients(view, rows.places), keys
        if view.target is None:
            raise DataError("feddca has no target: name target files in the recipe, or give --target")
        vectors = unit(view.target.signal("tokens", "pooled"))
        good = np.flatnonzero(np.isfinite(vectors).all(axis=1))
        if not len(good):
            raise DataError("no row of the target has hidden states; every target row was refused by the model's pass")
        keys = view.target.pool.table(["key"]).column("key").take(good).to_pylist()
        return vectors[good], self._clients(view.target, good), keys

    def _clients(self, view: PoolView, places: NDArray[np.int64]) -> NDArray[np.str_]:
        names = view.groups(self.by)[places]
        if (names == "").all():
            raise DataError(f"feddca: no row of the {self.clients} has a {self.by}, so that there are no clients")
        return names


def covering_centres(cosines: NDArray[np.float32], clients: NDArray[np.int64], keep: int) -> NDArray[np.int64]:
    """Centres in the order taken, at most `keep` of a client: each time the one that raises the coverage most.

    `cosines` (m, K) of rows and centres; `clients` (K,) the client of each. Coverage is the mean over rows of the
    largest cosine, or 0, to a centre taken. Ties go to the lower centre.
    """
    import numpy as np

    covered = np.zeros(len(cosines))
    left = np.minimum(np.bincount(clients), keep)
    taken: list[int] = []
    while left.any():
        open_centres = np.setdiff1d(np.flatnonzero(left[clients] > 0), taken)
        gains = [np.maximum(0, cosines[:, one] - covered).mean() for one in open_centres]
        best = int(open_centres[np.argmax(np.round(gains, _DIGITS))])
        taken.append(best)
        left[clients[best]] -= 1
        covered = np.maximum(covered, cosines[:, best])
    return np.array(taken, np.int64)
