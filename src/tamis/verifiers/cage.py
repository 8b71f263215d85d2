"""Runs a program under limits, in a process of its own: `python -I -S cage.py`, started by `execution` alone.

Standard input brings one line of JSON (program, limits), and then one with a word that is sent back where the program
ended without an error. Standard output gets the answer: what was enforced, and that word. Standard library only.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import struct
import sys
from typing import Any

FILE_BYTES, FILES_OPEN, FILES_WRITTEN = 1 << 20, 64, 32
PROCESSES = 1
# system calls that start processes or threads, reach a network or other processes, or lift limits: by machine
_CALLS = {
    "x86_64": (
        0xC000003E,
        (
            *(56, 57, 58, 59, 322, 435, 41, 42, 43, 44, 46, 49, 50, 53, 288, 62, 200, 234, 101, 425, 426, 427),
            *(165, 166, 155, 161, 272, 308, 321, 310, 311, 434, 438, 160, 302, 304, 248, 249, 250, 298, 424),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(220, 221, 281, 435, 198, 199, 200, 201, 202, 203, 206, 211, 242, 129, 130, 131, 117, 425, 426, 427),
            *(40, 39, 41, 51, 97, 268, 280, 270, 271, 434, 438, 164, 261, 265, 217, 218, 219, 241, 424),
        ),
    ),
}
_REFUSED = ("socket.", "subprocess.", "ctypes.", "pty.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn")
_REFUSED_WHOLE = {"os.system", "os.startfile", "os.kill", "os.killpg", "gc.get_objects", "gc.get_referrers"}
_REFUSED_WHOLE |= {"gc.get_referents", "resource.setrlimit", "resource.prlimit", "sys.addaudithook"}
_REFUSED_MODULES = {"ctypes", "_ctypes", "_socket", "_posixsubprocess", "multiprocessing", "_multiprocessing"}
_CHANGES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink"}
_CHANGES |= {"os.truncate", "os.utime", "os.setxattr", "os.removexattr", "os.chflags", "os.lockf", "os.chdir"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def limit(seconds: float, memory_mb: int) -> None:
    """Set the limits of this process: processor time, memory, size and number of files, processes, no core file."""
    whole = max(1, round(seconds))
    for what, most in (
        (resource.RLIMIT_CPU, whole),
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, FILES_OPEN),
        (resource.RLIMIT_NPROC, PROCESSES),
        (resource.RLIMIT_CORE, 0),
    ):
        held = resource.getrlimit(what)[1]
        most = most if held == resource.RLIM_INFINITY else min(most, held)
        resource.setrlimit(what, (most, most))


def refuse_calls() -> bool:
    """Have the kernel refuse those system calls (seccomp) from here on; False where it cannot."""
    import ctypes

    if platform.machine() not in _CALLS or sys.platform != "linux":
        return False
    architecture, calls = _CALLS[platform.machine()]
    deny = len(calls) + 1  # lines from the first comparison to the one that refuses
    lines = [(0x20, 0, 0, 4), (0x15, 0, deny + 2, architecture), (0x20, 0, 0, 0), (0x35, deny, 0, 0x40000000)]
    lines += [(0x15, deny - 1 - place, 0, call) for place, call in enumerate(calls)]
    lines += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | 1)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(lines), ctypes.addressof(program)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return bool(prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, ctypes.byref(header), 0, 0) == 0)


def watch(folder: str) -> None:
    """Refuse, from here on, what Python's audit events tell of: sockets, processes, changes outside of `folder`."""
    inside = os.path.realpath(folder) + os.sep
    written: set[str] = set()

    def allow(path: Any) -> None:
        real = os.path.realpath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else ""
        written.add(real)
        if not (real + os.sep).startswith(inside) or len(written) > FILES_WRITTEN:
            raise PermissionError(f"no file may be changed here: {path!r}")

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event.startswith(_REFUSED) or event in _REFUSED_WHOLE:
            raise PermissionError(f"{event} is refused")
        if event == "import" and str(given[0]).partition(".")[0] in _REFUSED_MODULES:
            raise ImportError(f"{given[0]} is refused")
        if event == "open" and isinstance(given[2], int) and given[2] & _WRITING and not isinstance(given[0], int):
            allow(given[0])
        if event in _CHANGES:
            for path in given[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1]:
                allow(path)

    sys.addaudithook(hook)


def main() -> None:
    """Read the program, close everything up, run it, and say that it ended well; an error of it ends this process."""
    child = os.fork()  # the first process of a namespace is deaf to the signals that limits send
    if child:
        os.waitpid(child, 0)
        return
    with os.fdopen(os.dup(0), "r", encoding="utf-8") as orders, os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        asked = json.loads(orders.readline())
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        signal.setitimer(signal.ITIMER_REAL, 2 * asked["seconds"])
        limit(asked["seconds"], asked["memory_mb"])
        enforced = {"calls": refuse_calls()}
        for name in [name for name in sys.modules if name.partition(".")[0] in _REFUSED_MODULES]:
            del sys.modules[name]
        watch(".")
        answer.write(json.dumps(enforced) + "\n")
        answer.flush()
        exec(compile(asked["program"], "<answer>", "exec"), {"__name__": "__main__"})
        answer.write(orders.readline())


if __name__ == "__main__":
    main()
