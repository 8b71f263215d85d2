"""One stage of a recipe timed and metered, its start and its end told to the log of events."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import Any

from tamis.operations import logs
from tamis.operations.metering import Meter, rates
from tamis.stages.workspace import Workspace

log = logging.getLogger(__name__)


class Timer:
    """Times and meters a stage, and tells the log of events when it starts and ends."""

    def __init__(self, work: Workspace, took: dict[str, dict[str, Any]], name: str, kind: str) -> None:
        self.work, self.took, self.name, self.kind = work, took, name, kind
        self.meter, self.inside = Meter(), ExitStack()
        self.more: dict[str, float] = {}

    def __enter__(self) -> Timer:
        self.inside.enter_context(logs.within(stage=self.name))
        self.inside.enter_context(self.meter)
        self.began, self.started, self.before = time.time(), time.perf_counter(), self._measured()
        log.info("%s: %s", self.name, self.kind)
        self.work.work.note_damage(self.work.store)
        self.work.work.event("start", stage=self.name, kind=self.kind)
        return self

    def also(self, rows: int, tokens: int = 0) -> None:
        """Count rows and tokens that no pass has measured: those that were read, or trained on."""
        self.more = {"rows": rows, "tokens": tokens, "seconds": time.perf_counter() - self.started}

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        seconds = round(time.perf_counter() - self.started, 2)
        done = self.more or {key: value - self.before[key] for key, value in self._measured().items()}
        with self.inside:
            self.meter.look()
            facts = {"seconds": seconds, **rates(**done), "peak_memory_mb": round(self.meter.peak / 1e6, 1)}
            took = {"name": self.name, "kind": self.kind, "detail": "", **facts}
            self.took[self.name] = took
            self.work.work.note_damage(self.work.store)
            if error is None:
                self.work.work.event("end", stage=self.name, **facts)
            else:
                said = {"error": type(error).__name__, "message": str(error)}
                self.work.work.event("failed", stage=self.name, **said, **facts)

    def _measured(self) -> dict[str, float]:
        passes = self.work.work.passes.values()
        return {key: sum(one.get(key, 0) for one in passes) for key in ("rows", "tokens", "seconds")}
