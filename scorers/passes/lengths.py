"""The lengths signal: how long every row is, as the training model's template and tokenizer see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.models import ModelRef
from tamis.values import Need

if TYPE_CHECKING:
    from tamis.pool import Shard
    from tamis.rendering import Rendered
    from tamis.values import Arrays, Machine, Message, Row
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Counts tokens, characters, words and turns of every row; runs no model, only its tokenizer."""

    model: ModelRef
    revision: ClassVar[int] = 2

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays (n,) of one shard.

        `tokens` int32 after truncation, `full_tokens` int32 before it, `response_tokens` int32 that are trained on (all
        three of a pair: of both sides, as preference training needs them), `characters`, `words` int32 of all contents
        (chosen included, rejected not), `response_characters` int32 of the assistant's, `turns` int16 of the assistant,
        `reason` uint8 why no token can be trained on (`Reason`). `pair` uint8 1 for preference pairs, of which
        `chosen_tokens` and `rejected_tokens` int32 are the answer tokens; 0 for other rows.
        """
        import numpy as np

        from tamis.rendering import render_all

        rows = shard.read()
        rendered = render_all(rows, self.model)
        pairs = np.array([row.kind == "pair" for row in rows], np.bool_)
        sides = render_all([row for row in rows if row.kind == "pair"], self.model, side="rejected")
        other = np.zeros((3, len(rows)), np.int32)  # tokens, tokens before truncation, answer tokens of rejected
        other[:, pairs] = np.array(
            [[len(one.ids), one.full_tokens, _answer(one)] for one in sides], np.int32
        ).T.reshape(3, -1)
        reason = np.array([int(one.reason) for one in rendered], np.uint8)
        reason[pairs] = np.where(reason[pairs] > 0, reason[pairs], [int(one.reason) for one in sides])
        texts = [[_text(message) for message in _messages(row)] for row in rows]
        spoken = [_spoken(row) for row in rows]

        def counts(values: list[int], dtype: Any = np.int32) -> Any:
            return np.array(values, dtype)

        answers = counts([_answer(one) for one in rendered])

        return {
            "tokens": counts([len(one.ids) for one in rendered]) + other[0],
            "full_tokens": counts([one.full_tokens for one in rendered]) + other[1],
            "response_tokens": answers + other[2],
            "characters": counts([sum(map(len, parts)) for parts in texts]),
            "response_characters": counts([sum(map(len, parts)) for parts in spoken]),
            "words": counts([sum(len(part.split()) for part in parts) for parts in texts]),
            "turns": counts([len(parts) for parts in spoken], np.int16),
            "reason": reason,
            "pair": pairs.astype(np.uint8),
            "chosen_tokens": np.where(pairs, answers, 0).astype(np.int32),
            "rejected_tokens": other[2],
        }


def _answer(one: Rendered) -> int:
    return int((one.turn >= 0).sum())


def _messages(row: Row) -> tuple[Message, ...]:
    return (*row.messages, *row.chosen)


def _text(message: Message) -> str:
    return str(message.get("content") or "")


def _spoken(row: Row) -> list[str]:
    """Return what the model must write: the assistant's contents; of a pair, the chosen ones; of a text, all."""
    messages = row.chosen if row.kind == "pair" else row.messages
    return [_text(message) for message in messages if row.kind == "text" or message.get("role") == "assistant"]
