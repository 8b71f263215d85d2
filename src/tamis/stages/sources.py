"""Sources: a recipe's `{files, map, sample}` to a pool in the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.errors import GateError
from tamis.pool import Pool
from tamis.recipe import file_list
from tamis.stages.workspace import Workspace


def ingest_source(source: Any, work: Workspace) -> Pool:
    """The pool of a source; files that were read before with these settings are not read again.

    Raises GateError where more rows are quarantined than `max_bad` (a share such as `0.1%`) allows.
    """
    from tamis.ingest import Sample, ingest

    settings: Mapping[str, Any] = source if isinstance(source, Mapping) else {}
    sample = settings.get("sample")
    pool = ingest(
        file_list(source),
        work.store,
        source=settings.get("source"),
        mapping=settings.get("map"),
        sample=Sample(**sample) if sample else None,
        shard_rows=int(settings.get("shard_rows", 1024)),
    )
    if "max_bad" in settings:
        check_quarantine(pool, str(settings["max_bad"]))
    return pool


def check_quarantine(pool: Pool, limit: str) -> None:
    """Refuse a pool with more quarantined rows than the limit (`0.1%`, or a number of rows)."""
    read = sum(int(file["rows"]) for file in pool.files)
    bad = sum(int(file["quarantined"]) for file in pool.files)
    allowed = float(limit.rstrip("% ")) / 100 * read if limit.strip().endswith("%") else float(limit)
    if bad > allowed:
        raise GateError(
            f"{bad} of {read} rows were quarantined, more than max_bad {limit} allows; see `tamis ingest` for the "
            "reasons, mend the files, or raise max_bad"
        )
