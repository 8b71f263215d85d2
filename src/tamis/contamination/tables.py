"""What was found, by evaluation item and by row, as tables and as plain facts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from tamis.contamination.items import Item

COUNTED = frozenset({"words", "whole", "embedding"})  # kinds of lines that make a row contaminated
EXAMPLES = 5
SHOWN = 160  # characters of an item or a span in messages
WORDS = {
    "words": "{share:.0%} of the words of {item}",
    "whole": "all of {item}",
    "numbers": "{item} with other numbers",
    "embedding": "a text near to {item} (cosine {share:.3f})",
}


def by_row(table: pa.Table) -> dict[int, dict[str, Any]]:
    """Place of every row in the table -> its best line: what it holds most of; the first of equal ones."""
    best: dict[int, dict[str, Any]] = {}
    for line in table.to_pylist():
        if line["place"] not in best or line["score"] > best[line["place"]]["score"]:
            best[line["place"]] = line
    return best


def reason(line: Mapping[str, Any], items: int) -> str:
    """Why a row is contaminated, in words. `items`: how many evaluation items it holds."""
    item = f"{line['part']} {line['position']} of {line['set']}"
    said = "holds " + WORDS[line["kind"]].format(share=line["score"], item=item)
    return said + (f", and {items - 1} more" if items > 1 else "")


def by_item(table: pa.Table, items: Sequence[Item]) -> pa.Table:
    """One line for each item that was found: how many rows hold it, the best score, and its first characters.

    `set`, `item`, `position`, `part`, `rows`, `score`, `kinds` (separated by commas), `text`; those in most rows first.
    """
    import pyarrow as pa

    texts: dict[tuple[str, str, str], str] = {(item.set, item.key, item.part): item.text for item in items}
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for line in table.select(["place", "set", "item", "position", "part", "kind", "score"]).to_pylist():
        key = (line["set"], line["item"], line["part"])
        one = found.setdefault(key, {**line, "places": set(), "kinds": set(), "score": 0.0})
        one["places"].add(line["place"])
        one["kinds"].add(line["kind"])
        one["score"] = max(one["score"], line["score"])
    names = ("set", "item", "position", "part")
    lines = [
        {name: one[name] for name in names}
        | {"rows": len(one["places"]), "score": one["score"], "kinds": ",".join(sorted(one["kinds"]))}
        | {"text": texts.get(key, "")[:SHOWN].encode("utf-8", "replace").decode("utf-8")}
        for key, one in found.items()
    ]
    lines.sort(key=lambda line: (-line["rows"], line["set"], line["position"], line["part"]))
    text, number = pa.string(), pa.int64()
    types = [*((name, number if name == "position" else text) for name in names)]
    return pa.Table.from_pylist(
        lines, pa.schema([*types, ("rows", number), ("score", pa.float32()), ("kinds", text), ("text", text)])
    )


def of_kinds(table: pa.Table, kinds: Collection[str]) -> pa.Table:
    """The lines of some kinds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return table.filter(pc.is_in(table.column("kind"), pa.array(sorted(kinds), pa.string())))


def summary(table: pa.Table, items: Sequence[Item]) -> dict[str, Any]:
    """Plain facts: rows and items found, by set, examples; rows that hold an item in other numbers, or most of one."""
    held = of_kinds(table, COUNTED)
    rows = by_row(held)
    others = set(of_kinds(table, {"numbers"}).column("place").to_pylist()) - set(rows)
    most = set(of_kinds(table, {"most"}).column("place").to_pylist()) - set(rows) - others
    found = by_item(held, items)
    return {
        "rows": len(rows),
        "items": len(found),
        "looked_for": len(items),
        "other_numbers": len(others),
        "most": len(most),
        "sets": _sets(held, found, items),
        "examples": [_example(line) for line in list(rows.values())[:EXAMPLES]],
    }


def _sets(held: pa.Table, found: pa.Table, items: Sequence[Item]) -> dict[str, dict[str, int]]:
    made: dict[str, dict[str, int]] = {}
    for item in items:
        made.setdefault(item.set, {"looked_for": 0, "found": 0, "rows": 0})["looked_for"] += 1
    for name in found.column("set").to_pylist():
        made[name]["found"] += 1
    pairs = zip(held.column("set").to_pylist(), held.column("place").to_pylist(), strict=True)
    for name, _ in dict.fromkeys(pairs):
        made[name]["rows"] += 1
    return made


def _example(line: Mapping[str, Any]) -> str:
    return f"row {line['key'][:12]} {reason(line, 1)}: {shown(line)}"


def items_a_row(table: pa.Table) -> dict[int, int]:
    """Place of every row in the table -> how many items it holds."""
    held: dict[int, set[tuple[str, str, str]]] = {}
    for line in table.select(["place", "set", "item", "part"]).to_pylist():
        held.setdefault(line["place"], set()).add((line["set"], line["item"], line["part"]))
    return {place: len(items) for place, items in held.items()}


def refusal(facts: Mapping[str, Any], rows: int) -> str:
    """What a gate says that lets nothing through: counts, the sets, and the first examples."""
    said = [
        f"contamination: {facts['rows']:,} of {rows:,} rows hold {facts['items']:,} of {facts['looked_for']:,} "
        "evaluation items; nothing was run"
    ]
    said += [
        f"  {name}: {one['found']:,} of {one['looked_for']:,} items, in {one['rows']:,} rows"
        for name, one in facts["sets"].items()
        if one["found"]
    ]
    said += [f"  {one}" for one in facts["examples"]]
    return "\n".join([*said, "Take the rows out with `action: drop`, or look at all of them with `action: report`."])


def shown(line: Mapping[str, Any], size: int = 80) -> str:
    """The text of a span on one line, quoted and cut, control characters written out."""
    text = " ".join(str(line["text"]).split())
    return repr(text if len(text) <= size else f"{text[: size - 2]} …")


def at(table: pa.Table, places: Sequence[int]) -> pa.Table:
    """The lines of rows at these places of the pool."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return table.filter(pc.is_in(table.column("place"), pa.array(places, pa.int64())))
