"""The gradient store: what a query costs, and what projections and encodings keep of the exact scores.

    python benchmarks/store.py [--quick] [--json]

Speed: stores of random rows, written shard by shard; ten new targets are asked of them by the pass `gradient-query`, in
a process of its own, warm (the files are in the page cache, the libraries loaded): the time covers opening the model,
the target's gradients and the products with every row. Peak memory is that process's, libraries and model included.

Quality: exact influence of real rows (TAMIS_REAL_DATA, TAMIS_REAL_MODELS; without them the shipped pool and model) on
three tasks, against the same from stored gradients: Spearman over rows, mean over tasks, and overlap of the first 5 %.
All projections see the same gradients, in one pass.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import tamis
from tamis.gradient.encodings import Encoding, decode, encode
from tamis.gradient.prepared import Prepared
from tamis.gradient.projections import Projection, Sketch
from tamis.gradient.store import Balances, Contents, balances_of, project_rows, project_vectors
from tamis.pool import Pool
from tamis.rendering import render_all, render_rows
from tamis.scorers.passes import gradient_query
from tamis.scorers.passes.gradient_query import GradientQuery
from tamis.scorers.passes.gradients import Gradients
from tamis.scorers.passes.influence import Influence
from tamis.store import save_arrays
from tamis.trainers.lora import Lora
from tamis.training.checkpoints import Checkpoint
from tamis.values import Machine, Seeds
from tamis.views import ShardSignals

DIM = 8192
SHARD = 5_000
TARGETS = 10
QUERIES = ["tamis:target/arithmetic.jsonl", "tamis:target/sorting.jsonl"]
ON = Machine(tokens_per_batch=2048)
REAL = ("flan_cot_gsm8k", "flan_cot_aqua", "flan_cot_creak", "alpaca_random_9k", "gpteacher_codegen")
TARGET_FILES = ("gsm8k_test", "mbpp_test_500", "aqua_test")
SETTINGS: dict[str, dict[str, Any]] = {  # the first in every encoding
    "sjlt 16384": {},
    "sjlt 8192": {"dim": 8192},
    "sjlt 8192, 4 non-zeros": {"dim": 8192, "nonzeros": 4},
    "rotation 8192": {"kind": "rotation", "dim": 8192},
    "srht 8192": {"kind": "srht", "dim": 8192},
    "logra 8192": {"kind": "logra", "dim": 8192},
    "sjlt 8192, not balanced": {"dim": 8192, "balanced": False},
    "sjlt 32768, not balanced": {"dim": 32768, "balanced": False},
    "rotation 8192, not balanced": {"kind": "rotation", "dim": 8192, "balanced": False},
}
DENSE: dict[str, dict[str, Any]] = {
    "rademacher 8192, not balanced (as released)": {"kind": "rademacher", "dim": 8192, "balanced": False}
}
ENCODINGS: tuple[Encoding, ...] = ("float16", "int8", "bit")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, and no dense projection")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--only", choices=("speed", "quality"))
    parser.add_argument("--ask", nargs=3, metavar=("FOLDER", "ENCODING", "SHARDS"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.ask:
        sys.stdout.write(json.dumps(ask(Path(given.ask[0]), given.ask[1], int(given.ask[2]))) + "\n")
        return
    found: dict[str, Any] = {"torch": torch.__version__, "machine": platform.machine(), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        if given.only != "quality":
            found |= speed(Path(folder), 10 if given.quick else 1)
        if given.only != "speed":
            found |= quality(Path(folder), given.quick)
    sys.stdout.write(json.dumps(found) + "\n" if given.json else json.dumps(found, indent=1) + "\n")


# speed


def speed(folder: Path, part: int) -> dict[str, Any]:
    """Seconds and peak memory of queries of 50,000, 100,000 and 200,000 rows (divided by `part`)."""
    sizes = [50_000 // part, 100_000 // part, 200_000 // part]
    checkpoint = _tiny_warm_up(folder)
    found: dict[str, Any] = {"rows": sizes[1], "dim": DIM, "targets": TARGETS}
    for encoding, largest in (("float16", sizes[2]), ("int8", sizes[1]), ("bit", sizes[1])):
        store = folder / encoding
        shards = _write_store(store, encoding, largest, checkpoint, min(SHARD, sizes[0]))
        for rows in sizes if encoding == "float16" else sizes[1:2]:
            one = _in_a_process(store, encoding, shards * rows // largest)
            _say(f"{encoding}, {rows} rows: {one}")
            name = encoding if rows == sizes[1] else f"{encoding}_{rows}"
            found |= {f"query_{key}_{name}": value for key, value in one.items()}
        for file in store.rglob("*.npy"):
            file.unlink()
    ratio = found[f"query_cpu_seconds_float16_{sizes[2]}"] / found[f"query_cpu_seconds_float16_{sizes[0]}"]
    return {**found, "growth_50k_to_200k": round(ratio, 2)}


def _tiny_warm_up(folder: Path) -> Checkpoint:
    work = tamis.workspace(folder / "work", "tamis:tiny-lm", max_tokens=256, device="cpu", workers=1)
    rows = render_rows(list(tamis.open_pool(QUERIES[:1], work)), work.model)
    kept = Lora(rank=16, alpha=32, epochs=1, keep="every-epoch").train(
        work.model, rows, Seeds(), (), folder / "warm-up", ON
    )
    return kept[-1]


def _write_store(store: Path, encoding: Encoding, rows: int, checkpoint: Checkpoint, shard: int) -> int:
    """Random unit rows, shard by shard."""
    component = Gradients(checkpoints=(checkpoint,), dim=DIM, encoding=encoding)
    contents = Contents.of(component.source, component.projected(), encoding, balanced=True).packed()
    draw = np.random.default_rng(0)
    for number, start in enumerate(range(0, rows, shard)):
        count = min(shard, rows - start)
        coded = []
        for _ in range(0, count, 500):
            coded.append(encode(torch.from_numpy(draw.standard_normal((500, DIM), np.float32)) / DIM**0.5, encoding))
        part = store / str(number)
        part.mkdir(parents=True)
        arrays = {
            "features": np.concatenate([features for features, _ in coded])[:count],
            "scales": np.concatenate([scales for _, scales in coded])[:count, None],
            "norms": np.ones((count, 1), np.float32),
            "reason": np.zeros(count, np.uint8),
            "contents": contents,
        }
        save_arrays(part, arrays)
    return -(-rows // shard)


def _in_a_process(store: Path, encoding: str, shards: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--ask", str(store), encoding, str(shards)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def ask(store: Path, encoding: str, shards: int) -> dict[str, Any]:
    """One warm query of ten targets, and the peak memory of this process in bytes."""
    folder = store.parent
    work = tamis.workspace(folder / "work", "tamis:tiny-lm", max_tokens=256, device="cpu", workers=1)
    target = tamis.open_pool(QUERIES, work, sample={"rows": TARGETS // 2, "seed": 0})
    (checkpoint,) = [
        Checkpoint(path) for path in (folder / "warm-up").glob("*") if (path / "moments.safetensors").is_file()
    ]
    query = GradientQuery(checkpoints=(checkpoint,), target=target, by="row")
    for _ in range(2):  # the first loads libraries and reads the files
        gradient_query._queries.cache_clear()
        wall, cpu = time.perf_counter(), time.process_time()
        for number in range(shards):
            scores = query.measure(
                target.shards[0], ShardSignals(target.shards[0], {"gradients": store / str(number)}), ON
            )["scores"]
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert scores.shape[1] == TARGETS and np.isfinite(scores).all()
    return {"seconds": round(wall, 3), "cpu_seconds": round(cpu, 3), "peak_bytes": _peak_bytes()}


def _peak_bytes() -> int:
    """Peak resident memory of this program alone; getrusage would count the parent's, of which it was forked."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


# quality


class Together:
    """Several projections of the same gradients, side by side, after the exact products with the tasks' vectors."""

    def __init__(
        self, vectors: Mapping[str, torch.Tensor], sketches: Sequence[Sketch], balances: Sequence[Balances]
    ) -> None:
        self.vectors, self.sketches, self.balances = vectors, sketches, balances
        self.tasks = len(next(iter(vectors.values())))
        self.widths = [sketch.start(1).shape[1] for sketch in sketches]

    def start(self, rows: int) -> torch.Tensor:
        """Sums of nothing."""
        return torch.zeros(rows, self.tasks + sum(self.widths))

    def add(self, name: str, part: torch.Tensor, sums: torch.Tensor) -> None:
        """Hand a layer to all."""
        exact, *others = sums.split([self.tasks, *self.widths], dim=1)
        exact += part @ self.vectors[name].float().T
        for sketch, balances, own in zip(self.sketches, self.balances, others, strict=True):
            sketch.add(name, part * balances[name] if name in balances else part, own)

    def finish(self, sums: torch.Tensor) -> torch.Tensor:
        """Exact products, then every projection."""
        exact, *others = sums.split([self.tasks, *self.widths], dim=1)
        return torch.cat([exact, *(sketch.finish(own) for sketch, own in zip(self.sketches, others, strict=True))], 1)


def quality(folder: Path, quick: bool) -> dict[str, Any]:
    """Rank correlation and overlap with the exact scores, by projection and encoding."""
    checkpoints, pool, target = _real(folder, 100 if quick else 500)
    influence = Influence(checkpoints=checkpoints, target=target)
    source = influence.source
    rows, reason = source.objective.examples(list(pool), source.base())
    chosen = [row for row, why in zip(rows, reason, strict=True) if not why]
    ready = Prepared(influence._job(ON))
    both = [_compare(ready, number, chosen, SETTINGS, ON) for number in range(2)]
    if not quick:
        both[1] |= _compare(ready, 1, chosen, DENSE, Machine(tokens_per_batch=8192))
    found: dict[str, Any] = {}
    for name in both[1]:
        if name != "exact":
            found[f"{name}, one checkpoint"] = _agreement(both[1]["exact"], both[1][name])
        if name != "exact" and name in both[0]:
            exact, stored = (
                sum(w * one[key] for w, one in zip(source.weights, both, strict=True)) for key in ("exact", name)
            )
            found[f"{name}, two checkpoints"] = _agreement(exact, stored)
    return {
        "quality": found,
        "quality_rows": len(chosen),
        "quality_parameters": ready.model(0)[0].parameters,
        "quality_tasks": list(ready.tasks.names),
        "quality_model": source.base().label,
    }


def _real(folder: Path, rows: int) -> tuple[tuple[Checkpoint, ...], Pool, Pool]:
    """Two checkpoints of a warm-up at rank 128, `rows` rows and three tasks; of real data where they are."""
    data, models = (os.environ.get(name) for name in ("TAMIS_REAL_DATA", "TAMIS_REAL_MODELS"))
    if data and models:
        model = f"{models}/base-4m"
        files = [f"{data}/pool/{name}.jsonl.gz" for name in REAL]
        targets = [f"{data}/target/{name}.jsonl.gz" for name in TARGET_FILES]
    else:
        model, files = "tamis:tiny-lm", ["tamis:pool.jsonl.gz"]
        targets = [f"tamis:target/{name}.jsonl" for name in ("arithmetic", "sorting", "python")]
    work = tamis.workspace(folder / "real", model, max_tokens=256, device="cpu", workers=1)
    warm = tamis.open_pool(files, work, sample={"rows": 40 // len(files), "seed": 1})
    trainer = Lora(rank=128, alpha=256, epochs=2, keep="every-epoch", learning_rate=1e-3, batch_rows=8)
    good = [row for row, one in zip(warm, render_all(list(warm), work.model), strict=True) if not one.reason]
    kept = trainer.train(work.model, render_rows(good, work.model), Seeds(), (), folder / "real-warm-up", ON)
    pool = tamis.open_pool(files, work, sample={"rows": rows // len(files), "seed": 2}, shard_rows=rows)
    return tuple(kept), pool, tamis.open_pool(targets, work, sample={"rows": 8, "seed": 3})


def _compare(
    ready: Prepared, number: int, rows: Sequence[Any], settings: Mapping[str, dict[str, Any]], on: Machine
) -> dict[str, NDArray[np.float64]]:
    """(n, tasks) cosines on one checkpoint: exact, and from every projection; of the first one in every encoding."""
    opened, direction = ready.model(number)
    vectors = ready.vectors(number, ready.groups(number)[0])
    balances = {name: balances_of(direction, opened, given.get("balanced", True)) for name, given in settings.items()}
    kinds = {
        name: Projection(**{key: value for key, value in given.items() if key != "balanced"})
        for name, given in settings.items()
    }
    sketches = {name: kind.sketch(number, "cpu", opened.shapes) for name, kind in kinds.items()}
    queries = {name: project_vectors(sketch, vectors, balances[name]) for name, sketch in sketches.items()}
    tasks = len(ready.tasks.names)
    found: dict[str, NDArray[np.float64]] = {"exact": np.zeros((len(rows), tasks))}

    def put(places: NDArray[np.int64], unit: torch.Tensor) -> None:
        exact, *parts = unit.split([tasks, *(kind.dim for kind in kinds.values())], dim=1)
        found["exact"][places] = exact.double().numpy()
        for order, (name, part) in enumerate(zip(kinds, parts, strict=True)):
            for encoding in ENCODINGS if order == 0 else ENCODINGS[:1]:
                features, scales = encode(part, encoding)
                back = (
                    decode(torch.from_numpy(features), encoding, torch.empty_like(part))
                    * torch.from_numpy(scales)[:, None]
                )
                label = name if encoding == "float16" else f"{name}, {encoding}"
                found.setdefault(label, np.zeros((len(rows), tasks)))[places] = (back @ queries[name].T).numpy()

    objective = ready.source.objective
    together = Together(vectors, list(sketches.values()), list(balances.values()))
    project_rows(opened, rows, direction, together, put, on, objective, {})
    return found


def _agreement(exact: NDArray[np.float64], stored: NDArray[np.float64]) -> dict[str, float]:
    """Spearman over rows, mean over tasks; overlap of the first 5 % by the best task."""
    ranks = [np.argsort(np.argsort(one, axis=0), axis=0).astype(np.float64) for one in (exact, stored)]
    spearman = [float(np.corrcoef(ranks[0][:, task], ranks[1][:, task])[0, 1]) for task in range(exact.shape[1])]
    first = [set(np.argsort(-one.max(1))[: round(0.05 * len(one))].tolist()) for one in (exact, stored)]
    return {"spearman": round(float(np.mean(spearman)), 4), "top_5": round(len(first[0] & first[1]) / len(first[0]), 3)}


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
