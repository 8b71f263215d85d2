"""A time limit on Python code of others (chat templates are compiled to Python), in any thread, at no cost a call.

One watching thread a process looks every half second for code that is late and raises `TooSlow` inside its thread. It
stops loops and recursion; a single call into C code ends first.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PERIOD = 0.5


class TooSlow(BaseException):
    """Raised in the late thread; no `except Exception` of the code that is late may catch it."""


class _Watch:
    """Deadlines by thread, and the thread that looks at them while there are any."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.deadlines: dict[int, float] = {}
        self.watcher: threading.Thread | None = None

    def begin(self, thread: int, deadline: float) -> None:
        self.deadlines[thread] = deadline
        if self.watcher is None or not self.watcher.is_alive():  # also in a forked child
            with self.lock:
                if self.watcher is None or not self.watcher.is_alive():
                    self.watcher = threading.Thread(target=self._look, name="tamis-time-limits", daemon=True)
                    self.watcher.start()

    def end(self, thread: int) -> None:
        with self.lock:  # what was raised before this is delivered inside the `with` of the late code
            self.deadlines.pop(thread, None)

    def _look(self) -> None:
        while True:
            time.sleep(PERIOD)
            with self.lock:
                now = time.monotonic()
                for thread, deadline in list(self.deadlines.items()):
                    if now > deadline:
                        del self.deadlines[thread]
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TooSlow))


_WATCH = _Watch()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TooSlow` in this thread where the block takes longer than `seconds`; blocks do not nest."""
    thread = threading.get_ident()
    _WATCH.begin(thread, time.monotonic() + seconds)
    try:
        yield
    finally:
        _WATCH.end(thread)
