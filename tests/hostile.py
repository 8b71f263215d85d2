"""What the tests of hostile input share: cases with the outcome they name, and an ingest that checks every one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tamis.ingest import ingest
from tamis.pool import Pool
from tamis.store import Store

KEPT = ""  # the outcome of a record that becomes a row


@dataclass(frozen=True)
class Case:
    """A record or a file, and its outcome: a pattern that the quarantine reason matches, or `KEPT`."""

    data: bytes
    reason: str = KEPT
    name: str = ""


def lines(*cases: tuple[Any, str]) -> list[Case]:
    """Cases of one line each; what is not bytes is written as JSON."""
    return [Case(one if isinstance(one, bytes) else json.dumps(one).encode(), reason) for one, reason in cases]


def check_lines(folder: Path, cases: Sequence[Case]) -> Pool:
    """Ingest the lines as one file: every line ends where its case says, and the good one after it is untouched."""
    good = b'{"prompt": "a good row", "completion": "stays"}'
    file = folder / "lines.jsonl"
    file.write_bytes(b"".join(case.data + b"\n" + good + b"\n" for case in cases))
    pool = ingest([str(file)], Store(folder / "store"))
    reasons = {line["position"]: line["reason"] for line in rejects(pool)}
    kept = {row.position for row in pool}
    assert len(kept) + len(reasons) == pool.files[0]["rows"] == 2 * len(cases)
    for number, case in enumerate(cases):
        check_outcome(case, reasons.get(2 * number), f"line {number}: {case.data[:80]!r}")
        assert 2 * number + 1 in kept, f"the good row after line {number}"
    return pool


def check_files(folder: Path, cases: Sequence[Case]) -> Pool:
    """Ingest every case as a file of its own, in one pool: its first reject says what its case says."""
    (folder / "in").mkdir(exist_ok=True)
    for case in cases:
        (folder / "in" / case.name).write_bytes(case.data)
    pool = ingest([str(folder / "in" / case.name) for case in cases], Store(folder / "store"))
    assert not [path for path in folder.iterdir() if path.name not in ("in", "store")]
    for case, about, file in zip(cases, pool.files, pool.rejects, strict=True):
        said = pq.read_table(file).to_pylist()
        assert about["rows"] == about["kept"] + about["quarantined"] + about["dropped"], case.name
        assert len(said) == about["quarantined"], case.name
        check_outcome(case, said[0]["reason"] if said else None, case.name)
    return pool


def check_outcome(case: Case, reason: str | None, what: str) -> None:
    """Hold a reason (None: kept) against that of a case."""
    if case.reason == KEPT:
        assert reason is None, f"{what} was to be kept: {reason}"
        return
    assert reason is not None, f"{what} was to be refused: {case.reason}"
    assert re.search(case.reason, reason), f"{what}: {reason!r} is not {case.reason!r}"
    assert len(reason) <= 200 and reason.isprintable(), what


def rejects(pool: Pool) -> list[dict[str, Any]]:
    """Every line of the quarantine."""
    return [line for file in pool.rejects for line in pq.read_table(file).to_pylist()]
