"""A small regressor on pairs of embeddings that stands in for utilities not measured (NN-CIFT, arXiv 2502.09969)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.demonstrations.utility_kernels import Found
from tamis.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HIDDEN = 100
LEAST = 50  # measured pairs below which nothing is fitted
_BLOCK = 64  # rows whose predictions for all candidates are held at once


@dataclass(frozen=True)
class Surrogate:
    """One hidden layer of 100 over the embeddings of query and demonstration, side by side.

    The first layer is linear in each, so it is taken once a row and added for every pair. `r2`: share of variance that
    it explains on `held_out` pairs it was not fitted on.
    """

    first: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    last: tuple[NDArray[np.float64], float]
    scale: tuple[float, float]
    r2: float
    held_out: int

    def predict(self, queries: NDArray[np.float32], demonstrations: NDArray[np.float32]) -> NDArray[np.float64]:
        """(q, m) utilities; q a block of few rows."""
        import numpy as np

        of_query, of_demonstration, bias = self.first
        left = queries.astype(np.float64) @ of_query + bias
        right = demonstrations.astype(np.float64) @ of_demonstration
        weights, offset = self.last
        answer = np.empty((len(left), len(right)))
        for place, row in enumerate(left):
            answer[place] = np.maximum(row + right, 0) @ weights + offset
        mean, spread = self.scale
        return answer * spread + mean


def fit(vectors: NDArray[np.float32], found: Found, seed: int, held_out: float = 0.2) -> Surrogate:
    """Fit on measured pairs, a share of them held out at random. `vectors` (m, d) by number of row.

    DataError for fewer than 50 pairs. O(pairs · d · 100) an epoch, at most 200 epochs with early stopping.
    """
    import warnings

    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    count = len(found.values)
    if count < LEAST:
        raise DataError(
            f"a surrogate needs {LEAST} measured pairs at least, and some thousands to be of use: got {count}"
        )
    order = np.random.default_rng([seed, 0x5E]).permutation(count)
    apart, rest = order[: max(1, round(held_out * count))], order[max(1, round(held_out * count)) :]
    pairs = np.concatenate([vectors[found.rows], vectors[found.columns]], axis=1)
    mean, spread = float(found.values[rest].mean()), max(float(found.values[rest].std()), 1e-12)
    model: Any = MLPRegressor(
        hidden_layer_sizes=(HIDDEN,), alpha=1e-3, random_state=seed, early_stopping=True, max_iter=200
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(pairs[rest], (found.values[rest] - mean) / spread)
    width = vectors.shape[1]
    weights, (last,) = model.coefs_[0].astype(np.float64), [model.coefs_[1].astype(np.float64)]
    first = (weights[:width], weights[width:], model.intercepts_[0].astype(np.float64))
    predicted = model.predict(pairs[apart]) * spread + mean
    error = ((found.values[apart] - predicted) ** 2).sum()
    total = max(float(((found.values[apart] - found.values[apart].mean()) ** 2).sum()), 1e-300)
    offset = float(model.intercepts_[1][0])
    return Surrogate(first, (last[:, 0], offset), (mean, spread), float(1 - error / total), len(apart))


def fill_in(found: Found, vectors: NDArray[np.float32], surrogate: Surrogate, keep: int) -> Found:
    """Measured utilities, and for every row the `keep` highest predicted ones of candidates not measured for it.

    O(m² · 100) time, O(m · keep) memory.
    """
    import numpy as np

    count = len(vectors)
    order = np.argsort(found.rows, kind="stable")
    starts = np.searchsorted(found.rows[order], np.arange(count + 1))
    parts = [(found.rows, found.columns, found.values)]
    for start in range(0, count, _BLOCK):
        rows = np.arange(start, min(count, start + _BLOCK))
        worth = surrogate.predict(vectors[rows], vectors)
        worth[rows - start, rows] = -np.inf
        known = order[starts[start] : starts[rows[-1] + 1]]
        worth[found.rows[known] - start, found.columns[known]] = -np.inf
        best = np.argsort(-worth, axis=1, kind="stable")[:, :keep]
        values = np.take_along_axis(worth, best, axis=1)
        good = np.isfinite(values)
        parts.append((np.repeat(rows, good.sum(1)), best[good], values[good]))
    return Found(*(np.concatenate(column) for column in zip(*parts, strict=True)))
