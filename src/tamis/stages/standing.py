"""What of a recipe stands already when its pool has changed: which fits stay, how old they are, what is left to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from tamis.pins import Fit
from tamis.protocols import Scorer
from tamis.recipe import Stage
from tamis.stages.conduct import Conductor
from tamis.stages.estimates import Step
from tamis.stages.fitting import fitting_of
from tamis.stages.measure import asked_of
from tamis.stages.sampled import drawn_by
from tamis.stages.sampled import fitting_of as fitting_of_training
from tamis.stages.serving import rows_left
from tamis.stages.signals import Asked
from tamis.stages.train import training_from


def is_sampled(stage: Stage) -> bool:
    """Whether a stage trains on a sample of the pool that it draws itself."""
    return stage.verb == "train" and isinstance(stage.settings.get("on"), Mapping)


def look_at(conductor: Conductor, stage: Stage, asked: Mapping[str, Asked]) -> Fit:
    """What is going to become of such a stage; where it is kept, the conductor is given what it left.

    What it reads of the rows is not looked at, for it may not have been measured.
    """
    assert conductor.pool is not None
    everything = {**asked, **asked_of(conductor.pool, drawn_by(stage).needs, conductor.work)}
    read = {need.key: everything[need.key] for need in drawn_by(stage).needs if need.key in everything}
    fitting = fitting_of_training(stage, conductor.pool, conductor.target, conductor.work, read)
    pin, fit = fitting.look()
    if pin is not None and fit.how == "kept":
        entry = conductor.work.store.get(fitting.kind, pin.entry)
        if entry is not None:
            conductor.outcomes[stage.name] = training_from(entry)
    return fit


def left_of(conductor: Conductor, stage: Stage, step: Step, asked: Mapping[str, Asked]) -> Step:
    """The step of a pass stage less the rows that it has measured, where what it refers to stands already."""
    assert conductor.pool is not None
    referred = [name for name in stage.references if name not in ("target", "existing", "pool", "model")]
    if "only" in stage.settings or not all(name in conductor.outcomes for name in referred):
        return step
    component = conductor.pass_component(stage)
    needed = [need.key for need in component.needs]
    if hasattr(component, "fit") or not all(key in asked for key in needed):
        return step
    left = rows_left(conductor.pool, component, conductor.work, {key: asked[key] for key in needed})
    share = left / max(1, len(conductor.pool))
    done = f"{len(conductor.pool) - left:,} of {len(conductor.pool):,} rows"
    return dataclasses.replace(step, tokens=round(step.tokens * share), disk=round(step.disk * share), done=done)


def ages(conductor: Conductor, asked: Mapping[str, Asked], scorers: Mapping[str, Scorer]) -> Iterator[str]:
    """One sentence for every fit that is older than the pool, or will be made anew."""
    assert conductor.pool is not None
    fits = [look_at(conductor, stage, asked) for stage in conductor.recipe.stages if is_sampled(stage)]
    components: dict[str, Any] = {key: one.component for key, one in asked.items()} | dict(scorers)
    for name, component in components.items():
        needed = {need.key for need in component.needs if need.kind == "signal"} if hasattr(component, "fit") else {""}
        if needed <= set(asked):
            read = {key: asked[key] for key in sorted(needed)}
            known = all(need.kind == "signal" for need in component.needs)
            fits.append(fitting_of(conductor.pool, component, conductor.work, name, read, known=known).look()[1])
    yield from (f"{fit.name}: {note}" for fit in fits if (note := fit.note()))
