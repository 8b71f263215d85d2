"""Export: a subset as files for somebody else's trainer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tamis.pool import Pool
from tamis.stages.select import Selection
from tamis.stages.workspace import Workspace

if TYPE_CHECKING:
    from tamis.exporting import Export
    from tamis.exporting.provenance import Provenance


def export_subset(
    pool: Pool, chosen: Selection, form: str, out: str | Path, work: Workspace, about: Provenance | None = None
) -> Export:
    """Write the subset in the order picked, with row weights, and with masks and the linter for forms of trainers.

    Where tokens are weighed every form that can carries their ids and weights. `about`: how they were chosen.
    """
    from tamis.exporting import FOR_TRAINERS, export

    subset = chosen.subset
    model = work.model if form in FOR_TRAINERS or subset.tokens is not None else None
    weights, tokens = subset.weights, subset.tokens
    return export(pool, subset.positions, out, form, weights=weights, tokens=tokens, model=model, about=about)
