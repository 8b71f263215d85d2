"""Delta curation: what a second run costs after 1 % of new rows came to a pool, and whether it measures old rows again.

    python benchmarks/delta.py [--quick] [--json]

A pool of 100,000 rows of at most 32 tokens (10,000 with --quick), made from a seed, goes through LESS with the shipped
tiny-lm: ingest, lengths, token signals, perplexity and IFD, a warm-up on 1 % of the rows, gradients, selection. Then
1 % of new rows are appended and the recipe runs again, each run in a process of its own: once as a file of its own,
once as lines at the end of the same file. Times cover ingest to subset without the training, by the clock and in
seconds of processor, which say more where others work beside; what a run then writes (ledger, columns, map of the
report) is told apart. Rows measured again are counted in the store, entry by entry.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tamis import recipe as recipes
from tamis import runs
from tamis.data.vocabulary import WORDS
from tamis.engine import machine
from tamis.stages.conduct import Conductor
from tamis.stages.train import Training
from tamis.stages.workspace import Workspace
from tamis.store import Store

ROWS, QUICK = 100_000, 10_000
SHARE = 100  # one new row for so many old ones
TARGET = 8
PASSES = 3  # lengths, tokens, influence
RECIPE = """\
name: delta
model: {{name: "tamis:tiny-lm", max_tokens: 32}}
pool: {{files: [{files}]}}
target: {{files: [{target}]}}
scores: {{score: [perplexity, ifd]}}
warmup:
  train: lora
  on: {{select: random, budget: 1%, seed: 1}}
  epochs: 1
  rank: 8
  alpha: 16
  learning_rate: 2e-3
influence: {{pass: influence, checkpoints: "@warmup"}}
subset: {{select: less, from: "@influence", budget: 5%}}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it there")
    parser.add_argument("--run", nargs=2, metavar=("RECIPE", "WORKSPACE"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.run:
        sys.stdout.write(json.dumps(run(Path(given.run[0]), Path(given.run[1]))) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="tamis-delta-") as folder:
        found = measure(given.keep or Path(folder), given.rows or (QUICK if given.quick else ROWS))
    sys.stdout.write(json.dumps(found) + "\n" if given.json else json.dumps(found, indent=1) + "\n")


def measure(folder: Path, rows: int) -> dict[str, Any]:
    """Three runs: the pool, the pool and a new file, the pool whose file has grown."""
    new = rows // SHARE
    folder.mkdir(parents=True, exist_ok=True)
    lines = make_lines(rows + 2 * new + TARGET)
    pool, later, work = folder / "pool.jsonl", folder / "later.jsonl", folder / "work"
    write(pool, lines[:rows])
    write(later, lines[rows : rows + new])
    write(folder / "target.jsonl", lines[-TARGET:])
    first = start(folder, [pool], work)
    say("first run", first)
    appended = start(folder, [pool, later], work)
    say("1 % in a file of its own", appended)
    write(pool, lines[:rows] + lines[rows + new : rows + 2 * new])
    grown = start(folder, [pool, later], work)
    say("1 % at the end of the file", grown)
    return {
        "rows": rows,
        "appended": new,
        "append_share": round(appended["seconds"] / first["seconds"], 4),
        "append_share_of_processor": round(appended["processor"] / first["processor"], 4),
        "rows_measured_again": appended["measured"] - PASSES * new,
        "grown_share": round(grown["seconds"] / first["seconds"], 4),
        "grown_share_of_processor": round(grown["processor"] / first["processor"], 4),
        "grown_rows_measured_again": grown["measured"] - PASSES * new,
        "first": first,
        "appended_run": appended,
        "grown_run": grown,
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(one, 1) for one in os.getloadavg()],
        "python": platform.python_version(),
    }


def say(what: str, found: dict[str, Any]) -> None:
    """One line for people."""
    sys.stderr.write(f"{what}: {found['seconds']:.1f} s without training, {found['measured']:,} rows measured\n")


def make_lines(count: int) -> list[str]:
    """Rows of at most 32 tokens, all different, made from a seed."""
    draw = random.Random("tamis delta 1")
    lines = []
    for number in range(count):
        one, other, word = draw.randrange(10, 99), draw.randrange(10, 99), draw.choice(WORDS)
        asked, answer = draw.choice(
            [
                (f"{number}: {one} + {other}", str(one + other)),
                (f"{number}: larger, {one} or {other}?", str(max(one, other))),
                (f"{number}: repeat {word}", word),
            ]
        )
        lines.append(json.dumps({"prompt": asked, "completion": answer}))
    return lines


def write(path: Path, lines: Sequence[str]) -> None:
    """Write lines."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def start(folder: Path, files: Sequence[Path], work: Path) -> dict[str, Any]:
    """Carry the recipe out in a process of its own; `measured` counts rows of signals that were written meanwhile."""
    recipe = folder / "delta.yaml"
    recipe.write_text(RECIPE.format(files=", ".join(map(str, files)), target=folder / "target.jsonl"), encoding="utf-8")
    before = signals(work)
    command = [sys.executable, __file__, "--run", str(recipe), str(work)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    written = {name: rows for name, (rows, at) in signals(work).items() if before.get(name, (0, 0))[1] != at}
    return {**found, "measured": sum(written.values())}


def signals(work: Path) -> dict[str, tuple[int, int]]:
    """Every signal in the store: its rows, and when it was written."""
    entries = Store(work / "store").entries("signal")
    return {one.path.name: (int(one.facts["rows"]), (one.path / "manifest.json").stat().st_mtime_ns) for one in entries}


def processor() -> float:
    """Seconds of processor time of this process and of its workers that have ended."""
    mine, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return mine.ru_utime + mine.ru_stime + theirs.ru_utime + theirs.ru_stime


def run(recipe: Path, place: Path) -> dict[str, Any]:
    """One run by plain functions: seconds of its stages, of training, and of writing the run folder."""
    began, spent = time.perf_counter(), processor()
    checked = recipes.load(str(recipe))
    folder = runs.start(checked, place / "runs")
    conductor = Conductor.of(checked, Workspace(place, machine(device="cpu"), checked.model))
    conductor.ingest()
    training = spent_training = 0.0
    for stage in checked.stages:
        started, before = time.perf_counter(), processor()
        left = conductor.carry_out(stage)
        if isinstance(left, Training) and left.made:
            training += time.perf_counter() - started
            spent_training += processor() - before
    seconds = time.perf_counter() - began - training
    spent = processor() - spent - spent_training
    started = time.perf_counter()
    runs.finish(conductor, folder, time.time())
    stages = {name: one["seconds"] for name, one in conductor.took.items()}
    return {
        "seconds": round(seconds, 2),
        "processor": round(spent, 2),
        "training": round(training, 2),
        "writing": round(time.perf_counter() - started, 2),
        "stages": stages,
        "run": str(folder),
    }


if __name__ == "__main__":
    main()
