"""The two pools of `selection.py`: rows of the shipped pool, and short rows of public sources with planted faults."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tamis
from tamis.data.faults import RATES, REWRITES, VISIBLE, near_duplicate
from tamis.data.skills import SKILLS
from tamis.pool import Pool
from tamis.recipe import file_list, load
from tamis.stages.measure import measure, pass_for
from tamis.stages.signals import Signal, view_of
from tamis.stages.workspace import Workspace
from tamis.values import Need, Row

Record = dict[str, Any]
DATA = Path(tamis.__file__).parent / "data"
REAL_TARGETS = ("gsm8k_test", "mbpp_test_500", "aqua_test")
FEW, EVALUATED, TUNED, SHORT = 16, 300, 100, 128
POOLED = Need(kind="signal", name="tokens", settings=(("loss", "none"), ("pooled", True)))
LENGTHS = Need(kind="signal", name="lengths")


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is run."""

    rows: int = 2000
    existing: int = 300
    evaluated: int = EVALUATED
    tuned: int = TUNED
    runs: int = 3
    shares: tuple[float, ...] = (0.1, 0.3)


QUICK = Size(rows=150, existing=30, evaluated=42, tuned=14, runs=2, shares=(0.3,))


@dataclasses.dataclass(frozen=True)
class Study:
    """A pool, its target, and where the work lies."""

    name: str
    work: Workspace
    pool: Pool
    target: Pool
    existing: Pool
    held_out: Pool
    tuning: Pool
    size: Size

    def tokens(self, share: float) -> int:
        """Training tokens of a share of the pool."""
        view = view_of(self.pool, {"lengths": self.signal(LENGTHS)})
        return int(share * int(view.cost[view.usable].sum()))

    def signal(self, need: Need) -> Signal:
        """A signal of the pool that a need alone starts."""
        return measure(self.pool, need.name, pass_for(need, self.work), self.work)


def shipped(place: Path, size: Size, workers: int) -> Study:
    """Rows of the shipped pool, stratified over skill and fault."""
    work = _workspace(place / "shipped", "tamis:tiny-lm", workers)
    with gzip.open(DATA / "pool.jsonl.gz", "rt", encoding="utf-8", errors="replace") as file:
        records = [record for line in file if (record := _readable(line)) is not None]
    draw = random.Random("selection: shipped")
    chosen = with_originals(records, stratified(records, size.rows, draw), draw)
    rest = sorted(set(range(len(records))) - set(chosen))
    draw.shuffle(chosen)
    each = -(-(size.evaluated + size.tuned) // len(SKILLS))
    evaluation = [_lines(DATA / "eval" / f"{skill}.jsonl")[:each] for skill in SKILLS]
    turns = [record for rows in zip(*evaluation, strict=True) for record in rows]  # skill after skill
    existing = draw.sample(rest, size.existing)

    def few(skill: str) -> list[Record]:
        return _lines(DATA / "target" / f"{skill}.jsonl")

    return Study(
        "shipped",
        work,
        _written(place / "shipped" / f"pool-{size.rows}.jsonl", [records[number] for number in chosen], work),
        _written(place / "shipped" / "target.jsonl", [one for skill in SKILLS for one in few(skill)], work),
        _written(place / "shipped" / f"existing-{size.rows}.jsonl", [records[number] for number in existing], work),
        _written(place / "shipped" / f"held-out-{size.evaluated}.jsonl", turns[: size.evaluated], work),
        _written(
            place / "shipped" / f"tuning-{size.tuned}.jsonl", turns[size.evaluated : size.evaluated + size.tuned], work
        ),
        size,
    )


def _readable(line: str) -> Record | None:
    try:
        record: Any = json.loads(line)
    except ValueError:
        return None
    fields = {"instruction", "input", "output", "source", "meta"}
    good = isinstance(record, dict) and set(record) == fields and isinstance(record["instruction"], str)
    good = good and isinstance(record["output"], str) and bool(record["output"].strip())
    return record if good else None


def _lines(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def stratified(records: Sequence[Record], count: int, draw: random.Random) -> list[int]:
    """Numbers of `count` records, every stratum of skill and fault in proportion (largest remainder)."""
    strata: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, record in enumerate(records):
        strata[record["meta"]["skill"], record["meta"]["fault"]].append(number)
    exact = {key: count * len(numbers) / len(records) for key, numbers in sorted(strata.items())}
    shares = {key: int(share) for key, share in exact.items()}
    for key in sorted(exact, key=lambda key: shares[key] - exact[key])[: count - sum(shares.values())]:
        shares[key] += 1
    return [number for key, share in shares.items() for number in draw.sample(strata[key], share)]


def with_originals(records: Sequence[Record], chosen: list[int], draw: random.Random) -> list[int]:
    """Put the originals of chosen duplicates in the places of clean rows of their skill."""
    alike: dict[str, list[int]] = defaultdict(list)
    for number, record in enumerate(records):
        alike[plain(f"{record['instruction']}\n{record['input']}", record["output"])].append(number)
    twins = {number: numbers for numbers in alike.values() for number in numbers if len(numbers) > 1}
    kept = set(chosen)
    clean = defaultdict(list)
    for number in chosen:
        if not records[number]["meta"]["fault"] and number not in twins:
            clean[records[number]["meta"]["skill"]].append(number)
    for number in chosen:
        record = records[number]
        originals = [other for other in twins.get(number, []) if not _copied(records[other])]
        out = clean[record["meta"]["skill"]]
        if _copied(record) and originals and out and not kept & set(originals):
            kept.remove(out.pop(draw.randrange(len(out))))
            kept.add(originals[0])
    return sorted(kept)


def _copied(record: Record) -> bool:
    return str(record["meta"]["fault"]).endswith("_duplicate")


def real(place: Path, size: Size, workers: int) -> Study:
    """Short rows of public sources, with faults planted."""
    data = Path(os.environ.get("TAMIS_REAL_DATA", "../shared/data"))
    model = Path(os.environ.get("TAMIS_REAL_MODELS", "../shared/models")) / "base-4m"
    work = _workspace(place / "real", str(model), workers)
    drawn = tamis.open_pool(file_list(load("less-real").pool), work, sample={"rows": size.rows // 5, "seed": 3})
    draw = random.Random("selection: real")
    records = _short(drawn, work, draw)
    own = size.rows - sum(round(RATES[kind] * size.rows) for kind in ("exact_duplicate", "near_duplicate"))
    if len(records) < own + size.existing:
        raise SystemExit(f"only {len(records)} rows of at most {SHORT} tokens; {own + size.existing} are needed")

    def read(rows: int, skip: int, files: Sequence[str] = REAL_TARGETS) -> Pool:
        names = [str(data / "target" / f"{name}.jsonl.gz") for name in files]
        return tamis.open_pool(names, work, sample={"rows": rows, "seed": 5, "skip": skip})

    each = size.evaluated // len(REAL_TARGETS)
    return Study(
        "real",
        work,
        _written(place / "real" / f"pool-{size.rows}.jsonl", planted(records[:own], size.rows, draw), work),
        read(FEW, 0),
        _written(place / "real" / f"existing-{size.rows}.jsonl", records[own : own + size.existing], work),
        read(each, FEW),
        read(size.tuned // 2, FEW + EVALUATED, REAL_TARGETS[:2]),
        size,
    )


def _short(pool: Pool, work: Workspace, draw: random.Random) -> list[Record]:
    """Rows of one instruction and its answer, whole within `SHORT` tokens; file after file takes turns."""
    view = view_of(pool, {"lengths": measure(pool, "lengths", pass_for(LENGTHS, work), work)})
    by_file: dict[str, list[Record]] = defaultdict(list)
    seen = set()
    for row, usable, tokens in zip(pool, view.usable, view.cost, strict=True):
        if usable and tokens <= SHORT and row.content not in seen and _plain_row(row):
            seen.add(row.content)
            turns = {message["role"]: str(message["content"]) for message in row.messages}
            record = {"instruction": turns["user"], "input": "", "output": turns["assistant"], "source": row.source}
            by_file[row.file].append({**record, "meta": {"skill": row.source, "fault": ""}})
    for records in by_file.values():
        draw.shuffle(records)
    most = max(map(len, by_file.values()), default=0)
    return [records[turn] for turn in range(most) for _, records in sorted(by_file.items()) if turn < len(records)]


def _plain_row(row: Row) -> bool:
    return [message["role"] for message in row.messages] == ["user", "assistant"] and not row.tools


def planted(records: Sequence[Record], count: int, draw: random.Random) -> list[Record]:
    """`count` records: these, some of them with a fault, and copies of clean ones; at the rates of the shipped pool."""
    order = draw.sample(range(len(records)), len(records))
    done = list(records)
    for kind in ("wrong_answer", *VISIBLE):
        numbers = [order.pop() for _ in range(round(RATES[kind] * count))]
        for number, other in zip(numbers, [*numbers[1:], *numbers[:1]], strict=True):
            output = records[other]["output"] if kind == "wrong_answer" else _spoilt(kind, records[number], draw)
            done[number] = {**records[number], "output": output, "meta": {**records[number]["meta"], "fault": kind}}
    exact = round(RATES["exact_duplicate"] * count)
    for place in range(count - len(records)):
        copy = records[order.pop()]
        kind = "exact_duplicate" if place < exact else "near_duplicate"
        copy = copy if kind == "exact_duplicate" else near_duplicate(copy, draw)
        done.append({**copy, "meta": {**copy["meta"], "fault": kind}})
    draw.shuffle(done)
    return done


def _spoilt(kind: str, record: Record, draw: random.Random) -> str:
    return str(REWRITES[kind](record["output"], draw)) or "."


STUDIES = {"shipped": shipped, "real": real}


def _workspace(place: Path, model: str, workers: int) -> Workspace:
    work = tamis.workspace(place / "store", model, max_tokens=256, device="cpu", workers=workers)
    return dataclasses.replace(work, settings_of_passes={"tokens": dict(POOLED.settings)})


def _written(path: Path, records: Sequence[Record], work: Workspace) -> Pool:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return tamis.open_pool([str(path)], work, shard_rows=256)


def plain(question: str, answer: str) -> str:
    """A row's text without what near-duplicates change: courtesies, case, spaces and punctuation."""
    words = re.findall(r"\w+", f"{question} | {answer}".lower())
    return " ".join(words).replace("please answer ", "").replace("thanks ", "")
