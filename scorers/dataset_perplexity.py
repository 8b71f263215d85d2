"""Perplexity of whole datasets inside a pool: which of them a model gains most from, and which version of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.column.row_fields import check_field, field_of
from tamis.prediction.reductions import RESPONSE, column, columns, response_reasons
from tamis.values import Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Arrays, Column
    from tamis.views import PoolView, ShardSignals

_SHOWN = 12
_BATCH, _INSTANCES = 8, 32


@dataclass(frozen=True, kw_only=True)
class MassiveSft:
    """Dataset perplexity under the base model: the dataset with the lowest promises the largest gain.

    "Massive Supervised Fine-tuning Experiments" (Harada et al., EMNLP 2025, arXiv:2506.14681): over more than a
    thousand trainings, perplexity of the training data under the base model predicted the gain better than likeness to
    the benchmark. Every row gets the perplexity of its group, exp(Σ loss / Σ tokens) over all rows of the group that
    have one, so that filters and mixers can go by it; a note lists the groups. `by`: source, kind, file or meta.NAME.
    `over`: response tokens (given the prompt), or the whole text; which of them the paper took was not to be found. No
    value is published per group. Low: larger gain. Range [1, inf).
    """

    by: str = "source"
    over: Literal["response", "whole"] = "response"
    revision: ClassVar[int] = 1
    fits_rows: ClassVar[bool] = True  # numbers of single groups: new ones have none until it is fitted anew

    def __post_init__(self) -> None:
        check_field("massive-sft", "by", self.by)

    @property
    def needs(self) -> frozenset[Need]:
        """The token signal, over all tokens where the whole text counts."""
        loss = "response" if self.over == "response" else "all"
        return frozenset({Need(kind="signal", name="tokens", settings=(("loss", loss),))})

    def fit(self, view: PoolView, /) -> tuple[Arrays, Mapping[str, Any]]:
        """Arrays `names` (a JSON list in UTF-8) and `losses` (g,), the mean loss of each group; a note lists them."""
        import math

        held: dict[str, _Losses] = {}
        for have in view.shards():
            sums, counts, reasons = self._of_rows(have)
            for row, name in enumerate(field_of(have.shard, self.by)):
                if name and reasons[row] == Reason.NONE:
                    held.setdefault(name, _Losses()).add(float(sums[row]), int(counts[row]))
        means = {name: losses.mean() for name, losses in sorted(held.items())}
        order = sorted(means, key=lambda name: (means[name], name))
        said = [f"{name} {math.exp(min(means[name], 700)):.4g} ({len(held[name].sums):,} rows)" for name in order]
        more = f" and {len(said) - _SHOWN} more groups" if len(said) > _SHOWN else ""
        note = f"perplexity by {self.by}, the lowest promises the largest gain: {', '.join(said[:_SHOWN])}{more}"
        return _packed(means), {"note": note}

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """One column `score`, in perplexity: that of the row's group. NaN where a row has no group or no loss."""
        import numpy as np

        _, _, reasons = self._of_rows(have)
        means = _unpacked(have["fit"])
        names = field_of(have.shard, self.by)
        reasons[(reasons == Reason.NONE) & (np.array([not name for name in names], np.bool_))] = Reason.UNGROUPED
        losses = np.array([means.get(name, np.nan) for name in names], np.float64)
        with np.errstate(over="ignore"):
            return {"score": column(np.exp(losses), reasons, "perplexity")}

    def _of_rows(self, have: ShardSignals) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.uint8]]:
        import numpy as np

        signal = have["tokens"]
        if self.over == "response":
            return signal["response_nll_sum"], signal["response_count"], response_reasons(signal)
        sums, counts = (signal[f"prompt_{of}"] + signal[f"response_{of}"] for of in ("nll_sum", "count"))
        reasons = np.asarray(signal["reason"], np.uint8).copy()
        reasons[(counts > 0) & np.isfinite(sums)] = Reason.NONE  # a prompt has text where there is no answer
        reasons[(counts == 0) & (reasons == Reason.NONE)] = Reason.TOO_SHORT
        return sums, counts, reasons


@dataclass(frozen=True, kw_only=True)
class UitDenoising:
    """UIT denoising: loss of the gold outputs under each version of a task; the lowest version is kept.

    Unified Instruction Tuning (Liang et al., 2023, arXiv:2307.15504) transfers the format of each task with a language
    model several times, applies every version to the same instances, and keeps the version under which the gold outputs
    are likeliest. A row says in `task` what it is an instance of and in `candidate` by which version it was written
    (source, kind, file or meta.NAME); the versions of a task should hold the same instances. `score` is how much the
    loss of the row's version lies above that of the best version of its task: keep `uit-denoising.score <= 0`.

    `mean`: `tokens`, over all response tokens of a version (right); `batches`, as released: its first 32 rows in
    batches of 8, whose mean losses are averaged, so that a token of a short batch counts more. No value is published
    per row. Range [0, inf) for both columns.

    Versions by four models of one task, and originals against revisions (500 rows each, base-4m): no signal of which is
    right, AUC 0.51 [0.46, 0.56], or revised, 0.45 [0.39, 0.51].
    """

    task: str = "meta.task"
    candidate: str = "meta.candidate"
    mean: Literal["tokens", "batches"] = "tokens"
    revision: ClassVar[int] = 1
    fits_rows: ClassVar[bool] = True  # numbers of single groups: new ones have none until it is fitted anew

    def __post_init__(self) -> None:
        check_field("uit-denoising", "task", self.task)
        check_field("uit-denoising", "candidate", self.candidate)

    @property
    def needs(self) -> frozenset[Need]:
        """The token signal over response tokens."""
        return frozenset({RESPONSE})

    def fit(self, view: PoolView, /) -> tuple[Arrays, Mapping[str, Any]]:
        """Arrays `names` (JSON in UTF-8: task and version of each) and `losses` (g,), mean loss of each version."""
        held: dict[tuple[str, str], _Losses] = {}
        for have in view.shards():
            signal = have["tokens"]
            reasons = response_reasons(signal)
            sums, counts = signal["response_nll_sum"].tolist(), signal["response_count"].tolist()
            for row, pair in enumerate(self._pairs(have)):
                if all(pair) and reasons[row] == Reason.NONE:
                    held.setdefault(pair, _Losses()).add(sums[row], counts[row])
        means = {pair: losses.mean() if self.mean == "tokens" else losses.batches() for pair, losses in held.items()}
        tasks = {task for task, _ in means}
        note = f"{len(means):,} versions of {len(tasks):,} tasks compared; the best of a task has the score 0"
        return _packed(dict(sorted(means.items()))), {"note": note}

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `loss`, of the row's version, and `score`, that less the best version's, in nats per token."""
        import numpy as np

        means = {(task, version): loss for (task, version), loss in _unpacked(have["fit"]).items()}
        best: dict[str, float] = {}
        for (task, _), loss in means.items():
            best[task] = min(loss, best.get(task, loss))
        pairs = self._pairs(have)
        reasons = response_reasons(have["tokens"])
        reasons[(reasons == Reason.NONE) & np.array([not all(pair) for pair in pairs], np.bool_)] = Reason.UNGROUPED
        losses = np.array([means.get(pair, np.nan) for pair in pairs], np.float64)
        least = np.array([best.get(task, np.nan) for task, _ in pairs], np.float64)
        return columns({"loss": losses, "score": losses - least}, reasons, "nats per token")

    def _pairs(self, have: ShardSignals) -> list[tuple[str, str]]:
        return list(zip(*(field_of(have.shard, name) for name in (self.task, self.candidate)), strict=True))


@dataclass
class _Losses:
    """Summed losses and tokens of the rows of a group, in the order of the pool."""

    sums: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def add(self, total: float, count: int) -> None:
        self.sums.append(total)
        self.counts.append(count)

    def mean(self) -> float:
        """Mean over tokens, with a sum that does not depend on the order of rows."""
        import math

        return math.fsum(self.sums) / sum(self.counts)

    def batches(self) -> float:
        starts = range(0, min(_INSTANCES, len(self.sums)), _BATCH)
        means = [sum(self.sums[at : at + _BATCH]) / sum(self.counts[at : at + _BATCH]) for at in starts]
        return sum(means) / len(means)


def _packed(means: Mapping[Any, float]) -> dict[str, NDArray[Any]]:
    import json

    import numpy as np

    names = json.dumps(list(means)).encode()
    return {"names": np.frombuffer(names, np.uint8).copy(), "losses": np.array(list(means.values()), np.float64)}


def _unpacked(fitted: Arrays) -> dict[Any, float]:
    """Names (tuples where they are pairs) to mean losses."""
    import json

    import numpy as np

    names = json.loads(bytes(np.asarray(fitted["names"], np.uint8)))
    keys = [tuple(name) if isinstance(name, list) else name for name in names]
    return dict(zip(keys, np.asarray(fitted["losses"]).tolist(), strict=True))
