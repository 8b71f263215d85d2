"""Train: rows of a subset rendered, a trainer run in the store (resumable), its checkpoints handed on."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import digests
from tamis.catalogue import build, load
from tamis.engine import map_jobs
from tamis.errors import DataError, RecipeError, TrainError
from tamis.models import ModelRef
from tamis.operations import deadline
from tamis.pool import Pool
from tamis.protocols import ACTING
from tamis.stages.launched import train_in_processes
from tamis.stages.workspace import Workspace
from tamis.store import Entry, Store, load_arrays, save_arrays
from tamis.training import TrainingSubset
from tamis.training.checkpoints import Checkpoint
from tamis.values import Items, Machine, Seeds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.training import Takes, TrainingInput, TrainingPairs, TrainingRows
    from tamis.values import Subset, TokenWeights

log = logging.getLogger(__name__)
TRAINING = "training"
ITEMS = "items"
RECORDS = "records"  # folder beside the checkpoints with what hooks kept, and `positions` (k,) of the rows in the pool


@dataclass(frozen=True)
class Training:
    """A finished training run: checkpoints in order (the last is final) and its facts (rows, tokens, seconds)."""

    checkpoints: tuple[Checkpoint, ...]
    facts: Mapping[str, Any]
    seconds: float
    made: bool
    digest: str
    notes: tuple[str, ...] = ()  # what a reader must know of it, in sentences

    @property
    def model(self) -> ModelRef:
        """The trained model."""
        return self.checkpoints[-1].model()


@dataclass(frozen=True)
class TrainingJob:
    """Everything a worker needs to train one arm and, where `pool` is given, to evaluate it."""

    store: Store
    trainer: str
    settings: Mapping[str, Any]
    model: ModelRef
    rows_of: Pool
    positions: tuple[int, ...]
    seeds: Seeds
    machine: Machine
    row_weights: tuple[float, ...] | None = None
    token_weights: TokenWeights | None = None
    hooks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # settings by name; `target` is filled in
    target: Pool | None = None


@dataclass(frozen=True)
class EvaluationJob:
    """A model to be measured on held-out rows; `training` first, if its model is still to be trained."""

    store: Store
    evaluator: str
    settings: Mapping[str, Any]
    pool: Pool
    machine: Machine
    model: ModelRef | None = None
    training: TrainingJob | None = None


def train_one(job: TrainingJob) -> Training:
    """Train, or find the finished run; goes on where a killed run stopped."""
    return training_from(train_entry(job))


def training_from(entry: Entry, notes: Sequence[str] = ()) -> Training:
    """The training of a store entry."""
    checkpoints = tuple(Checkpoint(entry.path / name) for name in entry.facts["checkpoints"])
    return Training(checkpoints, entry.facts, entry.seconds, entry.made, entry.digest, tuple(notes))


def train_entry(job: TrainingJob) -> Entry:
    """The store entry of a training, made or found, by the engine of the job's machine."""
    entry: Entry = _by_engine(_train_entry, job)
    return entry


def _train_entry(job: TrainingJob) -> Entry:
    trainer = build("trainers", job.trainer, job.settings)
    hooks = _hooks(job, trainer)
    identity = digests.of_component(
        trainer,
        {
            "model": job.model,
            **_rows_of(job, trainer),
            "weights": list(job.row_weights) if job.row_weights is not None else None,
            "seeds": job.seeds,
            **({"token_weights": job.token_weights.digest} if job.token_weights is not None else {}),
            **_read_by(trainer),
            **({"hooks": [digests.of_component(hook) for hook in hooks]} if hooks else {}),
        },
    )

    def make(folder: Path) -> dict[str, Any]:
        import numpy as np

        from tamis.training import TrainingRows

        rows = rows_for(trainer, job.rows_of, job.positions, job.model, _weights(job.row_weights), job.token_weights)
        log.info("training on %d rows, %d tokens", len(rows), rows.tokens)
        if job.machine.processes > 1 and isinstance(rows, TrainingRows):  # the others start processes of their own
            kept = train_in_processes(job.trainer, job.settings, job.model, rows, job.seeds, folder, job.machine)
        else:
            kept = trainer.train(job.model, rows, job.seeds, hooks, folder, job.machine)
        if (folder / RECORDS).is_dir():  # what hooks kept goes by the numbers of the rows: which rows of the pool
            save_arrays(folder / RECORDS, {"positions": np.asarray(job.positions, np.int64)})
        return {
            "checkpoints": [checkpoint.path.relative_to(folder).as_posix() for checkpoint in kept],
            "rows": len(rows),
            "tokens": rows.tokens,
            "trained_tokens": rows.trained_tokens,
        }

    return job.store.get_or_make(TRAINING, identity, make, about=trainer, resumable=True)


def _rows_of(job: TrainingJob, trainer: Any) -> dict[str, Any]:
    """What a training is on: its rows in order, so that it is found again in a pool to which others have come.

    Where places in the pool matter (an exported subset, records of hooks), or most of it is trained on, the pool and
    the places in it.
    """
    pool, places = job.rows_of, list(job.positions)
    if job.hooks or getattr(trainer, "takes", "tokens") == "rows" or 2 * len(places) > len(pool):
        return {"pool": pool.digest, "positions": digests.of_json(places)}
    return {"rows": digests.of_json(pool.named(places))}


def not_heard(trainer: Any, hooks: Mapping[str, Any]) -> str:
    """What is wrong with giving these hooks to a trainer (a component or its class), or the empty string."""
    acting = [name for name in hooks if issubclass(load("hooks", name), ACTING)]
    if not acting or getattr(trainer, "lets_hooks_choose", False):
        return ""
    return (
        f"{', '.join(acting)} chooses the rows of a step, weighs its tokens or watches its losses, which this trainer "
        "does not allow: use lora or full"
    )


def _hooks(job: TrainingJob, trainer: Any) -> list[Any]:
    """The hooks of a job; RecipeError where the trainer does not hear one, or a target is missing."""
    if not job.hooks:
        return []
    fault = not_heard(trainer, job.hooks)
    if not fault and job.machine.processes > 1:
        fault = f"{', '.join(job.hooks)}: hooks are heard in one process only; train without `processes`"
    if fault:
        raise RecipeError(fault)
    built = []
    for name, own in job.hooks.items():
        names = {item.name for item in dataclasses.fields(load("hooks", name))}
        filled = {"target": job.target} if "target" in names and job.target is not None else {}
        built.append(build("hooks", name, {**own, **filled}))
    return built


def rows_for(
    trainer: Any,
    pool: Pool,
    positions: Sequence[int],
    model: ModelRef,
    weights: NDArray[np.float32] | None = None,
    tokens: TokenWeights | None = None,
) -> TrainingInput:
    """The rows in the shape that the trainer takes, with the weights of rows and of their response tokens.

    Raises DataError for rows of a kind that it cannot use (pairs where it learns answers, other rows where it learns
    preferences), for rows of which nothing is left to train on, and for token weights of other tokens than `model`
    would be trained on; TrainError for token weights of pairs.
    """
    from tamis.rendering import render_pairs, render_rows
    from tamis.training.weighting import spread

    rows = pool.read(positions)
    takes: Takes = getattr(trainer, "takes", "tokens")
    pairs = sum(row.kind == "pair" for row in rows)
    if takes == "pairs" or (takes == "rows" and pairs and pairs == len(rows)):
        if tokens is not None:
            raise TrainError(
                "preference pairs have no token weights: select without `weigh`, or with one that weighs rows"
            )
        rendered: TrainingRows | TrainingPairs = render_pairs(rows, model, row_weights=weights)
    elif pairs:
        raise DataError(
            f"{pairs} of {len(rows)} rows are preference pairs, which {type(trainer).__name__} cannot train on"
            f"{' beside other rows' if takes == 'rows' else ''}: filter with where: \"kind != 'pair'\", or train with "
            "trl-dpo on pairs alone"
        )
    else:
        rendered = render_rows(rows, model, row_weights=weights)
        if tokens is not None:
            rendered = spread(rendered, tokens, model.label)
    if takes == "rows":
        return TrainingSubset(
            pool=pool, positions=tuple(int(place) for place in positions), rendered=rendered, tokens_weighed=tokens
        )
    return rendered


def _read_by(trainer: Any) -> dict[str, Any]:
    """Files that a trainer reads beside its rows (the user's script), by content."""
    reads: Mapping[str, str] = getattr(trainer, "reads", {})
    return {"reads": dict(reads)} if reads else {}


def row_weights_of(subset: Subset) -> tuple[float, ...] | None:
    """The row weights of a subset as a job carries them."""
    return None if subset.weights is None else tuple(float(weight) for weight in subset.weights)


def _weights(weights: Sequence[float] | None) -> Any:
    import numpy as np

    return None if weights is None else np.asarray(weights, dtype=np.float32)


@dataclass(frozen=True)
class Evaluated:
    """Items of one model, and the training it came from, if any."""

    items: Items
    training: Training | None


def evaluate_one(job: EvaluationJob) -> Evaluated:
    """Train if asked, then measure; both are found where they were done before."""
    deadline.check("no arm is begun any more")
    training = train_one(job.training) if job.training is not None else None
    model = training.model if training is not None else job.model
    assert model is not None, "an evaluation job has a model or a training job"
    evaluator = build("evaluators", job.evaluator, job.settings)
    identity = digests.of_component(evaluator, {"model": model, "pool": job.pool.digest})

    def make(folder: Path) -> dict[str, Any]:
        items = evaluator.evaluate(model, job.pool, job.machine)
        save_arrays(folder, {"values": items.values, "weights": items.weights})
        scalars = {key: getattr(items, key) for key in ("metric", "unit", "lower_is_better")}
        return {"keys": list(items.keys), **scalars}

    entry = job.store.get_or_make(ITEMS, identity, make, about=evaluator)
    return Evaluated(read_items(entry), training)


def read_items(entry: Entry) -> Items:
    """Items of a store entry."""
    arrays = load_arrays(entry.path)
    return Items(values=arrays["values"], weights=arrays["weights"], **entry.facts)


def evaluate_all(jobs: Sequence[EvaluationJob], work: Workspace) -> list[Evaluated]:
    """All jobs, side by side where the machine has workers; on a cluster each on a node that has its GPUs."""
    on = work.machine
    found = []
    for number, result in enumerate(
        map_jobs(evaluate_one, [dataclasses.replace(job, machine=on.alone) for job in jobs], on, on.processes)
    ):
        work.work.event("arm", number=number + 1, of=len(jobs))
        found.append(result)
    return found


def evaluate(job: EvaluationJob) -> Evaluated:
    """`evaluate_one` by the engine of the job's machine."""
    found: Evaluated = _by_engine(evaluate_one, job)
    return found


def _by_engine(function: Callable[[Any], Any], job: TrainingJob | EvaluationJob) -> Any:
    """One job where its engine says: on a cluster on a node that has its GPUs."""
    on = job.machine
    if on.engine == "local":
        return function(job)
    (found,) = map_jobs(function, [dataclasses.replace(job, machine=on.alone)], on, on.processes)
    return found
