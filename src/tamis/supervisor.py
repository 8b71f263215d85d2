"""Runs a command until it ends, or until standard input is closed: so it ends with its parent, however that dies.

Run as a script, with the command as its arguments; needs the standard library alone. The command gets a process group
of its own. When standard input ends, the group is asked to end (SIGTERM) and, some seconds later, made to (SIGKILL).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL: time for a trainer to write its state
LOOK_SECONDS = 0.05


def main(words: list[str]) -> int:
    """The command's exit code; 128 + n where signal n ended it."""
    command = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    while command.poll() is None:
        if select.select([0], [], [], LOOK_SECONDS)[0] and not os.read(0, 1):
            _end(command)
    code = command.wait()
    return code if code >= 0 else 128 - code


def _end(command: subprocess.Popen[bytes]) -> None:
    """Ask the group to end, then make it; also what the command started and did not wait for."""
    _signal(command.pid, signal.SIGTERM)
    try:
        command.wait(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    _signal(command.pid, signal.SIGKILL)
    command.wait()


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
