"""A small world for tests of the whole: a dirty pool, a target, an evaluation set, a random model, and the full recipe."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny

GOOD, SECOND = 48, 16  # rows of the two pool files that can be trained on; with SHARD_ROWS they make five shards
SHARD_ROWS = 16
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
  {{train: lora, on: {{select: random, budget: 16, seed: 1}}, epochs: 2, keep: every-epoch, rank: 2, alpha: 4, batch_rows: 4}}
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
