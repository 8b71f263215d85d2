"""The ratings signal: what a model, or a judge, answers to questions about a row, read off one prediction each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.answers.rating_prompts import RatingSet, rating_set
from tamis.answers.sampling import Sampling
from tamis.errors import RecipeError
from tamis.models import ModelRef
from tamis.values import Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.pool import Shard
    from tamis.values import Arrays, Machine, Row
    from tamis.views import ShardSignals


ONE = Sampling(samples=1)


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """Next-token probabilities of digits or words that answer questions about a row; no generation.

    `sets`: names of shipped prompts (selectit, alpagasus, yes-no, deita-complexity, deita-quality and these two with
    -chat; with `+generated` they are asked about the answer that the pass `generations` drew), or sets of your own. The
    question is a user turn in the model's chat template, in front of its generation prompt; the bare text where a model
    brings no template, or the set says so. A label is all its tokens, with a space in front or without; one that is no
    single token is refused. One forward pass a question; logits of the vocabulary are made at its last position alone.
    """

    model: ModelRef
    sets: tuple[str | RatingSet, ...] = ("selectit",)
    sampling: Sampling = ONE
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.sets:
            raise RecipeError("ratings: `sets` names no prompts")
        if not self._generated:  # so that it leaves the identity of other ratings alone
            object.__setattr__(self, "sampling", ONE)

    @property
    def _generated(self) -> bool:
        return any(one.of == "generated" for one in self._found())

    @property
    def forwards(self) -> float:
        """Forward passes over the tokens of the rows, for plans; the wording of the questions comes on top."""
        return float(sum(len(one.templates) for one in self._found()))

    @property
    def serves_less(self) -> bool:
        """Whether its signal may stand in for a poorer one: not where answers were drawn, which settings change."""
        return not self._generated

    @property
    def needs(self) -> frozenset[Need]:
        """The generated answers, where a set asks about them."""
        drawn = Need(kind="signal", name="generations", settings=(("sampling", self.sampling),))
        return frozenset({drawn} if self._generated else ())

    def merge(self, other: Ratings) -> Ratings:
        """Return the pass that asks what both ask. RecipeError if models or ways to sample differ."""
        if self.model != other.model:
            raise RecipeError(f"passes over {self.model.name!r} and {other.model.name!r} cannot be one: models differ")
        sampling = other.sampling if other._generated else self.sampling
        if self._generated and other._generated:
            sampling = self.sampling.merge(other.sampling)
        return dataclasses.replace(self, sets=tuple(dict.fromkeys((*self.sets, *other.sets))), sampling=sampling)

    def _found(self) -> list[RatingSet]:
        return list({one.key: one for one in map(rating_set, self.sets)}.values())

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays of one shard of n rows.

        For a set asked once a row, with the key NAME, `NAME` (n, templates, labels + 1) float32, NaN where the row has
        a reason: probabilities of the labels and, last, of every other token; they add up to 1. For a set asked of
        turns, the same by turn, (m, …), by `NAME_offsets` (n + 1,). `NAME_reason` (n,) uint8: why a row has none.
        `reason` (n,) the first of these; `parameters` (n,) int64, the size of the model that answered, in every row.
        Prompts longer than the model's maximum are not cut, for the question stands at their end: CUT.
        """
        import numpy as np

        from tamis.answers.readouts import label_ids, masses
        from tamis.engine import set_threads
        from tamis.models import cached_model

        rows, sets = shard.read(), self._found()
        ids = {one.key: label_ids(self.model.name, one.labels) for one in sets}
        set_threads(on.threads)
        reason = np.zeros(len(rows), np.uint8)
        arrays: dict[str, NDArray[Any]] = {}
        answers = self._answers(rows, have)
        for one in sets:
            asked = _Asked.about(rows, one, self.model, answers)
            found = masses(self.model, asked.prompts, ids[one.key], on)
            arrays |= asked.arrays(found.reshape(-1, len(one.templates), len(one.labels) + 1))
            reason = np.where(reason > 0, reason, arrays[f"{one.key}_reason"]).astype(np.uint8)
        size = cached_model(self.model, on.device).num_parameters()
        return {**arrays, "reason": reason, "parameters": np.full(len(rows), size, np.int64)}

    def _answers(self, rows: Sequence[Row], have: ShardSignals) -> list[str | None]:
        """The first generated answer of every row, where one is asked about."""
        from tamis.answers.sampling import Samples

        if not self.needs:
            return [None] * len(rows)
        signal = have["generations"]
        drawn, reasons = Samples(signal), signal["reason"].tolist()
        found: list[str | None] = [None] * len(rows)
        for place in (place for place, reason in enumerate(reasons) if not reason):
            best = drawn.greedy(place)
            found[place] = drawn.texts(place)[0] if best is None else best
        return found


@dataclass
class _Asked:
    """The prompts of a set: `templates` in a row for every exchange, and the exchanges in the order of rows."""

    one: RatingSet
    prompts: list[NDArray[np.int32]]
    counts: NDArray[np.int64]
    reason: NDArray[np.uint8]

    @classmethod
    def about(cls, rows: Sequence[Row], one: RatingSet, ref: ModelRef, answers: Sequence[str | None]) -> _Asked:
        import numpy as np

        from tamis.answers.rating_prompts import exchanges
        from tamis.chat_template import RowRefused
        from tamis.rendering import longest

        limit = longest(ref)
        asked = cls(one, [], np.zeros(len(rows), np.int64), np.zeros(len(rows), np.uint8))
        for place, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            found = exchanges(row, one, answer)
            if isinstance(found, Reason):
                asked.reason[place] = found
                continue
            texts = [text for asking, said in found for text in one.texts(asking, said or "")]
            try:
                prompts = _tokens(texts, ref.name, raw=one.raw)
            except RowRefused:
                asked.reason[place] = Reason.TEMPLATE
                continue
            if max(map(len, prompts)) > limit:
                asked.reason[place] = Reason.CUT
                continue
            asked.prompts += prompts
            asked.counts[place] = len(found)
        return asked

    def arrays(self, found: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """As the pass hands them out; `found` (m, templates, labels + 1)."""
        import numpy as np

        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        broken = ~np.isfinite(found).all(axis=(1, 2))
        self.reason[owner[broken]] = Reason.NOT_FINITE
        name = self.one.key
        done: dict[str, NDArray[Any]] = {f"{name}_reason": self.reason}
        if self.one.per == "turn":
            keep = self.reason[owner] == 0
            counts = np.bincount(owner[keep], minlength=len(self.counts))
            return done | {
                name: found[keep],
                f"{name}_offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            }
        wide = np.full((len(self.counts), *found.shape[1:]), np.nan, np.float32)
        wide[owner] = found
        wide[self.reason > 0] = np.nan
        return done | {name: wide}


def _tokens(texts: Sequence[str], name: str, *, raw: bool) -> list[NDArray[np.int32]]:
    """Ids of every text as a user turn with the generation prompt behind it, or bare. RowRefused by the template."""
    import numpy as np

    from tamis.chat_template import bos_text, chat_template, encodable

    template = chat_template(name)
    tokenizer: Any = template.tokenizer
    if raw or template.default:
        laid = [bos_text(tokenizer) + encodable(text) for text in texts]
    else:
        laid = [template.prompt([{"role": "user", "content": text}]) for text in texts]
    found = tokenizer(laid, add_special_tokens=False, verbose=False)["input_ids"]
    return [np.asarray(ids, np.int32) for ids in found]
