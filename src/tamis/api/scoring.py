"""Verbs that judge rows: columns of scorers, and columns from files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tamis.api.handles import Calibrated, Scored
from tamis.api.places import Files, Model, Place, Rows, Settings, pool_of, reads_rows, work_of
from tamis.catalogue import build
from tamis.errors import RecipeError
from tamis.pool import Pool
from tamis.stages.workspace import Workspace
from tamis.values import Column, Need


def score(
    pool: Rows,
    scorers: Files | Mapping[str, Settings],
    *,
    model: Model = None,
    judge: Model = None,
    reference: Model = None,
    work: Place = None,
) -> Scored:
    """Columns of the scorers named: `"ifd,perplexity"`, a list, or `{"ifd": {"form": "ppl"}}` with their settings.

    All the passes that they need run once each; scorers whose columns others read are added. `judge`, `reference`:
    second models, for the scorers that need one. `notes` of the answer say what should be known. Raises RecipeError for
    unknown names and settings, and where a pass over a model is needed and none is given.
    """
    from tamis.stages.measure import richest
    from tamis.stages.score import score as run

    at, rows, built, given, needs = asked(pool, scorers, work_of(work, model, judge=judge, reference=reference))
    found = run(rows, built, dataclasses.replace(at, settings_of_passes=richest(needs)), columns=given)
    also = f"{', '.join(found.added)}: scored too, with default settings, for columns of theirs are read"
    notes = (*found.notes, *([also] if found.added else []))
    return Scored(rows, found.columns, at, notes, found.facts)


def asked(
    pool: Rows, scorers: Files | Mapping[str, Settings], at: Workspace
) -> tuple[Workspace, Pool, dict[str, Any], dict[str, Column], list[Need]]:
    """Workspace, rows, scorers, columns that these may read, and all their needs; RecipeError where a model lacks."""
    from tamis.recipe import scorer_settings
    from tamis.stages.dependence import needs_of_scorers, ordered
    from tamis.stages.score import readable_columns

    built = {name: build("scorers", name, given) for name, given in scorer_settings(scorers).items()}
    rows = pool_of(pool, at)
    given = readable_columns(rows, at, built.values())
    everything = ordered(built, given)
    needs = needs_of_scorers(everything)
    _check_stages(everything)
    for name, scorer in everything.items():
        at.check_roles(name, scorer.needs)
    work_of(at, why=", ".join(built) if reads_rows(needs) else "")
    return at, rows, built, given, needs


def plan(
    pool: Rows,
    scorers: Files | Mapping[str, Settings],
    *,
    model: Model = None,
    judge: Model = None,
    reference: Model = None,
    work: Place = None,
) -> dict[str, Any]:
    """What `score` with these arguments is going to do: its passes, rows, tokens, time and disk. Runs none of them.

    Rows are tokenised, and where a pass is left to run a few of them are timed.
    """
    from tamis.stages.dependence import ordered
    from tamis.stages.measure import richest
    from tamis.stages.plan import plan_scores

    at, rows, built, given, needs = asked(pool, scorers, work_of(work, model, judge=judge, reference=reference))
    at = dataclasses.replace(at, settings_of_passes=richest(needs))
    return plan_scores(rows, ordered(built, given), needs, at)


def calibrate(
    pool: Rows,
    column: str,
    truth: str,
    *,
    rising: Sequence[str] = (),
    bins: int = 10,
    uncertainty: bool = False,
    model: Model = None,
    judge: Model = None,
    reference: Model = None,
    work: Place = None,
) -> Calibrated:
    """Whether a column deserves to be believed: ECE, Brier, AUROC and AURC of it where the truth is known.

    `truth`: a column of 0 and 1, or a field of the rows, `meta.correct` (true and false). With `uncertainty` a high
    value speaks against a row. `rising`: columns of one uncertainty at rising temperatures, for TSU. Columns that
    nobody has made yet are made with the default settings of their scorer. DataError where no row has both.
    """
    from tamis.column.calibration import calibration
    from tamis.column.calibration import rising as share_rising
    from tamis.stages.score import known_columns
    from tamis.stages.select import missing_columns
    from tamis.stages.signals import view_of

    at = work_of(work, model, judge=judge, reference=reference)
    rows = pool_of(pool, at)
    have = known_columns(rows, at)
    scorers = missing_columns([Need(kind="column", name=name) for name in (column, truth, *rising)], None, have)
    made = score(rows, dict.fromkeys(scorers), work=at).columns if scorers else {}
    view = view_of(rows, {}, columns={**have, **made})
    values, known = view.column(column).values, view.column(truth).values
    figures = dict(calibration(values, known, bins=bins, uncertainty=uncertainty))
    if rising:
        figures["tsu"] = share_rising([view.column(name).values for name in rising])
    return Calibrated({"column": column, "truth": truth, **figures})


def _check_stages(scorers: Mapping[str, Any]) -> None:
    """RecipeError where a scorer reads a signal that no need alone starts."""
    from tamis.stages.measure import SHARED

    example = {"influence": "less", "trajectories": "forgetting"}
    for name, scorer in scorers.items():
        for need in sorted(scorer.needs, key=lambda need: str(need.key)):
            if need.kind == "signal" and need.name not in SHARED:
                recipe = f" (`tamis recipes {example[need.name]}`)" if need.name in example else ""
                raise RecipeError(f"{name} needs a pass of its own, {need.name}: run it in a recipe{recipe}")


def columns(pool: Rows, *, work: Place = None) -> Scored:
    """Every column that this pool has in the workspace: those of `score`, and those of `add_columns`."""
    from tamis.stages.score import known_columns

    at = work_of(work)
    rows = pool_of(pool, at)
    return Scored(rows, known_columns(rows, at), at)


def add_columns(pool: Rows, files: Any, *, on: str | None = None, work: Place = None) -> Scored:
    """Columns from files of your own (Parquet, CSV, JSONL), named `file-stem.column`, joined to the rows of the pool.

    `on`: `key`, `file+position`, `position`, or a field of your rows (`id`); by default what the file has. Rows
    without a rating are NaN ("not measured"); what did not fit is in `notes`. Raises DataError for two ratings of one
    row and for files that name no row of the pool.
    """
    from tamis.stages.columns_io import read_all

    at = work_of(work)
    rows = pool_of(pool, at)
    found, notes = read_all(rows, files, at, on)
    return Scored(rows, found, at, tuple(notes))
