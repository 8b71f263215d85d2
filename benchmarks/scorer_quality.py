"""What scorers are worth where the truth is known: AUC or Spearman of every scorer, with a 95 % interval.

    python benchmarks/scorer_quality.py [--only NAME …] [--quick] [--json] [--out DIR] [--workspace DIR]

Truths: right and wrong solutions of GSM8K questions, originals and expert revisions, TruthfulQA answers, ratings by
ChatGPT and by three other models (TAMIS_REAL_DATA), 500 rows each, scored by base-4m (TAMIS_REAL_MODELS);
rows of the shipped pool with planted faults, and generated traces of list programs with static and with propagating
noise, scored by tiny-lm. The model that scores is its own judge too. Scorers that ask a model more than twice a row see
200 of them.

A figure is AUC (where truth is yes or no; 0.5 is no signal) or Spearman's correlation (0 is none) of the raw column, in
which high is not always good. Intervals: 400 bootstrap draws of whole prompts, so that answers to one question stay
together; not corrected for their number. One column a scorer, named beforehand in `VIEWS`, else its first.

Scorers that need a training, a second model, pairs or tags see rows of the shipped generator (`--only trained`).

Generations: pass rates of tiny-lm, tuned on one skill, on the shipped evaluation rows of it, against rates of other
samples of the same model; and of a simulated sampler whose rates are known. All is kept in the workspace: a killed run
goes on with the same command.
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
from typing import Any, get_args

import numpy as np
import scorer_generations
import scorer_trained
import scorer_truths
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from scorer_truths import Truth

import tamis
from tamis.api.scoring import asked
from tamis.catalogue import SCORERS, build
from tamis.data.noisy_traces import Noise
from tamis.errors import TamisError

log = logging.getLogger("scorer_quality")
DRAWS = 400
MOST, DEAR_MOST = 500, 200  # 21 minutes on two cores; half an hour is the most
SHARD_ROWS = 50  # small, so that two workers share a truth
DEAR = frozenset({"mods-necessity"})  # has the model answer before it is judged
CHEAP = frozenset({"hashes", "language", "lengths", "text", "tokens", "reversed", "ratings"})
LEFT_OUT = {
    "rating": "any question of one's own; its shipped ones are selectit, deita and alpagasus",
    "blend": "an operator over columns named by the user",
    "deconfound": "an operator over a column named by the user",
    "massive-sft": "of groups, not of rows",
    "dataset-complexity": "of groups, not of rows",
    "pair-length": "of preference pairs",
    "pair-perplexity": "of preference pairs",
}
SETTINGS: dict[str, dict[str, Any]] = {"nuggets": {"count": 20}}  # with its 100 anchors: four minutes a truth
VIEWS = {
    "c4": "passed",
    "cascades": "avg",
    "cot-trace": "length_residual",
    "entropy": "response",
    "fineweb": "passed",
    "gopher": "passed",
    "ifd": "score",
    "perplexity": "response",
    "length": "response",
    "uit-denoising": "score",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or go on; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="some of the truths")
    parser.add_argument("--quick", action="store_true", help="90 rows of each truth, 20 for dear scorers")
    parser.add_argument("--rows", type=int, default=MOST, help="of each truth at most; dear scorers see 200")
    parser.add_argument("--json", action="store_true", help="one object on standard output instead of the table")
    parser.add_argument("--out", type=Path, help="folder for scorer_quality.md and scorer_quality.json as well")
    parser.add_argument("--workspace", type=Path, default=Path(".tamis-scorer-quality"))
    given = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    most, dear = (90, 20) if given.quick else (given.rows, min(given.rows, DEAR_MOST))
    found: dict[str, Any] = {"truths": {}, "figures": [], "left_out": {}, "torch": torch.__version__}
    found |= {"machine": platform.machine(), "date": time.strftime("%F")}
    started = time.time()
    for truth, model in truths(most):
        if given.only and truth.name not in given.only:
            continue
        about = {"what": truth.what, "rows": len(truth.rows), "groups": len(np.unique(truth.groups)), "model": model}
        found["truths"][truth.name] = about
        for part, names in ((truth, "cheap"), (_first(truth, dear), "dear")):
            figures, left = measure(part, model, names, given.workspace)
            found["figures"] += figures
            found["left_out"] |= left
        found["wall_seconds"] = round(time.time() - started)
        log.info("%s: %d figures", truth.name, len(found["figures"]))
        _keep(found, given.out)
    if not given.only or "trained" in given.only:
        for truth, columns in scorer_trained.measured(most, given.workspace):
            about = {"what": truth.what, "rows": len(truth.rows), "groups": len(np.unique(truth.groups))}
            found["truths"].setdefault(truth.name, {**about, "model": "tamis:tiny-lm, tuned"})
            made = [{"truth": truth.name, "column": name, **figure(columns[name], truth)} for name in columns]
            found["figures"] += made
            found["wall_seconds"] = round(time.time() - started)
            _keep(found, given.out)
    if not given.only or "pass rates" in given.only:
        _generations(found, 30 if given.quick else 300, given.workspace)
        found["wall_seconds"] = round(time.time() - started)
        _keep(found, given.out)
    sys.stdout.write(json.dumps(found) + "\n" if given.json else markdown(found))


def truths(most: int) -> Iterator[tuple[Truth, str]]:
    """Every truth that can be had here, and the model that scores its rows."""
    data, models = (os.environ.get(name) for name in ("TAMIS_REAL_DATA", "TAMIS_REAL_MODELS"))
    if data and models:
        reads = (scorer_truths.solutions, scorer_truths.revised, scorer_truths.truthful)
        for read in (*reads, scorer_truths.alpagasus, scorer_truths.ratings):
            yield read(Path(data), most), f"{models}/base-4m"
    else:
        log.info("TAMIS_REAL_DATA and TAMIS_REAL_MODELS are not set: the five truths of real rows are left out")
    yield scorer_truths.faults(most, visible=True), "tamis:tiny-lm"
    yield scorer_truths.faults(most, visible=False), "tamis:tiny-lm"
    for noise in get_args(Noise):
        yield scorer_truths.traces(most, noise), "tamis:tiny-lm"


def _generations(found: dict[str, Any], rows: int, workspace: Path) -> None:
    """Scorers of sampled answers, on a tuned model and on a simulated sampler."""
    known, columns, covered = scorer_generations.simulated(workspace)
    found["truths"][known.name] = {"what": known.what, "rows": len(known.truth), "interval_covers": round(covered, 3)}
    for name in ("pass-rate.score", "dart.prop2diff"):
        found["figures"].append({"truth": known.name, "column": name, **figure(columns[name], known)})
    varying = dataclasses.replace(known, name="simulated variance", what="p (1 - p) is higher", truth=_varying(known))
    found["truths"][varying.name] = {"what": varying.what, "rows": len(varying.truth)}
    found["figures"].append({"truth": varying.name, "column": "vps.score", **figure(columns["vps.score"], varying)})
    truth, model = scorer_generations.tuned(workspace, rows)
    between = float(((truth.truth > 0.1) & (truth.truth < 0.9)).mean())
    about = {"what": truth.what, "rows": len(truth.rows), "model": "tiny-lm, tuned", "between": round(between, 3)}
    found["truths"][truth.name] = {**about, "mean": round(float(np.nanmean(truth.truth)), 3)}
    found["figures"] += measure(truth, model, list(scorer_generations.SCORERS), workspace)[0]


def _varying(known: Truth) -> NDArray[np.float64]:
    """Variance of a verdict where its rate is known: what VPS is after."""
    return known.truth * (1 - known.truth)


def _first(truth: Truth, most: int) -> Truth:
    return dataclasses.replace(truth, rows=truth.rows[:most], truth=truth.truth[:most], groups=truth.groups[:most])


def measure(
    truth: Truth, model: str, which: str | list[str], workspace: Path
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Figures of the scorers named, or of those of one cost, and why others were left out."""
    place = workspace / truth.name.replace(" ", "-")
    work = tamis.workspace(place / "work", model, judge=model, max_tokens=384, device="cpu", workers=2)
    file = place / f"{which if isinstance(which, str) else 'some'}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in truth.rows), encoding="utf-8")
    pool = tamis.open_pool([str(file)], work, shard_rows=SHARD_ROWS)
    if len(pool) != len(truth.rows):
        sys.exit(f"{truth.name}: {len(truth.rows) - len(pool)} rows were not taken")
    names, left = _scorers(pool, truth, which, work) if isinstance(which, str) else (which, {})
    columns, refused = _columns(pool, names, truth, work)
    figures = []
    for name in names:
        views = [full for full in columns if full.startswith(f"{name}.")]
        wanted = [full for full in views if full.startswith(f"{name}.{VIEWS.get(name, '')}")] or views
        if wanted:
            values = columns[wanted[0]].values.astype(np.float64)
            figures.append({"truth": truth.name, "column": wanted[0].partition("@")[0], **figure(values, truth)})
    left |= refused
    return figures, left


def _columns(pool: Any, names: list[str], truth: Truth, work: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Columns of all scorers, passes shared; where one refuses these rows, of each by itself, and why it refuses."""
    settings = {name: {**SETTINGS.get(name, {}), **truth.settings.get(name, {})} for name in names}
    try:
        return dict(tamis.score(pool, settings, work=work).columns), {}
    except TamisError as error:
        log.info("one by one, for %s", error)
    columns, refused = {}, {}
    for name in names:
        try:
            columns |= tamis.score(pool, {name: settings[name]}, work=work).columns
        except TamisError as error:
            refused[name] = str(error)
    return columns, refused


def _scorers(pool: Any, truth: Truth, which: str, work: Any) -> tuple[list[str], dict[str, str]]:
    """Scorers that can be run on these rows and have the cost asked for."""
    names, left = [], dict(LEFT_OUT)
    for name in SCORERS:
        if name in left:
            continue
        try:
            build("scorers", name, truth.settings.get(name, {}))
            needs = asked(pool, {name: dict(truth.settings.get(name, {}))}, work)[-1]
        except TamisError as error:
            left[name] = str(error)
            continue
        signals = {need.name for need in needs if need.kind == "signal"}
        if "generations" in signals:
            left[name] = "sampled answers are measured on a model that solves some of its tasks: see `pass rates`"
            continue
        if ("cheap" if signals <= CHEAP and name not in DEAR else "dear") == which:
            names.append(name)
    return names, left


def figure(values: NDArray[np.float64], truth: Truth) -> dict[str, Any]:
    """n, statistic, estimate and interval; no estimate where fewer than ten rows or one value of either are left."""
    good = np.isfinite(values) & np.isfinite(truth.truth)
    x, y, groups = values[good], truth.truth[good], truth.groups[good]
    kind = "AUC" if truth.binary else "Spearman"
    if len(x) < 10 or len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        return {"n": len(x), "statistic": kind, "estimate": None, "interval": None}
    estimate = _statistic(x, y, truth.binary)
    _, members = np.unique(groups, return_inverse=True)
    order = np.argsort(members, kind="stable")
    starts = np.searchsorted(members[order], np.arange(members.max() + 2))
    draw = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        picked = draw.integers(0, members.max() + 1, members.max() + 1)
        rows = np.concatenate([order[starts[group] : starts[group + 1]] for group in picked])
        if len(np.unique(y[rows])) > 1 and len(np.unique(x[rows])) > 1:
            drawn.append(_statistic(x[rows], y[rows], truth.binary))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {
        "n": len(x),
        "statistic": kind,
        "estimate": round(estimate, 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
        "signal": not low <= (0.5 if truth.binary else 0.0) <= high,
    }


def _statistic(x: NDArray[np.float64], y: NDArray[np.float64], binary: bool) -> float:
    ranks = rankdata(x)
    if binary:
        good = y > 0
        count = int(good.sum())
        return float((ranks[good].sum() - count * (count + 1) / 2) / (count * (len(y) - count)))
    return float(np.corrcoef(ranks, rankdata(y))[0, 1])


def _keep(found: Mapping[str, Any], out: Path | None) -> None:
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "scorer_quality.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (out / "scorer_quality.md").write_text(markdown(found), encoding="utf-8")


def markdown(found: Mapping[str, Any]) -> str:
    """A table: a row a column, truths across; bold where the interval leaves out "no signal"."""
    names = list(found["truths"])
    cells: dict[str, dict[str, str]] = {}
    for one in found["figures"]:
        cells.setdefault(one["column"], {})[one["truth"]] = _cell(one)
    head = " | ".join(f"{name}" for name in names)
    lines = [f"| column | {head} |", "|---|" + "---|" * len(names)]
    for column, row in sorted(cells.items()):
        lines.append(f"| `{column}` | " + " | ".join(row.get(name, "") for name in names) + " |")
    return "\n".join(lines) + "\n"


def _cell(one: Mapping[str, Any]) -> str:
    if one["estimate"] is None:
        return f"none ({one['n']})"
    low, high = one["interval"]
    text = f"{one['estimate']:.2f} [{low:.2f}, {high:.2f}]"
    return f"**{text}** ({one['n']})" if one["signal"] else f"{text} ({one['n']})"


if __name__ == "__main__":
    main()
