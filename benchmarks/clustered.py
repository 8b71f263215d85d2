"""Clustered embeddings for the benchmarks of the submodular engine: topics, within them sub-topics of unequal size.

A row is the centre of its topic + that of its sub-topic + a place along 16 directions of its topic + one along 8
directions that all rows share + noise in all directions, scaled to length 1. The mean cosine of a row to its nearest
of 50,000 is 0.75, to its 31st 0.54. Rows are drawn in blocks, so that any number can be written to disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WIDTH, TOPICS, SUBTOPICS, DIRECTIONS, SHARED, BLOCK = 384, 100, 2000, 16, 8, 20_000


def blocks(rows: int, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    """Unit rows (at most 20,000, 384) at a time."""
    draw = np.random.default_rng(seed)
    topics = 0.7 * draw.standard_normal((TOPICS, WIDTH), np.float32)
    centres = topics[np.arange(SUBTOPICS) % TOPICS] + 0.6 * draw.standard_normal((SUBTOPICS, WIDTH), np.float32)
    share = np.arange(10, SUBTOPICS + 10) ** -0.5
    own = 0.6 / DIRECTIONS**0.5 * draw.standard_normal((TOPICS, DIRECTIONS, WIDTH), np.float32)
    shared = 0.4 / SHARED**0.5 * draw.standard_normal((SHARED, WIDTH), np.float32)
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        of = draw.choice(SUBTOPICS, count, p=share / share.sum())
        made = centres[of]
        along = draw.standard_normal((count, DIRECTIONS), np.float32)
        for topic in range(TOPICS):
            here = of % TOPICS == topic
            made[here] += along[here] @ own[topic]
        made += draw.standard_normal((count, SHARED), np.float32) @ shared
        made += 0.25 * draw.standard_normal((count, WIDTH), np.float32)
        yield made / np.linalg.norm(made, axis=1, keepdims=True)


def write(path: Path, rows: int, dtype: str) -> None:
    """A .npy file (rows, 384) of `dtype`, block by block."""
    file = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(rows, WIDTH))
    start = 0
    for block in blocks(rows):
        file[start : start + len(block)] = block
        start += len(block)
    file.flush()
