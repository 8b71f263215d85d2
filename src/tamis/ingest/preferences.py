"""Two answers to one prompt, wherever the prompt stands: beside them, inside both, or inside one of them."""

from __future__ import annotations

import re
from typing import Any

from tamis.ingest import turns
from tamis.ingest.fields import Fields
from tamis.values import Message

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")
_TRANSCRIPT = re.compile(r"\s*Human:.*\n\nAssistant:", re.DOTALL)


def read(fields: Fields, prompt: list[Message]) -> tuple[list[Message], list[Message], list[Message]]:
    """Prompt, chosen and rejected; `prompt`: the messages that stand beside the answers, if any do."""
    given = {name: fields.take(name) for name in ("chosen", "rejected")}
    if not prompt and all(is_transcript(value) for value in given.values()):
        chosen, rejected = (transcript(given[name]) for name in ("chosen", "rejected"))
    else:
        chosen, rejected = (turns.answers(given[name], name, fields.rules.words) for name in ("chosen", "rejected"))
    if not prompt:
        prompt = _common(chosen, rejected) or _inside_one(chosen, rejected)
    return prompt, _after(prompt, chosen), _after(prompt, rejected)


def is_transcript(value: Any) -> bool:
    """Whether this is text of turns that begin with "Human:" and "Assistant:" after an empty line."""
    return isinstance(value, str) and _TRANSCRIPT.match(value) is not None


def opening(value: Any) -> list[Message]:
    """Messages of a prompt that is a transcript up to "Assistant:"; none where it is something else."""
    if not is_transcript(value) or not value.rstrip().endswith("\n\nAssistant:"):
        return []
    return transcript(value.rstrip().removesuffix("Assistant:"))


def transcript(value: str) -> list[Message]:
    r"""Messages of a transcript; the spaces around what is said go.

    >>> transcript("\n\nHuman: Hi?\n\nAssistant: Yes.")
    [{'role': 'user', 'content': 'Hi?'}, {'role': 'assistant', 'content': 'Yes.'}]
    """
    parts = _TURN.split(value.strip())[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[speaker], "content": said.strip()} for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _common(one: list[Message], other: list[Message]) -> list[Message]:
    """Take the turns with which both begin, up to the last of them that is not an answer."""
    made: list[Message] = []
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        made.append(left)
    while made and (made[-1]["role"] == "assistant" or len(made) in (len(one), len(other))):
        made.pop()
    return made


def _inside_one(one: list[Message], other: list[Message]) -> list[Message]:
    """Take the prompt of a conversation where the other side is an answer alone."""
    whole, answer = (one, other) if len(one) > len(other) else (other, one)
    asks = [place for place, message in enumerate(whole) if message["role"] != "assistant"]
    if any(message["role"] != "assistant" for message in answer) or not asks or asks[-1] == len(whole) - 1:
        return []
    return whole[: asks[-1] + 1]


def _after(prompt: list[Message], answer: list[Message]) -> list[Message]:
    """Cut the prompt off an answer that repeats it."""
    said = [(message["role"], message["content"]) for message in prompt if message["role"] != "system"]
    rest = [message for message in answer if message["role"] != "system"]
    head = [(message["role"], message["content"]) for message in rest[: len(said)]]
    return rest[len(said) :] if said and head == said and len(rest) > len(said) else answer
