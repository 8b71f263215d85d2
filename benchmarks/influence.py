"""Influence against its floor: the time of exact LESS scores over that of a plain batched forward and backward.

    python benchmarks/influence.py [--quick] [--json] [--model FOLDER] [--files DATA...] [--rank 32]

Both sides see the same rows in the same batches, in one process on one thread, in turns; figures are medians of CPU
seconds. The floor is what training pays: logits of every position, and the gradients of the LoRA weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tamis
from tamis.batching import batches
from tamis.checkpoints import Checkpoint
from tamis.gradients import pad
from tamis.models import open_model
from tamis.pool import Pool
from tamis.rendering import render_all, render_rows
from tamis.scorers.passes.influence import Influence
from tamis.trainers.lora import Lora
from tamis.values import Machine, Seeds
from tamis.views import ShardSignals

REPEATS = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 rows instead of 400")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--model", default="tamis:tiny-lm")
    parser.add_argument("--files", nargs="+", default=["tamis:pool.jsonl.gz"])
    parser.add_argument("--rank", type=int, default=32)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.model, given.files, given.rank, 64 if given.quick else 400, Path(folder))
    sys.stdout.write(
        json.dumps(found) + "\n" if given.json else "\n".join(f"{k}: {v}" for k, v in found.items()) + "\n"
    )


def measure(model: str, files: Sequence[str], rank: int, rows: int, folder: Path) -> dict[str, Any]:
    """Ratios and sizes of one model on a sample of the files."""
    on = Machine(tokens_per_batch=2048)
    work = tamis.workspace(folder, model, max_tokens=256, device="cpu", workers=1)
    work = dataclasses.replace(work, machine=on)
    per_file = max(1, rows // len(files))
    pool = tamis.open_pool(files, work, sample={"rows": per_file, "seed": 0}, shard_rows=rows)
    checkpoint = _warm_up(pool, work, rank, folder)
    pool = Pool(pool.shards[:1], pool.files, pool.rejects)
    shard = pool.shards[0]
    influence = Influence(checkpoints=(checkpoint,), target=Pool(pool.shards[:1]))
    influence.measure(shard, ShardSignals(shard, {}), on)  # the target's vectors are kept by the process
    plain, tokens = _plain(checkpoint, pool, work, on)
    timed = _in_turns(lambda: influence.measure(shard, ShardSignals(shard, {}), on), plain)
    return {
        "time_vs_forward_backward": round(timed[0] / timed[1], 3),
        "rows_per_second": round(shard.rows / timed[0], 2),
        "rows": shard.rows,
        "tokens_per_row": round(tokens / shard.rows, 1),
        "rank": rank,
        "model": work.model.label,
        "repeats": REPEATS,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def _warm_up(pool: Pool, work: Any, rank: int, folder: Path) -> Checkpoint:
    good = [row for row, one in zip(pool, render_all(list(pool), work.model), strict=True) if not one.reason]
    trainer = Lora(rank=rank, alpha=4 * rank, epochs=1, keep="every-epoch", learning_rate=5e-4)
    kept = trainer.train(work.model, render_rows(good[:32], work.model), Seeds(), (), folder / "warm-up", work.machine)
    return kept[-1]


def _plain(checkpoint: Checkpoint, pool: Pool, work: Any, on: Machine) -> tuple[Callable[[], None], int]:
    """A plain pass of training over the usable rows, and how many tokens it sees."""
    rendered = [one for one in render_all(list(pool), work.model) if not one.reason]
    rows = [(one.ids, one.turn >= 0) for one in rendered]
    lengths = np.array([len(ids) for ids, _ in rows])
    model: Any = open_model(checkpoint.model(), "cpu", trainable=True)

    def run() -> None:
        for batch in batches(lengths, on.tokens_per_batch):
            ids, labels = pad([rows[place] for place in batch], "cpu")
            logits = model(input_ids=ids).logits
            wanted = torch.where(labels, ids, -100)[:, 1:].flatten()
            torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), wanted, ignore_index=-100
            ).backward()
            model.zero_grad()

    return run, int(lengths.sum())


def _in_turns(*contenders: Callable[[], Any]) -> list[float]:
    """Median CPU seconds of each, measured in turns so that a busy machine hits all alike."""
    torch.set_num_threads(1)
    seconds: list[list[float]] = [[] for _ in contenders]
    for _ in range(REPEATS):
        for place, contender in enumerate(contenders):
            started = time.process_time()
            contender()
            seconds[place].append(time.process_time() - started)
    return [statistics.median(one) for one in seconds]


if __name__ == "__main__":
    main()
