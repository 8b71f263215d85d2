"""`tamis ingest --preview`: what is detected, and rows as the model reads them with the trained tokens marked."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tamis.cli import output

if TYPE_CHECKING:
    from tamis.ingest import Preview
    from tamis.models import ModelRef

PLAIN, COLOUR = ("⟦", "⟧"), output.MARKS


def show(inputs: Sequence[str], rows: int, mapping: Mapping[str, str], model: str, max_tokens: int) -> None:
    """Print a preview of every file; on a terminal the trained tokens are green, elsewhere they stand in ⟦ ⟧."""
    from tamis.ingest import previews
    from tamis.models import ModelRef

    ref = ModelRef(name=model, max_tokens=max_tokens)
    marks = COLOUR if sys.stdout.isatty() and "NO_COLOR" not in os.environ else PLAIN
    files, lines = [], []
    for seen in previews(inputs, rows, mapping):
        shown = _rendered(seen, ref, marks)
        lines += [*_head(seen), *(line for number, one in enumerate(shown) for line in _row(number, one)), ""]
        files.append(
            {
                "file": seen.name,
                "format": seen.format,
                "mapping": seen.mapping,
                "faults": seen.faults,
                "notes": seen.notes,
                "rows": shown,
            }
        )
    marked = "green" if marks is COLOUR else "in ⟦ ⟧"
    output.result(
        {"files": files, "model": model}, [*lines, f"tokens {marked} are trained ({model})"], marks=marks is COLOUR
    )


def _rendered(seen: Preview, ref: ModelRef, marks: tuple[str, str]) -> list[dict[str, Any]]:
    from tamis.ingest.previews import as_row, marked

    made = []
    for draft in seen.rows:
        row = as_row(draft)
        said = {key: value for key, value in dataclasses.asdict(draft).items() if key not in ("form", "used")}
        made.append({**said, "rendered": dict(marked(row, ref, marks))})
    return made


def _head(seen: Preview) -> list[str]:
    lines = [f"{seen.name}: {seen.format}", *(f"  {name} <- {field}" for name, field in seen.mapping.items())]
    return [*lines, *(f"  note: {note}" for note in seen.notes), *(f"  ! {fault}" for fault in seen.faults)]


def _row(number: int, row: Mapping[str, Any]) -> list[str]:
    label = "" if row["label"] is None else f", label {str(row['label']).lower()}"
    meta = f", meta: {', '.join(row['meta'])}" if row["meta"] else ""
    lines = [f"--- row {number} [{row['kind']}{label}{meta}]"]
    for side, text in row["rendered"].items():
        lines += [f"{side}:" if side else "", text]
    return [line for line in lines if line]
