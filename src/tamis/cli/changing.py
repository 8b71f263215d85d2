"""The verb `diff`: what changed from one run to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tamis.cli import output
from tamis.cli.app import Json, Place, app


@app.command()
def diff(
    before: Annotated[str, typer.Argument(help="A run folder, part of its name, or previous.")] = "previous",
    after: Annotated[str, typer.Argument(help="A run folder, part of its name, or latest.")] = "latest",
    workspace: Place = Path(".tamis"),
    json: Json = False,
) -> None:
    """Say what changed between two runs: files, rows, who entered or left the subset and why, scores, verdict."""
    output.use_json(json)
    from tamis.api import diff as look

    found = look(before, after, work=workspace)
    output.result(found, list(text(found)))


def text(found: Mapping[str, Any]) -> Iterator[str]:
    """The changes as one would put them into a review."""
    old, new = found["before"], found["after"]
    yield f"{new['name']}: {old['run']} -> {new['run']}"
    for head, lines in (
        ("Files", list(_files(found["files"]))),
        ("Rows", _rows(found["rows"])),
        ("Subset", list(_subset(found["subset"]))),
        ("Settings", [_setting(one) for one in found["settings"]]),
        ("Scores", _columns(found["columns"])),
        ("Comparison", list(_comparison(found["comparison"]))),
        ("Fits", [f"{one['name']}: {_fit(one)}" for one in found["fits"]]),
    ):
        yield ""
        yield head if lines else f"{head}: no change"
        yield from (f"  {line}" for line in lines)


def _setting(one: Mapping[str, Any]) -> str:
    old, new = ("not set" if one[side] is None else one[side] for side in ("before", "after"))
    return f"{one['setting']}: {old} -> {new}"


def _files(files: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"+ {one['name']}  {one['rows']:,} rows" for one in files["added"])
    yield from (f"- {one['name']}  {one['rows']:,} rows" for one in files["removed"])
    for one in files["changed"]:
        what = "grew at its end" if one["grew"] else "changed"
        yield f"~ {one['name']}  {one['rows_before']:,} -> {one['rows']:,} rows, {what}"
    if any(files[kind] for kind in ("added", "removed", "changed")):
        yield f"  unchanged: {files['unchanged']}"


def _rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    flow = [one for one in rows if one["what"] not in ("new rows", "rows gone")]
    lines = [[one["what"], one["before"], one["after"], f"{one['after'] - one['before']:+,}"] for one in flow]
    new, gone = (next(one["after"] for one in rows if one["what"] == what) for what in ("new rows", "rows gone"))
    return [*output.table(lines, ["", "before", "after", "change"]), f"{new:,} rows are new, {gone:,} are gone"]


def _subset(subset: Mapping[str, Any]) -> Iterator[str]:
    entered, left = subset["entered"], subset["left"]
    if not entered["rows"] and not left["rows"]:
        return
    yield f"{subset['stayed']:,} rows stayed, {entered['rows']:,} entered, {left['rows']:,} left"
    for what, side in (("entered", entered), ("left", left)):
        yield from (f"  {what}: {count:,}  {why}" for why, count in side["reasons"].items())
    for what, sign, side in (("entered", "+", entered), ("left", "-", left)):
        if side["first"]:
            yield f"first that {what}:"
        for row in side["first"]:
            how = f": {row['how']}" if row["how"] else ""
            value = "" if row["value"] is None else f"  value {row['value']:.4g}"
            place = f"{row['file']}:{row['position']}  {row['key'][:8]}  rank {row['rank']}{value}"
            yield f"  {sign} {place}  ({row['why']}{how})"


def _columns(columns: Sequence[Mapping[str, Any]]) -> list[str]:
    if not columns:
        return []
    lines = []
    for one in columns:
        pairs = [_pair(one["before"].get(key), one["after"].get(key)) for key in ("mean", "p5", "p50", "p95")]
        lines.append([one["name"], *pairs, f"{one['rows_changed']:,} of {one['rows_in_both']:,}"])
    return output.table(lines, ["column", "mean", "p5", "p50", "p95", "rows whose value changed"])


def _pair(before: float | None, after: float | None) -> str:
    old, new = ("-" if value is None else f"{value:.4g}" for value in (before, after))
    return old if old == new else f"{old} -> {new}"


def _comparison(found: Mapping[str, Any]) -> Iterator[str]:
    if not found:
        return
    yield f"before: {found['verdict']['before'] or 'no comparison'}"
    yield f"after:  {found['verdict']['after'] or 'no comparison'}"
    lines = [[arm["arm"], _pair(arm["before"], arm["after"])] for arm in found["arms"]]
    yield from output.table(lines, ["arm", f"{found['metric']}, {found['unit']}"])


def _fit(one: Mapping[str, Any]) -> str:
    age = one.get("age") or {}
    if one["how"] == "refitted":
        return f"fitted anew: {one['why']}"
    gone = f", and {age['vanished']:,} that it saw are gone" if age["vanished"] else ""
    return (
        f"kept as it was fitted on {one['since'][:10]}; it has not seen {age['unseen']:,} of {age['rows']:,} rows{gone}"
    )
