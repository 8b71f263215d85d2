"""The map of the pool: points in two dimensions, the subset on top, and groups that the reader may mark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tamis.report.charts import Chart
from tamis.report.folder import RunFolder
from tamis.report.inert import clean, plotly_lines, plotly_text
from tamis.report.wording import count, finite

if TYPE_CHECKING:
    import pyarrow as pa

MAX_MARKS = 40
# Points of the map are drawn as SVG: WebGL would need `unsafe-eval` in the page's policy and a driver on the reader's
# machine. Browsers stay quick up to about this many; beyond it, an even sample of the unselected rows is drawn.
MAX_POINTS = 8000


def map_chart(run: RunFolder) -> Chart | None:
    """Map of the pool in two dimensions, the subset on top; hover text says what the row is."""
    table = run.table("map", "x", "y", "selected")
    if table is None:
        return None
    shown = table.take(_places(table))
    parts = [shown.filter([flag is chosen for flag in shown["selected"].to_pylist()]) for chosen in (False, True)]
    traces = []
    for part, label, chosen, colour, size in (
        (parts[0], "pool", False, "@pool", 4),
        (parts[1], "subset", True, "@subset", 6),
    ):
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label,
                "x": [_rounded(value) for value in part["x"].to_pylist()],
                "y": [_rounded(value) for value in part["y"].to_pylist()],
                "marker": {"color": colour, "size": size, "opacity": 0.85 if chosen else 0.55, "line": {"width": 0}},
                "hovertext": [_hover(row) for row in part.to_pylist()],
                "hoverinfo": "text",
            }
        )
    hidden = {"showticklabels": False, "showgrid": False, "zeroline": False, "ticks": "", "showline": False}
    layout = {
        "height": 620,
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1.06, "itemsizing": "constant"},
        "xaxis": dict(hidden),
        "yaxis": dict(hidden),
        "margin": {"l": 8, "r": 8, "t": 40, "b": 8},
        "hovermode": "closest",
        "dragmode": "zoom",
    }
    left_out = table.num_rows - shown.num_rows
    flags = shown["selected"].to_pylist()
    note = f"{count(len(flags))} rows are drawn, {count(flags.count(True))} of them selected."
    note += f" {count(left_out)} more, evenly spread over the others, are left out." if left_out else ""
    return Chart(
        "map", traces, layout, "The pool in two dimensions with the subset marked.", note=note, groups=_groups(parts)
    )


def _groups(parts: Sequence[pa.Table]) -> dict[str, Any]:
    """For each field of the map: its largest groups by name, and for every point of every trace the group's number."""
    found = {}
    for name in ("source", "skill", "fault"):
        if any(name not in part.column_names for part in parts):
            continue
        values = [part[name].to_pylist() for part in parts]
        sizes = Counter(value for column in values for value in column if value)
        if len(sizes) < 2:
            continue
        names = sorted(value for value, _ in sizes.most_common(MAX_MARKS))
        codes = {value: code for code, value in enumerate(names)}
        found[name] = {
            "names": [f"{clean(value, 60)} ({count(sizes[value])})" for value in names],
            "codes": [[codes.get(value, -1) for value in column] for column in values],
        }
    return found


def _places(table: pa.Table) -> list[int]:
    """Rows to draw: all selected ones first in line, the others thinned evenly to what is left of the limit."""
    flags = table["selected"].to_pylist()
    kept = [place for place, flag in enumerate(flags) if flag][:MAX_POINTS]
    others = [place for place, flag in enumerate(flags) if not flag]
    room = max(MAX_POINTS - len(kept), MAX_POINTS // 4)
    if len(others) > room:
        others = [others[n * len(others) // room] for n in range(room)]
    return sorted(kept + others)


def _rounded(value: object) -> float | None:
    number = finite(value)
    return None if number is None else float(f"{number:.5g}")


def _hover(row: Mapping[str, Any]) -> str:
    about = [plotly_text(row[name], 60) for name in ("source", "skill", "fault") if row.get(name)]
    return f"<b>{' · '.join(about)}</b><br>{plotly_lines(clean(row.get('snippet'), 160))}"
