"""Export: a subset as files for somebody else's trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tamis.pool import Pool
from tamis.stages.select import Selection
from tamis.stages.workspace import Workspace
from tamis.values import Row


def export_subset(pool: Pool, chosen: Selection, form: str, out: Path, work: Workspace) -> Any:
    """Write the subset in the order picked, with row weights, and with label masks where the form carries them."""
    from tamis.exporting import export
    from tamis.rendering import render

    def rendered(row: Row) -> Any:
        return render(row, work.model)

    return export(pool, chosen.subset.positions, out, form, weights=chosen.subset.weights, render=rendered)
