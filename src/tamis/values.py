"""The values that flow between stages. All are immutable; large ones are handles on files, never lists in memory."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import RecipeError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Kind = Literal["chat", "prompt", "text", "pair", "rated"]
KINDS: tuple[Kind, ...] = ("chat", "prompt", "text", "pair", "rated")
Role = Literal["model", "judge", "reference"]
Message = dict[str, Any]
Arrays = Mapping[str, "NDArray[Any]"]


class Reason(enum.IntEnum):
    """Why a row has no value in a column (NaN with a reason means "cannot", and is never ranked)."""

    NONE = 0
    NEEDS_ANSWER = 1
    ALL_MASKED = 2
    NOT_FINITE = 3
    WRONG_KIND = 4
    TEMPLATE = 5
    NOT_MEASURED = 6
    TOO_SHORT = 7
    DUPLICATE = 8
    CUT = 9
    UNGROUPED = 10
    NOT_SAID = 11
    NOTHING_TO_CHECK = 12
    NEVER_LEARNED = 13
    REFUSED = 14

    @property
    def text(self) -> str:
        """The reason in words, as ledger and reports print it."""
        return _REASON_TEXT[self]


_REASON_TEXT = {
    Reason.NONE: "",
    Reason.NEEDS_ANSWER: "needs an answer",
    Reason.ALL_MASKED: "no token to score is left after truncation",
    Reason.NOT_FINITE: "the model gave a value that is not finite",
    Reason.WRONG_KIND: "this kind of row cannot be scored so",
    Reason.TEMPLATE: "the chat template refuses the row",
    Reason.NOT_MEASURED: "not measured",
    Reason.TOO_SHORT: "too short for this measure",
    Reason.DUPLICATE: "a row before it has the same text",
    Reason.CUT: "the model's maximum length does not hold it whole",
    Reason.UNGROUPED: "names no group to be judged in",
    Reason.NOT_SAID: "the text has no word that says it",
    Reason.NOTHING_TO_CHECK: "holds nothing that this measure could check",
    Reason.NEVER_LEARNED: "was never learnt in this training",
    Reason.REFUSED: "the server refuses the row",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One example as read. `key` is its identity (input file digest + position); `content` its 128-bit text digest."""

    key: str
    content: str
    kind: Kind
    source: str
    messages: tuple[Message, ...] = ()
    tools: str | None = None
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    label: bool | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    file: str = ""
    position: int = 0


@dataclass(frozen=True, kw_only=True)
class Column:
    """One float32 per row, raw, with a unit and no opinion. `reasons` holds a `Reason` code, non-zero where NaN."""

    values: NDArray[np.float32]
    unit: str
    reasons: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a component must have before it runs: a signal (by pass name) or a column, of a side of the run.

    Sides: the pool, the target, `existing`: data that the model has been trained on already, and `against`: data that a
    cleaner holds the pool against (its `sources()`).

    `settings` are the least the pass must be run with (for example ``{"loss": "all"}``); a richer pass satisfies it.
    `by`: which model of the run measures the signal: its own, a judge, or a reference model. A column is named as in a
    filter (`ifd.loss`, `ratings.quality`), or `meta.NAME` for a number in the row's `meta`.
    """

    kind: Literal["signal", "column"]
    name: str
    side: Literal["pool", "target", "existing", "against"] = "pool"
    settings: tuple[tuple[str, Any], ...] = ()
    by: Role = "model"

    @property
    def key(self) -> str:
        """Name under which it is read, `have["tokens@judge"]`: the pass's own where the run's model measures."""
        return self.name if self.by == "model" else f"{self.name}@{self.by}"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine, which is not science: never part of an identity.

    `engine`: who maps passes and arms over workers, this machine's own processes or a Ray cluster. `workers`: how many
    there are (0 under Ray: as many as the cluster has room for). `processes`: processes of one training, by
    `accelerate launch` (default: one a GPU; under Ray one). `tokens_per_batch` bounds the padded tokens of a batch.
    """

    engine: Literal["local", "ray"] = "local"
    device: str = "cpu"
    threads: int = 1
    workers: int = 1
    processes: int = 1
    tokens_per_batch: int = 2048

    @property
    def alone(self) -> Machine:
        """The machine as one worker sees it, which maps nothing over others."""
        return dataclasses.replace(self, workers=1, engine="local")

    @property
    def here(self) -> Machine:
        """The machine for work that only this process can do: its files lie where it runs."""
        workers = self.workers or len(os.sched_getaffinity(0))
        return self if self.engine == "local" else dataclasses.replace(self, workers=workers, engine="local")


@dataclass(frozen=True)
class Budget:
    """How much to select: rows, a share of the usable rows in (0, 1], or training tokens. Exactly one is set."""

    rows: int | None = None
    share: float | None = None
    tokens: int | None = None

    _PATTERN = re.compile(r"^\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kKmMbB]?)\s*(%|tokens?|rows?)?\s*$")

    @classmethod
    def parse(cls, text: str | int | float | Budget) -> Budget:
        """Read `5000`, `"5%"`, `"2M tokens"`, `"10k rows"`.

        >>> Budget.parse("5%").share, Budget.parse("2M tokens").tokens, Budget.parse(300).rows
        (0.05, 2000000, 300)
        """
        if isinstance(text, Budget):
            return text
        match = cls._PATTERN.match(str(text))
        if match is None:
            raise RecipeError(f"budget {text!r} is not understood: write rows (5000), a share (5%) or '2M tokens'")
        number = float(match[1].replace("_", "")) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}[match[2].lower()]
        unit = (match[3] or "rows").rstrip("s")
        if unit == "%":
            if not 0 < number <= 100:
                raise RecipeError(f"budget {text!r} is not a share: it must lie in (0 %, 100 %]")
            return cls(share=number / 100)
        if number < 1 or number != int(number):
            raise RecipeError(f"budget {text!r} is not a whole number of at least 1 {unit}s")
        return cls(tokens=int(number)) if unit == "token" else cls(rows=int(number))

    def limits(self, usable_rows: int) -> tuple[int | None, int | None]:
        """(rows, tokens) at most, one of them None. A share rounds to the nearest row, at least one."""
        if self.share is not None:
            return max(1, round(self.share * usable_rows)), None
        return self.rows, self.tokens

    def __str__(self) -> str:
        if self.share is not None:
            return f"{self.share * 100:g}%"
        return f"{self.rows} rows" if self.rows is not None else f"{self.tokens} tokens"


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """Training weights of the rows of a shard; finite, not negative, 0 where there is nothing to weigh by.

    `rows` (n,) float32 or None. `tokens` float32, a weight for each response token, row i's in their order at
    `[offsets[i]:offsets[i + 1]]`, `offsets` (n + 1,) int64; both None where tokens are not weighed.
    """

    rows: NDArray[np.float32] | None = None
    tokens: NDArray[np.float32] | None = None
    offsets: NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenWeights:
    """Weights of the response tokens of chosen rows, in the order picked.

    `values` float32, row i's at `[offsets[i]:offsets[i + 1]]`, `offsets` (k + 1,) int64. `checks` (k,) uint32: CRC-32
    of the ids of the tokens weighed, by which a trainer knows that its own are the same.
    """

    values: NDArray[np.float32]
    offsets: NDArray[np.int64]
    checks: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.checks)

    @property
    def digest(self) -> str:
        """Identity by content."""
        import numpy as np

        from tamis import digests

        parts = (self.values, self.offsets, self.checks)
        return digests.of_json([digests.of_bytes(np.ascontiguousarray(part).tobytes()) for part in parts])

    @property
    def masks(self) -> bool:
        """Whether every weight is 0 or 1, so that masking tokens says it all."""
        import numpy as np

        return bool(np.isin(self.values, (0, 1)).all())


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Rows chosen, in the order picked.

    `positions`: (k,) int64 places in the pool. `gains`: (k,) float32, what each pick was worth to the selector.
    `weights`: (k,) float32 training weights or None. `tokens`: weights of their response tokens or None. `values`: (n,)
    float32 the statistic on which every row of the pool was judged, NaN where it had none; `reasons` (n,) says why.
    `unit` names that statistic. `notes`: what a reader must know of the choice, in sentences: a bound, an
    approximation, a fallback.
    """

    positions: NDArray[np.int64]
    gains: NDArray[np.float32]
    values: NDArray[np.float32] | None = None
    reasons: NDArray[np.uint8] | None = None
    weights: NDArray[np.float32] | None = None
    tokens: TokenWeights | None = None
    unit: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """Rows that a cleaner takes out of a pool.

    `rows`: (n,) bool over the pool, True for a row that leaves. One entry per such row, in the order of the pool:
    `reasons` in words, and `winners`, the key of the row that stays in its place ("" for none; empty: none has one).
    `facts`: JSON for report and manifest. `notes`: what a reader must know, in sentences. `tables`: Arrow tables of
    what was found, by the name of the Parquet file that they become beside the step's result (`contamination.parquet`).
    """

    rows: NDArray[np.bool_]
    reasons: tuple[str, ...]
    winners: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tables: Mapping[str, pa.Table] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Rows of a shard that a transform changed: place in the shard -> the new row (its key and parent are set later).

    `facts`: counts by name; those of all shards are added up.
    """

    rows: Mapping[int, Row] = field(default_factory=dict)
    facts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Seeds of one training run: adapter initialisation and data order (audits_and_trust §1)."""

    adapter: int = 0
    order: int = 0


@dataclass(frozen=True, kw_only=True)
class Items:
    """One result per evaluation item, so that comparisons can be paired.

    `values`: (n,) float64 summed statistic of the item (loss: summed nats; exact match: 0 or 1), `weights`: (n,)
    float64 its count (tokens, or 1); the evaluator's figure is sum(values) / sum(weights). `lower_is_better` says
    which way is good.
    """

    keys: Sequence[str]
    values: NDArray[np.float64]
    weights: NDArray[np.float64]
    metric: str
    unit: str
    lower_is_better: bool


def text_of(message: Mapping[str, Any]) -> str:
    """Content of a message as text; tool calls as JSON."""
    content = message.get("content")
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False) if content else ""
    calls = message.get("tool_calls")
    return f"{text}\n{json.dumps(calls, ensure_ascii=False)}".strip() if calls else text
