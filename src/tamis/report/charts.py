"""Charts of the run's own numbers: the funnel of rows, the arms, their differences and the time of each stage.

A chart is Plotly's figure as plain JSON. Colours are names that start with `@`; the page resolves them for the light
and the dark scheme. Categories stand at whole numbers with tick labels, because a label may be any text of a dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tamis.report.inert import plotly_text
from tamis.report.wording import MINUS, count, decimal, finite, seconds, share, signed

ROW = 34  # pixels of height for one row of a horizontal chart
FRAME = 64  # pixels of height for the axis below it


@dataclass(frozen=True)
class Chart:
    """One figure: the element it is drawn into, its traces, its layout, and what it shows in one sentence."""

    name: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    alt: str
    title: str = ""
    note: str = ""
    groups: Mapping[str, Any] = field(default_factory=dict)  # groups of points that the reader may mark

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.layout["height"])


def rows_axis(labels: Sequence[object]) -> dict[str, Any]:
    """Axis with one label a row, the first on top."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(labels))),
        "ticktext": [plotly_text(label, 34) + "  " for label in labels],
        "range": [len(labels) - 0.4, -0.6],
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
    }


def funnel_chart(funnel: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Rows left after each step, as bars from zero."""
    steps = [(step.get("step", ""), finite(step.get("rows"))) for step in funnel]
    steps = [(name, rows) for name, rows in steps if rows is not None]
    if not steps:
        return None
    first = steps[0][1] or 1.0
    rows = [value or 0.0 for _, value in steps]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(rows))),
        "x": rows,
        "width": 0.68,
        "marker": {"color": ["@pool"] * (len(rows) - 1) + ["@subset"]},
        "text": [f" {count(value)}  ·  {share(value / first)}" for value in rows],
        "textposition": "outside",
        "cliponaxis": False,
        "hoverinfo": "skip",
    }
    layout = {
        "height": FRAME - 30 + ROW * len(rows),
        "xaxis": {"visible": False, "range": [0, max(rows) * 1.28 or 1]},
        "yaxis": rows_axis([name for name, _ in steps]),
        "margin": {"b": 8},
    }
    return Chart("funnel", [bars], layout, "Rows left after each step, from the rows read to the rows selected.")


def arms_chart(comparison: Mapping[str, Any]) -> Chart | None:
    """One row an arm, best on top: every run as an open dot, their mean as a full one, a bar over their range."""
    better = 1 if comparison.get("lower_is_better", True) else -1
    arms = [arm for arm in comparison.get("arms") or () if finite(arm.get("mean")) is not None]
    arms.sort(key=lambda arm: better * float(arm["mean"]))
    if not arms:
        return None
    method = comparison.get("method")
    traces: list[dict[str, Any]] = []
    for row, arm in enumerate(arms):
        colour = "@subset" if arm.get("name") == method else "@other"
        runs = [value for run in arm.get("runs") or () if (value := finite(run.get("value"))) is not None]
        low = finite(arm.get("low")) if finite(arm.get("low")) is not None else min(runs, default=arm["mean"])
        high = finite(arm.get("high")) if finite(arm.get("high")) is not None else max(runs, default=arm["mean"])
        traces += [
            _line([low, high], row, colour, 2),
            _dots(runs, row, colour, 9, "circle-open", [f"run {n}: {decimal(v)}" for n, v in enumerate(runs)]),
            _dots([arm["mean"]], row, colour, 13, "circle", [f"mean: {decimal(arm['mean'])}"])
            | {"mode": "markers+text", "text": [f"<b>{decimal(arm['mean'])}</b>"], "textposition": "top center"},
        ]
    title = f"{comparison.get('metric', 'metric')}, {comparison.get('unit', '')}".rstrip(", ")
    direction = "<br>← better" if better > 0 else "<br>better →"
    layout = {
        "height": FRAME + 20 + 46 * len(arms),
        "xaxis": {"title": {"text": plotly_text(title) + direction}, "zeroline": False},
        "yaxis": rows_axis([arm.get("name", "") for arm in arms]),
    }
    return Chart("arms", traces, layout, f"{title} of every arm, each run and the mean.")


def differences_chart(comparison: Mapping[str, Any]) -> Chart | None:
    """Forest plot: method minus arm, the interval as a line, the mean as a full dot, each run as an open one."""
    rows = [row for row in comparison.get("differences") or () if finite(row.get("mean")) is not None]
    if not rows:
        return None
    traces: list[dict[str, Any]] = []
    for position, row in enumerate(rows):
        colour = "@subset" if row.get("clear") else "@other"
        runs = [value for run in row.get("per_run") or () if (value := finite(run)) is not None]
        low, high = finite(row.get("low")), finite(row.get("high"))
        hover = f"{signed(row['mean'])}, 95 % interval {signed(low)} to {signed(high)}"
        traces += [
            _line([low, high] if low is not None and high is not None else [], position - 0.14, colour, 4),
            _dots([row["mean"]], position - 0.14, colour, 12, "circle", [hover]),
            _dots(
                runs, position + 0.2, colour, 7, "circle-open", [f"run {n}: {signed(v)}" for n, v in enumerate(runs)]
            ),
        ]
    method = plotly_text(comparison.get("method", "method"), 30)
    better = "← the method is better" if comparison.get("lower_is_better", True) else "the method is better →"
    layout = {
        "height": FRAME + 20 + 52 * len(rows),
        "xaxis": {
            "title": {"text": f"{method} {MINUS} arm, {plotly_text(comparison.get('unit', ''))}<br>{better}"},
            "rangemode": "tozero",
            "zeroline": True,
        },
        "yaxis": rows_axis([f"vs {row.get('arm', '')}{items_only_mark(row)}" for row in rows]),
    }
    return Chart("differences", traces, layout, "Differences between the method and every arm with 95 % intervals.")


def items_only_mark(row: Mapping[str, Any]) -> str:
    """Dagger where the interval of a difference is over items only (an arm with one run)."""
    over = str(row.get("over", ""))
    return " †" if over and "run" not in over else ""


def stages_chart(stages: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Seconds of each stage, in the order they ran; what an earlier run had left is drawn pale."""
    timed = [stage for stage in stages if finite(stage.get("seconds")) is not None]
    if not timed:
        return None
    spent = [float(stage["seconds"]) for stage in timed]
    made = [bool(stage.get("made", True)) for stage in timed]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": list(range(len(timed))),
        "x": spent,
        "width": 0.66,
        "marker": {"color": ["@subset" if new else "@pool" for new in made]},
        "text": [f" {seconds(value)}" + ("" if new else "  (found)") for value, new in zip(spent, made, strict=True)],
        "textposition": "outside",
        "cliponaxis": False,
        "hoverinfo": "skip",
    }
    layout = {
        "height": FRAME - 30 + 28 * len(timed),
        "xaxis": {"visible": False, "range": [0, max(spent) * 1.25 or 1]},
        "yaxis": rows_axis([stage.get("name", "") for stage in timed]),
        "margin": {"b": 8},
    }
    return Chart("stages", [bars], layout, "Seconds of every stage of the run.")


def _line(x: Sequence[Any], y: float, colour: str, width: int) -> dict[str, Any]:
    line = {"color": colour, "width": width}
    return {"type": "scatter", "mode": "lines", "x": list(x), "y": [y] * len(x), "line": line, "hoverinfo": "skip"}


def _dots(x: Sequence[Any], y: float, colour: str, size: int, symbol: str, hover: Sequence[str]) -> dict[str, Any]:
    marker = {"color": colour, "size": size, "symbol": symbol, "line": {"width": 1.5, "color": colour}}
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(x),
        "y": [y] * len(x),
        "marker": marker,
        "hovertext": list(hover),
        "hoverinfo": "text",
    }
