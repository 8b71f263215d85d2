"""Metrics of a run as a Prometheus text file, for the textfile collector of the node exporter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tamis.operations.run_state import State
from tamis.store import write_text

METRICS = "metrics.prom"
FOLDER = "metrics"  # in a workspace: the last run of every recipe, one file each
OUTCOMES = ("finished", "failed", "refused", "stopped", "died")
OF_STAGES = {  # name -> (key of a stage in the manifest, factor, what it is)
    "tamis_stage_seconds": ("seconds", 1, "Wall time of a stage in its last run."),
    "tamis_stage_rows": ("rows", 1, "Rows that a stage measured or trained on in its last run; found work left out."),
    "tamis_stage_tokens": ("tokens", 1, "Tokens of these rows."),
    "tamis_stage_rows_per_second": ("rows_per_second", 1, "Rows a second of a stage in its last run."),
    "tamis_stage_tokens_per_second": ("tokens_per_second", 1, "Tokens a second of a stage in its last run."),
    "tamis_stage_peak_memory_bytes": ("peak_memory_mb", 1e6, "Peak resident memory of a stage, workers included."),
}
Sample = tuple[Mapping[str, str], float]


def render(state: State, manifest: Mapping[str, Any] | None) -> str:
    """Metrics of one run in Prometheus' text format; `manifest` if it has finished."""
    recipe = {"recipe": state.recipe}
    ended = state.ended or state.began
    found = [
        _family(
            "tamis_run_outcome",
            "1 for the outcome of the last run of a recipe, 0 for the others.",
            [({**recipe, "outcome": name}, float(name == state.outcome)) for name in OUTCOMES],
        ),
        _family("tamis_run_ended_timestamp_seconds", "When the last run of a recipe ended.", [(recipe, ended)]),
        _family("tamis_run_seconds", "Wall time of the last run of a recipe.", [(recipe, ended - state.began)]),
    ]
    if manifest is not None:
        steps = [({**recipe, "step": str(one["step"])}, float(one["rows"])) for one in manifest["funnel"]]
        found.append(_family("tamis_run_rows", "Rows that were left after a step of the last run.", steps))
    stages = manifest["stages"] if manifest is not None else ()
    for name, (key, factor, about) in OF_STAGES.items():
        samples = [({**recipe, "stage": str(one["name"])}, one[key] * factor) for one in stages if key in one]
        found += [_family(name, about, samples)] if samples else []
    return "".join(found)


def write(folder: Path, workspace: Path, text: str, recipe: str) -> None:
    """Write the metrics of a run into its folder and, as the last of its recipe, into `metrics/` of the workspace."""
    write_text(folder / METRICS, text)
    place = workspace / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    write_text(place / f"{re.sub(r'[^A-Za-z0-9_-]', '-', recipe)[:80]}.prom", text)


def _family(name: str, about: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {name} {about}", f"# TYPE {name} gauge"]
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        lines.append(f"{name}{{{inside}}} {value:.10g}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
