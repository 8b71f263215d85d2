"""How a rater errs, found without truth: the transition matrix from the agreement of near neighbours (HOC).

Rows that lie near each other are taken to have the same true class; raters err on each alone. Then the frequencies of
label pairs and triples of a row and its two nearest neighbours determine T, T[i, a] = P(label a | class i), and the
prior p (Zhu, Song and Liu, ICML 2021, arXiv:2102.05291).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STEPS, RATE = 1501, 0.1  # of Adam, as published
_EXACT = 20_000
_BLOCK = 1024


@dataclass(frozen=True)
class Consensus:
    """Frequencies of labels `first` (K,), of pairs `second` (K, K) and of triples `third` (K, K, K); each adds to 1."""

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    third: NDArray[np.float64]

    @classmethod
    def of(cls, triples: NDArray[np.int64], classes: int) -> Consensus:
        """Of label triples (m, 3): a row's own, its nearest neighbour's, its second nearest's."""
        import numpy as np

        own, near, far = triples.T

        def count(codes: NDArray[np.int64], rank: int) -> NDArray[np.float64]:
            found = np.bincount(codes, minlength=classes**rank).astype(np.float64) / len(triples)
            return found.reshape((classes,) * rank)

        pair = own * classes + near
        return cls(count(own, 1), count(pair, 2), count(pair * classes + far, 3))


def transition(seen: Consensus) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(T (K, K), p (K,)) that explain the frequencies best: the sum of the three Frobenius norms of what is left.

    Adam over the logits of rows of T (begun at 5 I - 1) and of p (at 0), the best of all steps after the fifth. The
    beginning decides which of the equal permutations is found: the one in which raters are right more often than not.
    """
    import numpy as np

    classes = len(seen.first)
    given = np.concatenate([(5.0 * np.eye(classes) - 1).ravel(), np.zeros(classes)])
    mean, square = np.zeros_like(given), np.zeros_like(given)
    best, kept = np.inf, given
    for step in range(1, STEPS + 1):
        loss, slope = _loss(given, seen)
        if step > 5 and loss < best:
            best, kept = loss, given
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        given = given - RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return _parts(kept, classes)


def _parts(given: NDArray[np.float64], classes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return _softmax(given[:-classes].reshape(classes, classes)), _softmax(given[-classes:])


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    grown = np.exp(logits - logits.max(-1, keepdims=True))
    found: NDArray[np.float64] = grown / grown.sum(-1, keepdims=True)
    return found


def _loss(given: NDArray[np.float64], seen: Consensus) -> tuple[float, NDArray[np.float64]]:
    """The loss and its gradient."""
    import numpy as np

    classes = len(seen.first)
    matrix, prior = _parts(given, classes)
    pairs = (matrix[:, :, None] * matrix[:, None, :]).reshape(classes, -1)
    weighted = prior[:, None] * matrix
    one, size_1 = _scaled(prior @ matrix - seen.first)
    two, size_2 = _scaled(weighted.T @ matrix - seen.second)
    three, size_3 = _scaled((weighted.T @ pairs).reshape(seen.third.shape) - seen.third)
    turned = three + three.transpose(1, 0, 2) + three.transpose(2, 0, 1)  # the place of a label, whichever it is
    flat = pairs @ turned.reshape(classes, -1).T
    by_matrix = prior[:, None] * (one + matrix @ (two + two.T) + flat)
    by_prior = (
        matrix @ one + ((matrix @ two) * matrix).sum(1) + (matrix * (pairs @ three.reshape(classes, -1).T)).sum(1)
    )
    by_logits = matrix * (by_matrix - (by_matrix * matrix).sum(1, keepdims=True))
    by_rest = prior * (by_prior - by_prior @ prior)
    return size_1 + size_2 + size_3, np.concatenate([by_logits.ravel(), by_rest])


def _scaled(left: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    import numpy as np

    size = float(np.sqrt((left**2).sum()))
    return left / max(size, 1e-12), size


def neighbours(vectors: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Places (n, c) of the nearest other rows of unit vectors (n, d), best first, and their cosines (n, c).

    c = min(count, n - 1); never the row itself. Up to 20,000 rows all are compared, beyond by a FAISS index; where that
    finds fewer, places are -1. Cosines are rounded to six digits, ties go to the lower place.
    """
    import numpy as np

    from tamis.vectors.index import build

    wanted = min(count, len(vectors) - 1)
    places = np.full((len(vectors), wanted), -1, np.int64)
    index = build(vectors) if len(vectors) > _EXACT else None
    for start in range(0, len(vectors), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(vectors)))
        if index is None:
            places[rows] = _best(vectors[rows] @ vectors.T, rows, wanted)
        else:
            places[rows] = _without_self(index.nearest(vectors[rows], wanted + 1)[1], rows, wanted)
    cosines = np.empty(places.shape, np.float64)
    for start in range(0, len(vectors), _BLOCK):
        part = slice(start, start + _BLOCK)
        cosines[part] = np.einsum("nd,ncd->nc", vectors[part], vectors[places[part]], dtype=np.float64)
    return places, np.where(places >= 0, np.round(cosines, 6), -np.inf)


def _best(products: NDArray[np.float32], rows: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """Places of the largest products of each row but its own: as whole millionths, the place told apart below them."""
    import numpy as np

    count = products.shape[1]
    codes = np.rint(products * np.float32(1e6)).astype(np.int64) * -count + np.arange(count)
    codes[np.arange(len(rows)), rows] = np.iinfo(np.int64).max
    first = np.argpartition(codes, wanted - 1, axis=1)[:, :wanted]
    order = np.argsort(np.take_along_axis(codes, first, axis=1), axis=1)
    return np.take_along_axis(first, order, axis=1).astype(np.int64)


def _without_self(found: NDArray[np.int64], rows: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    import numpy as np

    own = found == rows[:, None]
    own[~own.any(axis=1), -1] = True  # a row hidden behind its copies: the last goes
    kept: NDArray[np.int64] = found[~own].reshape(len(rows), wanted)
    return np.asarray(kept)
