"""Duplicates in meaning: rows whose embeddings nearly coincide (SemDeDup, arXiv 2303.09540)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.errors import DataError, RecipeError
from tamis.values import Dropped, Machine, Need
from tamis.vectors.encoders import EncoderRef, What

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.duplicates.memory import Memory, Segment
    from tamis.views import PoolView

FARTHEST = "farthest"
POOLED = (("loss", "none"), ("pooled", True))


@dataclass(frozen=True, kw_only=True)
class Semantic:
    """Drops rows of nearly equal embeddings but one (SemDeDup).

    Embeddings are the model's pooled hidden states or, with `encoder: {name: …}`, those of a sentence encoder, of the
    part of the row that `text` names. Rows are compared inside of `clusters` (k-means; 0: all with all up to 20,000
    rows, beyond that about 4,096 rows a cluster). `keep` says who stands before: farthest (from the centre of the
    cluster, the paper's rule), first, last, longest, a column (highest) or -column (lowest). `index`: a name; what an
    earlier run under it has seen stands before everything.
    """

    threshold: float = 0.95
    keep: str = FARTHEST
    encoder: EncoderRef | None = None
    text: What = "instruction"
    clusters: int = 0
    index: str = ""
    seed: int = 0
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        from tamis.duplicates.keeping import column_of
        from tamis.duplicates.memory import check_name

        if not 0 < self.threshold <= 1:
            raise RecipeError(f"semantic: threshold is {self.threshold}; expected a cosine in (0, 1]")
        if self.clusters < 0:
            raise RecipeError(f"semantic: clusters is {self.clusters}; expected a number, or 0 to choose it")
        if self.keep != FARTHEST:
            column_of(self.keep)
        check_name(self.index)

    @property
    def needs(self) -> frozenset[Need]:
        """Embeddings; lengths of texts where the longest stays; the column that says which row stays."""
        from tamis.duplicates.keeping import needs_of

        needs = set() if self.keep == FARTHEST else set(needs_of(self.keep))
        if self.keep == "longest":
            needs.add(Need(kind="signal", name="hashes", settings=(("ngrams", ()),)))
        settings = POOLED if self.encoder is None else (("encoder", self.encoder), ("text", self.text))
        return frozenset({*needs, Need(kind="signal", name=self._signal, settings=settings)})

    @property
    def _signal(self) -> str:
        return "tokens" if self.encoder is None else "sentence-embeddings"

    def clean(self, view: PoolView, on: Machine, /) -> Dropped:
        """Rows that leave, each with who stays in its place. Rows without an embedding stay."""
        from tamis.duplicates.memory import Memory

        memory = None
        if self.index:
            settings = {"threshold": self.threshold, "text": self.text, "model": _made_by(view, self._signal)}
            memory = Memory.of(view, self.index, "semantic", settings)
        with memory.held() if memory else nullcontext():
            return self._cleaned(view, memory)

    def _cleaned(self, view: PoolView, memory: Memory | None) -> Dropped:
        import numpy as np

        from tamis.duplicates.deciding import remembered, told
        from tamis.duplicates.memory import Seen
        from tamis.duplicates.semantic import cosines, parts_of, standing
        from tamis.vectors.index import unit

        vectors = np.concatenate([unit(shard[self._signal]["pooled"]) for shard in view.shards()])
        segments = memory.read() if memory else []
        seen = Seen.of(view, segments) if memory else None
        prior = _prior(segments, vectors)
        decided, elders = vectors, prior
        if seen is not None:
            decided, elders = vectors.copy(), prior.copy()
            decided[~seen.fresh] = np.nan
            elders[~seen.elder] = np.nan
        parts = parts_of(decided, self.clusters, self.seed)
        nodes = standing(decided, self._worth(view, parts.nearness), parts, self.threshold, elders)
        verdicts = told(view, nodes, seen)
        values = verdicts.values(cosines(vectors, prior, verdicts.compared, verdicts.nodes[verdicts.compared]))
        if memory and seen is not None and seen.fresh.any():
            memory.extend({**remembered(view, verdicts, values), "vectors": vectors[seen.fresh]})
        missing = int(np.isnan(vectors[:, 0]).sum())
        return Dropped(
            rows=verdicts.dropped,
            reasons=tuple(map(self._reason, verdicts.names(), values[verdicts.dropped].tolist())),
            winners=verdicts.names(),
            facts={**verdicts.counts(), "clusters": len(parts.centres), "without embedding": missing},
            notes=tuple(self._notes(len(parts.centres), missing)),
        )

    def _worth(self, view: PoolView, nearness: NDArray[np.float64]) -> NDArray[np.float64]:
        from tamis.duplicates.keeping import worth

        if self.keep == FARTHEST:
            return -nearness
        characters = view.signal("hashes", "whole_characters") if self.keep == "longest" else None
        return worth(view, self.keep, characters)

    def _reason(self, winner: str, value: float) -> str:
        if value >= self.threshold - 2e-6:
            return f"means the same as {winner} (cosine {value:.3f})"
        return f"means the same as rows that mean the same as {winner} (cosine to it {value:.3f})"

    def _notes(self, clusters: int, missing: int) -> list[str]:
        notes = []
        if clusters > 1:
            notes.append(
                f"semantic: rows were compared inside of {clusters:,} clusters, so that duplicates on either side of a "
                "border were not met; clusters: 1 compares all with all"
            )
        if missing:
            notes.append(f"semantic: {missing:,} rows have no embedding, and stay")
        return notes


def _prior(segments: Sequence[Segment], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(m, d) embeddings of the index. DataError where they are of another model's length."""
    import numpy as np

    wide = vectors.shape[1]
    for segment in segments:
        if segment["vectors"].shape[1] != wide:
            raise DataError(
                f"semantic: the index has embeddings of {segment['vectors'].shape[1]} numbers, these have {wide}: they "
                "are of another model; take another name"
            )
    return np.concatenate([np.zeros((0, wide), np.float32), *[segment["vectors"] for segment in segments]])


def _made_by(view: PoolView, signal: str) -> Any:
    """What the store says of the model behind a signal; None where it says nothing."""
    import json

    from tamis.store import MANIFEST

    file = next(iter(view.signal_folders[signal])) / MANIFEST
    about = (json.loads(file.read_text(encoding="utf-8")).get("about") or {}) if file.is_file() else {}
    return about.get("encoder") or about.get("model")
