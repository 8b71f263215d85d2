"""Evaluation items in a pool or in a part of it, as a stage: found once, kept in the store, restricted to rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tamis import digests
from tamis.catalogue import build
from tamis.errors import GateError, RecipeError
from tamis.pool import Pool
from tamis.stages.measure import measure_needs
from tamis.stages.signals import needs_on, view_of
from tamis.stages.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from tamis.contamination.items import Item
    from tamis.values import Subset

log = logging.getLogger(__name__)
Gate = Literal["warn", "fail", "ignore"]
KIND = "contamination"  # in the store
SPANS, ITEMS = "contamination.parquet", "contaminated_items.parquet"


@dataclass(frozen=True)
class Found:
    """What of evaluation sets stands in `rows` rows: `spans` (`tamis.contamination.search.schema`), by item, facts."""

    rows: int
    spans: pa.Table
    items: pa.Table
    facts: dict[str, Any]

    def refusal(self) -> str:
        """What a gate says that lets nothing of it through."""
        from tamis.contamination.tables import refusal

        return refusal(self.facts, self.rows)


def find(
    pool: Pool,
    against: Sequence[Pool],
    work: Workspace,
    *,
    places: NDArray[np.int64] | None = None,
    **settings: Any,
) -> Found:
    """Evaluation items that stand in the pool, or in its rows at `places` alone. Settings: those of `contamination`.

    The pool is searched once, whatever part of it is asked for; `action` is not heeded.
    """
    import pyarrow.parquet as pq

    from tamis.contamination import tables
    from tamis.contamination.items import items_of
    from tamis.store import write_table

    settings = {key: value for key, value in settings.items() if key != "action"}
    cleaner = build("cleaners", "contamination", {"against": ("-",), **settings, "action": "report"})
    signals = measure_needs(pool, needs_on("pool", cleaner.needs), work, lengths=False)
    theirs = [measure_needs(one, needs_on("against", cleaner.needs), work, lengths=False) for one in against]
    inputs: dict[str, Any] = {"pool": pool.digest, "signals": {key: one.identities for key, one in signals.items()}}
    inputs["against"] = [
        [one.digest, {key: signal.identities for key, signal in own.items()}]
        for one, own in zip(against, theirs, strict=True)
    ]

    def make(folder: Any) -> dict[str, Any]:
        views = tuple(view_of(one, own) for one, own in zip(against, theirs, strict=True))
        found = cleaner.clean(view_of(pool, signals, against=views), work.machine)
        write_table(found.tables[SPANS], folder / SPANS)
        return {}

    entry = work.store.get_or_make(KIND, digests.of_component(cleaner, inputs), make, about=cleaner)
    spans = pq.read_table(entry.file(SPANS))
    items: list[Item] = items_of(against, cleaner.of)
    if places is not None:
        spans = tables.at(spans, places.tolist())
    held = tables.of_kinds(spans, tables.COUNTED)
    rows = len(pool) if places is None else len(places)
    return Found(rows, spans, tables.by_item(held, items), tables.summary(spans, items))


def leaks_of(pool: Pool, subset: Subset, held_out: Pool, work: Workspace, gate: Gate) -> dict[str, Any]:
    """Evaluation items of a comparison in its selected rows, and in the pool that the baselines are drawn from.

    `{"subset": facts, "pool": facts}` (`tamis.contamination.tables.summary`), or nothing with `ignore`. What is found
    is a warning of the run, in its manifest and report. GateError with `fail` where there is any, before any training.
    """
    import numpy as np

    if gate == "ignore":
        return {}
    places = {"subset": np.asarray(subset.positions), "pool": None}
    found = {name: find(pool, [held_out], work, places=one) for name, one in places.items()}
    inside, whole = (found[name].facts for name in places)
    if whole["rows"] and gate == "fail":
        raise GateError(found["subset" if inside["rows"] else "pool"].refusal())
    if whole["rows"]:
        said = (
            f"of {whole['looked_for']:,} evaluation items, {inside['items']:,} stand in {inside['rows']:,} selected "
            f"rows and {whole['items']:,} in {whole['rows']:,} rows of the pool that the baselines are drawn from: the "
            "comparison measures in part what was learnt by heart; the step `contamination` of `clean` takes them out"
        )
        log.warning("%s", said)
        work.work.event("contamination", said=said)
        work.work.warnings.append(said)
    return {name: one.facts for name, one in found.items()}


def write(table: pa.Table, to: Path) -> None:
    """Write a table as Parquet or CSV, by the ending. RecipeError for another ending."""
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    if to.suffix not in (".parquet", ".csv"):
        raise RecipeError(f"{to}: tables are written as .parquet or .csv; name the file so")
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.suffix == ".csv":
        csv.write_csv(table, to)
    else:
        pq.write_table(table, to)
