"""A file in blocks of raw records: cutting them is cheap and one process does it, judging them is shared out.

The blocks of a file are the same however many processes judge them, and so is what comes of each.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from tamis.ingest import readers
from tamis.ingest.judging import Input
from tamis.ingest.readers import Block
from tamis.ingest.rejects import Rejected
from tamis.values import Machine

if TYPE_CHECKING:
    import pyarrow as pa

ALONE = 48  # blocks that the process itself judges before it starts workers, which takes seconds
AHEAD = 8  # blocks a worker that are under way at once
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Judged:
    """What became of the records of a block: `rows` to keep, and `rejects`, as their files hold them; counts."""

    rows: pa.Table
    rejects: pa.Table
    forms: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Task:
    """A block of a file to be judged; `taken`: positions of it that a sample takes, None for all."""

    item: Input
    block: Block
    taken: frozenset[int] | None = None


def judge(task: Task) -> Judged:
    """Judge every record of a block."""
    import pyarrow as pa

    from tamis.pool import rejects_schema, schema

    rows: list[dict[str, Any]] = []
    rejects: list[Rejected] = []
    judged = Judged(schema().empty_table(), rejects_schema().empty_table())
    for verdict in task.item.judged(task.block):
        judged.counts["rows"] += 1
        if verdict.row is None:
            judged.counts["quarantined"] += 1
            rejects.append(Rejected.of(task.item, verdict.record, "quarantined", "ingest", verdict.reason))
            continue
        judged.forms[verdict.form] += 1
        if task.taken is None or verdict.record.position in task.taken:
            judged.counts["kept"] += 1
            rows.append(verdict.row)
            continue
        judged.counts["dropped"] += 1
        rejects.append(Rejected.of(task.item, verdict.record, "dropped", "sample", task.item.not_sampled))
    kept = {name: [row[name] for row in rows] for name in schema().names}
    out = {name: [getattr(one, name) for one in rejects] for name in rejects_schema().names}
    return Judged(pa.table(kept, schema=schema()), pa.table(out, schema=rejects_schema()), judged.forms, judged.counts)


def good(task: Task) -> list[int]:
    """Positions of the records of a block that could be rows."""
    return [verdict.record.position for verdict in task.item.judged(task.block) if verdict.row is not None]


def tasks(item: Input, taken: Sequence[int] | None = None) -> Iterator[Task]:
    """The blocks of a file in order; `taken`: sorted positions that a sample takes, None for all."""
    import bisect

    for block in readers.blocks(item.source.path, item.packed):
        if taken is None:
            yield Task(item, block)
            continue
        low = bisect.bisect_left(taken, block.first)
        high = bisect.bisect_left(taken, block.first + block.size)
        yield Task(item, block, frozenset(taken[low:high]))


def shared_out(function: Callable[[Job], Result], jobs: Iterable[Job], on: Machine) -> Iterator[Result]:
    """`function` of every job, in order, with a bounded number of them in memory; workers only where jobs are many."""
    from tamis.engine import map_jobs, workers_kept

    waiting = iter(jobs)
    alone = itertools.islice(waiting, ALONE) if on.workers > 1 else waiting
    for job in alone:
        yield function(job)
    with workers_kept():
        while wave := list(itertools.islice(waiting, AHEAD * on.workers)):
            if len(wave) == 1:
                yield function(wave[0])
            else:
                yield from map_jobs(function, wave, on)
