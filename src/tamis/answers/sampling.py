"""Samples of a model's answers: how they are drawn, when enough are drawn, and how a signal holds them."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis import digests
from tamis.errors import RecipeError
from tamis.values import Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Message, Row

FINISHED, CUT_OFF, OTHER = 1, 2, 3  # why a sample ended: closed by the model, longest length, something of a server's
ROUND = 4  # samples a prompt between two looks at whether enough are drawn; changes nothing but the cost


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that speaks the chat completions of OpenAI's interface, such as vLLM.

    `url` up to `/v1`; `model` as the server calls it; `key` is the *name* of the environment variable that holds the
    key to be sent, never the key. At most `concurrency` requests are under way; each is given `timeout_seconds` and
    tried `retries` times more where the server is busy, fails or cannot be reached. The identity of what comes back is
    `url` and `model`, not the weights behind them. `logprobs: false` for servers that refuse to be asked for them.
    """

    url: str
    model: str
    key: str | None = None
    concurrency: int = 8
    timeout_seconds: float = 120.0
    retries: int = 4
    logprobs: bool = True
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise RecipeError(f"server.url is {self.url!r}; expected http://HOST:PORT/v1")
        if self.concurrency < 1 or self.retries < 0 or self.timeout_seconds <= 0:
            raise RecipeError("server: concurrency is at least 1, retries at least 0, timeout_seconds above 0")

    @property
    def digest(self) -> str:
        """Identity by name: what a server answers cannot be told from its content."""
        return digests.of_json({"url": self.url.rstrip("/"), "model": self.model, "logprobs": self.logprobs})


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn. A setting left at its default is no opinion where scorers share one pass.

    `samples`: at most so many answers a prompt (k). `temperature` > 0 divides the logits, `top_p` then keeps the most
    probable tokens that hold that share. `max_tokens`: longest answer. `greedy`: the most probable answer as well.
    `stop: beta` draws no more for a prompt once P(Beta(v1 + 1, v2 + 1) > 1/2) >= `confidence`, v1 and v2 the votes of
    its two most frequent answers, found by `answers` (Adaptive-Consistency, Aggarwal et al. 2023, arXiv:2305.11860);
    this biases pass rates, so that the number of samples stands beside them. `server`: where answers come from instead
    of the model of the run. RecipeError for a setting out of its range.
    """

    samples: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 0
    greedy: bool = False
    stop: Literal["none", "beta"] = "none"
    confidence: float = 0.95
    answers: Literal["numeric", "exact"] = "numeric"
    server: Server | None = None
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        faults = [
            text
            for wrong, text in (
                (self.samples < 1, f"samples is {self.samples}; expected at least 1"),
                (self.max_tokens < 1, f"max_tokens is {self.max_tokens}; expected at least 1"),
                (not self.temperature > 0, f"temperature is {self.temperature}; above 0 (`greedy: true` for the most "
                 "probable answer)"),
                (not 0 < self.top_p <= 1, f"top_p is {self.top_p}; expected a share in (0, 1]"),
                (not 0.5 <= self.confidence < 1, f"confidence is {self.confidence}; expected one in [0.5, 1)"),
            )
            if wrong
        ]  # fmt: skip
        if faults:
            raise RecipeError([f"sampling: {fault}" for fault in faults])

    def merge(self, other: Sampling) -> Sampling:
        """What serves both: the larger number of samples, and every other setting that one of them states.

        Raises RecipeError where both state different ones.
        """
        merged: dict[str, Any] = {"greedy": self.greedy or other.greedy}
        for one in dataclasses.fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            if one.name in merged or mine == theirs:
                continue
            if one.default in (mine, theirs):
                merged[one.name] = theirs if mine == one.default else mine
            elif one.name == "samples":
                merged[one.name] = max(mine, theirs)
            else:
                raise RecipeError(
                    f"samples with {one.name} {mine!r} and {theirs!r} cannot be one pass: give both scorers the same"
                )
        return dataclasses.replace(self, **merged)


def leads(first: int, second: int) -> float:
    """P(Beta(first + 1, second + 1) > 1/2) for votes of the two most frequent answers, exactly; in [0.5, 1].

    >>> leads(4, 0), leads(3, 3)
    (0.96875, 0.5)
    """
    tosses = first + second + 1
    return sum(math.comb(tosses, heads) for heads in range(first + 1)) / (1 << tosses)


def enough(answers: Sequence[str | None], confidence: float) -> bool:
    """Whether the most frequent answer leads by so much that more samples will hardly change it; None is no vote."""
    votes = [count for _, count in collections.Counter(one for one in answers if one is not None).most_common(2)]
    return bool(votes) and leads(votes[0], votes[1] if len(votes) > 1 else 0) >= confidence


def drawn_until(answers: Sequence[str | None], sampling: Sampling) -> int | None:
    """How many samples are kept of those drawn, by asking after each one; None: more must be drawn."""
    if sampling.stop == "beta":
        for count in range(1, len(answers) + 1):
            if enough(answers[:count], sampling.confidence):
                return count
    return len(answers) if len(answers) >= sampling.samples else None


def stream(seed: int, key: str, sample: int) -> int:
    """64 bits of one sample of one row, from which its tokens are drawn; no batch or shard is in them."""
    text = f"{seed}/{sample}/{key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def asked(row: Row) -> tuple[Message, ...]:
    """The messages that the model is to answer: those before the last, if that is the assistant's, else all."""
    last = row.messages[-1] if row.messages else {}
    return row.messages[:-1] if last.get("role") == "assistant" else row.messages


@dataclass(frozen=True)
class Sample:
    """One answer: its text, its tokens (with the closing one), its negative log-likelihood and why it ended.

    `nll` is in nats under the model as it is, at temperature 1, whatever it was drawn with; NaN where a server says
    none.
    """

    text: str
    tokens: int
    nll: float
    finish: int


@dataclass
class Drawn:
    """What was drawn for the rows of a shard, as the pass keeps it."""

    samples: list[list[Sample]]
    greedy: list[Sample | None]
    reason: NDArray[np.uint8]
    _blank: Sample = field(default=Sample("", 0, 0.0, 0), repr=False)

    def arrays(self, *, greedy: bool) -> dict[str, NDArray[Any]]:
        """The arrays of the signal; see the pass `generations`."""
        import numpy as np

        from tamis.ragged import Ragged

        def packed(name: str, lists: Sequence[Any], dtype: Any) -> dict[str, NDArray[Any]]:
            one = Ragged.of([np.asarray(values, dtype) for values in lists], dtype)
            return {name: one.values, f"{name}_offsets": one.offsets}

        texts = [[octets(sample.text) for sample in row] for row in self.samples]
        joined = [np.frombuffer(b"".join(row), np.uint8) for row in texts]
        done: dict[str, NDArray[Any]] = {
            "count": np.array([len(row) for row in self.samples], np.int32),
            "reason": self.reason,
            **packed("text", joined, np.uint8),
            **packed("length", [[len(one) for one in row] for row in texts], np.int32),
            **packed("tokens", [[one.tokens for one in row] for row in self.samples], np.int32),
            **packed("nll", [[one.nll for one in row] for row in self.samples], np.float64),
            **packed("finish", [[one.finish for one in row] for row in self.samples], np.uint8),
        }
        if greedy:
            best = [one or self._blank for one in self.greedy]
            done |= packed("greedy_text", [np.frombuffer(octets(one.text), np.uint8) for one in best], np.uint8)
            done["greedy_tokens"] = np.array([one.tokens for one in best], np.int32)
            done["greedy_nll"] = np.array([one.nll for one in best], np.float64)
        return done


def octets(text: str) -> bytes:
    """UTF-8 of a text; lone surrogates become question marks."""
    return text.encode("utf-8", "replace")


@dataclass(frozen=True)
class Samples:
    """The signal `generations` of one shard, read by row."""

    signal: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.signal["count"])

    def texts(self, row: int) -> list[str]:
        """The answers of a row, in the order drawn."""
        import numpy as np

        held = self._of("text", row).tobytes()
        ends = np.cumsum(self._of("length", row)).tolist()
        return [held[start:end].decode("utf-8") for start, end in zip([0, *ends], ends, strict=False)]

    def greedy(self, row: int) -> str | None:
        """The most probable answer of a row; None where it was not asked for."""
        return self._of("greedy_text", row).tobytes().decode("utf-8") if "greedy_text" in self.signal else None

    def of(self, name: str, row: int) -> NDArray[Any]:
        """One number for every sample of a row: `tokens`, `nll` or `finish`."""
        return self._of(name, row)

    def _of(self, name: str, row: int) -> NDArray[Any]:
        start, stop = self.signal[f"{name}_offsets"][row : row + 2].tolist()
        return self.signal[name][start:stop]


Ask = Callable[[Sequence["Wanted"]], Sequence[Sample | None]]  # None: this row is refused


@dataclass(frozen=True)
class Wanted:
    """One answer to be drawn for a row: its number (-1: the greedy one) and its random bits."""

    row: int
    number: int
    bits: int


@dataclass
class Drawing:
    """Rows being sampled. `ask` draws; `reason` (n,) uint8 tells of rows without a prompt, and learns of refused ones.

    Sample j of a row is a function of seed, row and j, and stopping is decided after each sample in order: so neither
    rounds nor batches change what is kept.
    """

    rows: Sequence[Row]
    sampling: Sampling
    ask: Ask
    reason: NDArray[np.uint8]

    def draw(self) -> Drawn:
        """Everything that the settings ask for, in rounds for the rows still open."""
        drawn = Drawn([[] for _ in self.rows], [None] * len(self.rows), self.reason)
        if self.sampling.greedy:
            self._take(drawn, [Wanted(row, -1, 0) for row in self._open()])
        waiting = self._open()
        while waiting:
            self._take(drawn, [one for row in waiting for one in self._next(row, len(drawn.samples[row]))])
            waiting = [row for row in waiting if not self.reason[row] and not self._settled(drawn, row)]
        for row, why in enumerate(self.reason.tolist()):
            if why:
                drawn.samples[row], drawn.greedy[row] = [], None
        return drawn

    def _open(self) -> list[int]:
        return [row for row, why in enumerate(self.reason.tolist()) if not why]

    def _next(self, row: int, have: int) -> list[Wanted]:
        step = ROUND if self.sampling.stop == "beta" else self.sampling.samples
        numbers = range(have, min(have + step, self.sampling.samples))
        return [Wanted(row, number, stream(self.sampling.seed, self.rows[row].key, number)) for number in numbers]

    def _take(self, drawn: Drawn, wanted: Sequence[Wanted]) -> None:
        for one, sample in zip(wanted, self.ask(wanted), strict=True):
            if sample is None:
                self.reason[one.row] = int(Reason.REFUSED)
            elif one.number < 0:
                drawn.greedy[one.row] = sample
            else:
                drawn.samples[one.row].append(sample)

    def _settled(self, drawn: Drawn, row: int) -> bool:
        from tamis.verifiers.answers import answer_of

        answers = [answer_of(sample.text, self.sampling.answers) for sample in drawn.samples[row]]
        count = drawn_until(answers, self.sampling)
        if count is not None:
            drawn.samples[row] = drawn.samples[row][:count]
        return count is not None
