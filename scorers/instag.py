"""InsTag's measures from tags that rows carry: how many intentions a prompt has, and what it adds to those covered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.errors import RecipeError
from tamis.text.criteria import column
from tamis.values import Column, Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Arrays
    from tamis.vectors.concepts import Concepts
    from tamis.views import PoolView, ShardSignals


@dataclass(frozen=True, kw_only=True)
class InsTag:
    """InsTag (Lu et al. 2024) from a field of tags: complexity = tags of a row, coverage = new tags.

    `tags` names the field (`meta.NAME`, a list or words with commas between); no tagger is run. The paper's selection,
    complexity first and diverse, takes rows with most tags first and in one pass only such as bring a tag that the pass
    has not seen, then begins anew: `round` is the pass that takes the row, `coverage` what it newly brought there. Ties
    go by key. Rows beyond `rounds` passes have round `rounds` + 1 and coverage 0. Tags that mean the same must be made
    one before (the paper's normalisation; the released tagger leaves it out). No published value.
    """

    tags: str = "meta.tags"
    rounds: int = 10
    revision: ClassVar[int] = 1
    fits_rows: ClassVar[bool] = True  # numbers of single rows: new ones have none until it is fitted anew

    def __post_init__(self) -> None:
        from tamis.vectors import concepts

        if self.tags == concepts.CLUSTERS:
            raise RecipeError("instag: clusters are no tags; name a field of the rows, such as meta.tags")
        concepts.check("instag", self.tags, ())
        if self.rounds < 1:
            raise RecipeError("instag: rounds must be at least 1")

    @property
    def needs(self) -> frozenset[Need]:
        """Lengths, which say which rows can be used."""
        from tamis.vectors import concepts

        return concepts.needs_of(self.tags)

    def fit(self, view: PoolView, /) -> tuple[Arrays, Mapping[str, Any]]:
        """By key of row: `complexity`, `coverage`, `round` (int64) and `why` uint8; a note with the number of tags.

        DataError where no usable row has a tag.
        """
        import numpy as np

        from tamis.column import keyed
        from tamis.vectors import concepts

        found = concepts.of_view(view, "instag", self.tags, duplicates="keep")
        rounds, added = complexity_first(found.concepts, found.keys, self.rounds)
        values = {name: np.zeros(len(view), np.int64) for name in ("complexity", "coverage", "round")}
        values["complexity"][found.places] = np.diff(found.concepts.indptr)
        values["coverage"][found.places], values["round"][found.places] = added, rounds
        keys = view.pool.table(["key"]).column("key").to_pylist()
        distinct = len(found.concepts.names)
        return keyed.packed(keys, {**values, "why": found.reasons}), {"tags": distinct, "note": f"{distinct:,} tags"}

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `score` (tags of the row), `coverage` (tags newly covered) and `round` (from 1)."""
        import numpy as np

        from tamis.column import keyed

        kept = have["fit"]
        places, _ = keyed.of_shard(kept, have.shard)
        why = np.asarray(kept["why"])[places]
        named = (("score", "complexity", "tags"), ("coverage", "coverage", "tags"), ("round", "round", "passes"))
        return {name: column(np.asarray(kept[array])[places], unit, why) for name, array, unit in named}


def complexity_first(
    concepts: Concepts, keys: Sequence[str], rounds: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(m,) the pass that takes each row, from 1, and (m,) tags that it newly brings in it.

    Rows with most tags come first, equal ones by key. Time: O(entries) a pass.
    """
    import numpy as np

    sizes = np.diff(concepts.indptr)
    left = np.lexsort((np.array(keys), -sizes)).tolist()
    taken = np.full(len(concepts), rounds + 1, np.int64)
    added = np.zeros(len(concepts), np.int64)
    for number in range(1, rounds + 1):
        covered: set[int] = set()
        later = []
        for row in left:
            new = set(concepts.of(row).tolist()) - covered
            if new:
                covered |= new
                taken[row], added[row] = number, len(new)
            else:
                later.append(row)
        left = later
    return taken, added
