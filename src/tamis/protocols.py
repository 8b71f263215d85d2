"""The shapes of components. A component is a frozen, keyword-only dataclass; its fields are its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.models import ModelRef
    from tamis.pool import Pool, Shard
    from tamis.training import Candidates, StepRows, StepTokens, Takes
    from tamis.training.checkpoints import Checkpoint
    from tamis.values import Arrays, Budget, Column, Dropped, Items, Machine, Need, Patch, Seeds, Subset, Weights
    from tamis.views import PoolView, ShardSignals


class Component(Protocol):
    """Settings as fields; `revision` is raised when the output changes."""

    revision: ClassVar[int]

    @property
    def needs(self) -> frozenset[Need]:
        """Signals and columns that must exist before this component runs; may depend on its settings."""
        ...


@runtime_checkable
class Pass(Component, Protocol):
    """Touches a model (or a tokenizer) and makes a signal, one shard at a time.

    `makes`, where a pass has it, is the name of the signal (default: the pass's own): `gradient-query` makes
    `influence`, so that a selector does not care how it was come by. `in_process = True` keeps a cheap pass from
    starting workers. Fields named `model`, `checkpoints`, `target` and `pool` are filled by the run.

    `notes()`, where a pass has it, says in sentences what a reader of its signal must know (approximations, fallbacks);
    they are shown wherever the signal is used. `unaligned` names arrays whose first axis is not rows (ragged values
    without offsets of their own). A pass that must see the pool once has `fit(view, on) -> (arrays, facts)`: the arrays
    are stored and handed to `measure` as `have["fit"]`; `facts["note"]` is one more such sentence.

    One that scorers with several settings share has `merge(other)`, the poorest pass that gives what both give; what
    was measured with more serves those who ask for less. `forwards` is what it costs, in forward passes over the pool's
    tokens (default 1, none without a model).
    """

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays of one shard. First axis rows; a ragged array `x` has its `(n + 1,)` int64 `x_offsets` beside it."""
        ...


class Scorer(Component, Protocol):
    """Pure function of signals and columns, one shard at a time.

    One that must see the pool once has `fit(view) -> (arrays, facts)`, kept as those of a pass are; `notes()` too.
    What was fitted stays while little of the pool is new to it (`tamis.pins`), and must serve rows that it has not
    seen; one whose arrays hold numbers of single rows or groups says `fits_rows = True`, and is fitted at any change.
    """

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Named columns (n,), each with unit and, where NaN, a reason. Names are views: `response`, `prompt`, …"""
        ...


class Weigher(Component, Protocol):
    """Weighs rows or response tokens for training. A pure function of signals, one shard at a time, as a scorer is.

    `about()`, where a weigher has it, is a sentence that says what its weights mean.
    """

    def weigh(self, have: ShardSignals, /) -> Weights:
        """The weights of all rows of a shard."""
        ...


class Selector(Component, Protocol):
    """Decides which rows to keep."""

    nested: ClassVar[bool]  # a smaller row budget gives a prefix of a larger one

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, best first."""
        ...


class Mixer(Component, Protocol):
    """Divides a budget among groups."""

    @property
    def by(self) -> str:
        """What the groups are, as `PoolView.groups` takes it: source, kind, file, meta.NAME, clusters:K or a column."""
        ...

    def share(self, view: PoolView, budget: Budget, /) -> Mapping[str, Budget]:
        """Group name -> its budget, in the unit of the budget given; they add up to it."""
        ...


@runtime_checkable
class Cleaner(Component, Protocol):
    """Takes rows out of a pool before anything else sees it: duplicates, leaks, what a filter refuses.

    One that holds the pool against other data has `sources()`: files as a recipe's `files` names them, `@target` or
    `@existing`; they are read as pools and stand in `view.against`, with the signals of needs of that side.
    """

    def clean(self, view: PoolView, on: Machine, /) -> Dropped:
        """The rows that leave, each with its reason."""
        ...


@runtime_checkable
class Transform(Component, Protocol):
    """Changes rows one by one; the old pool stays, and a changed row names its parent. A function of the row alone."""

    def apply(self, shard: Shard, /) -> Patch:
        """The rows of a shard that change."""
        ...


class Trainer(Component, Protocol):
    """Fine-tunes a model on a subset."""

    takes: ClassVar[Takes]  # which rows it is given; without it, tokens
    lets_hooks_choose: ClassVar[bool]  # whether hooks that choose, prune, weigh or watch are heard; without it, no

    def train(
        self, model: ModelRef, rows: Any, seeds: Seeds, hooks: Sequence[Hook], out: Path, on: Machine, /
    ) -> Sequence[Checkpoint]:
        """Checkpoints kept, in order of training; the last is the final one. `out` may hold what a killed run left.

        `rows`: TrainingRows where the trainer takes tokens, TrainingPairs for pairs, TrainingSubset for rows as read.
        """
        ...


class Hook(Protocol):
    """Sees training steps. What else a hook does, it says by being a Chooser, Pruner, Reweigher, Preparer or Watcher.

    Those are components of the kind `hooks`; a field named `target` is filled by the run. Everything that they do must
    be a function of their settings and of what they are given, so that a run that goes on gives the same bits.
    """

    def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
        """Called after every optimiser step with `loss`, `learning_rate`, `epoch` and `gradient_norm`."""
        ...


@runtime_checkable
class Chooser(Protocol):
    """Selects within the batch of an optimiser step, all its micro batches together."""

    def choose(self, candidates: Candidates, /) -> NDArray[np.int64]:
        """Places among the candidates of the rows to be kept, at least one; called before the step's backward pass."""
        ...


@runtime_checkable
class Pruner(Protocol):
    """Selects rows and tokens within the batch of an optimiser step, all its micro batches together."""

    def prune(self, candidates: Candidates, /) -> Sequence[NDArray[np.bool_]]:
        """One mask per candidate, as long as its ids: the labels that stay. A row without one leaves the batch.

        The loss of the step is the weighted mean over the labels that stay, at least one.
        """
        ...


@runtime_checkable
class Reweigher(Protocol):
    """Weighs tokens by what the model in training makes of them."""

    def reweigh(self, tokens: StepTokens, /) -> torch.Tensor:
        """(m,) factors, finite and not negative, of the weights of the labels of a micro batch.

        The loss of the step stays divided by the weights without factors: half the factors, half the gradient.
        """
        ...


@runtime_checkable
class Preparer(Protocol):
    """Measures the training rows before the first step."""

    def prepare(self, candidates: Candidates, /) -> None:
        """Put what later steps need into `candidates.record`; the candidates are all training rows.

        Called once a run, on the untouched model; a run that goes on has the record.
        """
        ...


@runtime_checkable
class Watcher(Protocol):
    """Sees the losses of the rows of every step; `keeps`, where it has one, names the folder of its record."""

    def watch(self, rows: StepRows, /) -> None:
        """Called after the step's backward pass and before `after_step`."""
        ...


ACTING = (Chooser, Pruner, Reweigher, Preparer, Watcher)  # hooks that need a trainer which shows them its steps


class Evaluator(Component, Protocol):
    """Measures a model on held-out rows."""

    def evaluate(self, model: ModelRef, pool: Pool, on: Machine, /) -> Items:
        """One result per evaluation row, in the order of `pool`."""
        ...
