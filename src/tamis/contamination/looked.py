"""What is looked for: runs of tokens that tell an evaluation item from the others of its set, whole short texts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.contamination.items import Item, Rules

SEED = 16  # letters by which a run of tokens is found before all of it is compared


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of tokens of items, sorted by `seeds`: one entry for each place of a run.

    `seeds`, `hashes` (r,) uint64 of the first letters and of all; `lengths` (r,) int64 in letters; `items` (r,) int64,
    `first` (r,) int64 the run's first token in its item and `tokens` (r,) int64 how many it has.
    """

    seeds: NDArray[np.uint64]
    hashes: NDArray[np.uint64]
    lengths: NDArray[np.int64]
    items: NDArray[np.int64]
    first: NDArray[np.int64]
    tokens: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[Runs]) -> Runs:
        """All runs of some sets, sorted."""
        return cls(*_together(parts, cls, "seeds"))


@dataclass(frozen=True, eq=False)
class Wholes:
    """Short texts that are compared whole, sorted by `hashes` (w,) uint64; `lengths` (w,) int64 in letters.

    `items`, `first`, `tokens` (w,) int64: which tokens of which item.
    """

    lengths: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    items: NDArray[np.int64]
    first: NDArray[np.int64]
    tokens: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[Wholes]) -> Wholes:
        """All short texts of some sets, sorted."""
        return cls(*_together(parts, cls, "hashes"))


def _together(parts: Sequence[Any], cls: type[Any], by: str) -> list[NDArray[Any]]:
    """The arrays of several sets behind each other, in the order of one of them."""
    import numpy as np

    names = [field.name for field in dataclasses.fields(cls)]
    empty = {name: np.zeros(0, np.uint64 if name in ("seeds", "hashes") else np.int64) for name in names}
    arrays = {name: np.concatenate([empty[name], *(getattr(part, name) for part in parts)]) for name in names}
    order = np.argsort(arrays[by], kind="stable")
    return [arrays[name][order] for name in names]


@dataclass(frozen=True, eq=False)
class Looked:
    """All that is looked for. `starts` (i + 1,) int64: item i has the tokens `[starts[i], starts[i + 1])`.

    `counts` (tokens,) bool: the token says something of its item, for it stands in one of its runs and in no header.
    `strict` (i,) bool: fewer than SHORT tokens do, so that everything in the item's runs counts and all of it must be
    found. `stems` (tokens,) bool: the token counts and stands in front of the choices that its item offers; all False
    for an item without choices, or with a question of few words. `numbers` (tokens,) bool: the token is a number.
    """

    rules: Rules
    items: tuple[Item, ...]
    starts: NDArray[np.int64]
    counts: NDArray[np.bool_]
    stems: NDArray[np.bool_]
    strict: NDArray[np.bool_]
    numbers: NDArray[np.bool_]
    runs: Runs
    wholes: Wholes

    @functools.cached_property
    def counted(self) -> NDArray[np.int64]:
        """(tokens + 1,) how many tokens in front of every token count."""
        return before(self.counts)

    @functools.cached_property
    def counted_stems(self) -> NDArray[np.int64]:
        """(tokens + 1,) how many of them stand in front of choices."""
        return before(self.stems)


def before(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(m + 1,) how many are True in front of every place."""
    import numpy as np

    return np.concatenate([[0], np.cumsum(mask)]).astype(np.int64)
