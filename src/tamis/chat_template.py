"""The chat template as text: conversations rendered to strings, with the character spans of the assistant's turns."""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.errors import ModelError, TamisError
from tamis.time_limits import TooSlow, time_limit
from tamis.values import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
RENDER_SECONDS = 8.0  # for one row; templates take milliseconds, and one that loops for ever must not hold a run
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
Span = tuple[int, int]

# For tokenizers that bring no template. The closing token is the tokenizer's end of sequence, if it has one.
DEFAULT_TEMPLATE = (
    "{% if tools %}{{ 'Tools:\n' + tools | tojson + '\n\n' }}{% endif %}"
    "{% for m in messages %}{{ m['role'] | capitalize + ':\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ (m['content'] or '') + ((m['tool_calls'] | tojson) if m['tool_calls'] else '') }}"
    "{{ eos_token or '' }}{% endgeneration %}{% else %}{{ m['content'] or '' }}{% endif %}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)


class RowRefused(TamisError):
    """The template raised an error on this conversation: a fault of the row, not of the template."""


@dataclass(frozen=True)
class Turn:
    """Character spans of one assistant turn: what precedes it since the last message, and what the model must write."""

    header: Span
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Laid:
    """A conversation as one string with its assistant turns in order."""

    text: str
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of one tokenizer; `start` is put before everything (BOS, only with the default template)."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    start: str = ""
    default: bool = False

    def _source(self, tools: Sequence[Any] | None) -> str:
        if self.default:
            return DEFAULT_TEMPLATE
        tokenizer: Any = self.tokenizer
        return str(tokenizer.get_chat_template(None, tools))

    def _render(
        self, messages: Sequence[Message], tools: list[Any] | None, *, prompt: bool = False, mark: bool = False
    ) -> tuple[str, list[Span]]:
        from jinja2 import TemplateError, TemplateSyntaxError
        from transformers.utils.chat_template_utils import render_jinja_template

        tokenizer: Any = self.tokenizer
        render: Any = render_jinja_template
        # templates know absent fields, but write None out as the word
        given = [{key: value for key, value in message.items() if value is not None} for message in messages]
        try:
            with time_limit(RENDER_SECONDS):
                texts, spans = render(
                    [given],
                    tools=tools,
                    chat_template=self._source(tools),
                    return_assistant_tokens_mask=mark,
                    add_generation_prompt=prompt,
                    **tokenizer.special_tokens_map,
                )
        except TooSlow as error:
            raise ModelError(
                f"the chat template of {self.name!r} does not end within {RENDER_SECONDS:g} s on a row; use another"
            ) from error
        except TemplateSyntaxError as error:
            raise ModelError(f"the chat template of {self.name!r} is not valid Jinja: {error}") from error
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise RowRefused(f"the chat template of {self.name!r} refuses the row: {error}") from error
        except (MemoryError, RecursionError) as error:
            raise ModelError(f"the chat template of {self.name!r} runs out of memory or depth; use another") from error
        shift = len(self.start)
        return self.start + encodable(texts[0]), [(low + shift, high + shift) for low, high in (spans or [[]])[0]]

    def prompt(self, messages: Sequence[Message], tools: str | None = None, *, generate: bool = True) -> str:
        """Render the messages as text, with the generation prompt behind them if `generate`."""
        return self._render(messages, _tools(tools), prompt=generate)[0]

    def lay(self, messages: Sequence[Message], tools: str | None = None, first: int = 0) -> Laid:
        """Render the conversation, with the character spans of the assistant turns at or after message `first`.

        Raises RowRefused where the template raises an error on this row or would leave its tool calls out, ModelError
        where the template rewrites earlier turns, so that no exact span exists.
        """
        schemas = _tools(tools)
        source = self._source(schemas)
        if any(message.get("tool_calls") for message in messages) and "tool_calls" not in source:
            raise RowRefused(
                f"the chat template of {self.name!r} leaves out tool calls: the turn would lose its answer"
            )
        places = [place for place, message in enumerate(messages) if message.get("role") == "assistant"]
        if MARKS.search(source):
            return self._lay_marked(messages, schemas, places, first)
        text, _ = self._render(messages, schemas)
        turns = [self._turn(messages[: place + 1], schemas, text) for place in places if place >= first]
        return Laid(text, tuple(turns))

    def _turn(self, messages: Sequence[Message], tools: list[Any] | None, text: str) -> Turn:
        before, _ = self._render(messages[:-1], tools, prompt=True)
        after, _ = self._render(messages, tools)
        if not (after.startswith(before) and text.startswith(after)):
            raise ModelError(
                f"the chat template of {self.name!r} rewrites earlier turns or its own generation prompt: the text up "
                f"to message {len(messages)} is not the start of the whole conversation, so the response has no exact "
                "span. Use a template with {% generation %} marks, or one that leaves history as it is"
            )
        return Turn(self._header(messages[:-1], tools, text, len(before)), ((len(before), len(after)),))

    def _header(self, before: Sequence[Message], tools: list[Any] | None, text: str, start: int) -> Span:
        """From the end of the message before to `start`: the generation prompt. Empty where it cannot be told apart."""
        if not before:
            return 0, start
        try:
            context, _ = self._render(before, tools)
        except RowRefused:  # some templates take no conversation that ends so
            return start, start
        return (len(context), start) if len(context) <= start and text.startswith(context) else (start, start)

    def _lay_marked(self, messages: Sequence[Message], tools: list[Any] | None, places: list[int], first: int) -> Laid:
        text, marked = self._render(messages, tools, mark=True)
        owners = list(places)
        if len(marked) != len(places):  # several marks in one turn, or a turn without: told apart by place
            ends = [len(self._render(messages[: place + 1], tools)[0]) for place in places]
            owners = [next((p for p, end in zip(places, ends, strict=True) if low < end), -1) for low, _ in marked]
        turns = []
        for place in places:
            spans = tuple(span for span, owner in zip(marked, owners, strict=True) if owner == place)
            if place >= first and spans:
                turns.append(Turn(self._header(messages[:place], tools, text, spans[0][0]), spans))
        return Laid(text, tuple(turns))


@functools.lru_cache(maxsize=8)
def chat_template(name: str) -> ChatTemplate:
    """Find the chat template of a model by name. Without one a stated default is used, and a warning logged once."""
    from tamis.models import open_tokenizer

    tokenizer: Any = open_tokenizer(name)
    if tokenizer.chat_template:
        return ChatTemplate(name, tokenizer)
    log.warning("%s has no chat template; using a plain one: 'User:', 'Assistant:', closed by the end token", name)
    return ChatTemplate(name, tokenizer, start=bos_text(tokenizer), default=True)


def bos_text(tokenizer: Any) -> str:
    """Return the BOS token as text if the tokenizer puts it in front of plain text, else the empty string."""
    bos = tokenizer.bos_token_id
    return str(tokenizer.bos_token) if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else ""


def encodable(text: str) -> str:
    """`text` with lone surrogates replaced by `?`, one for one, so that spans keep their places."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


def _tools(text: str | None) -> list[Any] | None:
    if not text:
        return None
    try:
        tools = json.loads(text)
    except ValueError as error:
        raise RowRefused(f"the tools of the row are not JSON: {error}") from error
    return tools if isinstance(tools, list) else [tools]
