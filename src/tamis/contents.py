"""The text digest of a row: equal for rows that say the same, wherever they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tamis import digests
from tamis.values import Row


def content_digest(row: Row) -> str:
    """128-bit BLAKE2b over roles, contents and tool calls of all messages, chosen, rejected, label and tools.

    `source`, `meta` and the ids of tool calls do not enter (DESIGN §1). Dedup and caches use it.
    """
    said = [_said(row.messages), _said(row.chosen), _said(row.rejected), row.label, row.tools]
    return hashlib.blake2b(_DUMP(said).encode("utf-8", "surrogatepass"), digest_size=digests.BYTES).hexdigest()


_DUMP = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _said(messages: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    return [
        [message["role"], message["content"], [call.get("function") for call in message.get("tool_calls") or ()]]
        for message in messages
    ]
