"""Deadline: `--max-hours`. Between shards, arms, stages and training steps a run asks whether its time is up.

The moment stands in the environment, which worker processes and launched trainings inherit. What is under way when it
comes is finished (a shard, a training step) and kept; then the command ends with what is done and what is left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tamis.errors import RecipeError, TamisError

UNTIL = "TAMIS_UNTIL"  # seconds since the epoch
GOES_ON = "the same command goes on where this one stopped"


class TimeUp(TamisError):
    """The time that was given is up; what is finished is kept, and the same command goes on."""

    exit_code = 130


@contextmanager
def within(hours: float | None) -> Iterator[None]:
    """Inside, work stops after so many hours, at the next place where it can go on; None: it does not.

    RecipeError for hours that are not positive.
    """
    if hours is None:
        yield
        return
    if not hours > 0:
        raise RecipeError(f"max_hours is {hours:g}; expected a number above 0, for example 1.5")
    before = os.environ.get(UNTIL)
    os.environ[UNTIL] = repr(time.time() + 3600 * hours)
    try:
        yield
    finally:
        if before is None:
            del os.environ[UNTIL]
        else:
            os.environ[UNTIL] = before


def is_up() -> bool:
    """Whether there was a deadline and it has passed."""
    until = os.environ.get(UNTIL)
    return until is not None and time.time() >= float(until)


def check(where: str) -> None:
    """TimeUp where the time is up; `where` says what is done of what is under way."""
    if is_up():
        raise TimeUp(where)


def ended(error: TimeUp, done: str = "", left: str = "") -> TimeUp:
    """The message of a command that its deadline stopped."""
    parts = [f"the time of --max-hours is up: {error}"]
    parts += [f"done: {done}"] if done else []
    parts += [f"left: {left}"] if left else []
    return TimeUp("; ".join([*parts, GOES_ON]))
