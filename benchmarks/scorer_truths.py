"""Rows of which something is known: rows, what is true of each, and which of them hang together."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.data.faults import VISIBLE
from tamis.data.noisy_traces import Noise, records

RATERS = {"llama-3.1-8b-instruct": "llama", "mistral-7b-v0.3-instruct": "mistral", "gpt-4o-mini": "gpt"}
SEED = 5
VERSIONS = {"uit-denoising": {"task": "meta.task", "candidate": "meta.candidate"}}


@dataclass(frozen=True)
class Truth:
    """`rows` in tamis's own chat form; `truth` (n,) float64, 0 and 1 where `binary`; `groups` (n,) int64.

    Rows of one group share a prompt, and are drawn together where an interval is made. `what` is true says which rows
    have 1, or the higher number. `settings` are those of scorers that read a column of these rows.
    """

    name: str
    what: str
    rows: Sequence[Mapping[str, Any]]
    truth: NDArray[np.float64]
    groups: NDArray[np.int64]
    binary: bool
    settings: Mapping[str, Mapping[str, Any]]


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _truth(
    name: str,
    what: str,
    rows: Sequence[dict[str, Any]],
    true: Callable[[Mapping[str, Any]], float],
    most: int,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Truth:
    """At most `most` rows, whole groups drawn at random, those without truth or answer left out."""
    usable = [row for row in rows if row["messages"][-1]["content"].strip() and np.isfinite(true(row["meta"]))]
    prompts = [json.dumps(row["messages"][:-1], ensure_ascii=False) for row in usable]
    _, groups = np.unique(prompts, return_inverse=True)
    order = np.random.default_rng(SEED).permutation(groups.max() + 1)[groups]
    chosen = np.argsort(order, kind="stable")[:most]
    kept = [usable[place] for place in chosen]
    truth = np.array([true(row["meta"]) for row in kept], np.float64)
    return Truth(name, what, kept, truth, groups[chosen], bool(np.isin(truth, (0, 1)).all()), settings or {})


def solutions(data: Path, most: int) -> Truth:
    """Solutions of GSM8K questions by four models: right or wrong by the final number."""
    rows = list(_read(data / "rating" / "gsm8k_model_solutions.jsonl.gz"))
    for place, row in enumerate(rows):
        row["meta"] |= {"task": row["messages"][0]["content"], "candidate": str(place)}
    return _truth("solutions", "the solution is right", rows, lambda meta: float(meta["is_correct"]), most, VERSIONS)


def revised(data: Path, most: int) -> Truth:
    """Pairs of an Alpaca row and its revision by an expert: which of the two."""
    rows = list(_read(data / "rating" / "car_expert_pair_scores.jsonl.gz"))
    for place, row in enumerate(rows):  # an original stands before its revision
        row["meta"] |= {"task": str(place // 2), "candidate": str(place % 2)}
    return _truth(
        "revised", "revised by an expert", rows, lambda meta: float(meta.get("score") or "nan"), most, VERSIONS
    )


def truthful(data: Path, most: int) -> Truth:
    """Answers to TruthfulQA: judged true or false by people."""
    rows = list(_read(data / "rating" / "truthfulqa_judge_truth.jsonl.gz"))
    labels = {"yes": 1.0, "no": 0.0}
    return _truth(
        "truthful", "judged true", rows, lambda meta: labels.get(str(meta.get("truth_label")), float("nan")), most
    )


def alpagasus(data: Path, most: int) -> Truth:
    """Alpaca rows that carry a rating by ChatGPT and three by other models: the one by ChatGPT."""
    rows = []
    for name in ("alpaca_longest_1k", "alpaca_score_1k"):
        for row in _read(data / "pool" / f"{name}.jsonl.gz"):
            ratings = row["meta"].get("ds2_ratings") or {}
            row["meta"] |= {short: ratings.get(long) for long, short in RATERS.items()}
            if all(row["meta"][short] is not None for short in RATERS.values()):
                rows.append(row)
    settings = {"ds2": {"rating": "meta.gpt"}, "alpagasus": {"column": "meta.gpt"}}
    return _truth("alpagasus", "rated higher by ChatGPT", rows, lambda meta: float(meta["score"]), most, settings)


def ratings(data: Path, most: int) -> Truth:
    """The same rows: the mean of the three other models' ratings."""
    one = alpagasus(data, most)
    mean = np.array([np.mean([float(row["meta"][short]) for short in RATERS.values()]) for row in one.rows])
    settings = {"ds2": {"rating": "meta.score"}, "alpagasus": {"column": "meta.score"}}
    return Truth("ds2 ratings", "rated higher by three models", one.rows, mean, one.groups, False, settings)


def faults(most: int, visible: bool) -> Truth:
    """Rows of the shipped pool: clean, or with a fault that can be seen, or with a wrong answer."""
    import tamis

    path = Path(tamis.__file__).parent / "data" / "pool.jsonl.gz"
    rows = []
    for line in gzip.open(path, "rb").read().splitlines():
        row = _parsed(line)
        fault = (row.get("meta") or {}).get("fault") if row else None
        wanted = set(VISIBLE) if visible else {"wrong_answer"}
        if row is not None and fault is not None and (not fault or fault in wanted):
            prompt = f"{row['instruction']}\n\n{row['input']}" if row.get("input") else row["instruction"]
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": row["output"]}]
            rows.append({"messages": messages, "source": row["source"], "meta": row["meta"]})
    clean = [row for row in rows if not row["meta"]["fault"]]
    bad = [row for row in rows if row["meta"]["fault"]]
    draw = np.random.default_rng(SEED)
    rows = bad[: most // 3] + [
        clean[place] for place in draw.permutation(len(clean))[: most - min(len(bad), most // 3)]
    ]
    name = "visible faults" if visible else "wrong answers"
    return _truth(name, "the row is clean", rows, lambda meta: float(not meta["fault"]), most)


def traces(most: int, noise: Noise) -> Truth:
    """Programs over lists worked out line by line: clean, or with noise of one kind."""
    rows = []
    for record in records(most, noise, rate=0.5, seed=SEED):
        messages = [
            {"role": "user", "content": record["instruction"]},
            {"role": "assistant", "content": record["output"]},
        ]
        rows.append({"messages": messages, "source": "traces", "meta": record["meta"]})
    return _truth(f"{noise} noise", "the trace is clean", rows, lambda meta: float(not meta["noise"]), most)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("output"), str) else None
