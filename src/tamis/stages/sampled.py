"""Training on a sample that the stage draws of the pool itself, as a warm-up does: a fit, which may stay (`pins`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tamis import digests
from tamis.catalogue import build
from tamis.pins import Fitting
from tamis.pool import Pool
from tamis.protocols import Selector
from tamis.recipe import Stage, scorer_settings
from tamis.stages.fitting import read_by_shard
from tamis.stages.select import select
from tamis.stages.signals import Measurer, Signal
from tamis.stages.train import TRAINING, Training, TrainingJob, row_weights_of, train_entry, training_from
from tamis.stages.workspace import Workspace
from tamis.values import Budget, Column, Seeds, Subset


def drawn_by(stage: Stage) -> Selector:
    """The selector that draws the sample of a stage with `on: {select: …, budget: …}`."""
    on: Mapping[str, Any] = stage.settings["on"]
    selector: Selector = build(
        "selectors", str(on["select"]), {key: value for key, value in on.items() if key not in ("select", "budget")}
    )
    return selector


def fitting_of(
    stage: Stage,
    pool: Pool,
    target: Pool | None,
    work: Workspace,
    read: Mapping[str, Measurer],
    inputs: Sequence[str] | None = None,
) -> Fitting:
    """The training of a stage as a fit over the pool. What hooks record of single rows does not outlive new rows.

    `read`: the signals by which the sample is drawn.
    """
    trainer = build("trainers", stage.component, stage.own)
    hooks = stage.settings.get("hooks")
    known = all(one.by for one in read.values()) and all(need.kind == "signal" for need in drawn_by(stage).needs)
    about = {
        "reads": {key: one.by for key, one in read.items()} if known else None,
        "trainer": digests.of_component(trainer, {"reads": dict(getattr(trainer, "reads", {}))}),
        "on": stage.settings["on"],
        "seed": stage.settings.get("seed", 0),
        "hooks": [hooks, target] if hooks else None,
    }
    return work.fitting(stage.name, about, TRAINING, pool, inputs, by_row=bool(hooks), comparable=known)


def job_of(stage: Stage, pool: Pool, target: Pool | None, work: Workspace, subset: Subset) -> TrainingJob:
    """The training of a stage on a subset."""
    seed = int(stage.settings.get("seed", 0))
    return TrainingJob(
        store=work.store,
        trainer=stage.component,
        settings=stage.own,
        model=work.model,
        rows_of=pool,
        positions=tuple(int(place) for place in subset.positions),
        seeds=Seeds(adapter=seed, order=seed),
        machine=work.machine,
        row_weights=row_weights_of(subset),
        token_weights=subset.tokens,
        hooks=scorer_settings(stage.settings.get("hooks")),
        target=target,
    )


def train_on_sample(
    stage: Stage,
    pool: Pool,
    target: Pool | None,
    work: Workspace,
    given: Mapping[str, Signal],
    columns: Mapping[str, Column],
    job: Callable[[Subset], TrainingJob],
) -> Training:
    """Draw the sample and train on it, or find what was drawn and trained before the pool changed."""
    selector = drawn_by(stage)
    read = {need.key: given[need.key] for need in selector.needs if need.key in given}
    own = columns if any(need.kind == "column" for need in selector.needs) else {}

    def drawn_and_trained() -> Any:
        budget = Budget.parse(stage.settings["on"]["budget"])
        chosen = select(pool, selector, budget, work, name=stage.name, given=given, columns=columns)
        return train_entry(job(chosen.subset))

    fitting = fitting_of(stage, pool, target, work, read, read_by_shard(pool, read, own))
    entry, fit = fitting.entry(drawn_and_trained)
    work.work.note_fit(fit)
    return training_from(entry, [note for note in [fit.note()] if note])
