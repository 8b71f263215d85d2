"""A small world for tests of the whole: a dirty pool, a target, an evaluation set, a random model, a full recipe."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
from tamis import recipe as recipes
from tamis import runs
from tamis.engine import machine
from tamis.report import write_report
from tamis.stages.conduct import Conductor
from tamis.stages.workspace import Work, Workspace
from tamis.store import Store

GOOD, SECOND = 48, 16  # rows of the two pool files that can be trained on; with SHARD_ROWS they make nine shards
SHARD_ROWS = 8
BROKEN = (  # each is read and ends in the quarantine
    '{"instruction": "add seven", "output":',
    '{"instruction": "", "input": "", "output": "eleven"}',
    '{"instruction": "count the apples", "output": ""}',
    '{"instruction": 7, "output": "x"}',
    '["a", "list"]',
)
PROMPT_ONLY = ('{"instruction": "which river is left?"}',) * 2
RECIPE = """\
name: small
model: {{name: {model}, max_tokens: 96, dtype: float32}}
pool: {{files: [{folder}/pool/*.jsonl], shard_rows: {shard_rows}}}
target: {{files: [{folder}/target.jsonl]}}
scores: {{score: [perplexity, ifd, length]}}
warmup:
  {{train: lora, on: {{select: random, budget: 16, seed: 1}}, epochs: 2, keep: every-epoch, rank: 2, alpha: 4,
   batch_rows: 4}}
influence: {{pass: influence, checkpoints: "@warmup", target: "@target"}}
similarity: {{score: gradient-similarity, from: "@influence"}}
subset: {{select: less, from: "@influence", budget: 25%}}
final: {{train: lora, on: "@subset", epochs: 1, rank: 2, alpha: 4, batch_rows: 4}}
proof:
  compare: "@subset"
  with: [random, longest, full]
  evaluate: {{files: [{folder}/eval.jsonl]}}
  runs: 2
  draws: 200
"""


RUN_FILES = {  # what a run folder holds (DESIGN §5), the report's inputs included
    *("recipe.lock.yaml", "manifest.json", "events.jsonl", "subset.parquet", "ledger.parquet", "quarantine.parquet"),
    *("comparison.json", "report.html", "checkpoints", "pool.json", "columns.parquet", "map.parquet", "examples.json"),
    *("state.json", "entries.txt", "metrics.prom", "signals.json"),
}
COMMAND = Path(sys.executable).with_name("tamis")


@dataclass(frozen=True)
class World:
    """Files of a small world. `rows` is the number of rows read from the pool, whatever became of them."""

    folder: Path
    recipe: Path
    rows: int

    def append(self, name: str = "later.jsonl", n: int = SHARD_ROWS, seed: int = 9) -> None:
        """Put another file of `n` good rows into the pool's folder."""
        _write(self.folder / "pool" / name, _good(n, seed))


def make_world(folder: Path) -> World:
    """Write a small world into `folder`; the same bytes every time, up to the paths."""
    (folder / "pool").mkdir(parents=True)
    first, second = _good(GOOD, 0), _good(SECOND, 1)
    _write(folder / "pool" / "first.jsonl", [*first[:20], *BROKEN[:3], *first[20:], *PROMPT_ONLY])
    _write(folder / "pool" / "second.jsonl", [*second[:5], *BROKEN[3:], *second[5:]])
    _write(folder / "target.jsonl", _good(4, 2))
    _write(folder / "eval.jsonl", _good(6, 3))
    model = tiny.make_model(folder / "model")
    recipe = folder / "small.yaml"
    recipe.write_text(RECIPE.format(model=model, folder=folder, shard_rows=SHARD_ROWS), encoding="utf-8")
    return World(folder, recipe, GOOD + SECOND + len(BROKEN) + len(PROMPT_ONLY))


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    def made(self, name: str) -> tuple[int, int]:
        """(shards measured by this run, shards) of a pass, the target's and the evaluation set's included."""
        one = next(one for one in self.manifest["passes"] if one["pass"] == name)
        return int(one["made"]), int(one["shards"])


def conduct(world: World, workspace: Path, overrides: Sequence[str] = (), workers: int = 1) -> Run:
    """Carry out the recipe by plain functions, without Prefect."""
    started = time.time()
    recipe = recipes.load(str(world.recipe), overrides)
    folder = runs.start(recipe, workspace / "runs")
    work = Work(events=folder / "events.jsonl")
    conductor = Conductor.of(recipe, Workspace(workspace, machine(workers=workers), recipe.model, work))
    conductor.ingest()
    for stage in recipe.stages:
        conductor.carry_out(stage)
    manifest = runs.finish(conductor, folder, started)
    write_report(folder)
    return Run(folder, manifest)


def finished(workspace: Path, kind: str, array: str = "") -> dict[str, int]:
    """Entries of a kind that are complete in the store, with the time of their manifest; of signals with an array."""
    entries = Store(workspace / "store").entries(kind)
    return {
        entry.path.name: (entry.path / "manifest.json").stat().st_mtime_ns
        for entry in entries
        if not array or array in entry.facts["arrays"]
    }


def tamis(*arguments: object, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the command line as a user does."""
    return subprocess.Popen(
        [str(COMMAND), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        preexec_fn=_hear_ctrl_c,
    )


def _hear_ctrl_c() -> None:
    """A shell that runs the tests in the background hands down that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_event(run: subprocess.Popen[str], workspace: Path, seconds: float = 600, **wanted: Any) -> None:
    """Return as soon as the running command logs an event with these facts; stop it and fail where it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and run.poll() is None:
        for event in events(workspace):
            if wanted.items() <= event.items():
                return
        time.sleep(0.004)
    run.kill()
    out, err = run.communicate()
    raise AssertionError(f"no event {wanted} within {seconds} s\n{out}\n{err[-2000:]}")


def events(workspace: Path) -> Iterator[dict[str, Any]]:
    """Events of the latest run, oldest first; a line that is still being written is left out."""
    files = sorted(workspace.glob("runs/*/events.jsonl"))
    lines = files[-1].read_text(encoding="utf-8").splitlines() if files else []
    for line in lines:
        if line.endswith("}"):
            yield json.loads(line)


def _good(n: int, seed: int) -> list[str]:
    draw = random.Random(seed)

    def say(least: int, most: int) -> str:
        return " ".join(draw.choices(tiny.WORDS, k=draw.randint(least, most)))

    rows: list[dict[str, Any]] = [
        {"instruction": say(3, 9) + "?", "output": say(2, 14) + ".", "source": ("sums", "words")[place % 2]}
        for place in range(n)
    ]
    return [json.dumps(row) for row in rows]


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
