"""The shapes of components. A component is a frozen, keyword-only dataclass; its fields are its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.checkpoints import Checkpoint
    from tamis.models import ModelRef
    from tamis.pool import Pool, Shard
    from tamis.training import Candidates, Takes
    from tamis.values import Arrays, Budget, Column, Items, Machine, Need, Seeds, Subset
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
    """

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays of one shard. First axis rows; a ragged array `x` has its `(n + 1,)` int64 `x_offsets` beside it."""
        ...


class Scorer(Component, Protocol):
    """Pure function of signals, one shard at a time."""

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Named columns (n,), each with unit and, where NaN, a reason. Names are views: `response`, `prompt`, …"""
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


class Trainer(Component, Protocol):
    """Fine-tunes a model on a subset."""

    takes: ClassVar[Takes]  # which rows it is given; without it, tokens
    lets_hooks_choose: ClassVar[bool]  # whether a `Chooser` among its hooks is heard; without it, no

    def train(
        self, model: ModelRef, rows: Any, seeds: Seeds, hooks: Sequence[Hook], out: Path, on: Machine, /
    ) -> Sequence[Checkpoint]:
        """Checkpoints kept, in order of training; the last is the final one. `out` may hold what a killed run left.

        `rows`: TrainingRows where the trainer takes tokens, TrainingPairs for pairs, TrainingSubset for rows as read.
        """
        ...


class Hook(Protocol):
    """Sees training steps. A hook that is a `Chooser` too decides, before each, which rows it is made on."""

    def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
        """Called after every optimiser step with `loss`, `learning_rate`, `epoch` and `gradient_norm`."""
        ...


@runtime_checkable
class Chooser(Protocol):
    """Selects within the batch. A component of the kind `hooks`; a field named `target` is filled by the run."""

    def choose(self, candidates: Candidates, /) -> NDArray[np.int64]:
        """Places among the candidates of the rows to be kept, at least one; called before the step's backward pass."""
        ...


class Evaluator(Component, Protocol):
    """Measures a model on held-out rows."""

    def evaluate(self, model: ModelRef, pool: Pool, on: Machine, /) -> Items:
        """One result per evaluation row, in the order of `pool`."""
        ...
