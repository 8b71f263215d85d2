"""GREATS against uniform: planted faults among the rows that it keeps of every batch, on the shipped pool.

    python benchmarks/greats.py [--quick] [--json] [--rows 4096] [--keep 50%] [--seeds 0]

LoRA on the shipped model, one epoch over a sample of the shipped pool; target: the few-shot rows of all its skills.
What a uniform choice keeps of a batch is, in expectation, the batch's own share of faults, so batches are paired with
themselves; intervals are a bootstrap over batches (with one seed no row is in two of them).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import tamis
from tamis.data.faults import VISIBLE
from tamis.values import Machine

DRAWS = 2000
TRAINING = {"rank": 16, "alpha": 64, "epochs": 1, "learning_rate": 1e-3, "batch_rows": 32}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="512 rows, one seed")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--keep", default="50%")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args(arguments)
    rows, seeds = (512, given.seeds[:1]) if given.quick else (given.rows, given.seeds)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(rows, given.keep, seeds, Path(folder))
    text = json.dumps(found) if given.json else "\n".join(f"{key}: {value}" for key, value in found.items())
    sys.stdout.write(text + "\n")


def measure(rows: int, keep: str, seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """Share of faults among kept rows and in the batches, their difference and its interval, by kind of fault."""
    work = tamis.workspace(folder, "tamis:tiny-lm", max_tokens=256, device="cpu", workers=1)
    work = dataclasses.replace(work, machine=Machine(tokens_per_batch=8192))
    sample = tamis.open_pool("tamis:pool.jsonl.gz", work, sample={"rows": rows, "seed": 0})
    target = tamis.open_pool(str(Path(tamis.__file__).parent / "data" / "target" / "*.jsonl"), work)
    chosen = tamis.select(sample, "random", "100%", seed=0, work=work)
    faults = [row.meta.get("fault", "") for row in chosen.pool.read(chosen.subset.positions.tolist())]
    batches, started = [], time.process_time()
    for seed in seeds:
        trained = tamis.train(
            chosen, "lora", seed=seed, hooks={"greats": {"keep": keep}}, target=target, work=work, settings=TRAINING
        )
        batches += _batches(trained.path.parent / "log.jsonl", len(faults), seed)
    seconds = time.process_time() - started
    kinds = {"any": set(faults) - {""}, "visible": set(VISIBLE)} | {name: {name} for name in sorted(set(faults) - {""})}
    figures = {name: _figures(batches, np.isin(faults, list(some))) for name, some in kinds.items()}
    return {
        **{f"fault_share_{name}": figures["any"][name] for name in ("greats", "uniform", "difference", "interval")},
        "by_kind": figures,
        "batches": len(batches),
        "rows": len(faults),
        "keep": keep,
        "seeds": list(seeds),
        "target_rows": len(target),
        "training": TRAINING,
        "cpu_seconds": round(seconds, 1),
        "model": work.model.label,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def _batches(log: Path, rows: int, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(rows of the batch, rows kept of it) of every step of a one-epoch run."""
    from tamis.trainers.schedule import epoch_order

    order, size = epoch_order(rows, seed, 0), int(TRAINING["batch_rows"])
    steps = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    whole = [order[number * size : (number + 1) * size] for number in range(len(steps))]
    return [(batch, np.array(step["kept"], np.int64)) for batch, step in zip(whole, steps, strict=True)]


def _figures(
    batches: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], faulty: NDArray[np.bool_]
) -> dict[str, Any]:
    """Mean share over batches, kept and whole, and the difference with its 95 % interval."""
    shares = np.array([(faulty[kept].mean(), faulty[batch].mean()) for batch, kept in batches])
    difference = shares[:, 0] - shares[:, 1]
    draw = np.random.default_rng(0).integers(0, len(shares), (DRAWS, len(shares)))
    low, high = np.quantile(difference[draw].mean(1), (0.025, 0.975))
    return {
        "greats": round(float(shares[:, 0].mean()), 4),
        "uniform": round(float(shares[:, 1].mean()), 4),
        "difference": round(float(difference.mean()), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
    }


if __name__ == "__main__":
    main()
