"""Dataset complexity: how rich the texts of a source are, all together."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.column.row_fields import check_field, field_of
from tamis.errors import RecipeError
from tamis.text.criteria import column
from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    from tamis.text.passages import Passages
    from tamis.values import Arrays
    from tamis.views import PoolView, ShardSignals

_UNITS = {
    "compression": "compressed bytes per byte",
    "distinct": "share of n-grams",
    "overlap": "share of the answer's words",
    "spread": "log words",
}
_BLOCK = 500


@dataclass(frozen=True, kw_only=True)
class DatasetComplexity:
    """How rich a source is: compressed size, distinct n-grams, overlap with the prompt, length spread.

    LoRA Land (Zhao et al. 2024) relates such measures of a data set to whether tuning on it pays. Every row has those
    of its group (`by`: source, kind, file or meta.NAME), so that filters and mixers can go by them. `compression`:
    zlib of the texts one after another, over their size (low: they repeat each other). `distinct`: different n-grams of
    `n` words over all. `overlap`: share of an answer's words that stand in its prompt, mean over rows. `spread`:
    standard deviation of log(1 + words) of the answers. At most `most` rows of a group enter, drawn by key and `seed`,
    for compression and distinctness fall with size: compare groups of equal size. Our forms; no published value.
    """

    by: str = "source"
    n: int = 3
    most: int = 2000
    seed: int = 0
    revision: ClassVar[int] = 1
    fits_rows: ClassVar[bool] = True  # numbers of single groups: new ones have none until it is fitted anew

    def __post_init__(self) -> None:
        check_field("dataset-complexity", "by", self.by)
        if self.n < 1 or self.most < 1:
            raise RecipeError("dataset-complexity: n and most must be at least 1")

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def fit(self, view: PoolView, /) -> tuple[Arrays, Mapping[str, Any]]:
        """`group` (g,) uint64 digests of the groups' names, ascending, and `values` (g, 4) float64; a note."""
        import numpy as np

        from tamis.demonstrations.pairing import short_keys

        names = [name for shard in view.pool.shards for name in field_of(shard, self.by)]
        draws = short_keys(view.pool.table(["key"]).column("key").to_pylist(), self.seed)
        groups: dict[str, list[int]] = {}
        for place in np.argsort(draws, kind="stable").tolist():  # in the order of draws, whatever that of the pool
            if len(own := groups.setdefault(names[place], [])) < self.most:
                own.append(place)
        groups.pop("", None)
        ordered = sorted(groups)
        values = np.array([self._of(view, groups[name]) for name in ordered], np.float64).reshape(-1, len(_UNITS))
        digests = short_keys(ordered)
        order = np.argsort(digests, kind="stable")
        said = [f"{name} {one[0]:.2f}" for name, one in zip(ordered, values.tolist(), strict=True)][:_SHOWN]
        note = f"compressed size over size by {self.by}: {', '.join(said)}{', …' if len(ordered) > _SHOWN else ''}"
        return {"group": digests[order], "values": values[order]}, {"groups": len(ordered), "note": note}

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `compression`, `distinct`, `overlap` and `spread` of the row's group; NaN where it has none."""
        import numpy as np

        from tamis.demonstrations.pairing import short_keys

        names = field_of(have.shard, self.by)
        reasons = np.where([not name for name in names], int(Reason.UNGROUPED), 0).astype(np.uint8)
        groups, values = np.asarray(have["fit"]["group"]), np.asarray(have["fit"]["values"])
        places = np.minimum(np.searchsorted(groups, short_keys(names)), max(0, len(groups) - 1))
        found = values[places] if len(groups) else np.zeros((len(names), len(_UNITS)))
        return {name: column(found[:, at], unit, reasons) for at, (name, unit) in enumerate(_UNITS.items())}

    def _of(self, view: PoolView, places: Sequence[int]) -> tuple[float, float, float, float]:
        """The four measures of the rows at these places."""
        import numpy as np

        from tamis.text.passages import of_row
        from tamis.text.words import Flat, WordHashes, ngrams, plain, raw_bytes, words_of

        packer, known = zlib.compressobj(6), WordHashes()
        size = small = total = 0
        seen, overlaps, lengths = np.zeros(0, np.uint64), [], []
        for start in range(0, len(places), _BLOCK):
            texts = [of_row(row) for row in view.pool.read(places[start : start + _BLOCK])]
            raw = [raw_bytes(f"{text.whole}\n") for text in texts]
            size += sum(map(len, raw))
            small += sum(len(packer.compress(one)) for one in raw)
            hashes, _ = ngrams(Flat.of([words_of(plain(text.whole)) for text in texts], known), self.n)
            total += len(hashes)
            seen = np.union1d(seen, hashes)
            overlaps += [_overlap(text) for text in texts if text.prompt and text.response]
            lengths += [math.log1p(len(words_of(text.response))) for text in texts if text.response]
        small += len(packer.flush())
        mean = math.fsum(lengths) / max(1, len(lengths))
        spread = math.sqrt(math.fsum((one - mean) ** 2 for one in lengths) / max(1, len(lengths)))
        return small / max(1, size), len(seen) / max(1, total), math.fsum(overlaps) / max(1, len(overlaps)), spread


_SHOWN = 8


def _overlap(text: Passages) -> float:
    """Share of the different words of an answer that stand in its prompt."""
    from tamis.text.words import plain, words_of

    answer = set(words_of(plain(text.response)))
    return len(answer & set(words_of(plain(text.prompt)))) / max(1, len(answer))
