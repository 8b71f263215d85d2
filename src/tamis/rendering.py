"""Rows to tokens: the chat template rendered once, tokenised once, and the exact spans of the assistant's turns.

Span rules (DESIGN §7): (1) the assistant mask of the template if it has generation marks; (2) otherwise the text of
`messages[:i]` with the generation prompt and of `messages[:i + 1]`: the second must start with the first and the full
rendering with the second, else a ModelError names the template; (3) the closing token belongs to the span. A token
that straddles a border is scored iff it starts inside. The set of scored tokens is the set of trained tokens.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tamis.chat_template import Laid, RowRefused, Turn, bos_text, chat_template, encodable
from tamis.errors import DataError
from tamis.values import Message, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.models import ModelRef
    from tamis.training import TrainingPairs, TrainingRows
    from tamis.values import Kind, Row

log = logging.getLogger(__name__)
Side = Literal["chosen", "rejected"]


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """One row as the model sees it, after truncation.

    `ids` (t,) int32. `turn` (t,) int16: -1 for tokens that are not scored, else the number of the assistant turn whose
    response token it is. `headers[k]`: ids of the generation prompt in front of turn k (with the BOS token in front, if
    the template writes one): the context of the response-alone view. `full_tokens`: length before truncation.
    `reason`: why no token is scored.
    """

    ids: NDArray[np.int32]
    turn: NDArray[np.int16]
    headers: tuple[tuple[int, ...], ...] = ()
    full_tokens: int = 0
    reason: Reason = Reason.NONE

    @property
    def truncated(self) -> bool:
        """Whether tokens were cut."""
        return self.full_tokens > len(self.ids)


def render(row: Row, ref: ModelRef, *, side: Side = "chosen") -> Rendered:
    """One row as the model sees it; see `render_all`."""
    return render_all([row], ref, side=side)[0]


def render_all(rows: Sequence[Row], ref: ModelRef, *, side: Side = "chosen") -> list[Rendered]:
    """Render the rows as the model sees them, in order, with one call of the tokenizer.

    chat and rated: every assistant turn is scored. pair: prompt and the `side` asked for, whose assistant turns alone
    are scored. text: no template, BOS in front if the tokenizer puts it there, all tokens scored, no header. prompt:
    the prompt, nothing scored. A token without a predecessor (the first of the sequence) is never scored. Rows that
    the template refuses come back without tokens. Raises ModelError where the template has no exact spans (DESIGN §7).
    """
    return render_laid([_lay(row, ref, side) for row in rows], ref, [row.kind for row in rows])


def render_laid(laid: Sequence[Laid | Reason], ref: ModelRef, kinds: Sequence[Kind] | None = None) -> list[Rendered]:
    """What is laid out as text, or the reason why it is not, in tokens, with one call of the tokenizer.

    The tokens that start in a span of a turn are scored. `kinds`: those of the rows; without, conversations.
    """
    encoded = tokenise([item.text if isinstance(item, Laid) else "" for item in laid], ref)
    done = []
    for kind, item, (ids, starts) in zip(kinds or ["chat"] * len(laid), laid, encoded, strict=True):
        done.append(_assemble(kind, item, ids, starts, ref) if isinstance(item, Laid) else _empty(item))
    return done


def render_rows(
    rows: Sequence[Row],
    ref: ModelRef,
    *,
    row_weights: NDArray[np.float32] | None = None,
    token_weights: Sequence[NDArray[np.float32]] | None = None,
    side: Side = "chosen",
) -> TrainingRows:
    """Render rows for a trainer. `row_weights` (n,); `token_weights` one array per row, a weight per token left.

    `side`: which answer of a pair.

    Raises DataError that names the rows of which no token can be trained, and those whose weights do not fit.
    """
    import numpy as np

    from tamis.training import TrainingRows

    rendered = render_all(rows, ref, side=side)
    faults = [f"{_where(row)}: {one.reason.text}" for row, one in zip(rows, rendered, strict=True) if one.reason]
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise DataError(f"{len(faults)} of {len(rows)} rows cannot be trained on: {'; '.join(faults[:5])}{more}")
    lengths = [len(one.ids) for one in rendered]
    if token_weights is not None and [len(weights) for weights in token_weights] != lengths:
        raise DataError(f"token weights do not fit: expected one per token of each of the {len(rows)} rows")
    if row_weights is not None and len(row_weights) != len(rows):
        raise DataError(f"got {len(row_weights)} row weights for {len(rows)} rows")
    turn = np.concatenate([one.turn for one in rendered]) if rendered else np.zeros(0, np.int16)
    return TrainingRows(
        ids=np.concatenate([one.ids for one in rendered]) if rendered else np.zeros(0, np.int32),
        trained=turn >= 0,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        row_weights=None if row_weights is None else np.asarray(row_weights, np.float32),
        token_weights=None if not token_weights else np.concatenate(token_weights).astype(np.float32),
    )


def render_pairs(
    rows: Sequence[Row], ref: ModelRef, *, row_weights: NDArray[np.float32] | None = None
) -> TrainingPairs:
    """Render both sides of preference pairs for a trainer.

    Raises DataError that names rows of another kind, and pairs with a side of which no token can be trained.
    """
    from tamis.training import TrainingPairs

    strange = [row for row in rows if row.kind != "pair"]
    if strange:
        raise DataError(
            f"{len(strange)} of {len(rows)} rows are no preference pairs (the first: {_where(strange[0])}, kind "
            f"{strange[0].kind}); filter with where: \"kind == 'pair'\", or map the fields chosen and rejected"
        )
    sides: tuple[Side, Side] = ("chosen", "rejected")
    chosen, rejected = (render_rows(rows, ref, row_weights=row_weights, side=side) for side in sides)
    return TrainingPairs(chosen=chosen, rejected=rejected)


def generation_prompt(messages: Sequence[Message], ref: ModelRef, *, tools: str | None = None) -> list[int]:
    """Ids of the messages before the last assistant turn (all, if there is none) and the generation prompt, uncut.

    Raises DataError where the template refuses the messages.
    """
    places = [place for place, message in enumerate(messages) if message.get("role") == "assistant"]
    context = messages[: places[-1]] if places else messages
    try:
        text = chat_template(ref.name).prompt(context, tools)
    except RowRefused as error:
        raise DataError(str(error)) from error
    ids, _ = tokenise([text], ref)[0]
    return [int(token) for token in ids]


@functools.lru_cache(maxsize=64)
def longest(ref: ModelRef) -> int:
    """Tokens at which rows are cut: `max_tokens`, or the positions that the model has, if they are fewer."""
    from tamis.models import folder_of

    try:
        config = json.loads((folder_of(ref.name) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a tokenizer alone has no positions; opening the model will tell of worse
        return ref.max_tokens
    config = config.get("text_config") or config
    positions = config.get("max_position_embeddings") or config.get("n_positions") or ref.max_tokens
    if positions < ref.max_tokens:
        log.warning("%s has %d positions: rows are cut there, not at %d", ref.name, positions, ref.max_tokens)
    return min(ref.max_tokens, int(positions))


def _where(row: Row) -> str:
    return f"{row.file}:{row.position} (key {row.key[:8]})" if row.file else f"key {row.key[:8]}"


def _empty(reason: Reason) -> Rendered:
    import numpy as np

    return Rendered(ids=np.zeros(0, np.int32), turn=np.zeros(0, np.int16), reason=reason)


def _lay(row: Row, ref: ModelRef, side: Side) -> Laid | Reason:
    """Lay the row out as text with its spans, or say why it has none."""
    template = chat_template(ref.name)
    if row.kind == "text":
        return _lay_text(row, bos_text(template.tokenizer))
    try:
        if row.kind == "prompt":
            return Laid(template.prompt(row.messages, row.tools, generate=False))
        if row.kind == "pair":
            answer = row.chosen if side == "chosen" else row.rejected
            return template.lay((*row.messages, *answer), row.tools, first=len(row.messages))
        return template.lay(row.messages, row.tools)
    except RowRefused as error:
        log.debug("%s: %s", _where(row), error)
        return Reason.TEMPLATE


def _lay_text(row: Row, bos: str) -> Laid:
    text = encodable("\n".join(str(message.get("content") or "") for message in row.messages))
    start = "" if text.startswith(bos) else bos
    return Laid(start + text, (Turn((0, 0), ((0, len(start + text)),)),))


def tokenise(texts: Sequence[str], ref: ModelRef) -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """Ids (t,) int32 and true first character (t,) int64 of every token of every text, without special tokens added."""
    import numpy as np

    tokenizer: Any = chat_template(ref.name).tokenizer
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    done = []
    for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        bounds = np.asarray(offsets, np.int64).reshape(-1, 2)
        done.append((np.asarray(ids, np.int32), _true_starts(ids, bounds, tokenizer)))
    return done


def _true_starts(ids: Sequence[int], bounds: NDArray[np.int64], tokenizer: Any) -> NDArray[np.int64]:
    """Return the starts of the tokens, with the leading spaces that byte-level tokenizers trim off put back."""
    import numpy as np

    starts, ends = bounds[:, 0].copy(), bounds[:, 1]
    before = np.concatenate([[0], ends[:-1]])
    for place in np.flatnonzero(starts > before):
        piece = str(tokenizer.convert_ids_to_tokens(ids[int(place)]))
        spaces = len(piece) - len(piece.lstrip("\u0120"))
        starts[place] = max(before[place], starts[place] - spaces)
    return starts


def _assemble(kind: str, laid: Laid, ids: NDArray[np.int32], starts: NDArray[np.int64], ref: ModelRef) -> Rendered:
    import numpy as np

    tokenizer: Any = chat_template(ref.name).tokenizer
    turn = np.full(len(ids), -1, np.int16)
    headers = []
    for number, one in enumerate(laid.turns):
        for low, high in one.spans:
            turn[(starts >= low) & (starts < high)] = number
        if kind != "text":
            headers.append(_header_ids(one, ids, starts, tokenizer.bos_token_id))
    limit = longest(ref)
    kept = slice(None, limit) if ref.truncation == "right" else slice(-limit, None)
    cut_turn = turn[kept].copy()
    cut_turn[:1] = -1  # no predecessor: never predicted
    reason = Reason.NONE
    if kind == "prompt":
        reason = Reason.NEEDS_ANSWER
    elif not (cut_turn >= 0).any():
        reason = Reason.ALL_MASKED
    return Rendered(ids=ids[kept].copy(), turn=cut_turn, headers=tuple(headers), full_tokens=len(ids), reason=reason)


def _header_ids(turn: Turn, ids: NDArray[np.int32], starts: NDArray[np.int64], bos: int | None) -> tuple[int, ...]:
    import numpy as np

    inside = np.flatnonzero((starts >= turn.header[0]) & (starts < turn.header[1]))
    header = tuple(int(token) for token in ids[inside])
    if len(ids) and bos is not None and ids[0] == bos and (not len(inside) or inside[0] > 0):
        return (bos, *header)
    return header
