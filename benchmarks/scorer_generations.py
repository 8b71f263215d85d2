"""Scorers of sampled answers where rates are known: other samples of the same model, and a simulated sampler."""

from __future__ import annotations

import gzip
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scorer_truths import Truth

import tamis
from tamis.catalogue import build
from tamis.pool import Pool
from tamis.store import save_arrays
from tamis.views import PoolView, ShardSignals

log = logging.getLogger("scorer_quality")
SKILLS = ("sentiment", "counting")
TRAINED, EPOCHS = 60, 1  # rows a skill on which tiny-lm is tuned, so that it solves some tasks and not others
SAMPLES, CHECKS = 8, 24
SCORERS = ("pass-rate", "vps", "think-prune-train", "dart", "sampled-entropy", "semantic-entropy", "variation-ratio")
VERIFY = {"by": "regex", "pattern": r"(?:opinion is|makes|odd one is) (\w+)"}  # what an answer of theirs ends in
SIMULATED = 1000


def tuned(workspace: Path, rows: int) -> tuple[Truth, str]:
    """Evaluation rows of two skills, and the model tuned on them. True is the rate of 24 other samples."""
    root = Path(tamis.__file__).parent / "data"
    work = tamis.workspace(workspace / "tuning" / "work", "tamis:tiny-lm", max_tokens=256, device="cpu", workers=2)
    clean = workspace / "tuning" / "clean.jsonl"
    clean.parent.mkdir(parents=True, exist_ok=True)
    kept: dict[str, list[str]] = {skill: [] for skill in SKILLS}
    for line in gzip.open(root / "pool.jsonl.gz", "rb").read().decode("utf-8", "replace").splitlines():
        row = _parsed(line)
        if row is not None and row["source"] in kept and not row["meta"]["fault"]:
            kept[row["source"]].append(line)
    clean.write_text("\n".join(line for lines in kept.values() for line in lines[:TRAINED]) + "\n", encoding="utf-8")
    trained = tamis.train(tamis.open_pool([str(clean)], work), trainer="full", settings=_TRAINING, work=work)
    model = str(trained.model.name)
    asked = [row for skill in SKILLS for row in _chats(root / "eval" / f"{skill}.jsonl")][:rows]
    known = workspace / "tuning" / "asked.jsonl"
    known.write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    other = tamis.workspace(workspace / "checks", model, max_tokens=256, device="cpu", workers=2)
    drawn = {"sampling": _sampling(CHECKS, seed=99), "verify": VERIFY}
    rates = tamis.score(tamis.open_pool([str(known)], other), {"pass-rate": drawn}, work=other)["pass-rate.score"]
    truth = np.asarray(rates, np.float64)
    log.info("tuned: mean pass rate %.2f, %d of %d rows between 0.1 and 0.9", *_spread(truth))
    settings = {name: {"sampling": _sampling(SAMPLES, seed=1, greedy=True)} for name in SCORERS}
    settings |= {name: settings[name] | {"verify": VERIFY} for name in SCORERS[:4]}
    about = Truth("pass rates", "answered right more often", asked, truth, np.arange(len(asked)), False, settings)
    return about, model


_TRAINING = {"epochs": EPOCHS, "batch_rows": 8, "learning_rate": 2e-3}


def _sampling(samples: int, seed: int, greedy: bool = False) -> dict[str, Any]:
    return {"samples": samples, "max_tokens": 64, "temperature": 0.7, "seed": seed, "greedy": greedy}


def _spread(rates: np.ndarray[Any, Any]) -> tuple[float, int, int]:
    return float(np.nanmean(rates)), int(((rates > 0.1) & (rates < 0.9)).sum()), len(rates)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    good = isinstance(row, dict) and isinstance(row.get("meta"), dict) and bool(str(row.get("output") or "").strip())
    return row if good else None


def _chats(path: Path) -> list[dict[str, Any]]:
    chats = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompt = f"{row['instruction']}\n\n{row['input']}" if row.get("input") else row["instruction"]
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": row["output"]}]
        chats.append({"messages": messages, "source": row["source"]})
    return chats


def simulated(workspace: Path) -> tuple[Truth, dict[str, np.ndarray[Any, Any]], float]:
    """A sampler that answers right with a known rate: columns of scorers that read verdicts alone, and a coverage.

    The coverage is the share of the rates that lie in their row's 95 % interval.
    """
    work = tamis.workspace(workspace / "simulated", device="cpu", workers=1)
    shard = tamis.open_pool(["tamis:pool.jsonl.gz"], work, shard_rows=SIMULATED).shards[0]
    draw = np.random.default_rng(11)
    rates = draw.beta(0.7, 0.7, shard.rows)
    right = draw.random((shard.rows, SAMPLES)) < rates[:, None]
    arrays = {
        "count": np.full(shard.rows, SAMPLES, np.int32),
        "right_count": right.sum(1).astype(np.int32),
        "right": right.astype(np.uint8).ravel(),
        "right_offsets": np.arange(shard.rows + 1, dtype=np.int64) * SAMPLES,
        "reason": np.zeros(shard.rows, np.uint8),
    }
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        verdicts = Path(folder) / "verdicts"
        verdicts.mkdir()
        save_arrays(verdicts, arrays)
        for name in ("pass-rate", "vps", "dart"):
            found |= _columns(name, shard, verdicts, Path(folder) / name)
    inside = (found["pass-rate.low"] <= rates) & (rates <= found["pass-rate.high"])
    about = Truth("simulated", "the known rate is higher", (), rates, np.arange(shard.rows), False, {})
    return about, found, float(inside.mean())


def _columns(name: str, shard: Any, verdicts: Path, fitted: Path) -> dict[str, Any]:
    scorer = build("scorers", name, {})
    folders = {"verdicts": verdicts}
    if hasattr(scorer, "fit"):
        fitted.mkdir()
        view = PoolView(Pool((shard,)), {"verdicts": [verdicts]})
        save_arrays(fitted, scorer.fit(view)[0])
        folders["fit"] = fitted
    made = scorer.score(ShardSignals(shard, folders))
    return {f"{name}.{view}": column.values.astype(np.float64) for view, column in made.items()}
