"""Texts of a row, one by one: what its messages say, and what they hand to tools."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tamis.privacy.spans import Span, masked
from tamis.values import Dropped, Message, Patch, Row

if TYPE_CHECKING:
    from tamis.pool import Shard
    from tamis.views import PoolView

Find = Callable[[str], list[Span]]
_NAMES = frozenset({"role", "id", "type", "name", "tool_call_id"})  # say what a part is, not what it tells
_SIDES = ("messages", "chosen", "rejected")


def texts(value: Any) -> Iterator[str]:
    """Every text inside a message, or inside several."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item) if key not in _NAMES else ()
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts(item)


def rewritten(value: Any, change: Callable[[str], str]) -> Any:
    """The same value with every text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: item if key in _NAMES else rewritten(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(rewritten(item, change) for item in value)
    return value


def row_rewritten(row: Row, change: Callable[[str], str]) -> Row:
    """The row with every text of its messages changed, those of both answers of a pair too."""
    sides: dict[str, tuple[Message, ...]] = {side: rewritten(getattr(row, side), change) for side in _SIDES}
    return dataclasses.replace(row, **sides)  # type: ignore[arg-type]


def counted(row: Row, find: Find) -> Counter[str]:
    """How often each kind is found in a row."""
    sides = (text for side in _SIDES for text in texts(getattr(row, side)))
    return Counter(span.kind for text in sides for span in find(text))


def mask_rows(shard: Shard, find: Find) -> Patch:
    """Rows of a shard with placeholders for what is found; facts count the places by kind."""
    changed: dict[int, Row] = {}
    counts: Counter[str] = Counter()

    def hidden(text: str) -> str:
        spans = find(text)
        counts.update(span.kind for span in spans)
        return masked(text, spans) if spans else text

    for place, row in enumerate(shard.read()):
        before = counts.total()
        new = row_rewritten(row, hidden)
        if counts.total() > before:
            changed[place] = new
    return Patch(rows=changed, facts=dict(sorted(counts.items())))


def rows_that_hold(view: PoolView, find: Find, least: int = 1) -> Dropped:
    """Rows in which at least so many places are found; reasons name kinds, facts count rows by kind."""
    import numpy as np

    leaving: list[bool] = []
    reasons: list[str] = []
    rows: Counter[str] = Counter()
    for shard in view.pool.shards:
        for row in shard.read():
            found = counted(row, find)
            leaving.append(found.total() >= least)
            if leaving[-1]:
                rows.update(found.keys())
                reasons.append(f"holds {_listed(sorted(found))}")
    return Dropped(
        rows=np.array(leaving, np.bool_), reasons=tuple(reasons), facts={"rows_with": dict(rows.most_common())}
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
