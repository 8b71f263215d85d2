"""Perplexity, both IFDs, entropy and embeddings of real rows: tamis against the released loop, and against the model.

    python benchmarks/scoring.py [--quick] [--json] [--runs 1]

4,000 rows of eight public sources (needs TAMIS_REAL_DATA and TAMIS_REAL_MODELS), at most 1,024 tokens each, float32,
two threads in all, under base-4m and under a random Llama (hidden 256, 4 layers, vocabulary 32,000). Every contender
runs in a process of its own, warm; contenders take turns, and a ratio is the median over the turns:

tamis     the pool scored through its store, which is written: perplexity of the response, IFD (both formulas), entropy,
          pooled states, and what else the token signal holds; two workers of one thread, their start included
loop      perplexity and IFD as Cherry_LLM's released script computes them, from its description: a row at a time, full
          logits of the whole conversation and of the answer alone, then a loop over their tokens with a log-softmax
          each; on a sample of the rows, scaled by their tokens. Template and token ids are those of tamis; of several
          turns it scores the last only
packed    model(ids), the full head included, on the ids of both views packed to 1,024; on a sample of the packs

loop and packed run twice: one process of two threads, as a user runs them, and one process of one thread (`…_single`).
`speedup_vs_loop` is in rows a second of wall time, tamis on two cores against the loop on two. `flop_share` is FLOPs
that both views need (2 x body parameters x tokens, causal attention, head on scored tokens only) per second of tamis,
over FLOPs per second of packed. `extra_gb_150k` is peak memory beside the model in a process that scores all tokens of
1,000 rows with a random model of 150,000 tokens. Ratios that end in `_cpu` are of CPU seconds, children included,
against the contenders of one thread: what is left of the ratio if two copies of those ran side by side, each as if
alone. On a busy machine they are the steadier ones: two threads of one process wait for each other. The top-level keys
hold the worse of both models.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scoring_contenders import THREADS, loop, packed, tamis_score, wide
from scoring_rows import QUICK, Size, prepare

MODELS = ("base-4m", "llama-32k")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="320 rows")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--runs", type=int, default=1, help="turns of every contender (default 1)")
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS, metavar=("NAME", "FOLDER"))
    parser.add_argument("--model", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.contender:
        name, folder = given.contender
        sys.stdout.write(json.dumps(CONTENDERS[name](Path(folder), given.model)) + "\n")
        return
    size, runs = QUICK if given.quick else Size(), given.runs
    with tempfile.TemporaryDirectory() as folder:
        found = measure(size, runs, Path(folder))
    lines = json.dumps(found) if given.json else "\n".join(f"{key}: {value}" for key, value in found.items())
    sys.stdout.write(lines + "\n")


def measure(size: Size, runs: int, folder: Path) -> dict[str, Any]:
    """Both models, and memory at a large vocabulary."""
    prepare(size, folder)
    models = {name: compare(name, runs, folder) for name in MODELS}
    wide = _in_a_process("wide", folder, "llama-150k")
    keys = ("speedup_vs_loop", "flop_share", "speedup_vs_loop_cpu", "flop_share_cpu")
    return {
        **{key: min(one[key] for one in models.values()) for key in keys},
        "extra_gb_150k": wide["extra_gb"],
        "ifd_spearman_with_loop": min(one["ifd_spearman"] for one in models.values()),
        "models": models,
        **dataclasses.asdict(size),
        "runs": runs,
        "threads": THREADS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[1], 1),
        "date": time.strftime("%Y-%m-%d"),
    }


def compare(model: str, runs: int, folder: Path) -> dict[str, Any]:
    """All contenders under one model, in turns."""
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS if name != "wide"}
    for turn in range(runs):
        for name in list(turns) if turn % 2 == 0 else reversed(turns):
            turns[name].append(_in_a_process(name, folder, model))
    ours, loop = turns["tamis"], turns["loop"]

    def ratio(work: str, other: str, clock: str) -> float:
        pairs = zip(ours, turns[other], strict=True)
        return round(statistics.median(a[work] / a[clock] / (b[work] / b[clock]) for a, b in pairs), 3)

    return {
        "speedup_vs_loop": ratio("full_tokens", "loop", "seconds"),
        "flop_share": ratio("flops", "packed", "seconds"),
        "speedup_vs_loop_cpu": ratio("full_tokens", "loop_single", "cpu_seconds"),
        "flop_share_cpu": ratio("flops", "packed_single", "cpu_seconds"),
        "ifd_spearman": _agreement(ours[0]["ifd"], loop[0]["ifd"]),
        "contenders": {
            name: {key: statistics.median(one[key] for one in ones) for key in ones[0] if key != "ifd"}
            for name, ones in turns.items()
        },
    }


def _agreement(ours: Sequence[float], loop: dict[str, float]) -> float:
    """Spearman correlation of the same IFD from both, over the rows of the loop."""
    from scipy.stats import spearmanr

    places = [int(place) for place in loop]
    pairs = np.array([(ours[place], loop[str(place)]) for place in places], np.float64)
    return round(float(spearmanr(*pairs[np.isfinite(pairs).all(axis=1)].T).statistic), 4)


def _in_a_process(name: str, folder: Path, model: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--contender", name, str(folder), "--model", model]
    number = str(THREADS if name in ("loop", "packed") else 1)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": number,
        "MKL_NUM_THREADS": number,
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{name} failed")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    shown = {key: round(value, 2) for key, value in found.items() if isinstance(value, float)}
    sys.stderr.write(f"{name} {model}: {shown}\n")
    return found


CONTENDERS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "tamis": tamis_score,
    "loop": loop,
    "loop_single": functools.partial(loop, threads=1),
    "packed": packed,
    "packed_single": functools.partial(packed, threads=1),
    "wide": wide,
}

if __name__ == "__main__":
    main()
