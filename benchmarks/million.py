"""One million rows on two cores: k-NN graph and facility location from embeddings on disk, with growth and recall.

    python benchmarks/million.py [--quick] [--json]

Rows x 384 float16 (benchmarks/clustered.py) are written to a temporary file and mapped by a process of its own, which
builds the graph of the 64 nearest a row, measures its recall on 1,000 rows by exact search, and chooses 5 % by lazy
greedy with its bound. Seconds are wall seconds on two threads from opening the file to the picks, after a warm-up on
2,000 rows; the exact search for the recall is in none of them but its own. `growth` = seconds a row at the larger size
/ seconds a row at the smaller. Peak memory is that process's, libraries and the pages of the file included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from clustered import write
from submodular import _peak_bytes

NEIGHBOURS, SHARE, THREADS, SAMPLE = 64, 0.05, 2, 1000


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10,000 and 40,000 rows")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--rows", type=int, nargs=2, default=(125_000, 1_000_000), metavar=("FEW", "MANY"))
    parser.add_argument("--choose", help=argparse.SUPPRESS, metavar="FILE")
    given = parser.parse_args(arguments)
    if given.choose:
        sys.stdout.write(json.dumps(choose(Path(given.choose))) + "\n")
        return
    found = measure((10_000, 40_000) if given.quick else tuple(given.rows))
    lines = json.dumps(found) if given.json else "\n".join(f"{key}: {value}" for key, value in found.items())
    sys.stdout.write(lines + "\n")


def measure(sizes: tuple[int, ...]) -> dict[str, Any]:
    """Both sizes, one after the other."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            file = Path(folder) / "embeddings.npy"
            write(file, rows, "float16")
            for key, value in _in_a_process(file).items():
                found[f"{key}_{_short(rows)}"] = value
            file.unlink()
    few, many = sizes
    seconds = [found[f"seconds_{_short(rows)}"] for rows in sizes]
    cpu = [found[f"cpu_seconds_{_short(rows)}"] for rows in sizes]
    return {
        "growth": round(seconds[1] / many / (seconds[0] / few), 2),
        "growth_cpu": round(cpu[1] / many / (cpu[0] / few), 2),
        **found,
        "neighbours": NEIGHBOURS,
        "share": SHARE,
        "threads": THREADS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[1], 1),
        "date": time.strftime("%Y-%m-%d"),
    }


def _short(rows: int) -> str:
    return f"{rows // 1_000_000}m" if rows >= 1_000_000 else f"{rows // 1000}k"


def _in_a_process(file: Path) -> dict[str, Any]:
    number = str(THREADS)
    threads = {"OMP_NUM_THREADS": number, "OPENBLAS_NUM_THREADS": number}
    command = [sys.executable, __file__, "--choose", str(file)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads})
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    sys.stderr.write(f"{found}\n")
    return found


def choose(file: Path) -> dict[str, Any]:
    """Seconds by step, recall and peak memory of one file, warm."""
    from tamis.submodular.knn_graph import recall_of

    vectors = np.load(file, mmap_mode="r")
    _picks(np.asarray(vectors[:2000]), "grouped")
    wall, cpu = time.perf_counter(), time.process_time()
    graph, picks, steps = _picks(vectors, "auto")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = _peak_bytes()
    started = time.perf_counter()
    recall = recall_of(vectors, graph, SAMPLE, threads=THREADS)
    return {
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        **steps,
        "recall": round(recall, 4),
        "recall_seconds": round(time.perf_counter() - started, 1),
        "peak_gb": round(peak / 1e9, 2),
        "value_share_of_bound": round(picks.value / picks.bound, 4) if picks.bound else None,
        "picks": len(picks.order),
        "graph": graph.note,
    }


def _picks(vectors: Any, how: Any) -> tuple[Any, Any, dict[str, float]]:
    from tamis.submodular.facility_location import FacilityLocation
    from tamis.submodular.kernels import Sparse
    from tamis.submodular.knn_graph import build

    started = time.perf_counter()
    graph = build(vectors, NEIGHBOURS, how, threads=THREADS, recall_sample=0)
    built = time.perf_counter()
    kernel = Sparse(graph.indptr, graph.indices, graph.values, len(vectors))
    picks = FacilityLocation(kernel).lazy(round(SHARE * len(vectors)))
    ended = time.perf_counter()
    return graph, picks, {"graph_seconds": round(built - started, 1), "greedy_seconds": round(ended - built, 1)}


if __name__ == "__main__":
    main()
