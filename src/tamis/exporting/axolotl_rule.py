"""Axolotl's own rule for the labels of a chat, worked out beside tamis's mask: where they part, the ids are written.

The rule (`type: chat_template`, `train_on_eos: turn`): of a turn with `train`, every token that holds a character of
the content, and behind it the first end-of-turn token and the first end of sequence, each within three tokens.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tamis.chat_template import RowRefused, chat_template
from tamis.exporting.answers import Answer, find_answers

if TYPE_CHECKING:
    from tamis.exporting.turns import TurnMask
    from tamis.rendering import Rendered
    from tamis.values import Row

PADDING = 3  # tokens that may stand between the content of a turn and its end token
_DUMMY_ENDS = "[]"  # to 0.18, Axolotl finds a turn by its difference from "[[dummy_message]]": equal ends escape it
_PLAIN = ("role", "content")

NO_TEMPLATE = "the tokenizer brings no chat template"


@dataclass
class RuleCheck:
    """What is learned about rows: `ends`, their end tokens; `differ`, why and how often the rule masks otherwise."""

    model: str
    ends: Counter[int] = field(default_factory=Counter)
    differ: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row, rendered: Rendered, masks: list[TurnMask]) -> None:
        """Compare the rule with tamis's mask on one chat."""
        why = self._apart(row, rendered, masks)
        if why:
            self.differ[why] += 1

    def end_token(self) -> str:
        """The end token of the rows where it is not that of the tokenizer, for `eot_tokens:`; else the empty string.

        Rows with different ones are counted in `differ`: the config holds one rule for all.
        """
        tokenizer: Any = chat_template(self.model).tokenizer
        if len(self.ends) > 1:
            self.differ["answers with different end tokens"] += min(self.ends.values())
        other = [token for token in self.ends if token != tokenizer.eos_token_id]
        return str(tokenizer.convert_ids_to_tokens(other[0])) if other and len(self.ends) == 1 else ""

    def _apart(self, row: Row, rendered: Rendered, masks: list[TurnMask]) -> str:
        trained = {mask.message for mask in masks if mask.train}
        why = _known(row, rendered, masks, self.model) or _unseen_fields(row, self.model)
        if why:
            return why
        answers = find_answers(row, rendered, self.model)
        if answers is None:
            return "answers that the template rewrites"
        mask, stops = _by_the_rule(answers, trained, len(rendered.ids))
        tamis = (rendered.turn >= 0).tolist()
        if mask == tamis:
            return self._count_ends(rendered.ids.tolist(), stops)
        if any(mask[one.first] and not tamis[one.first] for one in answers if one.first < one.stop):
            return "answers whose first token begins before them"
        return "line ends or nothing behind an answer, where Axolotl trains one end token"

    def _count_ends(self, ids: list[int], stops: list[int]) -> str:
        """Count the end tokens; says why where Axolotl would not take them for such, or would train another one too."""
        template = chat_template(self.model)
        tokenizer: Any = template.tokenizer
        for stop in stops:
            token = ids[stop]
            if token != tokenizer.eos_token_id:
                if str(tokenizer.convert_ids_to_tokens(token)) not in tokenizer.get_chat_template():
                    return "end tokens that the template does not spell out"
                if tokenizer.eos_token_id in ids[stop + 1 : stop + 1 + PADDING]:
                    return "an end of sequence behind the end of a turn"
            self.ends[token] += 1
        return ""


def _known(row: Row, rendered: Rendered, masks: list[TurnMask], model: str) -> str:
    """Why the rule cannot give tamis's mask, as far as the turns alone tell."""
    if chat_template(model).default:
        return NO_TEMPLATE
    if rendered.truncated:
        return "cut at max_tokens"
    trained = [mask for mask in masks if mask.train]
    if not all(mask.exact for mask in trained):
        return "trained text that is not the content of its turn"
    if any(mask.spans is not None for mask in trained):
        return "parts of a turn"
    said = [str(row.messages[mask.message].get("content") or "") for mask in trained]
    if any(text[:1] in _DUMMY_ENDS or text[-1:] in _DUMMY_ENDS for text in said):
        return "answers in brackets, of which Axolotl before 0.19 misses the ends"
    return ""


def _unseen_fields(row: Row, model: str) -> str:
    """Axolotl hands a template the fields that it can make out in its text: with others, it may write another text."""
    if not any(key not in _PLAIN and message[key] is not None for message in row.messages for key in message):
        return ""
    template = chat_template(model)
    bare = [{key: message[key] for key in _PLAIN if key in message} for message in row.messages]
    try:
        texts = {template.prompt(messages, row.tools, generate=False) for messages in (bare, row.messages)}
    except RowRefused:
        texts = set()
    return "" if len(texts) == 1 else "fields of messages beside role and content that the template writes out"


def _by_the_rule(answers: list[Answer], trained: set[int], tokens: int) -> tuple[list[bool], list[int]]:
    """The mask by the rule where every end token stands right behind its content, and where the end tokens stand."""
    mask = [False] * tokens
    stops: list[int] = []
    for answer in answers:
        if answer.message not in trained or answer.stop <= answer.first:
            continue  # of an empty content Axolotl trains nothing that can be told
        upto = min(answer.stop + 1, tokens)
        mask[answer.first : upto] = [True] * (upto - answer.first)
        stops += range(answer.stop, upto)
    return mask, stops
