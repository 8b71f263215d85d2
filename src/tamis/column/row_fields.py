"""Fields of rows by name, shard by shard: what scorers of groups go by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tamis.errors import RecipeError

if TYPE_CHECKING:
    from tamis.pool import Shard

_PLAIN = ("source", "kind", "file")
META = "meta."


def check_field(who: str, setting: str, name: str) -> None:
    """RecipeError where `name` is no field of a row: source, kind, file or meta.NAME."""
    if name not in _PLAIN and not (name.startswith(META) and len(name) > len(META)):
        raise RecipeError(f"{who}: {setting} names a field of the row, source, kind, file or meta.NAME; got {name!r}")


def field_of(shard: Shard, name: str) -> list[str]:
    """(n,) text of a field of every row, "" where a row has none; numbers as Python writes them, so 0 is a name too."""
    import json

    if not name.startswith(META):
        return [str(value or "") for value in shard.table([name]).column(name).to_pylist()]
    values = (json.loads(text).get(name[len(META) :]) for text in shard.table(["meta"]).column("meta").to_pylist())
    return ["" if value is None else str(value) for value in values]
