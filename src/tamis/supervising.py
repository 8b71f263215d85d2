"""Commands that end with this process, however it dies: each runs under `supervisor.py`, which hears of its end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any


def run(words: Sequence[str], output: IO[Any], limit: float | None = None) -> int:
    """Run a command to its end and return its exit code (128 + n where signal n ended it); `output` gets what it says.

    Raises subprocess.TimeoutExpired, with the command stopped, where it takes longer than `limit` seconds.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__).with_name("supervisor.py")), *words],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        return process.wait(timeout=limit)
    finally:
        process.stdin.close()  # also on a signal, and where the time is up: the supervisor ends the command
        process.wait()
