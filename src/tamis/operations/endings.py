"""How runs end: their state and their metrics are written, whatever it was that ended them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tamis.operations import metrics, run_state

MESSAGE = 2000  # characters of an error that are kept


def finished(folder: Path, workspace: Path, manifest: Mapping[str, Any], verdict: str | None) -> None:
    """Write that a run has finished, what was left after each step, and its metrics."""
    rows = {str(step["step"]): int(step["rows"]) for step in manifest["funnel"]}
    run_state.end(folder, "finished", rows=rows, verdict=verdict)
    _write_metrics(folder, workspace, manifest)


class Watched:
    """Whatever ends the run inside, its state says how; the error passes."""

    def __init__(self, folder: Path, workspace: Path) -> None:
        self.folder, self.workspace = folder, workspace

    def __enter__(self) -> None:
        """Nothing: `run_state.begin` has said that it is running."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            said = {"error": type(error).__name__, "message": str(error)[:MESSAGE]}
            run_state.end(self.folder, run_state.outcome_of(error), **said)
            _write_metrics(self.folder, self.workspace, None)


def _write_metrics(folder: Path, workspace: Path, manifest: Mapping[str, Any] | None) -> None:
    state = run_state.state_of(folder)
    metrics.write(folder, workspace, metrics.render(state, manifest), state.recipe)
