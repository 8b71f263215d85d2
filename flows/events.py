"""Events for Prefect's automations: what became of a run, with the facts that somebody who is told wants to know.

| event | when | facts |
|---|---|---|
| `tamis.run.started` | a run folder was made | run |
| `tamis.rows.quarantined` | rows of the pool could not be used | rows, of |
| `tamis.gate.refused` | a gate said no | message |
| `tamis.run.failed` | anything else went wrong | error, message, stage |
| `tamis.run.finished` | report and subset are written | rows, verdict, report, subset, seconds |

The resource of each is `tamis.recipe.<name>`, with the labels `tamis.recipe`, `tamis.workspace` and `tamis.run`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prefect.events import emit_event

from tamis.operations.run_state import outcome_of

TEXT = 1000  # characters of a message that travel


class Told:
    """Tells Prefect what becomes of one run; as a context it tells of the error that passes through."""

    def __init__(self, recipe: str, workspace: Path, run: Path) -> None:
        self.recipe, self.workspace, self.run = recipe, workspace, run

    def __enter__(self) -> Told:
        self.tell("tamis.run.started")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        facts = {"error": type(error).__name__, "message": str(error)[:TEXT]}
        outcome = outcome_of(error)
        if outcome == "refused":
            self.tell("tamis.gate.refused", **facts)
        if outcome == "failed":
            self.tell("tamis.run.failed", **facts)

    def tell(self, event: str, **facts: Any) -> None:
        """Emit one event; `facts` must be JSON."""
        emit_event(
            event=event,
            resource={
                "prefect.resource.id": f"tamis.recipe.{re.sub('[^A-Za-z0-9_-]', '-', self.recipe)}",
                "prefect.resource.name": self.recipe,
                "tamis.recipe": self.recipe,
                "tamis.workspace": str(self.workspace),
                "tamis.run": self.run.name,
            },
            payload={"run": str(self.run), **facts},
        )
