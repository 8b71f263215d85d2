"""The reversed signal: losses of the instruction, given the answer and alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.models import ModelRef
from tamis.values import Need, Reason, text_of

if TYPE_CHECKING:
    from tamis.chat_template import Laid
    from tamis.pool import Shard
    from tamis.values import Arrays, Machine, Row
    from tamis.views import ShardSignals

ASKED = (
    "Here is an answer that was given to an instruction. Work out what the instruction was.\n{}\nWrite the instruction."
)


@dataclass(frozen=True, kw_only=True)
class Reversed:
    """Losses of the instruction of every row, given its answer and alone, of which r-IFD is made.

    Li et al. 2024 (Selective Reflection-Tuning, arXiv:2402.10110). Given: the model is asked to guess the instruction
    of an answer, in its chat template and in words of our own, and the instruction is its reply. Alone: the same reply
    behind its generation prompt, nothing before. Both score the same token ids: the text of the instruction without
    the template's closing token. Of several turns the first of the user counts, and the answer to it; of a pair, the
    chosen one. A row that does not fit whole into the model's maximum has the reason CUT.
    """

    model: ModelRef
    revision: ClassVar[int] = 2

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays (n,) of one shard, 0 for rows with a `reason`.

        `reversed_nll_sum` (given the answer) and `instruction_nll_sum` (alone), float64 nats over the same
        `instruction_count` int64 tokens; `reason` uint8 (`Reason`).
        """
        import numpy as np

        from tamis.engine import set_threads
        from tamis.models import cached_model
        from tamis.prediction.forward import forward_of
        from tamis.prediction.scored import Run, Scored, alone
        from tamis.rendering import render_laid

        rendered = render_laid([_lay(row, self.model) for row in shard.read()], self.model)
        reason = np.array([int(Reason.CUT if one.truncated else one.reason) for one in rendered], np.uint8)
        given, bare = [], []
        for row in np.flatnonzero(reason == 0):
            one = rendered[row]
            by_itself, known = alone(int(row), one, 0)
            bare.append(by_itself)
            given.append(Scored(int(row), one.ids, np.flatnonzero(one.turn >= 0)[known]))
        count = np.zeros(len(rendered), np.int64)
        count[[one.row for one in given]] = [len(one.places) for one in given]
        reason[(reason == 0) & (count == 0)] = Reason.TOO_SHORT
        set_threads(on.threads)
        run = Run([*given, *bare], forward_of(cached_model(self.model, on.device)), on).all()
        sums = [run.sums(len(rendered), some) for some in (slice(0, len(given)), slice(len(given), None))]
        broken = ~np.isfinite(sums).all(axis=0)
        reason[broken] = Reason.NOT_FINITE
        return {
            "reversed_nll_sum": np.where(broken, 0.0, sums[0]),
            "instruction_nll_sum": np.where(broken, 0.0, sums[1]),
            "instruction_count": count,
            "reason": reason,
        }


def _lay(row: Row, ref: ModelRef) -> Laid | Reason:
    """The conversation in which the instruction is the reply, its text alone in the span, or why there is none."""
    from tamis.chat_template import Laid, RowRefused, Turn, chat_template, encodable

    found = _instruction(row)
    if isinstance(found, Reason):
        return found
    instruction, answer = found
    asked = [
        {"role": "user", "content": ASKED.format(answer)},
        {"role": "assistant", "content": instruction},
    ]
    try:
        laid = chat_template(ref.name).lay(asked)
    except RowRefused:
        return Reason.TEMPLATE
    if not laid.turns:
        return Reason.TEMPLATE
    turn = laid.turns[0]
    low, high = turn.spans[0][0], turn.spans[-1][1]
    words = encodable(instruction).strip()
    start = laid.text.find(words, low, high)
    spans = turn.spans if start < 0 else ((start, start + len(words)),)  # a template that rewrites its messages
    return Laid(laid.text, (Turn(turn.header, spans),))


def _instruction(row: Row) -> tuple[str, str] | Reason:
    """The first message of the user, and the answer to it."""
    if row.kind == "text":
        return Reason.WRONG_KIND
    if row.kind == "prompt":
        return Reason.NEEDS_ANSWER
    messages = (*row.messages, *row.chosen)
    roles = [str(message.get("role")) for message in messages]
    if "user" not in roles:
        return Reason.WRONG_KIND
    first = roles.index("user")
    if "assistant" not in roles[first:]:
        return Reason.NEEDS_ANSWER
    instruction, answer = text_of(messages[first]), text_of(messages[roles.index("assistant", first)])
    if not answer.strip():
        return Reason.NEEDS_ANSWER
    return (instruction, answer) if instruction.strip() else Reason.TOO_SHORT
