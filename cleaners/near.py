"""Near-duplicates: rows whose texts share most of their words, and one of each group stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.errors import RecipeError
from tamis.text.words import Numbers
from tamis.values import Dropped, Machine, Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.duplicates.deciding import Verdicts
    from tamis.duplicates.memory import Memory, Seen, Segment
    from tamis.duplicates.near import Elders, Layout
    from tamis.duplicates.sets import Sets
    from tamis.views import PoolView

PERMUTATIONS = 128
RECALL = 0.95  # of pairs just as alike as the threshold; of those more alike, more


@dataclass(frozen=True, kw_only=True)
class Near:
    """Drops all but one of near-duplicates: MinHash, verified Jaccard similarity, union-find.

    Two rows are near-duplicates where the Jaccard similarity of their sets of shingles is at least `threshold`; groups
    are what such pairs connect. `of`: the whole text, or the prompt or response alone. `shingle`: words (or characters,
    by `unit`) that make a shingle. Case, punctuation and diacritics do not count; numbers do, unless `numbers: zero`
    takes them all for equal. `keep`: first, last, longest, a column (highest) or -column (lowest). `index`: a name;
    what an earlier run under it has seen is a duplicate too, and stays.
    """

    threshold: float = 0.7
    of: Literal["whole", "prompt", "response"] = "whole"
    shingle: int = 5
    unit: Literal["words", "characters"] = "words"
    numbers: Numbers = "keep"
    keep: str = "first"
    index: str = ""
    seed: int = 1
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        from tamis.duplicates.keeping import column_of
        from tamis.duplicates.memory import check_name

        if not 0 < self.threshold <= 1:
            raise RecipeError(f"near: threshold is {self.threshold}; expected a similarity in (0, 1]")
        if self.shingle < 1:
            raise RecipeError(f"near: shingle is {self.shingle}; expected at least 1")
        column_of(self.keep)
        check_name(self.index)

    @property
    def needs(self) -> frozenset[Need]:
        """Shingles and signatures, and the column that says which row stays."""
        from tamis.duplicates.keeping import needs_of

        settings = tuple((name, getattr(self, name)) for name in ("of", "shingle", "unit", "numbers", "seed"))
        signal = Need(kind="signal", name="minhash", settings=(*settings, ("permutations", PERMUTATIONS)))
        return needs_of(self.keep) | {signal}

    def clean(self, view: PoolView, on: Machine, /) -> Dropped:
        """Rows that leave, each with its winner and how alike they are. Independent of shards and of threads.

        Candidates are rows whose signatures agree in a band (`tamis.text.minhash.layout`); every one is verified on the
        sets themselves. A pair just as alike as the threshold is met with a probability of at least 0.95, others with
        more.
        """
        memory = self._memory(view)
        with memory.held() if memory else nullcontext():
            return self._cleaned(view, memory)

    def _memory(self, view: PoolView) -> Memory | None:
        from tamis.duplicates.memory import Memory

        if not self.index:
            return None
        settings = {name: getattr(self, name) for name in ("threshold", "of", "shingle", "unit", "numbers", "seed")}
        return Memory.of(view, self.index, "near", settings)

    def _cleaned(self, view: PoolView, memory: Memory | None) -> Dropped:
        import numpy as np

        from tamis.duplicates.deciding import decide
        from tamis.duplicates.keeping import worth
        from tamis.duplicates.memory import Seen
        from tamis.duplicates.near import components

        layout = self._layout()
        segments = memory.read() if memory else []
        seen = Seen.of(view, segments) if memory else None
        sets = _sets(view, segments, seen)
        found = components(partial(_signatures, view), sets, layout, _elders(segments, len(view)))
        characters = view.signal("minhash", "characters") if self.keep == "longest" else None
        verdicts = decide(view, found.labels, worth(view, self.keep, characters), seen)
        places = verdicts.compared
        values = verdicts.values(sets.jaccards(places, verdicts.nodes[places]))
        if memory and seen is not None and seen.fresh.any():
            memory.extend(_remembered(view, verdicts, values, layout))
        crowded = found.counts["rows in crowded bands"]
        facts = {**verdicts.counts(), **found.counts, "bands": f"{layout.bands} of {layout.rows} values"}
        return Dropped(
            rows=verdicts.dropped,
            reasons=tuple(map(self._reason, verdicts.names(), values[np.flatnonzero(verdicts.dropped)].tolist())),
            winners=verdicts.names(),
            facts=facts,
            notes=tuple(self._notes(crowded)),
        )

    def _layout(self) -> Layout:
        from tamis.duplicates.near import Layout
        from tamis.text.minhash import layout

        return Layout(*layout(self.threshold, PERMUTATIONS, RECALL), self.threshold)

    def _reason(self, winner: str, value: float) -> str:
        if value >= self.threshold - 1e-6:
            return f"near-duplicate of {winner} (Jaccard similarity {value:.2f})"
        return f"near-duplicate of rows that are near-duplicates of {winner} (Jaccard similarity to it {value:.2f})"

    def _notes(self, crowded: int) -> list[str]:
        from tamis.duplicates.bands import WINDOW

        if not crowded:
            return []
        return [
            f"near: {crowded:,} rows share a band with more than {WINDOW} others and were compared with the {WINDOW} "
            "nearest of them in the pool: templates may hide duplicates that lie further apart"
        ]


def _signatures(view: PoolView) -> Iterator[NDArray[np.uint32]]:
    """The signatures of every shard, of which one is open at a time."""
    for shard in view.shards():
        yield shard["minhash"]["signature"]


def _sets(view: PoolView, segments: Sequence[Segment], seen: Seen | None) -> Sets:
    """Sets of the pool's rows, then of the index's; those that take no part have size 0."""
    from tamis.duplicates.sets import Sets, Stored

    sets = Sets.of([Stored(folder) for folder in (*view.signal_folders["minhash"], *[one.folder for one in segments])])
    if seen is not None:
        sets.sizes[: len(view)][~seen.fresh] = 0
        sets.sizes[len(view) :][~seen.elder] = 0
    return sets


def _elders(segments: Sequence[Segment], count: int) -> list[Elders]:
    """The bands of the index, with sets numbered behind the pool's `count` rows."""
    import numpy as np

    from tamis.duplicates.near import Elders

    starts = np.cumsum([count, *map(len, segments)])
    return [Elders(one["bands"], one["members"] + start) for one, start in zip(segments, starts.tolist(), strict=False)]


def _remembered(
    view: PoolView, verdicts: Verdicts, values: NDArray[np.float32], layout: Layout
) -> Mapping[str, NDArray[Any]]:
    """A segment of the index: its rows, their shingles, and for every band their hashes, sorted, and whose they are."""
    import numpy as np

    from tamis.duplicates.bands import band_hashes
    from tamis.duplicates.deciding import remembered
    from tamis.ragged import Ragged

    assert verdicts.seen is not None
    bands, shingles = [], []
    for number, shard in enumerate(view.shards()):
        fresh = verdicts.seen.fresh[view.pool.starts[number] : view.pool.starts[number + 1]]
        have = shard["minhash"]
        bands.append(band_hashes(have["signature"][fresh], layout.bands, layout.rows))
        rows, found = Ragged(have["shingles"], have["shingles_offsets"]).some(np.flatnonzero(fresh))
        shingles.append(Ragged.by_row(rows, found, int(fresh.sum())))
    hashes = np.ascontiguousarray(np.concatenate(bands).T)
    sets = Ragged.joined(shingles, np.uint32)
    order = np.argsort(hashes, axis=1, kind="stable")
    return {
        **remembered(view, verdicts, values),
        "bands": np.take_along_axis(hashes, order, axis=1),
        "members": order.astype(np.int64),
        "shingles": sets.values,
        "shingles_offsets": sets.offsets,
    }
