"""Facility location over clustered embeddings: tamis against submodlib and apricot, in time, memory and objective.

    python benchmarks/submodular.py [--quick] [--json] [--peers PYTHON]

Rows x 384 float32 of unit length, budget 10 %, from embeddings in memory to the picks, kernel or graph included; every
contender runs in a process of its own, on two threads, after a small warm-up that loads and compiles what it needs:

tamis           k-NN graph of 64 a row (`auto`), lazy greedy; recall is measured outside the seconds
tamis-dense     all cosines in memory, lazy greedy
submodlib       dense kernel, LazyGreedy
apricot         dense kernel, lazy
apricot-sparse  scikit-learn's graph of the 64 nearest (brute force by distance, its fastest, made cosines), lazy

The peers get cosines, not below 0, as a float32 array that one matrix product makes (what they call cosine is its
square, and slower to make). Contenders take turns, several times; seconds are wall seconds, a ratio is the median over
the turns, a peak is of resident memory, libraries included. Objectives are those of the full kernel, whatever a
contender has seen of it; `objective_share` = (f(graph) - f(random)) / (f(dense) - f(random)), random the mean of five.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from clustered import write
from numpy.typing import NDArray

NEIGHBOURS, SHARE, THREADS = 64, 0.1, 2
Picks = list[int]
Rows = NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4,000 and 10,000 rows, once")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", default=sys.executable, help="a Python that has submodlib and apricot")
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS, metavar=("NAME", "FILE"))
    given = parser.parse_args(arguments)
    if given.contender:
        sys.stdout.write(json.dumps(contend(given.contender[0], Path(given.contender[1]))) + "\n")
        return
    sizes, runs = ((4_000, 10_000), 1) if given.quick else ((20_000, 50_000), given.runs)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(sizes, runs, given.peers, Path(folder))
    lines = json.dumps(found) if given.json else "\n".join(f"{key}: {value}" for key, value in found.items())
    sys.stdout.write(lines + "\n")


def measure(sizes: tuple[int, int], runs: int, peers: str, folder: Path) -> dict[str, Any]:
    """Both sizes: everyone at the smaller, sparse contenders at the larger."""
    few, many = (f"{rows // 1000}k" for rows in sizes)
    turns: dict[str, list[dict[str, Any]]] = {}
    for rows in sizes:
        file = folder / f"{rows}.npy"
        write(file, rows, "float32")
        names = list(CONTENDERS) if rows == sizes[0] else ["tamis", "apricot-sparse"]
        for turn in range(runs):
            for name in names if turn % 2 == 0 else reversed(names):
                turns.setdefault(f"{name} {rows}", []).append(_in_a_process(name, file, peers))
    small, large = (lambda name: turns[f"{name} {sizes[0]}"]), (lambda name: turns[f"{name} {sizes[1]}"])
    values = {name: objective(folder / f"{sizes[0]}.npy", small(name)[0]["picks"]) for name in CONTENDERS}
    chance = _random(folder / f"{sizes[0]}.npy", sizes[0])
    return {
        f"speedup_vs_submodlib_{few}": _ratio(small("submodlib"), small("tamis")),
        f"speedup_vs_apricot_{few}": _ratio(small("apricot"), small("tamis")),
        f"speedup_vs_apricot_sparse_{many}": _ratio(large("apricot-sparse"), large("tamis")),
        f"peak_gb_{many}": max(one["peak_gb"] for one in large("tamis")),
        f"objective_share_{few}": round((values["tamis"] - chance) / (values["tamis-dense"] - chance), 4),
        f"dense_speedup_vs_submodlib_{few}": _ratio(small("submodlib"), small("tamis-dense")),
        f"dense_speedup_vs_apricot_{few}": _ratio(small("apricot"), small("tamis-dense")),
        f"dense_objective_vs_submodlib_{few}": round(values["tamis-dense"] / values["submodlib"], 7),
        f"dense_objective_vs_apricot_{few}": round(values["tamis-dense"] / values["apricot"], 7),
        f"random_share_of_dense_{few}": round(chance / values["tamis-dense"], 4),
        "seconds": {name: statistics.median(one["seconds"] for one in ones) for name, ones in turns.items()},
        "cpu_seconds": {name: statistics.median(one["cpu_seconds"] for one in ones) for name, ones in turns.items()},
        "peak_gb": {name: max(one["peak_gb"] for one in ones) for name, ones in turns.items()},
        "notes": {name: ones[0]["note"] for name, ones in turns.items() if ones[0]["note"]},
        "runs": runs,
        "threads": THREADS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[1], 1),
        "date": time.strftime("%Y-%m-%d"),
    }


def _ratio(ones: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> float:
    return round(statistics.median(a["seconds"] / b["seconds"] for a, b in zip(ones, others, strict=True)), 2)


def _in_a_process(name: str, file: Path, peers: str) -> dict[str, Any]:
    python = sys.executable if name.startswith("tamis") else peers
    number = str(THREADS)
    threads = {"OMP_NUM_THREADS": number, "OPENBLAS_NUM_THREADS": number, "NUMBA_NUM_THREADS": number}
    command = [python, __file__, "--contender", name, str(file)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads}, check=False)
    if done.returncode:
        sys.exit(f"{name} failed; the peers are in the extra `bench`: pip install 'tamis[bench]'")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    sys.stderr.write(f"{name} {file.stem}: {found['seconds']:.2f} s, {found['peak_gb']:.2f} GB\n")
    return found


# contenders: (rows, budget) to picks and what is to be said of them


def contend(name: str, file: Path) -> dict[str, Any]:
    """One contender on one file, warm."""
    rows = np.load(file)
    run = CONTENDERS[name]
    run(rows[:2000].copy(), 20)
    wall, cpu = time.perf_counter(), time.process_time()
    picks, note = run(rows, round(SHARE * len(rows)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = _peak_bytes() / 1e9
    if name == "tamis":
        note = _recall(rows)
    return {
        "seconds": round(wall, 3),
        "cpu_seconds": round(cpu, 3),
        "peak_gb": round(peak, 3),
        "picks": picks,
        "note": note,
    }


def tamis_graph(rows: Rows, budget: int) -> tuple[Picks, str]:
    """k-NN graph and compiled lazy greedy, as selectors have them."""
    from tamis.submodular.facility_location import FacilityLocation
    from tamis.submodular.kernels import Sparse
    from tamis.submodular.knn_graph import build

    graph = build(rows, NEIGHBOURS, threads=THREADS, recall_sample=0)
    kernel = Sparse(graph.indptr, graph.indices, graph.values, len(rows))
    return FacilityLocation(kernel).lazy(budget).order.tolist(), graph.note


def _recall(rows: Rows) -> str:
    """The same graph once more, with its recall."""
    from tamis.submodular.knn_graph import build

    return build(rows, NEIGHBOURS, threads=THREADS).note


def tamis_dense(rows: Rows, budget: int) -> tuple[Picks, str]:
    """All cosines in memory and compiled lazy greedy."""
    from tamis.submodular.cosines import Cosine
    from tamis.submodular.facility_location import FacilityLocation

    return FacilityLocation(Cosine(rows).dense()).lazy(budget).order.tolist(), ""


def _kernel(rows: Rows) -> Rows:
    products = rows @ rows.T
    return np.maximum(products, 0, out=products)


def submodlib(rows: Rows, budget: int) -> tuple[Picks, str]:
    """Dense LazyGreedy of submodlib."""
    from submodlib import FacilityLocationFunction

    function = FacilityLocationFunction(n=len(rows), mode="dense", sijs=_kernel(rows), separate_rep=False)
    picks = function.maximize(budget=budget, optimizer="LazyGreedy", show_progress=False)
    return [int(row) for row, _ in picks], ""


def apricot(rows: Rows, budget: int) -> tuple[Picks, str]:
    """Dense lazy greedy of apricot."""
    from apricot import FacilityLocationSelection

    chosen = FacilityLocationSelection(budget, metric="precomputed", optimizer="lazy").fit(_kernel(rows))
    return chosen.ranking.tolist(), ""


def apricot_sparse(rows: Rows, budget: int) -> tuple[Picks, str]:
    """Lazy greedy of apricot over a k-NN graph by scikit-learn."""
    from apricot import FacilityLocationSelection
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="euclidean", algorithm="brute", n_jobs=THREADS).fit(rows)
    graph = near.kneighbors_graph(rows, mode="distance")
    graph.data = np.maximum(1 - graph.data.astype(np.float64) ** 2 / 2, 0)
    graph.indices, graph.indptr = graph.indices.astype(np.int32), graph.indptr.astype(np.int32)  # all that it takes
    chosen = FacilityLocationSelection(budget, metric="precomputed", optimizer="lazy").fit(graph)
    return chosen.ranking.tolist(), ""


CONTENDERS: dict[str, Callable[[Rows, int], tuple[Picks, str]]] = {
    "tamis": tamis_graph,
    "tamis-dense": tamis_dense,
    "submodlib": submodlib,
    "apricot": apricot,
    "apricot-sparse": apricot_sparse,
}


# objectives


def objective(file: Path, picks: Sequence[int]) -> float:
    """Value of the picks over all cosines of the file, those below 0 as 0."""
    rows = np.load(file)
    chosen = rows[np.asarray(picks)].T
    parts = (np.maximum((rows[at : at + 2048] @ chosen).max(axis=1), 0) for at in range(0, len(rows), 2048))
    return float(sum(part.sum(dtype=np.float64) for part in parts))


def _random(file: Path, rows: int) -> float:
    draws = [np.random.default_rng(seed).permutation(rows)[: round(SHARE * rows)].tolist() for seed in range(5)]
    return statistics.fmean(objective(file, one) for one in draws)


def _peak_bytes() -> int:
    """Peak resident memory of this program alone; getrusage would count the parent's, of which it was forked."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
