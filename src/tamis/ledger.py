"""The ledger: one final verdict for every row read: quarantined, dropped or selected (DESIGN §6)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError
from tamis.values import Reason, Subset

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from tamis.views import PoolView

_DETAIL = re.compile(r"( at (byte|character) \d+|: | \(found: ).*$| of [0-9a-f]{32}.*$", re.DOTALL)
_ITEM = re.compile(r"(?:\d+ ?% of )?(the words of |all of )?\b(prompt|answer) \d+ of\b")
TEXT = ("key", "file", "source", "verdict", "step", "reason", "winner")


def kind_of(reason: str) -> str:
    """A reason of a step without the details of its row, for counting.

    >>> kind_of("invalid UTF-8 at byte 121"), kind_of("broken JSON: Expecting value at character 3")
    ('invalid UTF-8', 'broken JSON')
    >>> kind_of(f"near-duplicate of {'ab' * 16} (Jaccard similarity 0.91)")
    'near-duplicate'
    >>> kind_of("holds 97% of the words of prompt 12 of gsm8k.jsonl")
    'holds the words of a prompt of gsm8k.jsonl'
    """
    return _ITEM.sub(lambda found: f"{found[1] or ''}a {found[2]} of", _DETAIL.sub("", reason))


def schema() -> pa.Schema:
    """Arrow schema of `ledger.parquet`; `rank` is -1 and `gain` NaN for rows that were not selected.

    `winner`: key of the row that stayed in the place of one that a cleaner dropped, or "".
    """
    import pyarrow as pa

    numbers = {"position": pa.int64(), "value": pa.float32(), "rank": pa.int32(), "gain": pa.float32()}
    return pa.schema([*[(name, pa.string()) for name in TEXT], *numbers.items()])


def build(
    view: PoolView,
    subset: Subset | None,
    step: str,
    *,
    filtered: NDArray[np.bool_] | None = None,
    unscored: NDArray[np.bool_] | None = None,
    where: str | None = None,
) -> pa.Table:
    """The ledger of a pool after the selection `step`; without a subset every usable row is selected, in order.

    `filtered` (n,) is True for rows that the filter `where` kept, `unscored` (n,) for rows it could not judge.
    Raises DataError if the verdicts do not add up to the rows read.
    """
    import numpy as np
    import pyarrow as pa

    table = view.pool.table(["key", "file", "source", "position"])
    size = len(view.pool)
    codes = view.signal("lengths", "reason") if size else np.zeros(0, np.uint8)
    positions = np.flatnonzero(codes == 0) if subset is None else np.asarray(subset.positions)
    selected = np.zeros(size, bool)
    selected[positions] = True
    rank = np.full(size, -1, np.int32)
    rank[positions] = np.arange(len(positions), dtype=np.int32)
    gain = np.full(size, np.nan, np.float32)
    value = np.full(size, np.nan, np.float32)
    if subset is not None:
        gain[positions] = subset.gains
        if subset.values is not None:
            value = np.asarray(subset.values, dtype=np.float32)
    steps, reasons = _why(codes, selected, subset, step, filtered, unscored, where)
    kept = {
        **{name: table.column(name) for name in ("key", "file", "source", "position")},
        "verdict": pa.array(np.where(selected, "selected", "dropped").astype(object), pa.string()),
        "step": pa.array(steps, pa.string()),
        "reason": pa.array(reasons, pa.string()),
        "winner": pa.array([""] * size, pa.string()),
        "value": pa.array(value, pa.float32()),
        "rank": pa.array(rank),
        "gain": pa.array(gain, pa.float32()),
    }
    whole = pa.concat_tables([pa.table({name: kept[name] for name in schema().names}, schema()), rejected(view)])
    read = sum(int(file["rows"]) for file in view.pool.files)
    if view.pool.files and len(whole) != read:
        raise DataError(f"the ledger holds {len(whole)} rows, but {read} were read: a fault of tamis, please report it")
    return whole


def _why(
    codes: NDArray[np.uint8],
    selected: NDArray[np.bool_],
    subset: Subset | None,
    step: str,
    filtered: NDArray[np.bool_] | None,
    unscored: NDArray[np.bool_] | None,
    where: str | None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Step and reason of every row of the pool; a later rule overwrites an earlier one."""
    import numpy as np

    size = len(codes)
    steps = np.full(size, step, dtype=object)
    unit = subset.unit if subset is not None else ""
    cut = _cut(subset)
    reasons = np.full(size, f"not among the picks by {unit or 'the selector'}{cut}", dtype=object)
    if subset is not None and subset.reasons is not None:
        for code in np.unique(subset.reasons[subset.reasons != 0]):
            reasons[subset.reasons == code] = f"not ranked: {Reason(int(code)).text}"
    if filtered is not None:
        steps[~filtered] = "where"
        reasons[~filtered] = f"the filter {where!r} is false"
        if unscored is not None:
            reasons[~filtered & unscored] = f"not scored: the filter {where!r} cannot be judged"
    for code in np.unique(codes[codes != 0]):
        steps[codes == code] = "render"
        reasons[codes == code] = Reason(int(code)).text
    steps[selected] = step
    reasons[selected] = ""
    return steps, reasons


def _cut(subset: Subset | None) -> str:
    import numpy as np

    if subset is None or subset.values is None or not len(subset.positions):
        return ""
    picked = np.asarray(subset.values)[np.asarray(subset.positions)]
    return f" (those have {np.nanmin(picked):.4g} to {np.nanmax(picked):.4g})" if np.isfinite(picked).any() else ""


def rejected(view: PoolView) -> pa.Table:
    """Ledger rows for what never entered the pool: quarantined or dropped while reading."""
    import numpy as np
    import pyarrow as pa

    table = quarantine(view)
    empty = np.full(len(table), np.nan, np.float32)
    parts: dict[str, Any] = {
        **{name: table.column(name) for name in ("key", "file", "verdict", "step", "reason", "winner", "position")},
        "source": pa.array([""] * len(table), pa.string()),
        "value": pa.array(empty),
        "rank": pa.array(np.full(len(table), -1, np.int32)),
        "gain": pa.array(empty),
    }
    return pa.table({name: parts[name] for name in schema().names}, schema())


def quarantine(view: PoolView) -> pa.Table:
    """All rejects of a pool as one table: quarantined, not sampled, and cleaned away (`tamis.cleaning.leaving`)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tamis.cleaning.leaving import WINNER, winners_schema

    tables = [winners_schema().empty_table()]
    for file in view.pool.rejects:
        table = pq.read_table(file)
        if WINNER not in table.column_names:  # of a file that was read, where nothing stays in a row's place
            table = table.append_column(WINNER, pa.array([""] * len(table), pa.string()))
        tables.append(table.select(winners_schema().names))
    return pa.concat_tables(tables)
