"""LESS on real data: does it beat RDS+, BM25, the longest rows and a random draw at equal training tokens?

    python benchmarks/less_real.py [--quick] [--json] [--targets gsm8k mbpp aqua] [--minutes 60] [--workspace DIR]

Pool: a seeded draw from the files of the recipe `less-real`, about 5,000 rows; targets: worked arithmetic (GSM8K), code
(MBPP), and choices with a rationale (AQuA), 16 rows of each for selection, up to 300 others for evaluation. Needs
TAMIS_REAL_DATA and TAMIS_REAL_MODELS, as the recipe does. Every arm is trained on the same number of tokens (5 and 10 %
of the pool's) with one training recipe, whose learning rate is chosen on the random arm alone, on rows that belong to
neither side of a target. Random is drawn anew in every run; it and the longest rows are trained once and measured on
every target. Everything lies in the workspace: a killed run goes on with the same command. A further target is not
begun where `--minutes` would not suffice for one that takes as long as that before; the same command does it later.

The table gives the held-out loss of every run, and the paired difference from random with the 95 % interval of a
crossed bootstrap over items and runs (not corrected for the number of comparisons); JSON has LESS against every arm.
`selection seconds` are seconds of work: of LESS the warm-up and one pass that serves all targets.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tamis
from tamis.catalogue import build
from tamis.comparison import compare_arms, composition
from tamis.pool import Pool
from tamis.recipe import file_list, load
from tamis.scorers.gradients import view_names
from tamis.stages.measure import measure, pass_for
from tamis.stages.score import score
from tamis.stages.select import select
from tamis.stages.signals import Signal, view_of
from tamis.stages.train import EvaluationJob, Training, TrainingJob, evaluate_all, train_one
from tamis.stages.workspace import Workspace
from tamis.values import Budget, Items, Need, Seeds

log = logging.getLogger("less_real")
TARGETS = {"gsm8k": "gsm8k_test", "mbpp": "mbpp_test_500", "aqua": "aqua_test"}
TUNED_ON = ("gsm8k", "mbpp")  # AQuA has no rows left for choosing a learning rate
FEW, EVALUATED, TUNED, SEED = 16, 300, 100, 5
SHARES = (0.05, 0.10)
RATES = (3e-4, 1e-3, 3e-3)
TRAINING = {"epochs": 1, "rank": 32, "alpha": 64, "batch_rows": 8}
METHODS = ("less", "rds-plus", "bm25")  # one subset a target; the other arms know no target
POOLED = Need(kind="signal", name="tokens", settings=(("loss", "none"), ("pooled", True)))


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is run."""

    per_file: int = 385  # of thirteen files with answers: 5,005 rows
    evaluated: int = EVALUATED
    tuned: int = TUNED
    runs: int = 3
    rates: tuple[float, ...] = RATES
    shares: tuple[float, ...] = SHARES


QUICK = Size(per_file=24, evaluated=24, tuned=12, runs=2, rates=(1e-3, 3e-3), shares=(0.10,))


@dataclasses.dataclass(frozen=True)
class Target:
    """A task: its few rows for selection, and others for evaluation."""

    name: str
    few: Pool
    held_out: Pool

    @property
    def column(self) -> str:
        """Name of its column of gradient similarities."""
        return f"gradient-similarity.{view_names([TARGETS[self.name]])[0]}"


@dataclasses.dataclass(frozen=True)
class Study:
    """What stays the same: pool, targets, sizes, where the work lies."""

    work: Workspace
    pool: Pool
    targets: tuple[Target, ...]
    tuning: Pool
    few: Pool  # those of all targets, for one pass of influence
    size: Size

    def tokens(self, share: float) -> int:
        """Training tokens of a share of the pool."""
        view = view_of(self.pool, self.lengths)
        return int(share * int(view.cost[view.usable].sum()))

    @property
    def lengths(self) -> dict[str, Signal]:
        """The signal that every selector reads."""
        need = Need(kind="signal", name="lengths")
        return {"lengths": measure(self.pool, "lengths", pass_for(need, self.work), self.work)}


@dataclasses.dataclass(frozen=True)
class Arm:
    """Rows of every run. `seconds`: of work to choose them."""

    name: str
    positions: tuple[tuple[int, ...], ...]
    seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, or go on; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run: few rows, one budget, two runs")
    parser.add_argument("--json", action="store_true", help="one object on standard output instead of the table")
    parser.add_argument("--out", type=Path, help="folder for less_real.md and less_real.json as well")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--minutes", type=float, default=60, help="no further target is begun that would not fit")
    parser.add_argument("--workspace", default=".tamis-less-real")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    started = time.time()
    study = prepare(given.targets, QUICK if given.quick else Size(), given.workspace, given.workers)
    deadline = started + 60 * given.minutes
    found: dict[str, Any] = {}
    for found in run(study, deadline):  # a whole result after every target
        found["wall_seconds"] = round(time.time() - started)
        if given.out:
            given.out.mkdir(parents=True, exist_ok=True)
            (given.out / "less_real.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            (given.out / "less_real.md").write_text(markdown(found), encoding="utf-8")
    sys.stdout.write(json.dumps(found) + "\n" if given.json else markdown(found))


def prepare(names: Sequence[str], size: Size, place: str, workers: int) -> Study:
    """Read pool and targets; no row of a target stands on two sides."""
    data = Path(os.environ.get("TAMIS_REAL_DATA", "../shared/data"))
    model = Path(os.environ.get("TAMIS_REAL_MODELS", "../shared/models")) / "base-4m"
    work = tamis.workspace(place, str(model), max_tokens=256, device="cpu", workers=workers)
    work = dataclasses.replace(work, settings_of_passes={"tokens": dict(POOLED.settings)})

    def read(names: Sequence[str], rows: int, skip: int) -> Pool:
        files = [str(data / "target" / f"{TARGETS[name]}.jsonl.gz") for name in names]
        return tamis.open_pool(files, work, sample={"rows": rows, "seed": SEED, "skip": skip})

    pool = tamis.open_pool(
        file_list(load("less-real").pool), work, sample={"rows": size.per_file, "seed": 3}, shard_rows=256
    )
    targets = tuple(Target(name, read([name], FEW, 0), read([name], size.evaluated, FEW)) for name in names)
    tuning = read(TUNED_ON, size.tuned, FEW + EVALUATED)
    for target in targets:
        seen = {row.content for row in target.few} | {row.content for row in tuning}
        assert not seen & {row.content for row in target.held_out}, f"{target.name}: a row stands on two sides"
    return Study(work, pool, targets, tuning, read(list(TARGETS), FEW, 0), size)


def run(study: Study, deadline: float) -> Iterator[dict[str, Any]]:
    """Choose the learning rate, then every arm at every target and budget; what is known after every target."""
    budgets = {f"{share:.0%}": Budget(tokens=study.tokens(share)) for share in study.size.shares}
    general = {key: _untargeted(study, budget) for key, budget in budgets.items()}
    rate, trials = choose_rate(study, next(iter(general.values()))[0])
    settings = {**TRAINING, "learning_rate": rate}
    influence, seconds = _influence(study, settings)
    similarity = {"gradient-similarity": build("scorers", "gradient-similarity", {})}
    columns = score(study.pool, similarity, study.work, study.lengths | {"influence": influence}).columns
    found = _about(study, settings) | {"learning_rate_trials": trials, "seconds_of_signals": seconds}
    took = 0.0
    for number, target in enumerate(study.targets):
        started = time.time()
        if started + took > deadline:
            log.info("%s is left out: it would not fit into the time; the same command does it later", target.name)
            break
        arms = {
            key: [*_targeted(study, target, budget, columns, seconds), *general[key]] for key, budget in budgets.items()
        }
        measured = _measured(study, target, arms, settings)
        for key in arms:
            found["results"].append(_result(study, target, key, budgets[key], arms[key], measured[key]))
            log.info("%s", _table(found["results"][-1]))
        took = time.time() - started
        yield found | {"targets_left_out": [one.name for one in study.targets[number + 1 :]]}


def _about(study: Study, settings: Mapping[str, Any]) -> dict[str, Any]:
    view = view_of(study.pool, study.lengths)
    return {
        "results": [],
        "rows": len(study.pool),
        "usable_rows": int(view.usable.sum()),
        "tokens": int(view.cost[view.usable].sum()),
        "composition": composition(view.groups("source")[view.usable]),
        "training": dict(settings),
        "model": study.work.model.label,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {study.work.machine.workers} workers of one thread",
        "date": time.strftime("%Y-%m-%d"),
    }


def choose_rate(study: Study, random: Arm) -> tuple[float, list[dict[str, float]]]:
    """The learning rate that serves run 0 of the random arm best, on rows apart from all targets' two sides."""
    jobs = [
        _job(study, study.tuning, random.positions[0], 0, {**TRAINING, "learning_rate": rate})
        for rate in study.size.rates
    ]
    losses = [_loss(one.items) for one in evaluate_all(jobs, study.work)]
    for rate, loss in zip(study.size.rates, losses, strict=True):
        log.info("learning rate %g: %.4f nats per token on the random arm", rate, loss)
    best = min(range(len(losses)), key=losses.__getitem__)
    trials = [{"learning_rate": rate, "loss": loss} for rate, loss in zip(study.size.rates, losses, strict=True)]
    return study.size.rates[best], trials


def _untargeted(study: Study, budget: Budget) -> list[Arm]:
    """Random, drawn anew in every run, and the longest rows."""
    runs = range(study.size.runs)
    draws = [_pick(study, "random", {"seed": 1000 + run}, budget) for run in runs]
    longest = _pick(study, "longest", {}, budget)
    return [
        Arm("random", tuple(one[0] for one in draws), draws[0][1]),
        Arm("longest", (longest[0],) * len(runs), longest[1]),
    ]


def _influence(study: Study, settings: Mapping[str, Any]) -> tuple[Signal, dict[str, float]]:
    """Influence on every target, over a warm-up on a random 5 %; seconds of every way to choose for a target."""
    warm = _warm_up(study, {**settings, "epochs": 2, "keep": "every-epoch"})
    few = build("passes", "influence", {"checkpoints": warm.checkpoints, "target": study.few})
    signal = measure(study.pool, "influence", few, study.work)
    pooled = measure(study.pool, "tokens", pass_for(POOLED, study.work), study.work)
    return signal, {
        "warm-up": warm.seconds,
        "influence": signal.seconds,
        "less": warm.seconds + signal.seconds,
        "rds-plus": pooled.seconds,
    }


def _warm_up(study: Study, settings: Mapping[str, Any]) -> Training:
    positions, _ = _pick(study, "random", {"seed": 1}, Budget(share=0.05))
    return train_one(_training(study, positions, 0, settings))


def _targeted(
    study: Study, target: Target, budget: Budget, columns: Mapping[str, Any], seconds: Mapping[str, float]
) -> list[Arm]:
    """LESS (with one task: the rows of highest influence), RDS+ and BM25."""
    runs = study.size.runs
    less = _pick(study, "top", {"by": target.column}, budget, columns=columns)
    arms = [Arm("less", (less[0],) * runs, seconds["less"] + less[1])]
    for name in METHODS[1:]:
        positions, spent = _pick(study, name, {}, budget, target=target.few)
        arms.append(Arm(name, (positions,) * runs, seconds.get(name, 0.0) + spent))
    return arms


def _pick(
    study: Study, name: str, settings: Mapping[str, Any], budget: Budget, **more: Any
) -> tuple[tuple[int, ...], float]:
    """Places of the rows that a selector picks, and the seconds that it took once its signals were there."""
    chosen = select(study.pool, build("selectors", name, settings), budget, study.work, name=name, **more)
    return tuple(int(place) for place in chosen.subset.positions), chosen.entry.seconds


def _job(
    study: Study, held_out: Pool, positions: tuple[int, ...], run: int, settings: Mapping[str, Any]
) -> EvaluationJob:
    training, work = _training(study, positions, run, settings), study.work
    return EvaluationJob(work.store, "held-out-loss", {}, held_out, work.machine, training=training)


def _training(study: Study, positions: tuple[int, ...], run: int, settings: Mapping[str, Any]) -> TrainingJob:
    seeds, work = Seeds(adapter=run, order=run), study.work
    return TrainingJob(work.store, "lora", settings, work.model, study.pool, positions, seeds, work.machine)


def _measured(
    study: Study, target: Target, arms: Mapping[str, Sequence[Arm]], settings: Mapping[str, Any]
) -> dict[str, dict[str, list[Items]]]:
    """Budget -> arm -> items of every run, and of the model as it came."""
    work = study.work
    jobs = [EvaluationJob(work.store, "held-out-loss", {}, target.held_out, work.machine, model=work.model)]
    named: list[tuple[str, str]] = []
    for key, members in arms.items():
        for arm in members:
            for run, positions in enumerate(arm.positions):
                named.append((key, arm.name))
                jobs.append(_job(study, target.held_out, positions, run, settings))
    untouched, *rest = evaluate_all(jobs, work)
    found: dict[str, dict[str, list[Items]]] = {key: {} for key in arms}
    for (key, name), one in zip(named, rest, strict=True):
        found[key].setdefault(name, []).append(one.items)
    for by_arm in found.values():
        by_arm["untouched"] = [untouched.items]
    return found


def _result(
    study: Study, target: Target, key: str, budget: Budget, arms: Sequence[Arm], items: Mapping[str, list[Items]]
) -> dict[str, Any]:
    """Figures of one target at one budget."""
    groups = view_of(study.pool, {}).groups("source")
    against = {
        name: compare_arms(name, {name: items[name], "random": items["random"]}) for name in items if name != "random"
    }
    rows = []
    for arm in arms:
        picked = composition(groups, np.asarray(arm.positions[0]))
        rows.append({
            "arm": arm.name,
            "rows": len(arm.positions[0]),
            "losses": [_loss(one) for one in items[arm.name]],
            "selection_seconds": round(arm.seconds, 2),
            "sources": dict(list(picked.items())[:4]),
            **({"minus_random": against[arm.name]["differences"][0]} if arm.name != "random" else {}),
        })  # fmt: skip
    rows.append(
        {
            "arm": "untouched",
            "losses": [_loss(items["untouched"][0])],
            "minus_random": against["untouched"]["differences"][0],
        }
    )
    return {
        "target": target.name,
        "budget": key,
        "tokens": budget.tokens,
        "items": len(items["random"][0].keys),
        "item_tokens": int(items["random"][0].weights.sum()),
        "arms": sorted(rows, key=lambda row: sum(row["losses"]) / len(row["losses"])),
        "less_against": compare_arms("less", items)["differences"],
    }


def _loss(items: Items) -> float:
    return float(items.values.sum() / items.weights.sum())


def markdown(found: Mapping[str, Any]) -> str:
    """Tables, one for every target and budget."""
    trials = ", ".join(f"{one['learning_rate']:g}: {one['loss']:.4f}" for one in found["learning_rate_trials"])
    head = (
        f"{found['date']}; {found['rows']:,} rows, {found['usable_rows']:,} usable, {found['tokens']:,} tokens; "
        f"{found['model']}; training {found['training']}; learning rates tried on random ({trials}); "
        f"{found['wall_seconds']} s wall for this call; {found['machine']}.\n"
    )
    return "\n".join([head, *[_table(one) for one in found["results"]]])


def _table(result: Mapping[str, Any]) -> str:
    lines = [
        f"**{result['target']}, {result['budget']}** ({result['tokens']:,} training tokens an arm, {result['items']} "
        f"items of {result['item_tokens']:,} tokens)",
        "",
        "| arm | rows | loss, each run | arm minus random [95 % interval] | clear | selection seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["arms"]:
        apart = row.get("minus_random")
        difference = f"{apart['mean']:+.4f} [{apart['low']:+.4f}, {apart['high']:+.4f}]" if apart else ""
        cells = (
            row["arm"],
            row.get("rows", ""),
            ", ".join(f"{loss:.4f}" for loss in row["losses"]),
            difference,
            ("yes" if apart["clear"] else "no") if apart else "",
            row.get("selection_seconds", ""),
        )
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
