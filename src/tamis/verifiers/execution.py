"""Running code that a model wrote: one process an answer, without network, under limits, in an empty folder.

What holds it, from the outside in: a session killed as a whole at the time limit; where the machine lets it, namespaces
of its own for network, processes and users (`unshare`); resource limits; a filter of system calls (seccomp, Linux on
x86-64 and ARM) that refuses new processes, threads and sockets; Python's audit events, which refuse changes of files
outside the folder. Files can be *read* as far as the user may. It is a fence against accidents and careless code; for
code that attacks on purpose, run tamis inside a virtual machine or container of its own.
"""

from __future__ import annotations

import functools
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tamis.errors import DataError

CAGE = Path(__file__).with_name("cage.py")
GRACE_SECONDS = 10.0  # for starting an interpreter on a busy machine, beside twice the processor time
_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
_UNSHARE = ("--user", "--map-root-user", "--net", "--ipc", "--pid", "--fork", "--kill-child")


@dataclass(frozen=True)
class Python:
    """Runs the code of an answer and then the tests; right is what ends without an error.

    `seconds` of processor time; twice that and a start of grace on the clock. `memory_mb` of address space.
    """

    seconds: float
    memory_mb: int

    def right(self, text: str, gold: str, /) -> bool:
        """Whether the tests `gold` pass behind the code of `text`. DataError where no process can be started."""
        return outcome(f"{code_of(text)}\n{gold}\n", self.seconds, self.memory_mb)[0]

    def notes(self) -> list[str]:
        """What held the programs on this machine."""
        return [f"answers were run as programs, held by {', '.join(held())}"]


def code_of(text: str) -> str:
    """The last fenced block of an answer, or all of it where there is none."""
    blocks: list[str] = _FENCE.findall(text)
    return blocks[-1] if blocks else text


@functools.lru_cache(maxsize=1)
def held() -> tuple[str, ...]:
    """What holds programs on this machine, found by trying."""
    said = ["limits of time, memory and files"]
    if _namespaces():
        said.append("namespaces of their own without a network")
    if outcome("", 10.0, 512)[1].get("calls"):
        said.append("a filter that refuses new processes, threads and sockets")
    said.append("Python's audit events" if len(said) > 1 else "Python's audit events alone, which is weak")
    return tuple(said)


@functools.lru_cache(maxsize=1)
def _namespaces() -> tuple[str, ...]:
    """The command before a program that gives it namespaces of its own, or nothing."""
    found = shutil.which("unshare")
    if found is None:
        return ()
    try:
        tried = subprocess.run([found, *_UNSHARE, "true"], capture_output=True, timeout=GRACE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return (found, *_UNSHARE, "--") if tried.returncode == 0 else ()


def outcome(program: str, seconds: float, memory_mb: int) -> tuple[bool, dict[str, bool]]:
    """(whether a program ended without an error, what was enforced on it). DataError where none can be started."""
    word = secrets.token_hex(16)
    orders = json.dumps({"program": program, "seconds": seconds, "memory_mb": memory_mb}) + f"\n{word}\n"
    command = [*_namespaces(), sys.executable, "-I", "-S", "-B", str(CAGE)]
    with tempfile.TemporaryDirectory(prefix="tamis-run-", ignore_cleanup_errors=True) as folder:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                close_fds=True,
            )
        except OSError as error:
            raise DataError(f"no process can be started to run answers in: {error}") from error
        try:
            told, _ = process.communicate(orders.encode("utf-8", "replace"), 2 * seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            told = b""
        finally:
            _end(process)
    lines = told.decode("utf-8", "replace").splitlines()
    return lines[-1:] == [word], json.loads(lines[0]) if lines else {}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the session of a process as a whole, and wait for it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has ended, and left nobody
        pass
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
