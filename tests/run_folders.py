"""Run folders for the tests of the report (seeded, as hostile as asked for), and what a parser finds in its page."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.random import Generator

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "{{7*7}}{% for x in y %}",
    "\u202eevil\u202c",
    "<a href='javascript:alert(3)'>go</a>",
    "nul\x00 bell\x07 \ufffe",
    "&lt;b&gt;%{x}<b>bold</b>",
)
SKILLS = ("arithmetic", "units", "dates", "strings", "sorting", "python", "tables", "rewriting", "lists", "roman")
FAULTS = ("none", "wrong answer", "truncated", "mojibake", "refusal", "boilerplate", "duplicate")
TARGET = SKILLS[0]


class Page(HTMLParser):
    """What a parser finds in a page: elements with attributes, scripts, and the text outside them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._raw = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if self._raw == "script":
            self.scripts[-1] += data
        elif not self._raw:
            self.text += data


def fabricate(folder: Path, rows: int = 1200, hostile: bool = False) -> Path:
    """Write a whole run folder of `rows` rows into `folder`; with `hostile`, texts and names attack the page."""
    rng = np.random.default_rng(7)

    def name(text: str, number: int) -> str:
        return HOSTILE[number % len(HOSTILE)] + text if hostile else text

    skills = rng.choice(len(SKILLS), rows, p=[0.1] * len(SKILLS))
    faults = rng.choice(len(FAULTS), rows, p=[0.82, *[0.03] * (len(FAULTS) - 1)])
    gains = rng.normal(size=rows) + 3.2 * (skills == 0) - 2.0 * (faults > 1)
    verdicts = np.where(rng.random(rows) < 0.06, "quarantined", "dropped")
    usable = np.flatnonzero(verdicts == "dropped")
    chosen = usable[np.argsort(-gains[usable])][: max(1, rows // 20)]
    verdicts[chosen] = "selected"
    sources = [name(f"{SKILLS[skill]}.jsonl", skill) for skill in skills]
    folder.mkdir(parents=True, exist_ok=True)
    _tables(folder, rng, sources, verdicts, chosen, gains, name)
    _map(folder, rng, skills, faults, verdicts, sources, name)
    _json(folder / "manifest.json", _manifest(rows, len(usable), len(chosen), name))
    _json(folder / "comparison.json", _comparison(skills, faults, usable, chosen, rng, name))
    _json(folder / "examples.json", _examples(name))
    lock = f"model: {{name: tiny-lm, max_tokens: 256}}\npool: {{files: [pool/*.jsonl.gz]}}\nnote: {name('fine', 1)}\n"
    (folder / "recipe.lock.yaml").write_text(lock, encoding="utf-8")
    return folder


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")  # NaN and lone surrogates as Python's json writes them


def _tables(
    folder: Path,
    rng: Generator,
    sources: list[str],
    verdicts: np.ndarray[Any, Any],
    chosen: np.ndarray[Any, Any],
    gains: np.ndarray[Any, Any],
    name: Callable[[str, int], str],
) -> None:
    keys = [f"{row:032x}" for row in range(len(sources))]
    reasons = {"quarantined": "broken JSON", "dropped": "not among the best of the budget", "selected": ""}
    ranks: list[int | None] = [None] * len(keys)
    for rank, row in enumerate(chosen):
        ranks[row] = rank
    ledger = {
        "key": keys,
        "file": sources,
        "position": list(range(len(keys))),
        "source": sources,
        "verdict": verdicts.tolist(),
        "step": [{"quarantined": "ingest", "dropped": "subset", "selected": ""}[verdict] for verdict in verdicts],
        "value": gains.astype(np.float32),
        "reason": [
            name(reasons[verdict], row % 3) if verdict != "selected" else "" for row, verdict in enumerate(verdicts)
        ],
        "rank": pa.array(ranks, pa.int32()),
        "gain": gains.astype(np.float32),
    }
    pq.write_table(pa.table(ledger), folder / "ledger.parquet")
    subset = {"rank": range(len(chosen)), "key": [keys[row] for row in chosen], "gain": gains[chosen]}
    pq.write_table(pa.table({name: list(column) for name, column in subset.items()}), folder / "subset.parquet")
    bad = [row for row, verdict in enumerate(verdicts) if verdict == "quarantined"]
    quarantine = {
        "key": [keys[row] for row in bad],
        "file": [sources[row] for row in bad],
        "verdict": ["quarantined"] * len(bad),
        "step": ["ingest"] * len(bad),
        "reason": [name(("broken JSON", "empty answer", "not UTF-8")[row % 3], row) for row in bad],
        "excerpt": [name('{"prompt": "What is 3 + 4', row) for row in bad],
        "position": bad,
    }
    pq.write_table(pa.table(quarantine), folder / "quarantine.parquet")
    perplexity = np.exp(rng.normal(2.2, 0.6, len(keys)))
    perplexity[rng.random(len(keys)) < 0.02] = np.nan
    columns = {
        "perplexity.response@tiny-lm": perplexity,
        "perplexity.prompt@tiny-lm": np.exp(rng.normal(2.9, 0.4, len(keys))),
        "ifd.score@tiny-lm": rng.beta(6, 3, len(keys)),
        "entropy.response@tiny-lm": rng.gamma(4, 0.5, len(keys)),
        "gradient-similarity.arithmetic@less": gains / 60,
        "length.response": np.round(np.exp(rng.normal(3.4, 0.7, len(keys)))),
        name("constant@x", 1): np.ones(len(keys)),
        "never@x": np.full(len(keys), np.nan),
    }
    arrays = {column: values.astype(np.float32) for column, values in columns.items()}
    pq.write_table(pa.table({"key": keys, **arrays}), folder / "columns.parquet")


def _map(
    folder: Path,
    rng: Generator,
    skills: np.ndarray[Any, Any],
    faults: np.ndarray[Any, Any],
    verdicts: np.ndarray[Any, Any],
    sources: list[str],
    name: Callable[[str, int], str],
) -> None:
    here = np.flatnonzero(verdicts != "quarantined")
    centres = rng.normal(scale=4, size=(len(SKILLS), 2))
    points = centres[skills] + rng.normal(scale=0.9, size=(len(skills), 2))
    table = {
        "place": range(len(here)),
        "x": points[here, 0].astype(np.float32),
        "y": points[here, 1].astype(np.float32),
        "source": [sources[row] for row in here],
        "selected": verdicts[here] == "selected",
        "snippet": [
            name(f"How many {SKILLS[skills[row]]} are {row} and {row + 3}? Work step by step.", int(row))
            for row in here
        ],
        "skill": [SKILLS[skills[row]] for row in here],
        "fault": [FAULTS[faults[row]] for row in here],
    }
    pq.write_table(
        pa.table({key: list(value) if isinstance(value, range) else value for key, value in table.items()}),
        folder / "map.parquet",
    )


def _manifest(rows: int, usable: int, chosen: int, name: Callable[[str, int], str]) -> dict[str, Any]:
    stages = [("ingest", 3.2, True), ("tokens", 41.0, False), ("warmup", 22.5, True), ("influence", 96.3, True)]
    stages += [("columns", 0.8, True), ("subset", 0.3, True), ("proof", 171.0, True)]
    return {
        "name": name("less-demo", 0),
        "recipe": "less",
        "started": "2026-11-26 04:12:07",
        "finished": "2026-11-26 04:17:43",
        "tamis": "0.1.0",
        "versions": {"torch": "2.11.0", "transformers": "5.17.1", "peft": "0.20.0", "pyarrow": "21.0.0"},
        "machine": {"device": "cpu", "workers": 1, "threads": 2, "cpu": name("some CPU @ 2.4 GHz", 4)},
        "seeds": {"pool": 11, "warmup": 1, "random": 3},
        "model": {"name": name("data/tiny-lm", 2), "digest": "0f" * 16, "max_tokens": 256},
        "pool": {
            "digest": "ab" * 16,
            "rows": usable,
            "files": [
                {
                    "name": name(f"{skill}.jsonl.gz", n),
                    "rows": 120,
                    "kept": 113,
                    "quarantined": 7,
                    "dropped": 0,
                    "format": "alpaca",
                }
                for n, skill in enumerate(SKILLS)
            ],
        },
        "target": {"rows": 8, "files": ["arithmetic.target.jsonl"]},
        "stages": [
            {"name": name(stage, n), "kind": stage, "seconds": spent, "made": made, "detail": name("2 shards", n)}
            for n, (stage, spent, made) in enumerate(stages)
        ],
        "subset": {"selector": "less", "rows": chosen, "tokens": chosen * 83, "budget": "5%"},
        "funnel": [
            {"step": "read", "rows": rows},
            {"step": "ingested", "rows": usable + 9},
            {"step": "usable", "rows": usable},
            {"step": "selected", "rows": chosen},
        ],
        "passes": [
            {"pass": "tokens", "shards": 2, "made": 0, "seconds": 0.0, "seconds_all": 41.0},
            {"pass": "influence", "shards": 2, "made": 2, "seconds": 96.0, "seconds_all": 96.0},
        ],
        "warnings": [name("The warm-up has not seen 12 % of the pool.", 1)],
    }


def _comparison(
    skills: np.ndarray[Any, Any],
    faults: np.ndarray[Any, Any],
    usable: np.ndarray[Any, Any],
    chosen: np.ndarray[Any, Any],
    rng: Generator,
    name: Callable[[str, int], str],
) -> dict[str, Any]:
    values = {"untouched": [2.913], "less": [1.842, 1.851, 1.838], "random": [2.204, 2.187, 2.231]}
    values |= {"longest": [2.158, 2.171, 2.149], "full": [1.797]}
    arms = [
        {
            "name": arm,
            "runs": [{"run": run, "value": value} for run, value in enumerate(losses)],
            "mean": float(np.mean(losses)),
            "rows": 0 if arm == "untouched" else 60,
            "tokens": 0 if arm == "untouched" else 4980,
            "trained_tokens": 0 if arm == "untouched" else 2310,
            "epochs": 0 if arm == "untouched" else 2,
            "seconds_selection": 96.6 if arm == "less" else 0.0,
            "seconds_training": [] if arm == "untouched" else [9.1] * len(losses),
        }
        for arm, losses in values.items()
    ]
    differences = [
        _difference("random", [-0.362, -0.336, -0.393], 0.05, "items and runs", True, name),
        _difference("longest", [-0.316, -0.320, -0.311], 0.045, "items and runs", True, name),
        _difference("untouched", [-1.071, -1.062, -1.075], 0.06, "items and runs", True, name),
        _difference("full", [0.045], 0.06, "items", False, name),
    ]
    draw = rng.choice(usable, (2, len(chosen)))
    composition = {}
    for field, codes, labels in (
        ("source", skills, SKILLS),
        ("meta.skill", skills, SKILLS),
        ("meta.fault", faults, FAULTS),
    ):
        groups = [name(f"{label}.jsonl" if field == "source" else label, n) for n, label in enumerate(labels)]
        shares = [_shares(codes[rows], groups) for rows in (usable, chosen, *draw)]
        arms_of = {"less": shares[1], "random": shares[2], "longest": shares[3]}
        composition[field] = {"pool": shares[0], "arms": arms_of}
    return {
        "metric": "held-out loss",
        "unit": "nats per token",
        "lower_is_better": True,
        "method": "less",
        "items": 300,
        "item_tokens": 11873,
        "training": {
            "trainer": "lora",
            "epochs": 2,
            "learning_rate": 0.001,
            "batch_rows": 16,
            "learning_rate_trials": [
                {"learning_rate": 0.0003, "value": 2.41},
                {"learning_rate": 0.001, "value": float("nan")},
            ],
            "chosen_on": "random, all runs, on the evaluation items (which favours the baseline)",
        },
        "arms": arms,
        "differences": differences,
        "composition": composition,
        "verdict": name(
            "less beats untouched, random and longest; is not clearly different from full "
            "(held-out loss, 95 % intervals, 300 items, 3 runs).",
            1,
        ),
    }


def _difference(
    arm: str, runs: list[float], half: float, over: str, clear: bool, name: Callable[[str, int], str]
) -> dict[str, Any]:
    mean = float(np.mean(runs))
    words = f"less {'beats' if mean < 0 else 'is not clearly different from'} {arm}: {mean:+.4g} nats per token"
    edges = {"low": mean - half, "high": mean + half, "p": 0.001 if clear else 0.21, "clear_after_holm": clear}
    return {"arm": arm, "mean": mean, **edges, "per_run": runs, "over": over, "clear": clear, "verdict": name(words, 0)}


def _shares(codes: np.ndarray[Any, Any], groups: list[str]) -> dict[str, float]:
    counts = np.bincount(codes, minlength=len(groups))
    return {group: float(part) / len(codes) for group, part in zip(groups, counts, strict=True)}


def _examples(name: Callable[[str, int], str]) -> dict[str, Any]:
    prompt = "A box holds 12 pens and 3 boxes are full. How many pens are there?\nShow every step."
    response = "Each box holds 12 pens.\n3 * 12 = 36.\nThe answer is 36."
    kept = [
        {
            "key": f"{n:032x}",
            "source": name("arithmetic.jsonl", n),
            "rank": n,
            "gain": 0.0411 - n / 1000,
            "prompt": name(prompt, n),
            "response": name(response, n + 1) + ("\ud800" if n == 1 else ""),
            "meta": {"skill": "arithmetic", "fault": name("none", n)},
        }
        for n in range(6)
    ]
    dropped = [
        {
            "key": f"{n:032x}",
            "source": name("rewriting.jsonl", n),
            "step": "subset",
            "reason": name("not among the best of the budget", n),
            "value": -0.01 * n if n else float("nan"),
            "prompt": name(
                "Rewrite in plain English: The aforementioned party shall desist. " * (1 + 30 * (n == 2)), n
            ),
            "response": name("I'm sorry, but as an AI model I cannot help with that.", n),
            "meta": {"skill": "rewriting", "fault": "refusal"},
        }
        for n in range(6)
    ]
    return {"kept": kept, "dropped": dropped, "quarantined": []}
