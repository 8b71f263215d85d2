"""The command line of tamis. Modules of commands are light; what they run is imported when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tamis.cli import (
    calibrating,
    changing,
    choosing,
    cleaning,
    decontaminating,
    explaining,
    inspecting,
    listing,
    output,
    pools,
    publishing,
    querying,
    running,
    service,
)
from tamis.cli.app import app
from tamis.cli.output import report_failure
from tamis.ray_cluster import kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit codes: 0 done, 1 failed, 2 wrong input, 3 a gate said no, 130/143 stopped."""
    from tamis.errors import TamisError

    _stop_on_sigterm()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["list"]:
            listing.answer(given[1:])
        else:
            with output.nothing_beside(given), kept():
                app(args=given, standalone_mode=True)
    except TamisError as error:
        report_failure(error)
        sys.exit(error.exit_code)
    except OSError as error:
        from tamis.writing import full, no_space

        if not no_space(error):
            raise
        report_failure(full(error.filename or "to the disk"))
        sys.exit(1)
    except SystemExit as left:
        if left.code == 130:  # what typer makes of Ctrl-C
            report_failure("stopped; the same command goes on where this one stopped")
        raise


def _stop_on_sigterm() -> None:
    """SIGTERM ends the run as an exception would: workers stop, locks go, what is finished stays."""
    import signal
    import threading

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)


def _terminated(signum: int, frame: object) -> None:
    report_failure("stopped by SIGTERM; the same command goes on where this one stopped")
    sys.exit(143)


__all__ = [
    "app",
    "calibrating",
    "changing",
    "choosing",
    "cleaning",
    "decontaminating",
    "explaining",
    "inspecting",
    "main",
    "pools",
    "publishing",
    "querying",
    "running",
    "service",
]
