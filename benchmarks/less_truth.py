"""LESS where the truth is known: who finds the rows of a skill, at what price, and who falls for planted faults.

    python benchmarks/less_truth.py [--quick] [--json] [--workspace DIR]

Pool: a seeded sample of the shipped pool, with copies of some clean rows planted into it; targets: the eight few-shot
rows of each of its fourteen skills. Every way of computing influence (profiles, approximations, stored gradients under
every projection and encoding) is a stage of one recipe, so a killed run goes on where it stopped. For every skill the
rows are ranked by their influence on it, and of the first 5 % (or as many as the skill has, if fewer) are counted:

    precision      rows of the skill, mean and minimum over skills
    spearman       rank correlation with the exact scores of the recommended profile, mean over skills
    wrong          rows whose answer is wrong though it has the right form (planted, invisible)
    visible        truncated, mojibake, refusal and boilerplate rows (planted, visible)
    copies         rows that repeat one picked before them, without and with exact deduplication before
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import platform
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import tamis
from tamis.budgets import order_of
from tamis.data.skills import SKILLS
from tamis.recipe import load
from tamis.stages.conduct import Conductor

log = logging.getLogger("less_truth")
SHARE = 0.05
VISIBLE = ("truncated", "mojibake", "refusal", "boilerplate")
COPIES = 4  # planted copies of each row that is copied
DIM = 2048  # of stored gradients: the shipped model's adapters have tens of thousands of parameters, not millions
WARM_UP = {"epochs": 2, "keep": "every-epoch", "rank": 16, "alpha": 32, "learning_rate": 2e-3, "batch_rows": 16}
INFLUENCE: dict[str, dict[str, Any]] = {
    "recommended": {},
    "less-official": {"profile": "less-official"},
    "v as it stands (adam)": {"moments": "adam"},
    "raw gradients": {"moments": "raw"},
    "signs": {"moments": "sign"},
    "tracin": {"profile": "tracin"},
    "datainf": {"profile": "datainf"},
    "last 25 % of layers": {"layers": "last 25%"},
    "one checkpoint": {"use": "last"},
}
STORED: dict[str, dict[str, Any]] = {
    "sjlt, float16": {"projection": "sjlt"},
    "sjlt, int8": {"projection": "sjlt", "encoding": "int8"},
    "sjlt, 1 bit": {"projection": "sjlt", "encoding": "bit"},
    "rotation, float16": {"projection": "rotation"},
    "srht, float16": {"projection": "srht"},
    "rademacher, float16": {"projection": "rademacher"},
    "span of the targets, float16": {"projection": "span"},
    "logra on raw gradients, float16": {"projection": "logra", "moments": "raw"},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="600 rows instead of 3,000")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--workspace", type=Path, default=Path(".tamis-less-truth"))
    given = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    rows = 600 if given.quick else 3000
    found = measure(given.workspace, rows)
    sys.stdout.write(json.dumps(found) + "\n" if given.json else table(found) + "\n")


def measure(folder: Path, rows: int) -> dict[str, Any]:
    """Every way's figures, with sizes and versions."""
    folder.mkdir(parents=True, exist_ok=True)
    planted = plant(folder / f"pool-{rows}.jsonl", rows)
    document = folder / f"less-truth-{rows}.yaml"
    document.write_text(json.dumps(recipe(planted)), encoding="utf-8")  # JSON is YAML
    work = tamis.workspace(folder / "store", "tamis:tiny-lm", max_tokens=256, device="cpu")
    conductor = Conductor.of(load(document), work)
    conductor.ingest()
    assert conductor.pool is not None
    truth = Truth(conductor)
    ways: dict[str, Any] = {}
    for stage in conductor.recipe.stages:
        left = conductor.carry_out(stage)
        name = NAMES.get(stage.name)
        if name is not None:
            ways[name] = truth.of(left, conductor.cost_of(stage))
            log.info("%s: %s", name, ways[name])
    return {
        "ways": ways,
        "rows": len(conductor.pool),
        "picked": round(SHARE * len(conductor.pool)),
        "dim": DIM,
        "base": truth.base(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def plant(path: Path, rows: int) -> Path:
    """A sample of the shipped pool, with `COPIES` copies of every 25th row that is clean; seeded."""
    source = Path(tamis.__file__).parent / "data" / "pool.jsonl.gz"
    with gzip.open(source, "rt", encoding="utf-8", errors="replace") as file:
        lines = [line for line in file if _readable(line)]
    draw = random.Random("less truth")
    chosen = draw.sample(lines, min(rows, len(lines)))
    clean = [line for line in chosen if not json.loads(line)["meta"]["fault"]]
    copies = [line for line in clean[::25] for _ in range(COPIES)]
    everything = chosen + copies
    draw.shuffle(everything)
    path.write_text("".join(everything), encoding="utf-8")
    return path


def _readable(line: str) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return (
        isinstance(row, dict)
        and set(row) == {"instruction", "input", "output", "source", "meta"}
        and bool(str(row["output"]).strip())
    )


NAMES: dict[str, str] = {}


def recipe(pool: Path) -> dict[str, Any]:
    """One recipe of all ways; `NAMES` says which stage is which way."""
    stages: dict[str, Any] = {
        "warmup": {"train": "lora", "on": {"select": "random", "budget": "10%", "seed": 1}, **WARM_UP},
    }

    def influence(key: str, **settings: Any) -> None:
        stages[key] = {"pass": "influence", "checkpoints": "@warmup", "by": "source", **settings}

    for number, (name, settings) in enumerate(INFLUENCE.items()):
        influence(f"way_{number}", **settings)
        NAMES[f"way_{number}"] = name
    for number, (name, settings) in enumerate(STORED.items()):
        stages[f"store_{number}"] = {"pass": "gradients", "checkpoints": "@warmup", "dim": DIM, **settings}
        stages[f"query_{number}"] = {
            **{"pass": "gradient-query", "from": f"@store_{number}", "checkpoints": "@warmup", "by": "source"}
        }
        NAMES[f"query_{number}"] = name
    stages["near"] = {"select": "rds-plus", "budget": "70%"}  # 5 % a skill
    influence("prefiltered", only="@near")
    stages["some"] = {"select": "random", "budget": "20%", "seed": 7}
    influence("marks", only="@some")
    stages["landmarks"] = {"pass": "landmarks", "from": "@marks"}
    NAMES.update(
        prefiltered="only the rows nearest by RDS+, 5 % a skill",
        landmarks="landmarks: 20 % exact, the rest interpolated",
    )
    return {
        "name": "less-truth",
        "model": {"name": "tamis:tiny-lm", "max_tokens": 256},
        "pool": {"files": [str(pool)]},
        "target": {"files": [f"tamis:target/{skill}.jsonl" for skill in SKILLS]},
        **stages,
    }


class Truth:
    """What is known of the rows: skill, fault, and which rows are equal."""

    def __init__(self, conductor: Conductor) -> None:
        view = conductor.view()
        self.usable = view.usable
        self.skill = view.groups("meta.skill")
        self.fault = view.groups("meta.fault")
        contents = view.pool.table(["content"]).column("content").to_pylist()
        _, self.content = np.unique(np.array(contents), return_inverse=True)
        self.exact: NDArray[np.float32] | None = None

    def base(self) -> dict[str, float]:
        """Shares of the faults in the pool."""
        return {
            "wrong": round(float((self.fault == "wrong_answer").mean()), 4),
            "visible": round(float(np.isin(self.fault, VISIBLE).mean()), 4),
            "copies": round(1 - len(np.unique(self.content)) / len(self.content), 4),
        }

    def of(self, signal: Any, seconds: float) -> dict[str, Any]:
        """Figures of one way."""
        parts = [{name: np.load(folder / f"{name}.npy") for name in ("scores", "tasks")} for folder in signal.folders]
        scores = np.concatenate([part["scores"] for part in parts])
        tasks: list[str] = json.loads(bytes(parts[0]["tasks"]).decode())
        if self.exact is None:
            self.exact = scores
        found = [self._task(scores[:, column], skill) for column, skill in enumerate(tasks)]
        precisions = [one["precision"] for one in found]
        ranks = [_spearman(scores[:, k], self.exact[:, k], self.usable) for k in range(len(tasks))]
        means = {key: round(float(np.mean([one[key] for one in found])), 4) for key in found[0]}
        return {
            **means,
            "least_precision": round(min(precisions), 4),
            "spearman": round(float(np.mean(ranks)), 4),
            "seconds": round(seconds, 1),
            "by_skill": dict(zip(tasks, [round(one, 4) for one in precisions], strict=True)),
        }

    def _task(self, scores: NDArray[np.float32], skill: str) -> dict[str, float]:
        size = min(round(SHARE * len(scores)), int((self.usable & (self.skill == skill)).sum()))
        order = order_of(scores, self.usable, high=True)
        picked = order[:size]
        unique = np.fromiter(self._once(order), np.int64)[:size]
        return {
            "precision": float((self.skill[picked] == skill).mean()),
            "precision_deduplicated": float((self.skill[unique] == skill).mean()),
            "wrong": float((self.fault[picked] == "wrong_answer").mean()),
            "visible": float(np.isin(self.fault[picked], VISIBLE).mean()),
            "copies": 1 - len(np.unique(self.content[picked])) / len(picked),
            "wrong_deduplicated": float((self.fault[unique] == "wrong_answer").mean()),
            "copies_deduplicated": 1 - len(np.unique(self.content[unique])) / len(unique),
        }

    def _once(self, order: NDArray[np.int64]) -> Iterator[int]:
        seen: set[int] = set()
        for place in order.tolist():
            if self.content[place] not in seen:
                seen.add(int(self.content[place]))
                yield place


def _spearman(left: NDArray[Any], right: NDArray[Any], usable: NDArray[np.bool_]) -> float:
    """Rank correlation over the rows that both have."""
    from scipy.stats import spearmanr

    both = usable & np.isfinite(left) & np.isfinite(right)
    return float(spearmanr(left[both], right[both]).statistic)


def table(found: Mapping[str, Any]) -> str:
    """A table in Markdown, one line a way."""
    head = ("way", "precision", "least", "Spearman", "wrong", "visible", "copies", "copies after dedup", "s")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, way in found["ways"].items():
        shares = [way[key] for key in ("precision", "least_precision", "spearman")]
        faults = [f"{100 * way[key]:.1f} %" for key in ("wrong", "visible", "copies", "copies_deduplicated")]
        cells = [name, *(f"{share:.3f}" for share in shares), *faults, f"{way['seconds']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    base = [f"{100 * found['base'][key]:.1f} %" for key in ("wrong", "visible", "copies")]
    lines.append(f"| *share of the pool* | | | | {' | '.join(base)} | | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
