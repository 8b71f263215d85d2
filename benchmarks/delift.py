"""DELIFT: what a pair costs with kept keys and values, and what limited candidates keep of the objective.

    python benchmarks/delift.py [--quick] [--json]

300 rows of real sources (TAMIS_REAL_DATA) with base-4m (TAMIS_REAL_MODELS), none longer than 200 tokens; without
these variables rows of the shipped pool and its model. One thread each.

Speed: a plain loop (one pair at a time, demonstration and query whole, logits of every token, softmax in float32) on
1,000 pairs drawn at random, against the pass `utility` on all pairs and on a tenth of them: those whose demonstrations
hold most of the response (`copying`, the default), and the nearest, pooled states included. Seconds are those of the
processor, preparation included, in one process. `largest_difference`: of utilities between the two on these pairs.

Objective: facility location by the full kernel, budget 30 %. `objective_share_…` = (f(picks) - f(random)) / (f(full) -
f(random)), f(random) the mean of five draws, where the picks were made with a tenth of the pairs: those of copying
demonstrations, those of the nearest, those of rows drawn at random, or the drawn ones and a network's predictions for
the rest. `best_kept_…`: mean over rows of the best measured utility by the best there is. `estimate_error_…`: how far
f, as the rule sees it, is from f by the full kernel at the rule's picks, relative; for drawn rows scaled by n / m.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import tamis
from tamis.demonstrations.asked import Asked, ask
from tamis.demonstrations.pairing import Candidates, Chosen, Side, choose_pairs, copying_pairs, short_keys
from tamis.demonstrations.surrogate import fill_in, fit
from tamis.demonstrations.utility_kernels import Found, shaped, utilities
from tamis.models import cached_model
from tamis.pool import Pool
from tamis.ragged import Ragged
from tamis.rendering import render_all
from tamis.scorers.passes.utility import Utility
from tamis.stages.fitting import FIT
from tamis.stages.measure import measure, measure_needs
from tamis.stages.only import part_of
from tamis.stages.signals import Signal, view_of
from tamis.stages.workspace import Workspace
from tamis.store import load_arrays
from tamis.submodular.facility_location import FacilityLocation
from tamis.submodular.maximise import Limit, maximise
from tamis.submodular.objective import value_of
from tamis.vectors.index import unit

REAL = ("code_alpaca_2k", "flan_cot_strategyqa", "flan_cot_qasc", "alpaca_score_1k", "flan_cot_aqua", "lima_1k")
LONGEST = 200
SHARE = 0.1
BUDGET = 0.3
DRAWS = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="60 rows, and the plain loop on 60 pairs")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[str, Any] = {"torch": torch.__version__, "machine": platform.machine(), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        found |= run(Path(folder), 60 if given.quick else 300, 60 if given.quick else 1000)
    sys.stdout.write(json.dumps(found) + "\n" if given.json else json.dumps(found, indent=1) + "\n")


def run(folder: Path, rows: int, pairs: int) -> dict[str, Any]:
    """Both parts."""
    pool, work = _rows(folder, rows)
    near = round(SHARE * rows)
    cached_model(work.model, "cpu")
    full, seconds = _measured(pool, work, {}, candidates="all")
    _say(f"all pairs: {seconds:.1f} s")
    _, copying = _measured(pool, work, {}, candidates="copying", per_row=near)
    _say(f"{near} copying a row: {copying:.1f} s")
    started = time.process_time()
    signals = measure_needs(pool, Utility(model=work.model, candidates="neighbours").needs, work)
    pooled = time.process_time() - started
    _, limited = _measured(pool, work, signals, candidates="neighbours", per_row=near)
    limited += pooled
    _say(f"{near} nearest a row: {limited:.1f} s")
    view = view_of(pool, {**signals, **full})
    known = utilities(view, "norm", None, "delift")
    count = len(known.places)
    plain, difference = _plain(work, known.inside, known.places, pairs)
    _say(f"plain loop: {plain:.4f} s a pair")
    ours = seconds / len(known.inside.values)
    theirs, nearest = copying / (count * near), limited / (count * near)
    return {
        "rows": count,
        "model": work.model.label,
        "plain_pairs": pairs,
        "seconds_per_pair_plain": plain,
        "seconds_per_pair_all": ours,
        "seconds_per_pair_copying": theirs,
        "seconds_per_pair_neighbours": nearest,
        "ratio_to_plain": round(max(ours, theirs) / plain, 4),
        "ratio_to_plain_all": round(ours / plain, 4),
        "ratio_to_plain_copying": round(theirs / plain, 4),
        "ratio_to_plain_neighbours": round(nearest / plain, 4),
        "largest_difference": difference,
        "share_of_pairs": SHARE,
        "budget": BUDGET,
        **_objective(known.inside, unit(view.signal("tokens", "pooled")[known.places]), pool, known.places, work),
    }


def _rows(folder: Path, rows: int) -> tuple[Pool, Workspace]:
    """Rows that can be asked, short enough that every pair of them fits."""
    data, models = (os.environ.get(name) for name in ("TAMIS_REAL_DATA", "TAMIS_REAL_MODELS"))
    files = [f"{data}/pool/{name}.jsonl.gz" for name in REAL] if data and models else ["tamis:pool.jsonl.gz"]
    model = f"{models}/base-4m" if data and models else "tamis:tiny-lm"
    work = tamis.workspace(folder / "work", model, max_tokens=1024, device="cpu", workers=1)
    drawn = tamis.open_pool(files, work, sample={"rows": 3 * rows // len(files) + 1, "seed": 1}, shard_rows=4096)
    good = [place for place, one in enumerate(render_all(list(drawn), work.model)) if _short(one)]
    chosen = np.sort(np.random.default_rng(0).permutation(good)[:rows])
    if len(chosen) < rows:
        sys.exit(f"only {len(chosen)} of {len(drawn)} rows are short enough")
    return part_of(drawn, chosen, work.store).pool, work


def _short(one: Any) -> bool:
    return not one.reason and len(one.ids) <= LONGEST


def _measured(
    pool: Pool, work: Workspace, signals: Mapping[str, Signal], **settings: Any
) -> tuple[dict[str, Signal], float]:
    """The signals with that of the pass `utility`, and its seconds."""
    started = time.process_time()
    signal = measure(pool, "utility", Utility(model=work.model, **settings), work, signals)
    return {**signals, "utility": signal}, time.process_time() - started


def _plain(work: Workspace, found: Found, places: NDArray[np.int64], pairs: int) -> tuple[float, float]:
    """Seconds a pair of the plain loop, and its largest difference from the measured utilities."""
    asked = Asked.of(load_arrays(max(work.store.entries(FIT), key=lambda entry: int(entry.facts["pairs"])).path))
    model = cached_model(work.model, "cpu")
    some = np.random.default_rng(1).permutation(len(found.values))[:pairs]
    bare = {row: _distance(model, asked.bare, asked, int(places[row])) for row in np.unique(found.rows[some]).tolist()}
    difference = 0.0
    started = time.process_time()
    for pair in some:
        row, column = int(found.rows[pair]), int(found.columns[pair])
        utility = bare[row] - _distance(model, asked.shown[int(places[column])], asked, int(places[row]))
        difference = max(difference, abs(utility - float(found.values[pair])))
    return (time.process_time() - started) / pairs, difference


@torch.inference_mode()
def _distance(model: Any, before: NDArray[np.int32], asked: Asked, query: int) -> float:
    ids = torch.from_numpy(np.concatenate([before, asked.queries[query]]).astype(np.int64))
    at = np.flatnonzero(asked.scored[query]) + len(before)
    probabilities = model(ids[None], use_cache=False).logits[0].float().softmax(-1)
    return float(torch.linalg.norm(1 - probabilities[at - 1, ids[at]].double()) / len(at) ** 0.5)


def _objective(
    found: Found, vectors: NDArray[np.float32], pool: Pool, places: NDArray[np.int64], work: Workspace
) -> dict[str, Any]:
    """What a tenth of the pairs keeps of f(full) - f(random), by rule."""
    count = len(vectors)
    full = FacilityLocation(shaped([found], "clip", True)[0].kernel(count))
    budget = Limit(rows=round(BUDGET * count))
    best = maximise(full, budget)
    draw = np.random.default_rng(2)
    random = float(np.mean([value_of(full, draw.permutation(count)[: budget.most]) for _ in range(DRAWS)]))
    highest = found.highest("rows", count)
    done: dict[str, Any] = {"f_full": best.value, "f_random": random}
    keys = pool.table(["key"]).column("key").to_pylist()
    per_row = round(SHARE * count)
    side = Side(np.arange(count), vectors, short_keys([keys[place] for place in places], 0))
    asked = part_asked(pool, places, work)
    for name in ("copying", "neighbours", "sampled", "surrogate"):
        if name == "copying":
            part = _part(found, copying_pairs(asked, side.places, side.places, per_row), "copying", count)
        else:
            rule: Chosen = "neighbours" if name == "neighbours" else "sampled"
            part = _part(found, choose_pairs(rule, per_row, side, side), rule, count)
        if name == "surrogate":
            network = fit(vectors, part, 0)
            done["surrogate_r2"] = round(network.r2, 3)
            part = fill_in(part, vectors, network, 64)
        kernel = shaped([part], "clip", True)[0].kernel(count)
        picks = maximise(FacilityLocation(kernel), budget)
        value = value_of(full, picks.order)
        done[f"objective_share_{name}"] = round((value - random) / (best.value - random), 4)
        seen = picks.value * (count / per_row if name == "sampled" else 1)
        done[f"estimate_error_{name}"] = round(abs(seen - value) / value, 4)
        kept = part.highest("rows", count)[highest > 0] / highest[highest > 0]
        done[f"best_kept_{name}"] = round(float(np.minimum(kept, 1).mean()), 4)
    return done


def part_asked(pool: Pool, places: NDArray[np.int64], work: Workspace) -> Asked:
    """Only the rows that can be asked."""
    asked, _ = ask(pool, None, work.model, "chat", 0)
    queries, scored, shown = (
        Ragged.of([lists[place] for place in places.tolist()], lists.values.dtype)
        for lists in (asked.queries, asked.scored, asked.shown)
    )
    return Asked(len(places), asked.keys[places], asked.reason[places], queries, scored, shown, asked.bare)


def _part(found: Found, pairs: NDArray[np.int64], rule: Candidates, count: int) -> Found:
    """The measured pairs that a rule would have measured."""
    queries, shown = (pairs[:, 0], pairs[:, 1]) if rule in ("copying", "neighbours") else (pairs[:, 1], pairs[:, 0])
    wanted = np.isin(found.rows * count + found.columns, queries * count + shown)
    return Found(found.rows[wanted], found.columns[wanted], found.values[wanted])


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
