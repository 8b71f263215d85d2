"""Somebody else's training program: run with a time limit and a log, its checkpoints found and taken over."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import supervising
from tamis.errors import TrainError

if TYPE_CHECKING:
    from tamis.models import ModelRef
    from tamis.training.foreign import Take

LAST_LINES = 15
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(text: str | float) -> float:
    """Seconds of `90`, `"30m"`, `"6h"` or `"2d"`; TrainError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", str(text))
    if match is None or float(match[1]) <= 0:
        raise TrainError(f"time_limit {text!r} is not understood: write seconds, or 30m, 6h, 2d")
    return float(match[1]) * _UNITS[match[2]]


def run(words: Sequence[str], log: Path, limit: float) -> None:
    """Run a command to its end, its output appended to `log`. It ends with this process, whatever ends that.

    Raises TrainError with the end of the log where there is no such program, it fails, or it takes longer than
    `limit` seconds.
    """
    if shutil.which(words[0]) is None:
        raise TrainError(f"there is no program {words[0]!r} on the PATH; check the first word of `command`")
    with log.open("ab") as file:
        file.write(f"$ {' '.join(words)}\n".encode())
        file.flush()
        try:
            code = supervising.run(words, file, limit)
        except subprocess.TimeoutExpired as error:
            raise TrainError(
                f"the command did not end within its time_limit of {limit:g} s and was stopped; raise it, and the run "
                f"goes on with what the command left. {_end_of(log)}"
            ) from error
    if code != 0:
        raise TrainError(f"the command ended with exit code {code}. {_end_of(log)}")


def _end_of(log: Path) -> str:
    """The last lines of the log, for an error message."""
    lines = log.read_bytes()[-8192:].decode("utf-8", "replace").splitlines()[-LAST_LINES:]
    return f"Its output ({log}) ends with:\n" + "\n".join(f"  {line[:400]}" for line in lines)


def find(pattern: str, log: Path) -> list[Path]:
    """Folders of the checkpoints, in order: one path, or what fits a pattern (`out/checkpoint-*`), by number."""
    path = Path(pattern)
    if any(sign in path.name for sign in "*?["):
        found = [folder for folder in path.parent.glob(path.name) if folder.is_dir()]
        if not found:
            raise TrainError(f"the command left no folder {pattern}: set `checkpoint`. {_end_of(log)}")
        return sorted(found, key=lambda folder: [int(number) for number in re.findall(r"\d+", folder.name)])
    if not path.is_dir():
        raise TrainError(f"the command left no folder {pattern}: set `checkpoint`. {_end_of(log)}")
    return [path]


def take_over(source: Path, base: ModelRef, to: Path, log: Path, moments: Take) -> dict[str, Any]:
    """`tamis.training.foreign.take_over`; its TrainError gets the end of the log."""
    from tamis.training import foreign

    try:
        return foreign.take_over(source, base, to, moments)
    except TrainError as error:
        raise TrainError(
            f"what the command left: {error}. Set `checkpoint` if it lies elsewhere. {_end_of(log)}"
        ) from error
