"""Exact duplicates: rows that say the same, and one of each group stays."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.errors import RecipeError
from tamis.values import Dropped, Machine, Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.duplicates.memory import Memory
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Drops all but one row of every group of rows that say exactly the same.

    `of: content` compares roles and texts of all messages, tools, chosen, rejected and label, and not source or meta;
    `prompt`, `response` and `text` compare what was asked, what was answered, or both. `normalise: words` compares
    these in lower case without punctuation and diacritics. `keep`: first, last, longest, a column (highest) or -column
    (lowest). `index`: a name; what an earlier run under it has seen is a duplicate too, and stays.
    """

    of: Literal["content", "prompt", "response", "text"] = "content"
    normalise: Literal["none", "words"] = "none"
    keep: str = "first"
    index: str = ""
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        from tamis.duplicates.keeping import column_of
        from tamis.duplicates.memory import check_name

        if self.of == "content" and self.normalise != "none":
            raise RecipeError("exact: normalise goes with of: prompt, response or text; content is compared as it is")
        column_of(self.keep)
        check_name(self.index)

    @property
    def needs(self) -> frozenset[Need]:
        """Digests of texts where these are compared, or the longest stays; the column that says which row stays."""
        from tamis.duplicates.keeping import needs_of

        if self.of == "content" and self.keep != "longest":
            return needs_of(self.keep)
        settings = (("ngrams", ()), ("normalise", self.normalise))
        return needs_of(self.keep) | {Need(kind="signal", name="hashes", settings=settings)}

    def clean(self, view: PoolView, on: Machine, /) -> Dropped:
        """Rows that leave, each with its winner. A row without the text that is compared is no duplicate."""
        from tamis.duplicates.memory import Memory

        memory = None
        if self.index:
            memory = Memory.of(view, self.index, "exact", {"of": self.of, "normalise": self.normalise})
        with memory.held() if memory else nullcontext():
            return self._cleaned(view, memory)

    def _cleaned(self, view: PoolView, memory: Memory | None) -> Dropped:
        import numpy as np

        from tamis.duplicates.deciding import decide, remembered
        from tamis.duplicates.equal import groups
        from tamis.duplicates.keeping import worth
        from tamis.duplicates.memory import Seen

        digests = self._digests(view)
        segments = memory.read() if memory else []
        seen = Seen.of(view, segments) if memory else None
        labels = groups(np.concatenate([digests, *[segment["digest"] for segment in segments]]))
        characters = view.signal("hashes", "whole_characters") if self.keep == "longest" else None
        verdicts = decide(view, labels, worth(view, self.keep, characters), seen)
        if memory and seen is not None and seen.fresh.any():
            ones = np.ones(len(view), np.float32)
            memory.extend({**remembered(view, verdicts, ones), "digest": digests[seen.fresh]})
        what = "" if self.of == "content" else f" in its {self.of}"
        return Dropped(
            rows=verdicts.dropped,
            reasons=tuple(f"duplicate of {winner}{what}" for winner in verdicts.names()),
            winners=verdicts.names(),
            facts=verdicts.counts(),
        )

    def _digests(self, view: PoolView) -> NDArray[np.uint64]:
        """(n, 2) uint64; 0, 0 where there is nothing to compare."""
        import numpy as np

        from tamis.duplicates.equal import of_hexadecimal

        if self.of == "content":
            parts = [
                of_hexadecimal(shard.table(["content"]).column("content").to_pylist()) for shard in view.pool.shards
            ]
            return np.concatenate([np.zeros((0, 2), np.uint64), *parts])
        return view.signal("hashes", f"{'whole' if self.of == 'text' else self.of}_exact")
