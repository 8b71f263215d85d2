"""What the hooks of a run do to its steps: rows and tokens chosen, tokens weighed, losses shown, records kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import TrainError
from tamis.protocols import ACTING, Chooser, Preparer, Pruner, Reweigher, Watcher
from tamis.training import Candidates, StepRows, StepTokens

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.models import ModelRef
    from tamis.protocols import Hook
    from tamis.trainers.objective import Batch, Labels
    from tamis.values import Machine

RECORDS = "records"  # folder beside the checkpoints
Records = Sequence[dict[str, "NDArray[Any]"]]


@dataclass(frozen=True, kw_only=True)
class Around:
    """What a hook is told of the run at every step."""

    model: Any
    kind: Literal["lora", "full"]
    base: ModelRef
    on: Machine


@dataclass
class Hearing:
    """The hooks of a run in the order given, their memories (emptied where a run may go on) and their records."""

    hooks: Sequence[Hook]
    around: Around
    memories: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    seen: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=list
    )

    def __post_init__(self) -> None:
        self.records = [{} for _ in self.hooks]
        self.forget()

    def forget(self) -> None:
        """Empty the memories."""
        self.memories = [{} for _ in self.hooks]

    def check(self, processes: int) -> None:
        """Raise TrainError where hooks that act on steps would see the rows of one process only."""
        acting = [type(hook).__name__ for hook in self.hooks if isinstance(hook, ACTING)]
        if acting and processes > 1:
            raise TrainError(f"{', '.join(acting)} acts in one process only: train without `processes`")

    def about(self, batch: Batch) -> dict[str, Any]:
        """What the log of a step says of its batch: the rows `kept` where hooks choose, `labels` where they prune."""
        found: dict[str, Any] = {}
        if any(isinstance(hook, (Chooser, Pruner)) for hook in self.hooks):
            found["kept"] = batch.numbers.tolist()
        if any(isinstance(hook, Pruner) for hook in self.hooks):
            found["labels"] = batch.labels
        return found

    def prepare(self, whole: Batch) -> None:
        """Show all training rows to the hooks that measure them before the first step."""
        for number, hook in enumerate(self.hooks):
            if isinstance(hook, Preparer):
                hook.prepare(self._candidates(number, whole, 0, 0.0))

    def left(self, batch: Batch, step: int, rate: float) -> Batch:
        """What the hooks that choose and prune leave of a batch, in its order; one hook after another."""
        for number, hook in enumerate(self.hooks):
            if isinstance(hook, Chooser):
                batch = _chosen(hook, self._candidates(number, batch, step, rate), batch)
            if isinstance(hook, Pruner):
                batch = _pruned(hook, self._candidates(number, batch, step, rate), batch)
        return batch

    def _candidates(self, number: int, batch: Batch, step: int, rate: float) -> Candidates:
        return Candidates(
            step=step,
            examples=batch.examples(),
            numbers=batch.numbers,
            learning_rate=rate,
            model=self.around.model,
            kind=self.around.kind,
            base=self.around.base,
            on=self.around.on,
            memory=self.memories[number],
            record=self.records[number],
        )

    def weighed(self, labels: Labels, batch: Batch, step: int) -> torch.Tensor:
        """(m,) losses of a micro batch times the factors of the hooks that weigh."""
        import torch

        nll = labels.nll
        for hook, record in zip(self.hooks, self.records, strict=True):
            if not isinstance(hook, Reweigher):
                continue
            tokens = StepTokens(
                step=step,
                numbers=batch.numbers,
                row=labels.row,
                place=labels.place,
                nll=labels.nll.detach(),
                logits=labels.logits.detach(),
                record=record,
            )
            factors = hook.reweigh(tokens).detach().float()
            if factors.shape != nll.shape or not bool((torch.isfinite(factors) & (factors >= 0)).all()):
                raise TrainError(
                    f"{type(hook).__name__} gave weights of step {step + 1} that are not one finite number of at least "
                    f"0 for each of {len(nll)} tokens"
                )
            nll = nll * factors
        return nll

    def note(self, labels: Labels, batch: Batch) -> None:
        """Keep the losses of the rows of a micro batch for the hooks that watch."""
        if not any(isinstance(hook, Watcher) for hook in self.hooks):
            return
        import numpy as np

        rows, count = labels.row.cpu().numpy(), len(batch)
        nll: NDArray[Any] = np.bincount(rows, labels.nll.detach().double().cpu().numpy(), count)
        right = (labels.logits.detach().argmax(-1) == labels.target).cpu().numpy()
        seen, hits = (np.bincount(some, minlength=count).astype(np.int64) for some in (rows, rows[right]))
        self.seen.append((batch.numbers, nll, seen, hits))

    def watch(self, step: int, epoch: int) -> None:
        """Show the rows of a step, in the order of their numbers, to the hooks that watch."""
        if not self.seen:
            return
        import numpy as np

        numbers, nll, labels, hits = (np.concatenate(parts) for parts in zip(*self.seen, strict=True))
        self.seen.clear()
        order = np.argsort(numbers)
        for hook, record in zip(self.hooks, self.records, strict=True):
            if isinstance(hook, Watcher):
                hook.watch(
                    StepRows(
                        step=step,
                        epoch=epoch,
                        numbers=numbers[order],
                        nll=nll[order],
                        labels=labels[order],
                        hits=hits[order],
                        record=record,
                    )
                )

    def write(self, out: Path) -> None:
        """Write the records of hooks with a `keeps` to `records/KEEPS`, an array a file."""
        from tamis.store import save_arrays

        for hook, record in zip(self.hooks, self.records, strict=True):
            if name := getattr(hook, "keeps", ""):
                folder = out / RECORDS / name
                folder.mkdir(parents=True, exist_ok=True)
                save_arrays(folder, record)


def _chosen(hook: Chooser, candidates: Candidates, batch: Batch) -> Batch:
    import numpy as np

    kept = np.unique(np.asarray(hook.choose(candidates), np.int64))
    if not len(kept) or kept[0] < 0 or kept[-1] >= len(batch):
        raise TrainError(
            f"{type(hook).__name__} kept {kept.tolist()} of {len(batch)} rows in step {candidates.step + 1}"
        )
    return batch.some(kept)


def _pruned(hook: Pruner, candidates: Candidates, batch: Batch) -> Batch:
    masks = hook.prune(candidates)
    if [len(mask) for mask in masks] != [len(ids) for ids in batch.ids]:
        raise TrainError(f"{type(hook).__name__} gave masks that do not fit the rows of step {candidates.step + 1}")
    left = batch.masked(masks)
    if not len(left):
        raise TrainError(f"{type(hook).__name__} left no label of {len(batch)} rows in step {candidates.step + 1}")
    return left


def acting(hooks: Sequence[Hook]) -> list[str]:
    """Identities of the hooks that change what is trained or kept, in their order."""
    from tamis import digests

    return [digests.of_component(hook) for hook in hooks if isinstance(hook, ACTING)]
