"""A two-dimensional map of a pool: t-SNE of its pooled hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tamis.values import Subset, text_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from tamis.views import PoolView

POINTS = 4000
SNIPPET = 160


def pool_map(view: PoolView, subset: Subset | None, points: int = POINTS) -> pa.Table | None:
    """At most `points` rows of the pool (every picked one, up to half, and a spread of the others) with x and y.

    t-SNE over the first 30 principal components of the pooled hidden states, with a fixed seed. None where the token
    pass did not pool, or where fewer than ten rows are usable.
    """
    import numpy as np
    import pyarrow as pa

    if "tokens" not in view.signal_folders or any("pooled" not in shard["tokens"] for shard in view.shards()):
        return None
    picked = np.zeros(len(view), bool)
    if subset is not None:
        picked[np.asarray(subset.positions)] = True
    usable = view.usable
    inside = _spread(np.flatnonzero(picked), points // 2)
    outside = _spread(np.flatnonzero(usable & ~picked), points - len(inside))
    places = np.sort(np.concatenate([inside, outside]))
    if len(places) < 10:
        return None
    vectors = view.signal("tokens", "pooled")[places].astype(np.float32)
    flat = _flatten(vectors)
    rows = view.pool.read(places.tolist())
    snippets = [text_of(row.messages[0])[:SNIPPET] if row.messages else "" for row in rows]
    return pa.table(
        {
            "place": pa.array(places),
            "x": pa.array(flat[:, 0]),
            "y": pa.array(flat[:, 1]),
            "source": pa.array([row.source for row in rows]),
            "skill": pa.array([str(row.meta.get("skill") or "") for row in rows]),
            "fault": pa.array([str(row.meta.get("fault") or "") for row in rows]),
            "selected": pa.array(picked[places]),
            "snippet": pa.array(snippets),
        }
    )


def _spread(places: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most `most` places, evenly spaced."""
    import numpy as np

    if len(places) <= most:
        return places
    return places[np.linspace(0, len(places) - 1, most).astype(np.int64)]


def _flatten(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, d) vectors to (n, 2)."""
    import numpy as np
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    finite = np.nan_to_num(vectors)
    components = min(30, *finite.shape)
    reduced = PCA(components, random_state=0).fit_transform(finite)
    perplexity = min(30.0, (len(reduced) - 1) / 3)
    flat = TSNE(2, perplexity=perplexity, init="pca", random_state=0, max_iter=500).fit_transform(reduced)
    return np.asarray(flat, dtype=np.float32)
