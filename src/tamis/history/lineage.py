"""Lineage of one row of a run: the kept row that is nearest to it, what it does for each task, where it leaked.

Nothing here is computed for all rows: a run keeps where its signals lie (`signals.json`), and they are read for one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.pool import MANIFEST, Pool
from tamis.store import write_json
from tamis.text.passages import of_row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.stages.signals import Signal

SIGNALS = "signals.json"
BY_WORDS = 20_000  # kept rows whose words are compared where the run has no embeddings
SNIPPET = 240


@dataclass(frozen=True)
class Neighbour:
    """The kept row nearest to another: its key, cosine in [-1, 1], `by` what they were compared, and its text."""

    key: str
    cosine: float
    by: str
    text: str


def keep_signals(run: Path, signals: Mapping[str, Signal]) -> None:
    """Write where each signal of the pool lies, shard by shard, relative to the run folder."""
    found = {
        name: {"folders": [os.path.relpath(folder, run) for folder in one.folders], "notes": list(one.caveats)}
        for name, one in signals.items()
    }
    write_json(run / SIGNALS, found)


def signal_of(run: Path, name: str, shard: int) -> dict[str, NDArray[Any]] | None:
    """Arrays of a signal for one shard of the pool; None where the run did not have it or the store no longer does."""
    from tamis.store import load_arrays

    try:
        said = json.loads((run / SIGNALS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    folders = said.get(name, {}).get("folders", [])
    if shard >= len(folders) or not (run / folders[shard]).is_dir():
        return None
    return load_arrays(run / folders[shard])


def nearest_kept(run: Path, place: int) -> Neighbour | None:
    """The selected row that is most like the row at `place` of the pool, itself left out; None where none is kept.

    By cosine of pooled hidden states where the run measured them, else by that of hashed words, over the first
    `BY_WORDS` rows picked.
    """
    import numpy as np
    import pyarrow.parquet as pq

    file = run / "subset.parquet"
    if not file.is_file():
        return None
    kept = pq.read_table(file, columns=["place"]).column("place").to_numpy()
    kept = kept[kept != place]
    pool = Pool.open(run / MANIFEST)
    if not len(kept):
        return None
    found = _by_states(run, pool, place, kept)
    by = "hidden states"
    if found is None:
        kept = kept[:BY_WORDS]
        found, by = _by_words(pool, place, kept), "words"
    best = int(np.argmax(found))
    row = pool.read([int(kept[best])])[0]
    text = " ".join(of_row(row).whole.split())
    return Neighbour(row.key, round(float(found[best]), 4), by, text[:SNIPPET])


def _by_states(run: Path, pool: Pool, place: int, kept: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Cosines of the row and each kept one; -1 for one without states. None where the row or the run has none."""
    import numpy as np

    own = _states(run, pool, np.array([place]))
    if own is None or not np.isfinite(own).all() or not own.any():
        return None
    states = _states(run, pool, kept)
    if states is None:
        return None
    norms = np.linalg.norm(states, axis=1) * np.linalg.norm(own)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = states @ own[0] / norms
    found: NDArray[np.float64] = np.nan_to_num(cosines, nan=-1.0, posinf=-1.0, neginf=-1.0).astype(np.float64)
    return found


def _states(run: Path, pool: Pool, places: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """(k, d) pooled hidden states, each shard's file opened once."""
    import numpy as np

    shards = np.searchsorted(pool.starts, places, side="right") - 1
    made: NDArray[np.float32] | None = None
    for shard in np.unique(shards):
        arrays = signal_of(run, "tokens", int(shard))
        if arrays is None or "pooled" not in arrays:
            return None
        inside = shards == shard
        taken = arrays["pooled"][places[inside] - pool.starts[shard]]
        if made is None:
            made = np.zeros((len(places), taken.shape[1]), np.float32)
        made[inside] = taken
    return made


def _by_words(pool: Pool, place: int, kept: NDArray[np.int64]) -> NDArray[np.float64]:
    import numpy as np
    from sklearn.feature_extraction.text import HashingVectorizer

    vectors = HashingVectorizer(ngram_range=(1, 2), alternate_sign=False, n_features=2**18)
    own = vectors.transform([of_row(pool.read([place])[0]).whole])
    parts = [
        vectors.transform(of_row(row).whole for row in pool.read(kept[start : start + 2048].tolist())) @ own.T
        for start in range(0, len(kept), 2048)
    ]
    return np.concatenate([part.toarray()[:, 0] for part in parts])


def influences(run: Path, place: int) -> dict[str, float | None]:
    """Influence of the row at `place` on each task of the target, largest first; empty where the run has none."""
    import bisect

    pool = Pool.open(run / MANIFEST)
    shard = bisect.bisect_right(pool.starts, place) - 1
    arrays = signal_of(run, "influence", shard)
    if arrays is None or "scores" not in arrays:
        return {}
    tasks = json.loads(bytes(arrays["tasks"]))
    scores = arrays["scores"][place - pool.starts[shard]].tolist()
    pairs = sorted(zip(tasks, scores, strict=True), key=lambda pair: -pair[1] if pair[1] == pair[1] else 1e9)
    return {str(task): round(score, 6) if score == score else None for task, score in pairs}


def spans(run: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """What tables of cleaning steps (`cleaned/STEP/*.parquet`) hold of a row, by any of its keys; spans of leaks."""
    import pyarrow.parquet as pq

    found = []
    for file in sorted((run / "cleaned").glob("*/*.parquet")):
        if "key" in pq.read_schema(file).names:
            rows = pq.read_table(file, filters=[("key", "in", list(keys))]).to_pylist()
            found += [{"step": file.parent.name, "table": file.stem, **row} for row in rows]
    return found
