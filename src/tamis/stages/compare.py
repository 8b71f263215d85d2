"""Compare: arms trained alike on equal tokens, measured on the same items, and an honest verdict."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tamis.catalogue import build
from tamis.comparison import compare_arms, composition
from tamis.pool import Pool
from tamis.recipe import scorer_settings
from tamis.stages.contamination import Gate, leaks_of
from tamis.stages.select import Selection
from tamis.stages.train import Evaluated, EvaluationJob, TrainingJob, evaluate_all, row_weights_of
from tamis.stages.workspace import Workspace
from tamis.values import Budget, Seeds, TokenWeights
from tamis.views import PoolView

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)
UNTOUCHED = "untouched"
RANDOM_SEED = 1000  # random subsets of the comparison are drawn apart from the warm-up's


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm: the rows of every run, in order of runs. `settings` differ from the common ones only where said."""

    name: str
    positions: tuple[NDArray[np.int64], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[float, ...] | None = None
    tokens: TokenWeights | None = None
    hooks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds_selection: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a comparison holds equal: trainer and settings, runs, evaluator, evaluation rows, learning rates to try.

    `hooks` are heard in the arm of the method alone; `target` is filled in where one of them has such a field. A method
    named like a baseline, such as random rows behind a filter or a mix, becomes `chosen random`: arms go by name.
    `contamination`: what happens where evaluation items stand in the rows that arms are trained on.
    """

    method: str
    trainer: str
    settings: Mapping[str, Any]
    runs: int = 3
    baselines: tuple[str, ...] = ("random", "longest")
    full: Mapping[str, Any] = field(default_factory=lambda: {"runs": 1, "epochs": 1})
    learning_rates: tuple[float, ...] = ()
    metric: Any = "held-out-loss"
    draws: int = 2000
    groups: tuple[str, ...] = ("source",)
    hooks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    target: Pool | None = None
    contamination: Gate = "warn"

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", told_apart(self.method, self.baselines))


def told_apart(method: str, baselines: Iterable[str]) -> str:
    """Name of the method's arm, `chosen NAME` where a baseline has its name.

    >>> told_apart("random", ["random", "longest"]), told_apart("less", ["random"])
    ('chosen random', 'less')
    """
    return f"chosen {method}" if method in (UNTOUCHED, *baselines) else method


def method_name(selector: str, weigh: Any, hooks: Any) -> str:
    """Name of the arm of a method: its selector, its weigher and the hooks of its training, as `random+stm`."""
    return "+".join([selector, *scorer_settings(weigh), *scorer_settings(hooks)])


def compare(
    view: PoolView, chosen: Selection, held_out: Pool, design: Design, work: Workspace, *, seconds: float = 0.0
) -> dict[str, Any]:
    """The content of `comparison.json`: arms, differences with intervals, what was picked, one verdict."""
    leaks = leaks_of(view.pool, chosen.subset, held_out, work, design.contamination)
    arms = _arms(view, chosen, design, work, seconds)
    for arm in arms:
        build("trainers", design.trainer, {**design.settings, **arm.settings})  # a fault shows before hours of training
    settings, trials = _choose_learning_rate(view, arms, held_out, design, work)
    jobs = [
        _job(arm, run, view.pool, held_out, design, {**settings, **arm.settings}, work)
        for arm in arms
        for run in range(len(arm.positions))
    ]
    untouched = _untouched(held_out, design, work)
    results = evaluate_all([untouched, *jobs], work)
    by_arm: dict[str, list[Evaluated]] = {UNTOUCHED: results[:1]}
    rest = iter(results[1:])
    for arm in arms:
        by_arm[arm.name] = [next(rest) for _ in arm.positions]
    found = compare_arms(
        design.method, {name: [one.items for one in runs] for name, runs in by_arm.items()}, draws=design.draws
    )
    _add_costs(found, arms, by_arm, design.trainer, settings)
    found["contamination"] = leaks
    found["item_tokens"] = int(results[0].items.weights.sum())
    found["training"] = {
        "trainer": design.trainer,
        **{key: value for key, value in settings.items() if isinstance(value, (int, float, str))},
        "learning_rate_trials": trials,
        "chosen_on": "random, all runs, on the evaluation items (which favours the baseline)" if trials else "recipe",
    }
    found["composition"] = {
        by: {
            "pool": composition(view.groups(by)[view.usable], None),
            "arms": {arm.name: composition(view.groups(by), arm.positions[0]) for arm in arms if arm.name != "full"},
        }
        for by in design.groups
    }
    return found


def _arms(view: PoolView, chosen: Selection, design: Design, work: Workspace, seconds: float) -> list[Arm]:
    """The method's subset once, and baselines of as many tokens: `random` anew in every run.

    `plain` is the method's rows without its weights and hooks: what those alone are worth.
    """
    import numpy as np

    tokens = Budget(tokens=int(view.cost[chosen.subset.positions].sum()))
    picked = np.asarray(chosen.subset.positions)
    method = Arm(
        name=design.method,
        positions=(picked,) * design.runs,
        weights=row_weights_of(chosen.subset),
        tokens=chosen.subset.tokens,
        hooks=design.hooks,
        seconds_selection=seconds,
    )
    arms = [method]
    for name in design.baselines:
        if name == "plain":
            arms.append(Arm(name=name, positions=method.positions))
        elif name == "full":
            runs = int(design.full.get("runs", 1))
            own = {key: value for key, value in design.full.items() if key != "runs"}
            arms.append(Arm(name=name, positions=(np.flatnonzero(view.usable),) * runs, settings=own))
        elif name == "random":
            draws = [build("selectors", name, {"seed": RANDOM_SEED + run}) for run in range(design.runs)]
            subsets = tuple(np.asarray(one.select(view, tokens, work.machine).positions) for one in draws)
            arms.append(Arm(name=name, positions=subsets))
        else:
            subset = build("selectors", name, {}).select(view, tokens, work.machine)
            arms.append(Arm(name=name, positions=(np.asarray(subset.positions),) * design.runs))
    return arms


def _choose_learning_rate(
    view: PoolView, arms: Sequence[Arm], held_out: Pool, design: Design, work: Workspace
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Common settings with the learning rate that serves the random arm best, all its runs together.

    One run is not enough where random rows teach little: another draw of them would choose another rate.
    """
    settings, rates = dict(design.settings), design.learning_rates
    if len(rates) < 2:
        return settings | ({"learning_rate": rates[0]} if rates else {}), []
    arm = next((arm for arm in arms if arm.name == "random"), arms[0])
    runs = range(len(arm.positions))
    jobs = [
        _job(arm, run, view.pool, held_out, design, {**settings, "learning_rate": rate}, work)
        for rate in rates
        for run in runs
    ]
    items = [result.items for result in evaluate_all(jobs, work)]
    figures = [float(one.values.sum() / one.weights.sum()) for one in items]
    values = [sum(figures[place * len(runs) :][: len(runs)]) / len(runs) for place in range(len(rates))]
    best = min(range(len(rates)), key=lambda place: values[place] * (1 if items[0].lower_is_better else -1))
    trials = [{"learning_rate": rate, "value": value} for rate, value in zip(rates, values, strict=True)]
    return {**settings, "learning_rate": rates[best]}, trials


def _evaluator(design: Design) -> tuple[str, dict[str, Any]]:
    return next(iter(scorer_settings(design.metric).items()))


def _untouched(held_out: Pool, design: Design, work: Workspace) -> EvaluationJob:
    name, settings = _evaluator(design)
    return EvaluationJob(work.store, name, settings, held_out, work.machine, model=work.model)


def _job(
    arm: Arm, run: int, pool: Pool, held_out: Pool, design: Design, settings: Mapping[str, Any], work: Workspace
) -> EvaluationJob:
    name, own = _evaluator(design)
    training = TrainingJob(
        store=work.store,
        trainer=design.trainer,
        settings=settings,
        model=work.model,
        rows_of=pool,
        positions=tuple(int(place) for place in arm.positions[run]),
        seeds=Seeds(adapter=run, order=run),
        machine=work.machine,
        row_weights=arm.weights,
        token_weights=arm.tokens,
        hooks=arm.hooks,
        target=design.target if arm.hooks else None,
    )
    return EvaluationJob(work.store, name, own, held_out, work.machine, training=training)


def _add_costs(
    found: dict[str, Any],
    arms: Sequence[Arm],
    by_arm: Mapping[str, Sequence[Evaluated]],
    trainer: str,
    settings: Mapping[str, Any],
) -> None:
    known = {arm.name: arm for arm in arms}
    for entry in found["arms"]:
        runs = [one.training for one in by_arm[entry["name"]] if one.training is not None]
        arm = known.get(entry["name"])
        entry["rows"] = int(runs[0].facts["rows"]) if runs else 0
        entry["tokens"] = int(runs[0].facts["tokens"]) if runs else 0
        entry["trained_tokens"] = int(runs[0].facts["trained_tokens"]) if runs else 0
        built = build("trainers", trainer, {**settings, **(arm.settings if arm else {})})
        entry["epochs"] = (getattr(built, "epochs", None) or 0) if runs else 0  # 0: a command that does not say
        entry["seconds_selection"] = round(arm.seconds_selection, 2) if arm else 0.0
        entry["seconds_training"] = [round(run.seconds, 2) for run in runs]
