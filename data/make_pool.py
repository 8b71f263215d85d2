"""Makes the shipped data: ``pool.jsonl.gz``, ``target/<skill>.jsonl`` and ``eval/<skill>.jsonl``. Seeded, no input.

Usage: ``python data/make_pool.py [folder]`` (default: the folder of this file). Same seed, same bytes.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tamis.data import faults
from tamis.data.skills import SKILLS, instruction

SEED = "tamis shipped data 1"
ROWS = 6000
BROKEN = 25
TARGET_ROWS = 8
EVAL_ROWS = 100
Record = dict[str, Any]


def make_record(name: str, phrasings: Sequence[int], rng: random.Random, seen: set[str], slip: bool = False) -> Record:
    """Make one row whose task is not in `seen` yet; raises RuntimeError when the skill has no new tasks left."""
    for _ in range(1000):
        task = SKILLS[name].make(rng, slip)
        identity = f"{name} {task.identity}"
        if identity not in seen:
            seen.add(identity)
            number = rng.choice(phrasings)
            return {
                "instruction": instruction(name, number, task),
                "input": task.input,
                "output": task.answer,
                "source": name,
                "meta": {"skill": name, "fault": "", "phrasing": number},
            }
    raise RuntimeError(f"skill {name} has no new tasks left after {len(seen)} rows")


def make_eval(seen: set[str]) -> dict[str, list[Record]]:
    """Make evaluation rows of every skill: the first half in phrasings of the pool, the second in held-out ones."""
    made: dict[str, list[Record]] = {}
    for name, skill in SKILLS.items():
        rng = random.Random(f"{SEED} eval {name}")
        kinds = [skill.pool_phrasings] * (EVAL_ROWS // 2) + [skill.held_out_phrasings] * (EVAL_ROWS // 2)
        made[name] = [make_record(name, kind, rng, seen) for kind in kinds]
    return made


def make_target(seen: set[str]) -> dict[str, list[Record]]:
    """Make few-shot rows of every skill, clean, from a seed of their own."""
    made: dict[str, list[Record]] = {}
    for name, skill in SKILLS.items():
        rng = random.Random(f"{SEED} target {name}")
        made[name] = [make_record(name, skill.pool_phrasings, rng, seen) for _ in range(TARGET_ROWS)]
    return made


def make_skill(name: str, rows: int, seen: set[str]) -> list[Record]:
    """Make the pool rows of one skill, faults at their rates, duplicates of clean rows included."""
    rng = random.Random(f"{SEED} pool {name}")
    counts = {fault: round(rate * rows) for fault, rate in faults.RATES.items()}
    phrasings = SKILLS[name].pool_phrasings
    clean = [make_record(name, phrasings, rng, seen) for _ in range(rows - sum(counts.values()))]
    made = list(clean)
    for fault, count in counts.items():
        originals = rng.sample(clean, count) if fault.endswith("_duplicate") else []
        for number in range(count):
            if fault == "exact_duplicate":
                record = originals[number]
            elif fault == "near_duplicate":
                record = faults.near_duplicate(originals[number], rng)
            else:
                record = make_record(name, phrasings, rng, seen, slip=fault == "wrong_answer")
            rewrite = faults.REWRITES.get(fault)
            output = rewrite(record["output"], rng) if rewrite else record["output"]
            made.append({**record, "output": output, "meta": {**record["meta"], "fault": fault}})
    return made


def make_pool(seen: set[str]) -> list[bytes]:
    """Make the lines of the pool in random order, broken ones among them."""
    rng = random.Random(f"{SEED} order")
    total = sum(skill.share for skill in SKILLS.values())
    rows = {name: round(skill.share / total * (ROWS - BROKEN)) for name, skill in SKILLS.items()}
    records = [record for name, count in rows.items() for record in make_skill(name, count, seen)]
    lines = [to_line(record) for record in records] + faults.broken_lines(rng.sample(records, BROKEN), rng)
    rng.shuffle(lines)
    return lines


def to_line(record: Record) -> bytes:
    """Encode a row as one line of JSON, without the line feed."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8")


def write(folder: Path) -> None:
    """Write every file below the folder."""
    seen: set[str] = set()
    parts: Iterable[tuple[str, dict[str, list[Record]]]] = (("eval", make_eval(seen)), ("target", make_target(seen)))
    for part, made in parts:
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name, records in made.items():
            (folder / part / f"{name}.jsonl").write_bytes(b"".join(to_line(record) + b"\n" for record in records))
    text = b"".join(line + b"\n" for line in make_pool(seen))
    (folder / "pool.jsonl.gz").write_bytes(gzip.compress(text, compresslevel=9, mtime=0))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
