"""Logs for machines: one JSON object a line on standard error, with time, level, run, stage, event and numbers.

Asked for by `--log-format json` or `TAMIS_LOG=json`; people get lines of text. What a run notes in its `events.jsonl`
goes into the log as well.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

VARIABLE = "TAMIS_LOG"
FORMATS = ("text", "json")
_WHERE: ContextVar[dict[str, str] | None] = ContextVar("where", default=None)
_events = logging.getLogger("tamis.events")
_events.propagate = False  # people read sentences, which other loggers write


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Time (UTC), level, logger, run and stage as far as they are known, and the message or the event."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": at.replace("+00:00", "Z"), "level": record.levelname.lower()}
        line |= {"logger": record.name, **(_WHERE.get() or {})}
        facts = getattr(record, "facts", None)
        line |= {"event": record.getMessage(), **facts} if facts is not None else {"message": record.getMessage()}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def asked_for() -> bool:
    """Whether logs are to be JSON."""
    return os.environ.get(VARIABLE, "").strip().lower() == "json"


def to_json() -> None:
    """Write everything that is logged in this process, and by Python's warnings, as JSON lines to standard error."""
    os.environ[VARIABLE] = "json"  # for the processes that this one starts
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root, own = logging.getLogger(), logging.getLogger("tamis")
    root.handlers, own.handlers = [handler, *_kept(root)], [handler, *_kept(own)]
    _events.handlers = [handler]
    own.setLevel(logging.INFO)
    own.propagate = False
    _events.setLevel(logging.INFO)
    logging.captureWarnings(True)


def take_over(library: str) -> None:
    """Let a library's own handlers for the terminal write JSON lines too; its level stays, and so do other handlers."""
    for name in [library, *(name for name in logging.root.manager.loggerDict if name.startswith(f"{library}."))]:
        logger = logging.getLogger(name)
        kept = _kept(logger)
        if len(kept) < len(logger.handlers):
            logger.handlers = [*kept, *_events.handlers]


def _kept(logger: logging.Logger) -> list[logging.Handler]:
    """Handlers that write elsewhere than to the terminal: to Prefect's server, to a file."""
    shows = logging.StreamHandler
    return [one for one in logger.handlers if not isinstance(one, shows) or isinstance(one, logging.FileHandler)]


def event(kind: str, facts: dict[str, Any]) -> None:
    """Log what a run notes in its events."""
    _events.info(kind, extra={"facts": facts})


@contextmanager
def within(**where: str) -> Iterator[None]:
    """Inside, every line says where it belongs: `run`, `recipe`, `stage`."""
    token = _WHERE.set({**(_WHERE.get() or {}), **where})
    try:
        yield
    finally:
        _WHERE.reset(token)
