"""The generations signal: several sampled answers to every prompt, from the model of the run or from a server."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from tamis.answers.sampling import Sampling, asked
from tamis.errors import DataError, RecipeError
from tamis.models import ModelRef
from tamis.values import Message, Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.answers.sampling import Ask, Sample, Wanted
    from tamis.pool import Shard
    from tamis.values import Arrays, Machine, Row
    from tamis.views import ShardSignals

WRITTEN = 6.0  # forward tokens that a written token costs, in batches (tiny-lm on a core)
_ANSWER: Message = {"role": "assistant", "content": ""}


@dataclass(frozen=True, kw_only=True)
class Generations:
    """Samples k answers to every prompt, each token drawn from bits of its own (seed, row, sample, place).

    `sampling` says how many, at which temperature, when to stop and, by `server`, where else they come from. The prompt
    is everything before the last assistant turn, or the whole of a row without an answer; rows of plain text have none.
    """

    model: ModelRef
    sampling: Sampling = field(default_factory=Sampling)
    revision: ClassVar[int] = 1
    serves_less: ClassVar[bool] = False  # samples drawn with other settings are other samples

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    @property
    def forwards(self) -> float:
        """Forward passes over the tokens of the pool that this is worth, about: a prompt read once, k answers written.

        Answers are taken to be half of a row's tokens; a written token costs `WRITTEN` that are read.
        """
        if self.sampling.server is not None:
            return 0.0
        return 0.5 + 0.5 * WRITTEN * (self.sampling.samples + self.sampling.greedy)

    def merge(self, other: Generations) -> Generations:
        """Return a pass that gives what both give. Raises RecipeError where model or settings cannot be one."""
        if self.model != other.model:
            raise RecipeError(f"passes over {self.model.name!r} and {other.model.name!r} cannot be one: models differ")
        return dataclasses.replace(self, sampling=self.sampling.merge(other.sampling))

    def notes(self) -> list[str]:
        """What cannot be seen in the figures."""
        said = []
        if (server := self.sampling.server) is not None:
            said.append(
                f"samples come from {server.model!r} at {server.url}: what it answers is known by these names, not by "
                "the content of its weights, so a changed model under the same name goes unseen"
            )
        if self.sampling.stop == "beta":
            said.append(
                "sampling stopped where the most frequent answer led "
                f"(P >= {self.sampling.confidence:g}): pass rates of rows with few samples are biased, see their n"
            )
        return said

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays of one shard of n rows.

        `count` (n,) int32 samples; ragged by row: `text` uint8, the UTF-8 of all samples one after another, `length`
        int32 bytes of each, `tokens` int32 (the closing one counted), `nll` float64 nats of each sample under the model
        at temperature 1 (NaN where a server says none), `finish` uint8 (1 closed, 2 as long as it may be, 3 other).
        With `greedy`: `greedy_text` by offsets, `greedy_tokens` and `greedy_nll` (n,). `reason` uint8 (`Reason`): why
        there are none. ModelError where a server cannot be used.
        """
        import numpy as np

        from tamis.answers.sampling import Drawing
        from tamis.engine import set_threads

        set_threads(on.threads)
        rows = shard.read()
        reason = np.zeros(len(rows), np.uint8)
        ask = self._ask_server(rows, reason) if self.sampling.server is not None else self._ask_model(rows, reason, on)
        return Drawing(rows, self.sampling, ask, reason).draw().arrays(greedy=self.sampling.greedy)

    def _ask_model(self, rows: Sequence[Row], reason: NDArray[np.uint8], on: Machine) -> Ask:
        """Prompts as ids; rows that the model's maximum length does not hold with an answer get a reason."""
        from tamis.rendering import generation_prompt, longest

        prompts: list[list[int]] = []
        for place, row in enumerate(rows):
            ids: list[int] = []
            if (why := _no_prompt(row)) is None:
                try:
                    ids = generation_prompt((*asked(row), _ANSWER), self.model, tools=row.tools)
                except DataError:
                    why = Reason.TEMPLATE
            if why is None and len(ids) + self.sampling.max_tokens > longest(self.model):
                why = Reason.CUT
            reason[place] = int(why or Reason.NONE)
            prompts.append(ids)

        def ask(wanted: Sequence[Wanted]) -> Sequence[Sample | None]:
            from tamis.answers.generating import Writer

            bits = [None if one.number < 0 else one.bits for one in wanted]
            return Writer.of(self.model, self.sampling, on).write(prompts, [one.row for one in wanted], bits)

        return ask

    def _ask_server(self, rows: Sequence[Row], reason: NDArray[np.uint8]) -> Ask:
        from tamis.answers.completions import Client

        server = self.sampling.server
        assert server is not None
        for place, row in enumerate(rows):
            reason[place] = int(_no_prompt(row) or Reason.NONE)

        def ask(wanted: Sequence[Wanted]) -> Sequence[Sample | None]:
            return Client(server, self.sampling).complete([(rows[one.row], one) for one in wanted])

        return ask


def _no_prompt(row: Row) -> Reason | None:
    """Why a row asks nothing, or None."""
    return None if row.kind != "text" and asked(row) else Reason.WRONG_KIND
