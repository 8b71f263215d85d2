"""What the command line prints: progress to standard error, results to standard output, `--json` as one object."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_STATE = {"json": False}


def use_json(on: bool) -> None:
    """Print one machine-readable object on standard output and nothing else there."""
    _STATE["json"] = on


def result(value: Mapping[str, Any], lines: Iterable[str] = ()) -> None:
    """The result of a command: `value` with `--json`, else `lines`."""
    if _STATE["json"]:
        sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
        return
    for line in lines:
        sys.stdout.write(line + "\n")


def report_failure(error: object) -> None:
    """One clear message on standard error; with `--json` an object on standard output as well."""
    from tamis.errors import RecipeError

    faults = list(error.faults) if isinstance(error, RecipeError) else [str(error)]
    if _STATE["json"]:
        kind = type(error).__name__ if isinstance(error, Exception) else "Stopped"
        sys.stdout.write(json.dumps({"error": kind, "faults": faults}, ensure_ascii=False) + "\n")
    for fault in faults:
        sys.stderr.write(f"tamis: {fault}\n")


def table(rows: Sequence[Sequence[Any]], head: Sequence[str]) -> list[str]:
    """Plain aligned columns; numbers to the right."""
    texts = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *texts, strict=True)]
    right = [all(isinstance(row[place], (int, float)) for row in rows) and bool(rows) for place in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if flag else cell.ljust(width)
            for cell, width, flag in zip(cells, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return [line(list(head)), line(["-" * width for width in widths]), *map(line, texts)]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def show_progress() -> None:
    """Send the log of tamis to standard error, with the time."""
    logger = logging.getLogger("tamis")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
