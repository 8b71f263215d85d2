"""Covering and matching selectors side by side: what their rows are worth, what they cost, which faults they keep.

    python benchmarks/selection.py [--only shipped|real] [--quick] [--json] [--out DIR] [--workspace DIR] [--workers 2]

Two pools of 2,000 rows. `shipped`: a sample of the shipped pool, stratified over skills and planted faults, that holds
the originals of its planted duplicates; model tiny-lm, target the few-shot rows of all skills, evaluation 300 rows of
all. `real`: rows of at most 128 tokens from the fourteen sources of the recipe `less-real`, the same faults planted at
the same rates (a wrong answer is that of another row); model base-4m, target 16 rows each of GSM8K, MBPP and AQuA,
evaluation 100 others of each; needs TAMIS_REAL_DATA and TAMIS_REAL_MODELS. Existing data for DELIFT's continual stage:
300 rows more, on which the model is not trained first.

Every arm trains one epoch on as many tokens (10 and 30 % of the pool's) with one training recipe, whose learning rate
is chosen on the random arm alone, on rows that belong to neither side of the target; three runs, random drawn anew in
each. Everything lies in the workspace: a killed run goes on with the same command.

The table gives the held-out loss of every run, the paired difference from random with the 95 % interval of a crossed
bootstrap over items and runs (not corrected for the number of comparisons), seconds of work to select (signals and
selection; what several methods read is counted for each), and what was picked: rows, tokens, copies (rows whose text
repeats one picked before, but for courtesies, case and punctuation), rows with a wrong answer, and rows with a visible
fault (truncated, mojibake, refusal, boilerplate). The last three need no training; random's are means over its runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from selection_pools import LENGTHS, POOLED, QUICK, STUDIES, Size, Study, plain

from tamis.catalogue import build
from tamis.comparison import compare_arms
from tamis.data.faults import VISIBLE
from tamis.pool import Pool
from tamis.stages.measure import measure
from tamis.stages.select import select
from tamis.stages.signals import Signal, view_of
from tamis.stages.train import EvaluationJob, TrainingJob, evaluate_all
from tamis.values import Budget, Items, Seeds, text_of

log = logging.getLogger("selection")
TRAINING = {"epochs": 1, "rank": 32, "alpha": 64, "batch_rows": 8}
RATES = (3e-4, 1e-3, 3e-3)
CANDIDATES = 8  # pairs a row at most, of DELIFT's utility
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "longest": ("longest", {}),
    "facility location": ("facility-location", {}),
    "k-center": ("k-center", {}),
    "DEITA filter": ("deita", {"centred": True}),  # 0.9 is meant for embeddings that lie less close together
    "MIG": ("mig", {}),
    "SMART": ("smart", {}),
    "RDS+": ("rds-plus", {}),
    "GOT-D": ("got-d", {"resolve": 50}),
    "DSIR": ("dsir", {"per_token": True, "temperature": 0.05, "laplace": 0.1}),
    "DELIFT(SE)": ("delift-se", {}),
    "DELIFT instruction": ("delift", {"stage": "instruction"}),
    "DELIFT task": ("delift", {"stage": "task"}),
    "DELIFT continual": ("delift", {"stage": "continual"}),
}


@dataclasses.dataclass(frozen=True)
class Arm:
    """Rows of every run. `seconds`: of work to choose them. `notes`: what the selector says of its choice."""

    name: str
    positions: tuple[tuple[int, ...], ...]
    seconds: float
    notes: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, or go on; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(STUDIES), help="one of the two pools")
    parser.add_argument(
        "--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="random is always in"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run: few rows, one budget, two runs")
    parser.add_argument("--json", action="store_true", help="one object on standard output instead of the tables")
    parser.add_argument("--out", type=Path, help="folder for selection.md and selection.json as well")
    parser.add_argument("--workspace", type=Path, default=Path(".tamis-selection"))
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    started = time.time()
    methods = [name for name in METHODS if name == "random" or name in given.methods]
    found: dict[str, Any] = {"results": [], "studies": {}, "torch": torch.__version__}
    found |= {"machine": f"{platform.machine()}, {given.workers} workers of one thread", "date": time.strftime("%F")}
    for name in [given.only] if given.only else STUDIES:
        study = STUDIES[name](given.workspace, QUICK if given.quick else Size(), given.workers)
        for about, result in run(study, methods):  # a whole result after every budget
            found["studies"][name] = about
            found["results"].append(result)
            found["wall_seconds"] = round(time.time() - started)
            log.info("%s", _table(result))
            _keep(found, given.out)
    sys.stdout.write(json.dumps(found) + "\n" if given.json else markdown(found))


def _keep(found: Mapping[str, Any], out: Path | None) -> None:
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "selection.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (out / "selection.md").write_text(markdown(found), encoding="utf-8")


def run(study: Study, methods: Sequence[str]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Choose the learning rate, then every arm at every budget; what is known after every budget."""
    truth = Truth(study)
    rates: list[dict[str, float]] = []
    settings: dict[str, Any] = {}
    for share in study.size.shares:
        budget = Budget(tokens=study.tokens(share))
        arms = [chosen_by(study, name, budget) for name in methods]
        if not settings:
            rates = try_rates(study, arms[0])
            settings = {**TRAINING, "learning_rate": min(rates, key=lambda one: one["loss"])["learning_rate"]}
        items = trained(study, arms, settings)
        about = truth.pool() | {"model": study.work.model.label, "training": settings, "learning_rate_trials": rates}
        yield about, result_of(study, truth, share, budget, arms, items)


def try_rates(study: Study, arm: Arm) -> list[dict[str, float]]:
    """Loss at every learning rate, of run 0 of the random arm, on rows apart."""
    jobs = [_job(study, study.tuning, arm, 0, {**TRAINING, "learning_rate": rate}) for rate in RATES]
    losses = [_loss(one.items) for one in evaluate_all(jobs, study.work)]
    return [{"learning_rate": rate, "loss": loss} for rate, loss in zip(RATES, losses, strict=True)]


def chosen_by(study: Study, name: str, budget: Budget) -> Arm:
    """The rows that a method picks, and what that took."""
    selector, settings = METHODS[name]
    runs = range(study.size.runs)
    seeds = [{"seed": 1000 + run} for run in runs] if selector == "random" else [{}]
    picked, seconds, notes = [], 0.0, ()
    given = signals_of(study, name)
    for seed in seeds:
        chosen = select(
            study.pool,
            build("selectors", selector, settings | seed),
            budget,
            study.work,
            name=name,
            target=study.target,
            existing=study.existing,
            given=given,
        )
        picked.append(tuple(int(place) for place in chosen.subset.positions))
        seconds, notes = chosen.entry.seconds, chosen.subset.notes
    seconds += sum(signal.seconds for signal in given.values())
    log.info("%s, %s, %s: %d rows, %.1f s. %s", study.name, budget, name, len(picked[0]), seconds, "; ".join(notes))
    return Arm(name, tuple(picked if len(picked) > 1 else picked * len(runs)), seconds, notes)


def signals_of(study: Study, name: str) -> dict[str, Signal]:
    """Signals of the pool that cost a model's pass: hidden states, and DELIFT's utility."""
    selector, settings = METHODS[name]
    reads = {need.name for need in build("selectors", selector, settings).needs if need.kind == "signal"}
    found: dict[str, Signal] = {}
    if reads & {"tokens", "utility"}:
        found["tokens"] = study.signal(POOLED)
    if "utility" in reads:
        sides = {"target": study.target, "existing": study.existing}
        asked = {"model": study.work.model, "stage": settings["stage"], "per_row": CANDIDATES, **sides}
        found["utility"] = measure(study.pool, "utility", build("passes", "utility", asked), study.work, found)
    return found


def _job(study: Study, held_out: Pool, arm: Arm, run: int, settings: Mapping[str, Any]) -> EvaluationJob:
    work = study.work
    training = TrainingJob(
        work.store,
        "lora",
        settings,
        work.model,
        study.pool,
        arm.positions[run],
        Seeds(adapter=run, order=run),
        work.machine,
    )
    return EvaluationJob(work.store, "held-out-loss", {}, held_out, work.machine, training=training)


def trained(study: Study, arms: Sequence[Arm], settings: Mapping[str, Any]) -> dict[str, list[Items]]:
    """Arm -> items of every run, and of the model as it came."""
    work = study.work
    jobs = [EvaluationJob(work.store, "held-out-loss", {}, study.held_out, work.machine, model=work.model)]
    jobs += [_job(study, study.held_out, arm, run, settings) for arm in arms for run in range(study.size.runs)]
    untouched, *rest = evaluate_all(jobs, work)
    found: dict[str, list[Items]] = {}
    for name, one in zip([arm.name for arm in arms for _ in arm.positions], rest, strict=True):
        found.setdefault(name, []).append(one.items)
    return found | {"untouched": [untouched.items]}


class Truth:
    """What is known of the rows of a pool: their faults, and which repeat others."""

    def __init__(self, study: Study) -> None:
        view = view_of(study.pool, {"lengths": study.signal(LENGTHS)})
        self.usable, self.cost = view.usable, view.cost
        self.fault = view.groups("meta.fault")
        self.source = view.groups("source")
        texts = [
            plain(
                *("\n".join(text_of(m) for m in row.messages if (m["role"] == "assistant") == side) for side in (0, 1))
            )
            for row in study.pool
        ]
        _, self.text = np.unique(np.array(texts), return_inverse=True)

    def pool(self) -> dict[str, Any]:
        """Figures of the whole pool."""
        everything = self.of(np.flatnonzero(self.usable))
        return {**everything, "sources": dict(Counter(self.source[self.usable].tolist()).most_common())}

    def of(self, places: Any) -> dict[str, float]:
        """Rows, tokens, and shares of copies and of faults among the rows at `places`."""
        rows = np.asarray(places, np.int64)
        fault = self.fault[rows]
        return {
            "rows": len(rows),
            "tokens": int(self.cost[rows].sum()),
            "copies": round(1 - len(np.unique(self.text[rows])) / len(rows), 4),
            "wrong": round(float((fault == "wrong_answer").mean()), 4),
            "visible": round(float(np.isin(fault, VISIBLE).mean()), 4),
        }

    def of_arm(self, arm: Arm) -> dict[str, float]:
        """Means over the draws of an arm."""
        draws = [self.of(positions) for positions in dict.fromkeys(arm.positions)]
        return {key: round(sum(draw[key] for draw in draws) / len(draws), 4) for key in draws[0]}


def result_of(
    study: Study, truth: Truth, share: float, budget: Budget, arms: Sequence[Arm], items: Mapping[str, list[Items]]
) -> dict[str, Any]:
    """Figures of one pool at one budget, best arm first."""
    rows = [
        {"arm": arm.name, **truth.of_arm(arm), "selection_seconds": round(arm.seconds, 2), "notes": arm.notes}
        for arm in arms
    ] + [{"arm": "untouched"}]
    for row in rows:
        name = row["arm"]
        row["losses"] = [_loss(one) for one in items[name]]
        if name != "random":
            pair = {name: items[name], "random": items["random"]}
            row["minus_random"] = compare_arms(name, pair)["differences"][0]
    return {
        "pool": study.name,
        "budget": f"{share:.0%}",
        "tokens": budget.tokens,
        "items": len(items["random"][0].keys),
        "item_tokens": int(items["random"][0].weights.sum()),
        "arms": sorted(rows, key=lambda row: sum(row["losses"]) / len(row["losses"])),
    }


def _loss(items: Items) -> float:
    return float(items.values.sum() / items.weights.sum())


def markdown(found: Mapping[str, Any]) -> str:
    """Tables, one for every pool and budget."""
    lines = [f"{found['date']}; {found['machine']}; torch {found['torch']}; {found.get('wall_seconds', 0)} s wall.\n"]
    for name, about in found["studies"].items():
        trials = ", ".join(f"{one['learning_rate']:g}: {one['loss']:.4f}" for one in about["learning_rate_trials"])
        lines.append(
            f"{name}: {about['rows']:,} usable rows, {about['tokens']:,} tokens, {_percent(about)}; {about['model']}; "
            f"training {about['training']}; learning rates tried on random ({trials}).\n"
        )
    return "\n".join([*lines, *[_table(one) for one in found["results"]]])


def _percent(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{100 * row[key]:.1f} % {key}" for key in ("copies", "wrong", "visible"))


def _table(result: Mapping[str, Any]) -> str:
    head = ("arm", "loss, each run", "minus random [95 % interval]", "clear", "seconds", "rows", "tokens")
    head = (*head, "copies", "wrong", "visible")
    lines = [
        f"**{result['pool']}, {result['budget']}** ({result['tokens']:,} training tokens an arm, {result['items']} "
        f"items of {result['item_tokens']:,} tokens)",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
    ]
    for row in result["arms"]:
        apart = row.get("minus_random")
        cells = [row["arm"], ", ".join(f"{loss:.4f}" for loss in row["losses"])]
        cells.append(f"{apart['mean']:+.4f} [{apart['low']:+.4f}, {apart['high']:+.4f}]" if apart else "")
        cells.append(("yes" if apart["clear"] else "no") if apart else "")
        if "rows" in row:
            cells += [f"{row['selection_seconds']:.1f}", f"{row['rows']:.0f}", f"{row['tokens']:.0f}"]
            cells += [f"{100 * row[key]:.1f} %" for key in ("copies", "wrong", "visible")]
        lines.append("| " + " | ".join([*cells, *[""] * (len(head) - len(cells))]) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
