"""Duplicates that are known: what `exact` and `near` find of them in public data (TAMIS_REAL_DATA).

    python benchmarks/dedup_truth.py [--quick] [--json]

Counts: exact duplicates of T0/P3 and of six overlapping subsets of Alpaca. Filter: GPTeacher's Toolformer set before
and after upstream's filter (ROUGE similarity 0.6 over instructions, 7,673 rows to 2,396); the rows that `near` drops
against those that are no longer there, for thresholds 0.4 to 0.9. Dropping every row has the precision that is given as
`share`, and a recall of 1. Pairs: sets that were made from others row by row; the share of their rows that `near` drops
for a row of the origin, and how many rows of both it drops beside these.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tamis.catalogue import build
from tamis.ingest import ingest
from tamis.models import ModelRef
from tamis.pool import Pool
from tamis.stages.measure import measure_needs
from tamis.stages.signals import view_of
from tamis.stages.workspace import Workspace
from tamis.values import Dropped, Machine

THRESHOLDS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ALPACA = "random_9k claude_t45 helpfulness_t45 pr152_5000 cherry_5pct car_selected".split()
FILTERS: dict[str, dict[str, Any]] = {
    "prompt, 5 words": {"of": "prompt"},
    "prompt, 3 words": {"of": "prompt", "shingle": 3},
    "prompt, 1 word": {"of": "prompt", "shingle": 1},
    "whole, 5 words": {},
}
PAIRS: dict[str, tuple[str, str, dict[str, Any]]] = {  # made from, made, settings
    "gsm_hard of gsm8k_test, prompts": ("target/gsm8k_test", "target/gsm_hard", {"of": "prompt"}),
    "gsm_hard of gsm8k_test, prompts, numbers zeroed": (
        "target/gsm8k_test", "target/gsm_hard", {"of": "prompt", "numbers": "zero"},
    ),
    "flan_cot_gsm8k of gsm8k_train, prompts": ("target/gsm8k_train", "pool/flan_cot_gsm8k", {"of": "prompt"}),
    "flan_cot_gsm8k of gsm8k_train, whole": ("target/gsm8k_train", "pool/flan_cot_gsm8k", {}),
    "alpaca_refined_1k of alpaca_longest_1k, prompts": (
        "pool/alpaca_longest_1k", "pool/alpaca_refined_1k_longest", {"of": "prompt"},
    ),
    "alpaca_refined_1k of alpaca_longest_1k, responses": (
        "pool/alpaca_longest_1k", "pool/alpaca_refined_1k_longest", {"of": "response"},
    ),
}  # fmt: skip
ALONE: dict[str, tuple[str, dict[str, Any]]] = {
    "truthfulqa_judge_truth, whole": ("rating/truthfulqa_judge_truth", {}),
    "truthfulqa_judge_truth, prompts": ("rating/truthfulqa_judge_truth", {"of": "prompt"}),
    "t0_p3_50k, whole": ("pool/t0_p3_50k", {}),
    "t0_p3_50k, responses": ("pool/t0_p3_50k", {"of": "response"}),
    "dj_stack_exchange, whole": ("noisy/dj_stack_exchange", {}),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="counts, and the filter by whole rows alone")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--workspace", type=Path, help="folder that keeps signals for another run")
    options = parser.parse_args(arguments)
    root = os.environ.get("TAMIS_REAL_DATA")
    if not root:
        sys.exit("set TAMIS_REAL_DATA to the folder of public data")
    with tempfile.TemporaryDirectory() as folder:
        found = Truth(Path(root), options.workspace or Path(folder)).all(quick=options.quick)
    print(json.dumps(found, indent=1 if options.json else 2))


class Truth:
    """The data, and a workspace."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.work = Workspace(folder, Machine(), ModelRef(name="tamis:tiny-lm"))

    def all(self, *, quick: bool) -> dict[str, Any]:
        """Every figure; with `quick` those that take a minute."""
        found: dict[str, Any] = {"counts": self.counts()}
        filters = {"whole, 5 words": FILTERS["whole, 5 words"]} if quick else FILTERS
        found["toolformer"] = {name: self.filtered(settings) for name, settings in filters.items()}
        best = max((row["f1"], name, at) for name, table in found["toolformer"].items() for at, row in table.items())
        found["toolformer_best"] = dict(zip(("f1", "settings", "threshold"), best, strict=True))
        if not quick:
            found["pairs"] = {name: self.pairs(*files, settings) for name, (*files, settings) in PAIRS.items()}
            found["alone"] = {name: self.alone(file, settings) for name, (file, settings) in ALONE.items()}
        return found

    def pool(self, *names: str) -> Pool:
        """Files by name, without their endings."""
        files = [str(next(self.root.glob(f"{name}.jsonl.*"))) for name in names]
        return ingest(files, self.work.store)

    def run(self, pool: Pool, name: str, settings: Mapping[str, Any]) -> Dropped:
        """What a cleaner drops."""
        print(f"{name} {dict(settings)} over {len(pool):,} rows", file=sys.stderr, flush=True)
        cleaner = build("cleaners", name, settings)
        return cleaner.clean(view_of(pool, measure_needs(pool, cleaner.needs, self.work, lengths=False)), Machine())

    def counts(self) -> dict[str, dict[str, int]]:
        """Exact duplicates by content, and by the messages of all lines, those that ingest refuses included."""
        sets = {"t0_p3_50k": ["pool/t0_p3_50k"], "alpaca": [f"pool/alpaca_{name}" for name in ALPACA]}
        found = {}
        for name, files in sets.items():
            pool = self.pool(*files)
            read = sum(file["rows"] for file in pool.files)
            found[name] = {
                "rows": read,
                "kept_by_ingest": len(pool),
                "exact": int(self.run(pool, "exact", {}).rows.sum()),
                "exact_of_all_read": read - len(set(self.said(files))),
            }
        return found

    def said(self, files: Sequence[str]) -> list[str]:
        """Messages of every line, as they stand in the files."""
        import pyarrow as pa

        texts = []
        for name in files:
            with pa.input_stream(str(next(self.root.glob(f"{name}.jsonl.*"))), compression="detect") as stream:
                raw = stream.read()
            texts += [json.dumps(json.loads(line)["messages"]) for line in raw.split(b"\n") if line.strip()]
        return texts

    def filtered(self, settings: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """Precision and recall of the rows dropped, by threshold."""
        before, after = self.pool("pool/gpteacher_toolformer"), self.pool("pool/gpteacher_toolformer_sim06")
        kept = set(after.table(["content"]).column("content").to_pylist())
        gone = np.array([one not in kept for one in before.table(["content"]).column("content").to_pylist()])
        table = {}
        for threshold in THRESHOLDS:
            rows = self.run(before, "near", {**settings, "threshold": threshold}).rows
            precision, recall = (gone & rows).sum() / max(1, rows.sum()), (gone & rows).sum() / gone.sum()
            table[f"{threshold}"] = {
                "precision": round(float(precision), 3),
                "recall": round(float(recall), 3),
                "f1": round(float(2 * precision * recall / max(1e-9, precision + recall)), 3),
                "dropped": int(rows.sum()),
                "share": round(float(gone.mean()), 3),
            }
            print(table[f"{threshold}"], file=sys.stderr, flush=True)
        return table

    def pairs(self, origin: str, made: str, settings: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """The share of the rows made that leave for a row of the origin, and how many others do, by threshold."""
        first = len(self.pool(origin))
        pool = self.pool(origin, made)
        keys = pool.table(["key"]).column("key").to_pylist()
        origins = set(keys[:first])
        table = {}
        for threshold in THRESHOLDS:
            found = self.run(pool, "near", {**settings, "threshold": threshold})
            places = np.flatnonzero(found.rows).tolist()
            right = sum(at >= first and one in origins for at, one in zip(places, found.winners, strict=True))
            table[f"{threshold}"] = {
                "found": round(right / (len(pool) - first), 4),
                "dropped_beside": int(found.rows.sum()) - right,
            }
            print(table[f"{threshold}"], file=sys.stderr, flush=True)
        return table

    def alone(self, file: str, settings: Mapping[str, Any]) -> dict[str, float]:
        """The share of rows dropped at three thresholds."""
        pool = self.pool(file)
        shares = {"rows": float(len(pool))}
        for threshold in (0.5, 0.7, 0.9):
            rows = self.run(pool, "near", {**settings, "threshold": threshold}).rows
            shares[f"{threshold}"] = round(float(rows.mean()), 4)
            print(shares, file=sys.stderr, flush=True)
        return shares


if __name__ == "__main__":
    main()
