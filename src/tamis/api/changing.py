"""What changed between two runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tamis.api.places import Place


def diff(before: str | Path = "previous", after: str | Path = "latest", work: Place = None) -> dict[str, Any]:
    """What changed from one run to another, as plain JSON: files, rows, the subset, settings, scores, comparison, fits.

    Runs are named by folder or by a part of their name; `latest` is the last that finished, `previous` the last of the
    same recipe before the other. Raises DataError where there is no such run, or it did not finish.
    """
    from tamis.errors import DataError
    from tamis.history.changes import changes, finished, previous
    from tamis.history.sides import Side
    from tamis.runs import latest

    if work is None or isinstance(work, (str, Path)):  # no model and no machine is needed
        root = Path(work or os.environ.get("TAMIS_WORKSPACE") or ".tamis")
    else:
        root = work.root
    runs = root.resolve() / "runs"
    last = next(finished(runs), None) if str(after) == "latest" else None
    new = last or Side.of(latest(runs, str(after)))
    if str(before) != "previous":
        return changes(Side.of(latest(runs, str(before))), new)
    old = previous(new.folder.parent, new.folder, new.manifest)
    if old is None:
        raise DataError(f"there is no finished run of {new.manifest.get('name')} before {new.folder.name}")
    return changes(old, new)
