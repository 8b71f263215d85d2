"""The state of a run, in `state.json` of its folder: running, finished, failed, refused, stopped; or died.

A run holds its `events.jsonl` as long as it lives. One that says `running` and is held by nobody has died: it was
killed, or the machine went down.
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tamis.errors import GateError
from tamis.operations import locks
from tamis.operations.deadline import TimeUp
from tamis.store import write_json

STATE, EVENTS = "state.json", "events.jsonl"
GOOD = ("finished", "running")


@dataclass(frozen=True)
class State:
    """State of a run: `outcome` in words, when it `began` and `ended` (seconds since 1970), and what is known of it."""

    folder: Path
    recipe: str
    outcome: str
    began: float
    ended: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """Why it did not finish, or the empty string."""
        return str(self.facts.get("message") or "")


def begin(folder: Path, recipe: str) -> None:
    """Write that a run is running, and hold its log of events until `end`, or until this process ends."""
    locks.hold(folder / EVENTS)
    facts = {"process": os.getpid(), "host": platform.node()}
    write_json(folder / STATE, {"recipe": recipe, "outcome": "running", "began": round(time.time(), 3), **facts})


def end(folder: Path, outcome: str, **facts: Any) -> None:
    """Write how a run has ended, and let go of it."""
    known = _read(folder)
    known |= {"outcome": outcome, "ended": round(time.time(), 3), **facts}
    write_json(folder / STATE, known)
    locks.leave(folder / EVENTS)


def outcome_of(error: BaseException) -> str:
    """`refused` by a gate, `stopped` by a person, the system or a deadline, or `failed`."""
    if isinstance(error, GateError):
        return "refused"
    if isinstance(error, TimeUp):
        return "stopped"
    return "failed" if isinstance(error, Exception) else "stopped"


def state_of(folder: Path) -> State:
    """The state of a run, also of one from before states were written."""
    known = _read(folder)
    outcome = str(known.get("outcome", "finished" if (folder / "manifest.json").is_file() else "died"))
    if outcome == "running" and not locks.is_held(folder / EVENTS):
        outcome = "died"
    began = float(known.get("began", folder.stat().st_mtime))
    return State(folder, str(known.get("recipe", _name_of(folder))), outcome, began, known.get("ended"), known)


def states(runs: Path) -> list[State]:
    """States of all runs of a folder, oldest first."""
    found = [state_of(folder) for folder in runs.glob("*") if folder.is_dir()] if runs.is_dir() else []
    return sorted(found, key=lambda state: (state.began, state.folder.name))


def _read(folder: Path) -> dict[str, Any]:
    try:
        known = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return known if isinstance(known, dict) else {}


def _name_of(folder: Path) -> str:
    """Recipe of a run folder `<day>-<time>-<name>-<hash>`."""
    return "-".join(folder.name.split("-")[2:-1]) or folder.name
