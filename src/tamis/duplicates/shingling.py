"""Rows to sets of shingles: what near-duplicates are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from tamis.duplicates.scanning import Unit, scanned
from tamis.ragged import Ragged
from tamis.text.words import Numbers, mixed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Row

Of = Literal["whole", "prompt", "response"]


def texts_of(rows: Sequence[Row], of: Of) -> list[str]:
    """A text of every row, "" where it has none (`tamis.text.passages`); of a whole pair, the rejected one is last."""
    from tamis.text.passages import of_row
    from tamis.values import text_of

    found = [str(getattr(of_row(row), of)) for row in rows]
    if of != "whole":
        return found
    return [
        "\n".join([text, *map(text_of, row.rejected)]) if row.rejected else text
        for text, row in zip(found, rows, strict=True)
    ]


def salts_of(rows: Sequence[Row], of: Of) -> NDArray[np.uint64]:
    """A number for every row that keeps rows of unlike labels apart: the same text, once liked and once not."""
    import numpy as np

    labels = [0 if row.label is None or of == "prompt" else 1 + row.label for row in rows]
    return np.array([0, *mixed(np.array([1, 2], np.uint64)).tolist()], np.uint64)[labels]


def shingled(
    texts: Sequence[str], shingle: int, unit: Unit, numbers: Numbers, salts: NDArray[np.uint64] | None = None
) -> Ragged:
    """Sets of shingles of texts, as sorted 32-bit hashes: all runs of `shingle` words (or characters) of a text.

    A text shorter than a shingle has one, of all it says, so that it is like its equals alone; one without words has
    none, and is like nothing. Two sets of k shingles share one by chance with a probability of k² / 2^32.
    """
    import numpy as np

    from tamis.duplicates import loops

    flat = scanned(texts, unit, numbers)
    values = np.empty(len(flat.hashes), np.uint32)
    ends = np.zeros(len(texts), np.int64)
    salts = np.zeros(len(texts), np.uint64) if salts is None else salts
    count = loops.shingle_sets(flat.hashes, flat.offsets, shingle, salts, values, ends)
    return Ragged(values[:count].copy(), np.concatenate([[0], ends]).astype(np.int64))
