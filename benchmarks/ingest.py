"""A million dirty rows through ingest, exact and near duplicates and filters: seconds and memory by step.

    python benchmarks/ingest.py [--quick] [--json] [--rows FEW MANY]

The pool is made from a seed (benchmarks/ingest_pool.py): JSON lines of about 700 bytes, 5 % exact copies, 5 % copies
with a changed word, 0.5 % that cannot be used. One process a size, two workers of one thread each, a fresh store:
ingest; `exact`; `near` (threshold 0.7); `where` with a field and a count of characters. What was planted is held
against what was found. Seconds are of the wall and of the processors (of all processes), for the machine may be shared;
`minutes_at_full_cores` is processor time over the two cores, what the wall would be on a machine of one's own if both
were busy throughout. Memory is the largest sum of resident memory of the process and its workers, read every 0.2 s, so
that pages which they share count twice. `memory_growth` = that of MANY rows / that of FEW.

Floors on the larger file, each in a process of its own: `datasets.load_dataset("json")` and Polars' `read_ndjson`,
which parse, and judge nothing.
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
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ingest_pool

SIZES, QUICK = (250_000, 1_000_000), (5_000, 20_000)
WORKERS, PERIOD = 2, 0.2
FILTER = 'source in ["web", "forum", "books"] and chars > 60'
STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("exact", {}),
    ("near", {"threshold": 0.7}),
    ("where", {"keep": FILTER}),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK[0]:,} and {QUICK[1]:,} rows")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--rows", type=int, nargs=2, metavar=("FEW", "MANY"))
    parser.add_argument("--folder", type=Path, help="where the pools and the stores lie (default: a temporary folder)")
    parser.add_argument("--carry-out", nargs=2, help=argparse.SUPPRESS, metavar=("FILE", "STORE"))
    parser.add_argument("--floor", nargs=3, help=argparse.SUPPRESS, metavar=("NAME", "FILE", "CACHE"))
    given = parser.parse_args(arguments)
    if given.carry_out:
        carry_out(Path(given.carry_out[0]), Path(given.carry_out[1]))
        return
    if given.floor:
        floor(given.floor[0], Path(given.floor[1]), Path(given.floor[2]))
        return
    sizes = tuple(given.rows or (QUICK if given.quick else SIZES))
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found = measure(sizes, Path(folder))
    lines = json.dumps(found) if given.json else "\n".join(f"{key}: {value}" for key, value in found.items())
    sys.stdout.write(lines + "\n")


def measure(sizes: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Both sizes, one after the other, and the floors on the larger."""
    by_size = {}
    for rows in sizes:
        file = folder / f"pool{rows}.jsonl"
        planted = ingest_pool.write(file, rows)
        _say(f"{rows:,} rows, {file.stat().st_size / 1e6:,.0f} MB: {planted}")
        by_size[rows] = _watched(["--carry-out", str(file), str(folder / f"store{rows}")])
        by_size[rows]["planted"] = {"exact": planted.exact, "near": planted.near, "bad": planted.bad}
        by_size[rows]["megabytes"] = round(file.stat().st_size / 1e6)
        _say(json.dumps(by_size[rows]))
    few, many = (by_size[rows] for rows in sizes)
    last = folder / f"pool{sizes[-1]}.jsonl"
    parsed = {name: _watched(["--floor", name, str(last), str(folder / name)]) for name in ("datasets", "polars")}
    steps = many["steps"]
    cost = {name: steps["ingest"]["cpu_seconds"] / max(one["cpu_seconds"], 0.01) for name, one in parsed.items()}
    return {
        "minutes": round(sum(step["seconds"] for step in steps.values()) / 60, 2),
        "minutes_at_full_cores": round(sum(step["cpu_seconds"] for step in steps.values()) / 60 / WORKERS, 2),
        "peak_gb": many["peak_gb"],
        "memory_growth": round(many["peak_gb"] / few["peak_gb"], 2),
        "ingest_rows_per_cpu_second": round(sizes[-1] / steps["ingest"]["cpu_seconds"]),
        "ingest_cpu_times_datasets": round(cost["datasets"], 1),
        "ingest_cpu_times_polars": round(cost["polars"], 1),
        "sizes": {str(rows): about for rows, about in by_size.items()},
        "floors": parsed,
        "workers": WORKERS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[1], 1),
        "date": time.strftime("%Y-%m-%d"),
    }


def _watched(arguments: list[str]) -> dict[str, Any]:
    """What a process of its own prints, and the peak of its memory with that of its workers."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, __file__, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run:
        peaks = [0]
        watcher = threading.Thread(target=_watch, args=(run, peaks), daemon=True)
        watcher.start()
        out, _ = run.communicate()
        watcher.join()
    if run.returncode:
        raise SystemExit(f"{arguments[0]} failed")
    return {**json.loads(out.splitlines()[-1]), "peak_gb": round(peaks[0] / 1e9, 2)}


def _watch(run: subprocess.Popen[str], peaks: list[int]) -> None:
    while run.poll() is None:
        peaks[0] = max(peaks[0], sum(map(_resident, _family(run.pid))))
        time.sleep(PERIOD)


def _family(root: int) -> list[int]:
    """The process and all below it."""
    found = [root]
    for process in found:
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text(encoding="ascii").split()]
            except OSError:
                continue
    return found


def _resident(process: int) -> int:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize()


def carry_out(file: Path, store: Path) -> None:
    """All steps over one file; prints seconds by step, and what was found."""
    import tamis

    work = tamis.workspace(store, workers=WORKERS)
    steps: dict[str, dict[str, Any]] = {}
    pool = _timed(steps, "ingest", lambda: tamis.open_pool(str(file), work))
    steps["ingest"] |= {"rows": len(pool), "quarantined": pool.files[0]["quarantined"]}
    for name, settings in STEPS:
        before = len(pool)
        pool = _timed(
            steps,
            name,
            lambda name=name, settings=settings, pool=pool: tamis.clean(pool, [{name: settings}], work=work),
        )
        steps[name] |= {"rows": len(pool), "dropped": before - len(pool)}
    sys.stdout.write(json.dumps({"steps": steps, "rows": len(pool)}) + "\n")


def _timed(steps: dict[str, dict[str, Any]], name: str, act: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), _processors()
    made = act()
    steps[name] = {"seconds": round(time.perf_counter() - wall, 1), "cpu_seconds": round(_processors() - cpu, 2)}
    _say(f"{name}: {steps[name]}")
    return made


def _processors() -> float:
    """Processor seconds of this process and of the workers that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in both)


def floor(name: str, file: Path, cache: Path) -> None:
    """Parse the file with a library that judges nothing; prints seconds."""
    steps: dict[str, dict[str, Any]] = {}
    if name == "polars":
        import polars

        good = file.with_suffix(".good")  # it refuses the whole file for one bad row
        good.write_bytes(b"".join(line for line in file.open("rb") if line not in _BROKEN))
        _timed(steps, name, lambda: polars.read_ndjson(good))
    else:
        os.environ["HF_DATASETS_OFFLINE"] = "1"
        import datasets

        good = file.with_suffix(".better")
        good.write_bytes(b"".join(line for line in file.open("rb") if line not in _BROKEN))
        datasets.disable_progress_bars()
        _timed(
            steps, name,
            lambda: datasets.load_dataset("json", data_files=str(good), split="train", cache_dir=str(cache)),
        )  # fmt: skip
    good.unlink()
    sys.stdout.write(json.dumps(steps[name]) + "\n")


_BROKEN = frozenset(line + b"\n" for line in ingest_pool.BROKEN)


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
