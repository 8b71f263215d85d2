"""Rows that entered a subset or left it from one run to another, each with the reason; rows are known by their keys."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.history.sides import Side

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 10  # rows of each direction that are shown one by one
SAME = 1e-6  # a value that moves less, relative to its size, has not changed


def _chosen(side: Side) -> pd.DataFrame:
    return side.ledger[side.ledger.verdict == "selected"].sort_values("rank")


def stayed(before: Side, after: Side) -> int:
    """How many rows of the earlier subset are in the later one."""
    return int(_chosen(before).index.isin(_chosen(after).index).sum())


def moved(before: Side, after: Side) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows that entered the subset, by rank now, and that left it, by the rank that they had, each with why."""
    old, new = _chosen(before), _chosen(after)
    came, went = new[~new.index.isin(old.index)], old[~old.index.isin(new.index)]
    why_in = functools.partial(_why_in, before, after, _places(before.ledger, came))
    why_out = functools.partial(_why_out, before, after, _places(after.ledger, went))
    return _told(came, before.ledger, why_in), _told(went, after.ledger, why_out)


def _places(ledger: pd.DataFrame, rows: pd.DataFrame) -> frozenset[tuple[str, int]]:
    """Of the files and positions of `rows` those at which the ledger has a row, be it another."""
    near = ledger[ledger.position.isin(rows.position.unique()) & ledger.file.isin(rows.file.unique())]
    return frozenset(zip(near.file.tolist(), near.position.tolist(), strict=True))


def _told(rows: pd.DataFrame, others: pd.DataFrame, why: Callable[[Any, Any], tuple[str, str]]) -> list[dict[str, Any]]:
    """One record a row, beside what the other run has of it, if it has it."""
    there = rows.index.isin(others.index)
    beside = others.reindex(rows.index).itertuples()
    pairs = zip(rows.itertuples(), beside, there.tolist(), strict=True)
    return [_row(row, other if known else None, why) for row, other, known in pairs]


def _row(row: Any, other: Any, why: Callable[[Any, Any], tuple[str, str]]) -> dict[str, Any]:
    kind, detail = why(row, other)
    place = {"key": str(row.Index), "file": row.file, "position": int(row.position), "source": row.source}
    value = None if other is None else _number(other.value)
    return {**place, "rank": int(row.rank), "value": _number(row.value), "other": value, "why": kind, "how": detail}


def _why_in(before: Side, after: Side, places: frozenset[tuple[str, int]], row: Any, then: Any) -> tuple[str, str]:
    """(kind, detail) of why a row is chosen that was not chosen before."""
    if then is None:
        return ("changed row", "") if (row.file, row.position) in places else ("new row", "")
    if then.verdict == "quarantined" or then.step != before.subset.get("selector"):
        return f"no longer {then.verdict} by {then.step}", str(then.reason)
    if _moved_value(then.value, row.value):
        return "its score changed", f"{then.value:.4g} -> {row.value:.4g}{_refitted(after)}"
    return "room for it", "its score is the same"


def _why_out(before: Side, after: Side, places: frozenset[tuple[str, int]], row: Any, now: Any) -> tuple[str, str]:
    """(kind, detail) of why a row that was chosen is chosen no longer."""
    if now is None:
        if not any(file in after.files for file in _names_of(before, row.file)):
            return "its file is gone", str(row.file)
        return ("changed row", "") if (row.file, row.position) in places else ("no longer in its file", str(row.file))
    if now.verdict == "quarantined" or now.step != after.subset.get("selector"):
        return f"{now.verdict} by {now.step}", str(now.reason)
    if _moved_value(row.value, now.value):
        return "its score changed", f"{row.value:.4g} -> {now.value:.4g}{_refitted(after)}"
    return "evicted by other rows", f"its score is the same, {row.value:.4g}" if _number(row.value) is not None else ""


def _refitted(after: Side) -> str:
    """What was fitted anew, in brackets: the likely cause of another score."""
    names = [str(fit["name"]) for fit in after.manifest.get("fits") or () if fit["how"] == "refitted"]
    return f" ({', '.join(names)} fitted anew)" if names else ""


def _names_of(side: Side, file: str) -> list[str]:
    """Names as given of the files that rows call `file`."""
    return [name for name in side.files if Path(name).name == file or name == file or name.endswith(f"/{file}")]


def _number(value: float) -> float | None:
    return float(value) if value == value else None


def _moved_value(one: float, other: float) -> bool:
    if one != one or other != other:
        return (one == one) != (other == other)
    return abs(one - other) > SAME * max(1e-12, abs(one), abs(other))


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows in all, counts of the reasons, most first, and the first rows."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["why"]] = counts.get(row["why"], 0) + 1
    reasons = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return {"rows": len(rows), "reasons": reasons, "first": rows[:SHOWN]}
