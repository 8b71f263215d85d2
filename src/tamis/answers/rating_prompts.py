"""Questions put to a model about a row, whose answer is one token: a digit or a word, read off without generation.

A set of prompts is one measurement: its templates are rewordings of one question, its labels the answers allowed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tamis.errors import RecipeError
from tamis.values import Reason, text_of

if TYPE_CHECKING:
    from tamis.values import Message, Row

Per = Literal["row", "turn"]
Of = Literal["row", "generated"]
GENERATED = "+generated"
_FIELD = re.compile(r"\{(instruction|response)\}")


@dataclass(frozen=True, kw_only=True)
class RatingSet:
    """Rewordings of one question, and the tokens that may answer it.

    `templates` hold `{instruction}` and `{response}`, other braces are plain text. `labels`: words or digits, each one
    token of the model (checked against its tokenizer). `per`: asked once a row, about its last answer and all before
    it, or of every assistant turn and what was said since the turn before. `raw`: the text alone, without the chat
    template. `of`: about the row's own answer, or about the first answer that the pass `generations` drew.
    """

    name: str
    templates: tuple[str, ...]
    labels: tuple[str, ...]
    per: Per = "row"
    raw: bool = False
    of: Of = "row"

    def __post_init__(self) -> None:
        if not self.templates or len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise RecipeError(f"ratings {self.name!r}: give a template at least, and two labels or more, all different")
        without = [text for text in self.templates if not _FIELD.search(text)]
        if without:
            raise RecipeError(f"ratings {self.name!r}: {without[0]!r} holds neither {{instruction}} nor {{response}}")
        if self.of == "generated" and self.per == "turn":
            raise RecipeError(f"ratings {self.name!r}: a generated answer is one a row; use `per: row`")

    @property
    def key(self) -> str:
        """Name of its arrays in the signal `ratings`: that of a shipped set, else with a digest of the prompts."""
        from tamis.digests import of_json

        asked = (self.templates, self.labels, self.per, self.raw)
        known = SHIPPED.get(self.name)
        shipped = known is not None and asked == (known.templates, known.labels, known.per, known.raw)
        stem = self.name if shipped else f"{self.name}-{of_json(asked)[:8]}"
        return stem + (GENERATED if self.of == "generated" else "")

    @property
    def needs_answer(self) -> bool:
        """Whether a template shows the response."""
        return any("{response}" in text for text in self.templates)

    @property
    def values(self) -> tuple[float, ...]:
        """What each label counts: its number, or, of words, its place from 0."""
        if all(re.fullmatch(r"-?\d+(\.\d+)?", label) for label in self.labels):
            return tuple(float(label) for label in self.labels)
        return tuple(float(place) for place in range(len(self.labels)))

    def texts(self, instruction: str, response: str) -> list[str]:
        """Every template filled in; what the texts themselves hold in braces stays as it is."""
        given = {"instruction": instruction, "response": response}
        return [_FIELD.sub(lambda match: given[match[1]], text) for text in self.templates]


_SELECTIT = (
    "Rate how well the response answers the instruction, from 1 (poor) to 5 (excellent).\n"
    "Instruction: {instruction}\nResponse: {response}\nAnswer with the digit alone.\nRating:",
    "Here is a request and a reply to it.\nRequest: {instruction}\nReply: {response}\n"
    "How good is the reply? Give one digit: 1 is the worst, 5 the best.\nScore:",
    "On a scale of 1 to 5, how helpful, correct and complete is this answer?\n"
    "Question: {instruction}\nAnswer: {response}\nOne digit, nothing else.\nGrade:",
    "You judge examples that a language model is to learn from.\nTask: {instruction}\nSolution: {response}\n"
    "Judge the quality of the example with one number between 1 (useless) and 5 (ideal).\nNumber:",
    "Read the prompt and what was written for it.\nPrompt: {instruction}\nWritten: {response}\n"
    "Does it do what was asked? 1 means not at all, 5 means perfectly.\nDigit:",
)
# The wording that DEITA's released judges were trained on (Liu et al., ICLR 2024; hkust-nlp/deita, Apache-2.0): a score
# read from them depends on every character, the doubled blanks included.
_DEITA_COMPLEXITY = (
    "You are a helpful assistant. Please identify the complexity score of the following user query. \n"
    "##Query: {instruction}  \n##Complexity: "
)
_DEITA_QUALITY = (
    "You are a helpful assistant. Please identify the quality score of the Response corresponding to the Question. \n "
    "#Question#:\n{instruction}\n#Response#:\n{response} \n##Quality: "
)
_ALPAGASUS = (
    "An assistant was given an instruction and wrote a response. Judge the response by its accuracy alone, on a scale "
    "from 0 (wrong throughout) to 5 (accurate throughout).\nInstruction: {instruction}\nResponse: {response}\n"
    "Reply with one digit.\nAccuracy:"
)
_YES_NO = (
    "Instruction: {instruction}\nResponse: {response}\nIs the response correct, and does it do what was asked? "
    "Reply yes or no.\nReply:"
)


def _digits(first: int, last: int) -> tuple[str, ...]:
    return tuple(str(digit) for digit in range(first, last + 1))


SHIPPED = {
    one.name: one
    for one in (
        RatingSet(name="selectit", templates=_SELECTIT, labels=_digits(1, 5)),
        RatingSet(name="deita-complexity", templates=(_DEITA_COMPLEXITY,), labels=_digits(1, 6), per="turn", raw=True),
        RatingSet(name="deita-quality", templates=(_DEITA_QUALITY,), labels=_digits(1, 6), per="turn", raw=True),
        RatingSet(name="deita-complexity-chat", templates=(_DEITA_COMPLEXITY,), labels=_digits(1, 6), per="turn"),
        RatingSet(name="deita-quality-chat", templates=(_DEITA_QUALITY,), labels=_digits(1, 6), per="turn"),
        RatingSet(name="alpagasus", templates=(_ALPAGASUS,), labels=_digits(0, 5)),
        RatingSet(name="yes-no", templates=(_YES_NO,), labels=("no", "yes")),
    )
}


def rating_set(given: str | RatingSet) -> RatingSet:
    """A set as it is, or a shipped one by name; `alpagasus+generated` asks of the generated answer.

    RecipeError for a name that is not shipped.
    """
    import dataclasses

    from tamis.catalogue import nearest

    if isinstance(given, RatingSet):
        return given
    name = given.removesuffix(GENERATED)
    if name not in SHIPPED:
        raise RecipeError(f"no prompts named {name!r} are shipped{nearest(name, SHIPPED)} Known: {', '.join(SHIPPED)}")
    return SHIPPED[name] if name == given else dataclasses.replace(SHIPPED[name], of="generated")


Exchange = tuple[str, str | None]


def exchanges(row: Row, one: RatingSet, answer: str | None = None) -> list[Exchange] | Reason:
    """What is asked of a row: instructions, each with its answer, or None where there is none and none is shown.

    A pair is judged by its chosen answer. `answer` stands in for the row's own where the set is about generated ones.
    """
    if row.kind == "text":
        return Reason.WRONG_KIND
    if one.of == "row" and row.kind == "prompt" and one.needs_answer:
        return Reason.NEEDS_ANSWER
    messages = (*row.messages, *row.chosen)
    if one.per == "turn":
        found = _by_turn(messages)
    else:
        last = messages[-1].get("role") == "assistant" if messages else False
        before = messages[:-1] if last else messages
        own = text_of(messages[-1]) if last else None
        found = [(_told(before), answer if one.of == "generated" else own)]
    if one.needs_answer:  # an empty answer of the model's own is an answer, and a bad one
        found = [(asked, said) for asked, said in found if said or (one.of == "generated" and said is not None)]
    return found or Reason.NEEDS_ANSWER


def _by_turn(messages: Sequence[Message]) -> list[Exchange]:
    """Each assistant turn that says something, behind what was said since the one before, system turns left out."""
    found: list[Exchange] = []
    asked: list[str] = []
    for message in messages:
        text = text_of(message)
        if message.get("role") != "assistant":
            asked += [text] if text and message.get("role") != "system" else []
            continue
        found += [("\n".join(asked), text)] if text else []
        asked = []
    return found + ([("\n".join(asked), None)] if asked else [])


def _told(messages: Sequence[Message]) -> str:
    """Everything before the answer: the texts alone where no assistant spoke yet, else each behind its role."""
    if all(message.get("role") != "assistant" for message in messages):
        return "\n".join(text for message in messages if (text := text_of(message)))
    told = [f"{str(message.get('role')).capitalize()}: {text_of(message)}" for message in messages]
    return "\n".join(told)
