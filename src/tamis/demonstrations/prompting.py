"""Rows laid out as demonstrations and as queries, in token ids: every text is tokenised once, pairs are put together.

A query behind a demonstration is `demonstrations[j]` followed by `queries[i]`; without one it is `bare` followed by
`queries[i]`. So the tokens of a query are the same in both, and what stands before them may be kept for all queries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tamis.values import Reason, text_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.models import ModelRef
    from tamis.rendering import Rendered
    from tamis.values import Row

Layout = Literal["chat", "instruction", "released", "nuggets", "nuggets-released"]
_TASK = "Instruction:\nAnswer the query clearly and concisely; follow the example where there is one.\n\n\n"
# the wording of DELIFT's released code (agarwalishika/DELIFT), which differs with and without an example
_RELEASED_BARE = "Instruction: Please generate a response to the following query.\n\n\nQuery: "
_RELEASED = (
    "Instruction:\nUse the following example as a guide to answer the query in the same format and style, providing a "
    "clear and concise response.\n\n\n"
)


@dataclass(frozen=True)
class _Wording:
    """Plain texts of a layout: what stands before everything (`opened`: BOS first), and without a demonstration.

    `end`: an end token behind the response; `border`: one before it too.
    """

    head: str
    bare: str | None  # None: as with a demonstration
    example: str
    question: str
    opened: bool = True
    border: bool = False
    end: bool = True


_NUGGET = _Wording("", None, "Instruction:\n{ask}\nResponse:\n{answer}", "Instruction:\n{ask}\nResponse:\n", end=False)
_WORDINGS: dict[str, _Wording] = {
    "instruction": _Wording(_TASK, None, "Example:\n{ask}\n{answer}\n\n\n", "Query:\n{ask}\n"),
    "released": _Wording(
        _RELEASED, _RELEASED_BARE, "Example:\n{ask}\n{answer}\n\n\nQuery:\n", "{ask}\n", opened=False, border=True
    ),
    "nuggets": _NUGGET,
    "nuggets-released": dataclasses.replace(_NUGGET, bare=""),
}


@dataclass(frozen=True)
class Prompts:
    """Rows in token ids. `bare` (b,), `demonstrations[j]`, `queries[i]` int32; `scored[i]` bool over `queries[i]`.

    `reason` (n,) uint8 says why a row has no place in any pair; its lists are empty then. The first token of a query is
    never scored.
    """

    bare: NDArray[np.int32]
    demonstrations: list[NDArray[np.int32]]
    queries: list[NDArray[np.int32]]
    scored: list[NDArray[np.bool_]]
    reason: NDArray[np.uint8]


def prompts_of(rows: Sequence[Row], ref: ModelRef, layout: Layout) -> Prompts:
    """Lay the rows out.

    `chat`: the demonstration is an earlier conversation in the model's own chat template, every assistant turn of a row
    is scored. `instruction`: one plain text for both, with the last assistant turn and the end token as the response.
    `released`: the plain texts of DELIFT's released code, one with and another without an example, an end token on
    either side of the response and no BOS; its borders are tokenised apart. `nuggets`: the plain text of Nuggets, in
    which a query follows its demonstration without a border, and no end token; `nuggets-released` leaves BOS out where
    there is no demonstration, as its code does. A row that does not fit whole into the model's maximum has the reason
    CUT.
    """
    return _chat(rows, ref) if layout == "chat" else _plain(rows, ref, layout)


def _chat(rows: Sequence[Row], ref: ModelRef) -> Prompts:
    import numpy as np

    from tamis.chat_template import chat_template
    from tamis.rendering import render_all

    rendered = render_all(rows, ref)
    bos = chat_template(ref.name).tokenizer.bos_token_id
    opened = [bool(len(one.ids)) and bos is not None and int(one.ids[0]) == bos for one in rendered]
    bare = np.array([bos] if any(opened) else [], np.int32)
    cut = [_without(one, int(start)) for one, start in zip(rendered, opened, strict=True)]
    reason = np.array([_reason(one) for one in rendered], np.uint8)
    return _usable(bare, [np.concatenate([bare, ids]) for ids, _ in cut], cut, reason)


def _without(one: Rendered, start: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    scored = one.turn[start:] >= 0
    scored[:1] = False
    return one.ids[start:], scored


def _reason(one: Rendered) -> Reason:
    return Reason.CUT if one.truncated and not one.reason else one.reason


def _plain(rows: Sequence[Row], ref: ModelRef, layout: Layout) -> Prompts:
    import numpy as np

    from tamis.chat_template import bos_text, chat_template, encodable
    from tamis.rendering import longest

    tokenizer: Any = chat_template(ref.name).tokenizer
    texts = [_texts(row) for row in rows]
    reason = np.array([text if isinstance(text, Reason) else Reason.NONE for text in texts], np.uint8)
    asked = [("", "") if isinstance(text, Reason) else text for text in texts]

    def tokens(parts: Sequence[str]) -> list[NDArray[np.int32]]:
        found = tokenizer([encodable(part) for part in parts], add_special_tokens=False, verbose=False)["input_ids"]
        return [np.asarray(ids, np.int32) for ids in found]

    wording = _WORDINGS[layout]
    head = tokens([(bos_text(tokenizer) if wording.opened else "") + wording.head])[0]
    bare = head if wording.bare is None else tokens([wording.bare])[0]
    shown = [
        np.concatenate([head, ids])
        for ids in tokens([wording.example.format(ask=ask, answer=answer) for ask, answer in asked])
    ]
    questions = tokens([wording.question.format(ask=ask) for ask, _ in asked])
    end = np.array([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id], np.int32)
    border, end = (end if wording.border else end[:0]), (end if wording.end else end[:0])
    queries = []
    for question, answer in zip(questions, tokens([answer for _, answer in asked]), strict=True):
        before = np.concatenate([question, border])
        ids = np.concatenate([before, answer, end])
        queries.append((ids, np.arange(len(ids)) >= max(1, len(before))))
    limit = longest(ref)
    long = np.array([len(bare) + len(ids) > limit for ids, _ in queries], np.bool_)
    reason[(reason == 0) & long] = Reason.CUT
    return _usable(bare, shown, queries, reason)


def _texts(row: Row) -> tuple[str, str] | Reason:
    """What is asked and what is answered: the last assistant turn, or the chosen answer of a pair."""
    messages = (*row.messages, *row.chosen) if row.kind == "pair" else row.messages
    places = [place for place, message in enumerate(messages) if message.get("role") == "assistant"]
    if row.kind == "text":
        return Reason.WRONG_KIND
    if row.kind == "prompt" or not places:
        return Reason.NEEDS_ANSWER
    asked = "\n".join(text for message in messages[: places[-1]] if (text := text_of(message)))
    return asked, text_of(messages[places[-1]])


def _usable(
    bare: NDArray[np.int32],
    shown: Sequence[NDArray[np.int32]],
    queries: Sequence[tuple[NDArray[np.int32], NDArray[np.bool_]]],
    reason: NDArray[np.uint8],
) -> Prompts:
    import numpy as np

    empty = np.array([not scored.any() for _, scored in queries], np.bool_)
    reason[(reason == 0) & empty] = Reason.ALL_MASKED
    keep = [slice(None) if one == 0 else slice(0, 0) for one in reason.tolist()]
    return Prompts(
        bare,
        [ids[part] for ids, part in zip(shown, keep, strict=True)],
        [ids[part] for (ids, _), part in zip(queries, keep, strict=True)],
        [scored[part] for (_, scored), part in zip(queries, keep, strict=True)],
        reason,
    )
