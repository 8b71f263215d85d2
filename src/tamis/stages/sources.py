"""Sources: a recipe's `{files, map, sample}` to a pool in the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.errors import GateError, RecipeError
from tamis.pool import Pool
from tamis.recipe import file_list
from tamis.stages.workspace import Workspace


def ingest_source(source: Any, work: Workspace) -> Pool:
    """The pool of a source; files that were read before with these settings are not read again.

    Raises GateError where more rows are quarantined than `max_bad` (a share such as `0.1%`) allows.
    """
    from tamis.ingest import Sample, ingest

    settings: Mapping[str, Any] = source if isinstance(source, Mapping) else {}
    if "max_bad" in settings:
        bound(str(settings["max_bad"]))
    sample = settings.get("sample")
    pool = ingest(
        file_list(source),
        work.store,
        source=settings.get("source"),
        mapping=settings.get("map"),
        sample=Sample(**sample) if sample else None,
        shard_rows=int(settings.get("shard_rows", 1024)),
        on=work.machine.here,
    )
    if "max_bad" in settings:
        check_quarantine(pool, str(settings["max_bad"]))
    return pool


def check_quarantine(pool: Pool, limit: str) -> None:
    """Refuse a pool with more quarantined rows than the limit (`0.1%`, or a number of rows)."""
    read = sum(int(file["rows"]) for file in pool.files)
    bad = sum(int(file["quarantined"]) for file in pool.files)
    number, share = bound(limit)
    allowed = number / 100 * read if share else number
    if bad > allowed:
        raise GateError(
            f"{bad} of {read} rows were quarantined, more than max_bad {limit} allows; see `tamis ingest` for the "
            "reasons, mend the files, or raise max_bad"
        )


def bound(limit: str) -> tuple[float, bool]:
    """A bound of bad rows as (number, whether it is in percent). Raises RecipeError for anything else."""
    text, _, percent = limit.strip().partition("%")
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    share = limit.strip().endswith("%") and not percent
    if number < 0 or (share and number > 100) or (not share and number != int(number)):
        raise RecipeError(f"max_bad {limit!r} is not understood: write a share of the rows (0.1%) or a number of them")
    return number, share
