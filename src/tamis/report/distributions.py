"""Charts of the pool beside the subset: score distributions and composition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tamis.report.charts import FRAME, Chart, rows_axis
from tamis.report.folder import RunFolder
from tamis.report.inert import clean, plotly_text
from tamis.report.wording import count, decimal, finite, share, times

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BINS = 30
MAX_COLUMNS = 36
MAX_GROUPS = 24


def score_charts(run: RunFolder) -> list[Chart]:
    """One small chart a column: the share of scored rows in each bin, for the pool and for the subset."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns, subset = run.table("columns", "key"), run.table("subset", "key")
    if columns is None:
        return []
    chosen = None if subset is None else pc.is_in(columns["key"], value_set=subset["key"].combine_chunks())
    names = [field.name for field in columns.schema if pa.types.is_floating(field.type)][:MAX_COLUMNS]
    charts = []
    for number, name in enumerate(names):
        values = columns[name].to_numpy().astype("float64")
        inside = None if chosen is None else values[chosen.to_numpy()]
        if (chart := _histogram(f"score-{number}", name, values, inside)) is not None:
            charts.append(chart)
    return charts


def _histogram(
    element: str, name: str, values: NDArray[np.float64], inside: NDArray[np.float64] | None
) -> Chart | None:
    import numpy as np

    scored = values[np.isfinite(values)]
    if not scored.size:
        return None
    low, high = (float(edge) for edge in np.quantile(scored, (0.01, 0.99)))
    if low == high:  # a constant column still gets one bar of a width
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    traces = [_bars("pool", scored, edges, "@pool")]
    note = f"{count(values.size - scored.size)} not scored" if scored.size < values.size else ""
    if inside is not None and (picked := inside[np.isfinite(inside)]).size:
        traces.append(_steps("subset", picked, edges))
        note = f"median {decimal(np.median(picked), 3)} · pool {decimal(np.median(scored), 3)}" + (
            note and f" · {note}"
        )
    layout = {
        "height": 190,
        "margin": {"l": 8, "r": 8, "t": 6, "b": 26},
        "xaxis": {"nticks": 5, "showgrid": False, "zeroline": False, "range": [low, high]},
        "yaxis": {"visible": False, "rangemode": "tozero"},
        "bargap": 0.06,
        "barmode": "overlay",
    }
    return Chart(element, traces, layout, f"Distribution of {clean(name)} in the pool and the subset.", name, note)


def _shares(values: NDArray[np.float64], edges: NDArray[np.float64]) -> list[float]:
    import numpy as np

    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
    return [round(float(part), 6) for part in counts / values.size]


def _bars(label: str, values: NDArray[np.float64], edges: NDArray[np.float64], colour: str) -> dict[str, Any]:
    shares = _shares(values, edges)
    return {
        "type": "bar",
        "x": [float(f"{middle:.6g}") for middle in (edges[:-1] + edges[1:]) / 2],
        "y": shares,
        "marker": {"color": colour, "line": {"width": 0}},
        "hovertext": [f"{label}: {share(part)} around {decimal(x, 3)}" for part, x in zip(shares, edges, strict=False)],
        "hoverinfo": "text",
    }


def _steps(label: str, values: NDArray[np.float64], edges: NDArray[np.float64]) -> dict[str, Any]:
    shares = _shares(values, edges)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [float(f"{edge:.6g}") for edge in edges],
        "y": [*shares, shares[-1]],
        "line": {"color": "@subset", "width": 2, "shape": "hv"},
        "fill": "tozeroy",
        "fillcolor": "@subsetfill",
        "hovertext": [f"{label}: {share(part)}" for part in [*shares, shares[-1]]],
        "hoverinfo": "text",
    }


def composition_charts(run: RunFolder) -> list[Chart]:
    """Shares of each group in the pool, in the method's subset (bars) and in the other arms (marks)."""
    found = (run.comparison or {}).get("composition") or _by_source(run)
    method = (run.comparison or {}).get("method") or "subset"
    charts = []
    for number, (name, parts) in enumerate(sorted(found.items(), key=lambda item: item[0] != "source")):
        if (chart := _composition(f"composition-{number}", name, parts, method)) is not None:
            charts.append(chart)
    return charts


def _by_source(run: RunFolder) -> dict[str, Any]:
    """Composition by source from the ledger, for a run that compared nothing."""
    ledger = run.table("ledger", "source", "verdict")
    if ledger is None:
        return {}
    pairs = Counter(zip(ledger["source"].to_pylist(), ledger["verdict"].to_pylist(), strict=True))
    usable, chosen = Counter[str](), Counter[str]()
    for (source, verdict), rows in pairs.items():
        usable[clean(source)] += rows * (verdict != "quarantined")
        chosen[clean(source)] += rows * (verdict == "selected")
    if not chosen.total():
        return {}
    return {
        "source": {
            "pool": {name: rows / usable.total() for name, rows in usable.items()},
            "arms": {"subset": {name: rows / chosen.total() for name, rows in chosen.items()}},
        }
    }


def _composition(element: str, name: str, parts: Mapping[str, Any], method: str) -> Chart | None:
    pool, arms = parts.get("pool") or {}, dict(parts.get("arms") or {})
    picked = arms.pop(method, None) or {}
    if not pool and not picked:
        return None
    everything = sorted(
        {*pool, *picked}, key=lambda group: (-(finite(picked.get(group)) or 0), -(pool.get(group) or 0))
    )
    groups, rest = everything[:MAX_GROUPS], everything[MAX_GROUPS:]
    rows = range(len(groups))
    chosen = [finite(picked.get(group)) or 0.0 for group in groups]
    before = [finite(pool.get(group)) or 0.0 for group in groups]
    others = [arm for arm in arms if arms[arm] and arm not in ("full", "untouched")]
    traces = [
        _group_bars("pool", before, [row + 0.19 for row in rows], "@pool", None),
        _group_bars(method, chosen, [row - 0.17 for row in rows], "@subset", before),
    ]
    for arm, symbol in zip(
        others, ("diamond-open", "x-thin-open", "square-open", "triangle-up-open") * 9, strict=False
    ):
        shares = [finite(arms[arm].get(group)) or 0.0 for group in groups]
        traces.append(_marks(arm, shares, [row + 0.19 for row in rows], symbol, groups))
    widest = max([*chosen, *before, 0.01])
    layout = {
        "height": FRAME + 40 + 38 * len(groups),
        "xaxis": {"tickformat": ".0%", "range": [0, widest * 1.3], "zeroline": False}
        | ({"tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1]} if widest > 0.6 else {}),
        "yaxis": rows_axis([group or "(none)" for group in groups]),
        "barmode": "overlay",
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        "margin": {"t": 40},
    }
    title = f"By {clean(name).removeprefix('meta.')}"
    note = f"{count(len(rest))} smaller groups are not drawn." if rest else ""
    return Chart(element, traces, layout, f"Composition {title.lower()} of the pool and the subsets.", title, note)


def _group_bars(
    label: str, shares: Sequence[float], y: Sequence[float], colour: str, before: Sequence[float] | None
) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "name": plotly_text(label, 30),
        "x": list(shares),
        "y": list(y),
        "width": 0.3 if before is None else 0.42,
        "marker": {"color": colour},
        "hoverinfo": "text",
        "hovertext": [f"{plotly_text(label, 30)}: {share(part)}" for part in shares],
    }
    if before is not None:
        ratio = [f"  ·  {times(part / old)}" if old else "" for part, old in zip(shares, before, strict=True)]
        trace["text"] = [f" {share(part)}{factor}" for part, factor in zip(shares, ratio, strict=True)]
        trace |= {"textposition": "outside", "cliponaxis": False}
    return trace


def _marks(arm: str, shares: Sequence[float], y: Sequence[float], symbol: str, groups: Sequence[str]) -> dict[str, Any]:
    label = plotly_text(arm, 30)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label,
        "x": list(shares),
        "y": list(y),
        "marker": {"symbol": symbol, "size": 9, "color": "@ink", "line": {"width": 1.6, "color": "@ink"}},
        "hoverinfo": "text",
        "hovertext": [
            f"{label}: {share(part)} {plotly_text(group, 40)}" for part, group in zip(shares, groups, strict=True)
        ],
    }
