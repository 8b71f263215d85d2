"""Concept and label: which labels a concept foretells inside its source, though it should not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.column.row_fields import field_of
from tamis.errors import RecipeError
from tamis.text.criteria import column
from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    from tamis.pool import Shard
    from tamis.values import Arrays
    from tamis.views import PoolView, ShardSignals

ANSWER, RATED = "answer", "label"
_SHORT = 3  # words of an answer that is a class
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class ConceptLabel:
    """Spurious concepts: pointwise mutual information of a row's concepts and its label inside its source.

    After "Explore Spurious Correlations at the Concept Level in Language Models for Text Classification" (Zhou et al.
    2024), which asks a language model for concepts; here they are `meta.NAME` (tags), another field of the row, or
    `clusters` of embeddings (`tamis.vectors.concepts`). PMI = ln(n(c, l) n / (n(c) n(l))) in nats, over the rows of a
    source. A row has that of its concept with the highest; pairs in fewer than `least` rows do not count. `label`:
    `answer` (the answer itself, where it has at most three words), `label` (of rated rows), or a field of the row.

    `weight` = exp(-PMI) = n(c) n(l) / (n n(c, l)) is the quota that makes concept and label independent. Our reduction
    to rows; no published value.
    """

    concepts: str = "meta.tags"
    label: str = ANSWER
    least: int = 5
    revision: ClassVar[int] = 1
    fits_rows: ClassVar[bool] = True  # numbers of single rows: new ones have none until it is fitted anew

    def __post_init__(self) -> None:
        from tamis.column.row_fields import check_field
        from tamis.vectors import concepts

        concepts.check("concept-label", self.concepts, ())
        if self.label not in (ANSWER, RATED):
            check_field("concept-label", "label", self.label)
        if self.least < 1:
            raise RecipeError("concept-label: least must be at least 1")

    @property
    def needs(self) -> frozenset[Need]:
        """Lengths, and hidden states where concepts are clusters."""
        from tamis.vectors import concepts

        return concepts.needs_of(self.concepts)

    def fit(self, view: PoolView, /) -> tuple[Arrays, Mapping[str, Any]]:
        """By key of row: `pmi`, `purity` (rows, float64; NaN without concept or label), `why` uint8; a note.

        DataError where no row of the pool can be used, or none has a concept.
        """
        import numpy as np

        from tamis.column import keyed
        from tamis.vectors import concepts

        found = concepts.of_view(view, "concept-label", self.concepts, duplicates="keep")
        sources = _all(field_of(shard, "source") for shard in view.pool.shards)
        labels = _all(self._labels(shard) for shard in view.pool.shards)
        rows = [
            (sources[place], labels[place], found.concepts.of(number).tolist())
            for number, place in enumerate(found.places.tolist())
        ]
        pairs = _pairs([row for row in rows if row[1]], self.least)
        values = np.full((len(view), 2), np.nan)
        why = np.where(found.reasons > 0, found.reasons, int(Reason.NOTHING_TO_CHECK)).astype(np.uint8)
        for (source, label, own), place in zip(rows, found.places.tolist(), strict=True):
            known = [pairs[source, one, label] for one in own if (source, one, label) in pairs]
            if known:
                values[place], why[place] = max(known), 0
        keys = view.pool.table(["key"]).column("key").to_pylist()
        arrays = keyed.packed(keys, {"pmi": values[:, 0], "purity": values[:, 1], "why": why})
        named = {(source, found.concepts.names[one], label): value for (source, one, label), value in pairs.items()}
        strongest = sorted(named.items(), key=lambda item: (-item[1][0], item[0]))[:_SHOWN]
        said = [
            f"{concept!r} and {label!r} in {source} {value[0]:.2f}" for (source, concept, label), value in strongest
        ]
        return arrays, {"pairs": len(pairs), "note": f"strongest pairs, in nats: {'; '.join(said) or 'none'}"}

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `score` (PMI, nats), `purity` (share of the concept's rows that have the label) and `weight`.

        NaN where a row has no concept, no label, or only pairs in fewer than `least` rows.
        """
        import numpy as np

        from tamis.column import keyed

        kept = have["fit"]
        places, _ = keyed.of_shard(kept, have.shard)
        pmi, purity, why = (np.asarray(kept[name])[places] for name in ("pmi", "purity", "why"))
        return {
            "score": column(pmi, "nats", why),
            "purity": column(purity, "share", why),
            "weight": column(np.exp(-np.nan_to_num(pmi)), "weight", why),
        }

    def _labels(self, shard: Shard) -> list[str]:
        """The label of every row; "" where it has none."""
        from tamis.text.passages import of_row
        from tamis.text.words import plain, words_of

        if self.label == RATED:
            return ["" if one is None else str(one) for one in shard.table(["label"]).column("label").to_pylist()]
        if self.label != ANSWER:
            return field_of(shard, self.label)
        answers = [words_of(plain(of_row(row).response)) for row in shard.read()]
        return [" ".join(words) if len(words) <= _SHORT else "" for words in answers]


def pmi(joint: int, one: int, other: int, rows: int) -> float:
    """Pointwise mutual information in nats, from counts of rows.

    >>> round(pmi(30, 40, 50, 100), 6)
    0.405465
    """
    import math

    return math.log(joint * rows / (one * other))


def _pairs(rows: Iterable[tuple[str, str, list[int]]], least: int) -> dict[tuple[str, int, str], tuple[float, float]]:
    """PMI and purity of every concept and label that stand together in `least` rows of a source."""
    joint: Counter[tuple[str, int, str]] = Counter()
    concept: Counter[tuple[str, int]] = Counter()
    label: Counter[tuple[str, str]] = Counter()
    size: Counter[str] = Counter()
    for source, own, concepts in rows:
        size[source] += 1
        label[source, own] += 1
        concept.update((source, one) for one in concepts)
        joint.update((source, one, own) for one in concepts)
    return {
        (source, one, own): (
            pmi(count, concept[source, one], label[source, own], size[source]),
            count / concept[source, one],
        )
        for (source, one, own), count in joint.items()
        if count >= least
    }


def _all(parts: Iterable[list[str]]) -> list[str]:
    return [one for part in parts for one in part]
