"""The label mask of a rendered chat in terms of its messages: which turns, and which of their characters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.chat_template import chat_template
from tamis.exporting.answers import find_answers

if TYPE_CHECKING:
    from tamis.rendering import Rendered
    from tamis.values import Row

CLOSING = 8  # tokens at most behind the content of an answer: end of turn, line ends


@dataclass(frozen=True)
class TurnMask:
    """What is trained of one assistant message: `spans` of its content in characters (None: all of it).

    `exact` is False where the trained tokens cannot be found again in the content (tool calls, rewritten text).
    """

    message: int
    train: bool
    spans: tuple[tuple[int, int], ...] | None = None
    exact: bool = True


def turn_masks(row: Row, rendered: Rendered, model: str) -> list[TurnMask]:
    """The label mask of a chat that `model` rendered: one entry for every assistant message, in order."""
    tokenizer = chat_template(model).tokenizer
    places = [place for place, message in enumerate(row.messages) if message.get("role") == "assistant"]
    runs = _runs(rendered)
    owners = dict(zip(range(len(places)), places, strict=True))
    if len(rendered.headers) != len(places):  # the template leaves turns out of the loss
        owners = _placed(row, rendered, model) or _matched(row, places, runs, tokenizer)
    made = {place: TurnMask(place, False) for place in places}
    for number, parts in runs.items():
        if number in owners:
            made[owners[number]] = _turn_mask(owners[number], row.messages[owners[number]], parts, tokenizer)
    return [made[place] for place in places]


def _runs(rendered: Rendered) -> dict[int, list[list[int]]]:
    """Unbroken runs of trained tokens by turn."""
    found: dict[int, list[list[int]]] = {}
    last = -1
    for token, number in zip(rendered.ids.tolist(), rendered.turn.tolist(), strict=True):
        if number >= 0:
            parts = found.setdefault(number, [])
            if number != last:
                parts.append([])
            parts[-1].append(token)
        last = number
    return found


def _placed(row: Row, rendered: Rendered, model: str) -> dict[int, int]:
    """Messages of the turns by where their contents stand; none where that cannot be told."""
    owners: dict[int, int] = {}
    turns = rendered.turn.tolist()
    for answer in find_answers(row, rendered, model) or []:
        trained = {number for number in turns[answer.first : max(answer.stop, answer.first + 1)] if number >= 0}
        owners |= dict.fromkeys(trained, answer.message)
    return owners


def _matched(row: Row, places: list[int], runs: dict[int, list[list[int]]], tokenizer: Any) -> dict[int, int]:
    """Messages of the turns by what they say, each after the one before."""
    owners: dict[int, int] = {}
    left = list(places)
    for number, parts in runs.items():
        while left:
            place = left.pop(0)
            if _said(parts[0], str(row.messages[place].get("content") or ""), tokenizer) is not None:
                owners[number] = place
                break
    return owners


def _turn_mask(place: int, message: dict[str, Any], parts: list[list[int]], tokenizer: Any) -> TurnMask:
    content = str(message.get("content") or "")
    if message.get("tool_calls"):
        return TurnMask(place, True, exact=False)
    spans: list[tuple[int, int]] = []
    start = 0
    for ids in parts:
        text = _said(ids, content[start:], tokenizer)
        if text is None:
            return TurnMask(place, True, exact=False)
        low = content.index(text, start)
        spans += [(low, low + len(text))] if text else []
        start = low + len(text)
    if len(spans) == 1 and content[slice(*spans[0])] == content.strip():
        return TurnMask(place, True)
    return TurnMask(place, True, tuple(spans))


def _said(ids: list[int], content: str, tokenizer: Any) -> str | None:
    """The part of `content` that these tokens say before their closing: special tokens and white space alone.

    None where the tokens say something else, or nothing though the content says something.
    """
    for cut in range(min(CLOSING, len(ids)) + 1):
        head, tail = ids[: len(ids) - cut], ids[len(ids) - cut :]
        if tokenizer.decode(tail, skip_special_tokens=True).strip():
            return None
        text: str = tokenizer.decode(head, skip_special_tokens=False, clean_up_tokenization_spaces=False).strip()
        if text in content and (text or not content.strip()):
            return text
    return None
