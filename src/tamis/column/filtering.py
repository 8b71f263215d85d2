"""Filters over rows: what names mean in an expression, and which rows pass, shard by shard.

A name is a column (`ifd`, `ratings.quality`) or a field of the row: the texts `source`, `kind` and `file`; `lang`, the
ISO code of the language of the answer (of the prompt where there is no answer); `chars`, the characters of all that
the row says; `meta.NAME`, a number where it is compared with one, else a text. A row that has no such thing is not
scored: it does not pass, and is counted apart. Texts are looked at a shard at a time, so that those of a large pool
never lie in memory together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tamis.column.expressions import evaluate, names, numeric
from tamis.column.row_fields import META
from tamis.grouping import FIELDS
from tamis.values import Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.pool import Shard
    from tamis.views import PoolView, ShardSignals

LANGUAGE, CHARACTERS = "lang", "chars"
ROW_FIELDS = (*FIELDS, LANGUAGE, CHARACTERS)


def is_field(name: str) -> bool:
    """Whether a name in a filter means a field of the row and not a column."""
    return name in ROW_FIELDS or name.startswith(META)


def needs_of(where: str | None) -> frozenset[Need]:
    """Columns that a filter reads, and the signal under `lang`. Raises RecipeError where the filter is wrong."""
    used = names(where) if where is not None else set()
    needs = {Need(kind="column", name=name) for name in used if not is_field(name)}
    if LANGUAGE in used:
        needs.add(Need(kind="signal", name="language"))
    return frozenset(needs)


def filter_rows(view: PoolView, where: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(kept, not scored) of a filter: comparison with NaN is false, and rows that fail so are counted apart."""
    import numpy as np

    numbers = numeric(where)
    columns = {name: view.column(name).values for name in names(where) if not is_field(name)}
    kept, unscored = np.zeros(len(view), np.bool_), np.zeros(len(view), np.bool_)
    for start, have in zip(view.pool.starts, view.shards(), strict=False):
        part = slice(start, start + len(have))

        def lookup(name: str, have: ShardSignals = have, part: slice = part) -> NDArray[Any]:
            return _field(have, name, name in numbers) if is_field(name) else columns[name][part]

        kept[part], unscored[part] = evaluate(where, lookup, len(have))
    return kept, unscored


def _field(have: ShardSignals, name: str, as_number: bool) -> NDArray[Any]:
    """(n,) values of a field of the rows of one shard: numbers with NaN, or texts with None."""
    import numpy as np

    if name == LANGUAGE:
        return _languages(have)
    if name == CHARACTERS:
        return _characters(have.shard)
    if as_number:
        return have.column(name).values
    if not name.startswith(META):
        return np.array(have.shard.table([name]).column(name).to_pylist(), dtype=object)
    return _texts(have.shard, name.removeprefix(META))


def _texts(shard: Shard, name: str) -> NDArray[Any]:
    import json

    import numpy as np

    found = (json.loads(text).get(name) for text in shard.table(["meta"]).column("meta").to_pylist())
    answer = np.empty(shard.rows, dtype=object)
    answer[:] = [None if value is None else str(value) for value in found]
    return answer


def _languages(have: ShardSignals) -> NDArray[Any]:
    import numpy as np

    from tamis.text.languages import NO_LANGUAGE, name_of

    signal = have["language"]
    asked, answered = np.asarray(signal["prompt"]), np.asarray(signal["response"])
    codes = np.where(np.asarray(signal["reason"]) == 0, answered, asked)
    answer = np.empty(len(codes), dtype=object)
    answer[:] = [None if code == NO_LANGUAGE else name_of(code) for code in codes.tolist()]
    return answer


def _characters(shard: Shard) -> NDArray[np.float32]:
    import numpy as np

    from tamis.text.passages import of_row

    return np.array([len(of_row(row).whole) for row in shard.read()], np.float32)
