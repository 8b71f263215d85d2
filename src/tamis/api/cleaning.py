"""The verb that cleans: duplicates, leaks, what a filter refuses, and texts that are mended, before anything else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tamis.api.places import Model, Place, Rows, Settings, pool_of, reads_rows, work_of
from tamis.catalogue import nearest
from tamis.cleaning.steps import Step, steps_of
from tamis.errors import RecipeError
from tamis.pool import Pool
from tamis.stages.clean import Done


def clean(
    pool: Rows,
    steps: Any,
    *,
    target: Rows | None = None,
    existing: Rows | None = None,
    columns: Any = (),
    on: str | None = None,
    out: str | Path | None = None,
    model: Model = None,
    judge: Model = None,
    reference: Model = None,
    work: Place = None,
    settings: Settings = None,
    say: Callable[[Done], None] | None = None,
    **more: Any,
) -> Pool:
    """The pool that `steps` leave: some rows dropped, some texts changed; `pool.steps` says what each did.

    `steps`: `"exact,near"`, or a list as in a recipe: `[{"near": {"threshold": 0.8}}, "repair-text"]`. `settings`: more
    settings, by step; of a single step also as keywords: `clean(pool, "where", keep="chars > 20")`. `target`,
    `existing`: what `@target` and `@existing` mean. `columns`, `on`: files of ratings for filters, as for
    `add_columns`; they stay with the rows that are left. `out`: a folder to keep the pool in, which needs no other.
    `model`: for steps that read what a model measures. `say` hears of every step when it is done. What was carried out
    before is found. Raises RecipeError where a setting is wrong or no row is left, GateError where a step refuses.
    """
    from tamis.cleaning.written import keep
    from tamis.stages.clean import clean as run
    from tamis.stages.clean import needs_of
    from tamis.stages.columns_io import carry_over, read_all, stem_of
    from tamis.stages.columns_io import sources_of as ratings_of
    from tamis.stages.measure import richest
    from tamis.stages.score import readable_columns

    asked = _with_settings(steps_of(steps), {**(settings or {}), **more})
    if not asked:
        raise RecipeError("clean: no step is named; for example exact,near")
    at = work_of(work, judge=judge, reference=reference)
    rows = pool_of(pool, at)
    read_all(rows, columns, at, on)
    have = readable_columns(rows, at, ())
    stems = {stem_of(file) for file, _ in ratings_of(columns)} | {name.partition(".")[0] for name in have}
    needs = needs_of(asked, stems)
    at = work_of(at, model, why=", ".join(step.name for step in asked) if reads_rows(needs) else "")
    at.check_roles("clean", needs)
    at = dataclasses.replace(at, settings_of_passes=richest(needs))
    sides = {"target": target, "existing": existing}
    read = {name: None if side is None else pool_of(side, at) for name, side in sides.items()}
    found = run(rows, asked, at, sides=read, columns=have, say=say)
    carry_over(found.columns, rows, found.pool, at)
    return found.pool if out is None else keep(found.pool, Path(out))


def _with_settings(steps: Sequence[Step], settings: Mapping[str, Any]) -> list[Step]:
    """Steps with more settings, by their names; of one step alone the settings themselves."""
    names = [step.name for step in steps]
    if len(steps) == 1 and not set(settings) <= set(names):
        settings = {names[0]: settings}
    if unknown := sorted(set(settings) - set(names)):
        raise RecipeError(
            f"settings of {unknown[0]!r} are given, and no step is called so{nearest(unknown[0], names)} "
            f"Steps: {', '.join(names)}"
        )
    return [dataclasses.replace(step, settings={**step.settings, **settings.get(step.name, {})}) for step in steps]
