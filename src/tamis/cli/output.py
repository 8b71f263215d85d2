"""What the command line prints: progress to standard error, results to standard output, `--json` as one object."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import IO, Any

_STATE = {"json": False}
_OUT: list[IO[str]] = []  # standard output, while `nothing_beside` holds what is printed away from it


def use_json(on: bool) -> None:
    """Print one machine-readable object on standard output and nothing else there."""
    _STATE["json"] = on


@contextmanager
def nothing_beside(arguments: Sequence[str]) -> Iterator[None]:
    """Inside, with `--json`, what libraries print goes to standard error: standard output is for the one object."""
    if "--json" not in arguments or "--help" in arguments:
        yield
        return
    _OUT.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _OUT.pop()


def _out() -> IO[str]:
    return _OUT[-1] if _OUT else sys.stdout


def result(value: Mapping[str, Any], lines: Iterable[str] = (), *, marks: bool = False) -> None:
    """The result of a command: `value` with `--json`, else `lines`, `marks` if our own colours are in them."""
    if _STATE["json"]:
        _out().write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
        return
    for line in lines:
        _out().write(plain(line, marks=marks) + "\n")


def plain(text: str, *, marks: bool = False) -> str:
    r"""Text that a terminal only shows: what would steer it is written out, so that data cannot clear or forge a line.

    Controls but tab and line end, and what turns the reading order. `marks` lets our own two colours through.

    >>> plain("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    shown = _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    if marks:
        for mark in MARKS:
            shown = shown.replace(mark.encode("unicode_escape").decode(), mark)
    return shown.encode("utf-8", "backslashreplace").decode()


MARKS = ("\033[32m", "\033[0m")  # of trained tokens in a preview
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def report_failure(error: object) -> None:
    """One clear message on standard error; with `--json` an object on standard output as well."""
    from tamis.errors import RecipeError

    faults = list(error.faults) if isinstance(error, RecipeError) else [str(error)]
    if _STATE["json"]:
        kind = type(error).__name__ if isinstance(error, Exception) else "Stopped"
        _out().write(json.dumps({"error": kind, "faults": faults}, ensure_ascii=False) + "\n")
    from tamis.operations import logs

    for fault in faults:
        if logs.asked_for():
            logging.getLogger("tamis").error("%s", fault)
        else:
            sys.stderr.write(f"tamis: {plain(fault)}\n")


def table(rows: Sequence[Sequence[Any]], head: Sequence[str]) -> list[str]:
    """Plain aligned columns; numbers to the right."""
    texts = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *texts, strict=True)]
    right = [all(isinstance(row[place], (int, float)) for row in rows) and bool(rows) for place in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if flag else cell.ljust(width)
            for cell, width, flag in zip(cells, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return [line(list(head)), line(["-" * width for width in widths]), *map(line, texts)]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return plain(str(value)).replace("\n", "\\n").replace("\t", "\\t")


class _Plain(logging.Formatter):
    """Lines of the log, which may name files and fields of the data."""

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


def show_progress() -> None:
    """Send the log of tamis to standard error, with the time."""
    logger = logging.getLogger("tamis")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Plain("%(asctime)s  %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
