"""The lengths signal: how long every row is, as the training model's template and tokenizer see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.models import ModelRef
from tamis.values import Need

if TYPE_CHECKING:
    from tamis.pool import Shard
    from tamis.values import Arrays, Machine, Message, Row
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Counts tokens, characters, words and turns of every row; runs no model, only its tokenizer."""

    model: ModelRef
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays (n,) of one shard.

        `tokens` int32 after truncation, `full_tokens` int32 before it, `response_tokens` int32 that are trained on,
        `characters`, `words` int32 of all contents (chosen included, rejected not), `response_characters` int32 of the
        assistant's, `turns` int16 of the assistant, `reason` uint8 why no token can be trained on (`Reason`).
        """
        import numpy as np

        from tamis.rendering import render_all

        rows = shard.read()
        rendered = render_all(rows, self.model)
        texts = [[_text(message) for message in _messages(row)] for row in rows]
        spoken = [_spoken(row) for row in rows]

        def counts(values: list[int], dtype: Any = np.int32) -> Any:
            return np.array(values, dtype)

        return {
            "tokens": counts([len(one.ids) for one in rendered]),
            "full_tokens": counts([one.full_tokens for one in rendered]),
            "response_tokens": counts([int((one.turn >= 0).sum()) for one in rendered]),
            "characters": counts([sum(map(len, parts)) for parts in texts]),
            "response_characters": counts([sum(map(len, parts)) for parts in spoken]),
            "words": counts([sum(len(part.split()) for part in parts) for parts in texts]),
            "turns": counts([len(parts) for parts in spoken], np.int16),
            "reason": counts([int(one.reason) for one in rendered], np.uint8),
        }


def _messages(row: Row) -> tuple[Message, ...]:
    return (*row.messages, *row.chosen)


def _text(message: Message) -> str:
    return str(message.get("content") or "")


def _spoken(row: Row) -> list[str]:
    """Return what the model must write: the assistant's contents; of a pair, the chosen ones; of a text, all."""
    messages = row.chosen if row.kind == "pair" else row.messages
    return [_text(message) for message in messages if row.kind == "text" or message.get("role") == "assistant"]
