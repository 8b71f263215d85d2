"""Exact match of generated answers with the reference."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.errors import DataError, RecipeError
from tamis.values import Items, Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.models import ModelRef
    from tamis.pool import Pool
    from tamis.values import Machine, Row

log = logging.getLogger(__name__)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+")


@dataclass(frozen=True)
class _Question:
    """A row to answer: ids of its prompt, the token that ends its answer, and what is extracted from the reference."""

    key: str
    prompt: list[int]
    closing: int
    wanted: str


@dataclass(frozen=True, kw_only=True)
class ExactMatch:
    """Share of held-out rows whose greedy answer equals the reference after extraction; higher is better.

    `extract` is applied to both: `last-number` (of either text, compared as a number), `whole` (the text, white space
    collapsed) or `after-marker` (what follows the last `marker`, as GSM8K writes `#### 42`). An answer in which nothing
    is found is wrong. `max_new_tokens`: longest answer generated. Left out and logged are rows without an answer at the
    end, whose reference holds nothing to extract, or whose prompt leaves no room for the answer in `max_tokens`.
    """

    revision: ClassVar[int] = 1

    max_new_tokens: int = 64
    extract: Literal["last-number", "whole", "after-marker"] = "last-number"
    marker: str = "####"

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise RecipeError(f"exact-match: max_new_tokens must be at least 1, got {self.max_new_tokens}")

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the model and the rows."""
        return frozenset()

    def evaluate(self, model: ModelRef, pool: Pool, on: Machine, /) -> Items:
        """One result per row that can be answered, in the order of `pool`: 1 if right, else 0."""
        import numpy as np

        from tamis.batching import batches, with_halving
        from tamis.engine import set_threads
        from tamis.models import cached_model

        set_threads(on.threads)
        questions = [one for row in pool if (one := self._question(row, model)) is not None]
        if not questions:
            raise DataError("no evaluation row can be answered: each needs an answer to compare with")
        opened = cached_model(model, on.device)
        values = np.zeros(len(questions), np.float64)

        def run(batch: NDArray[np.int64]) -> bool:
            chosen = [questions[place] for place in batch]
            texts = _generate(opened, model.name, chosen, self.max_new_tokens, on.device)
            right = [self.find(text) == one.wanted for text, one in zip(texts, chosen, strict=True)]
            values[batch] = np.asarray(right, np.float64)
            return True

        lengths = np.array([len(one.prompt) + self.max_new_tokens for one in questions], np.int64)
        for batch in batches(lengths, on.tokens_per_batch):
            for _ in with_halving(run, batch):
                pass
        return Items(
            keys=[one.key for one in questions],
            values=values,
            weights=np.ones(len(questions), np.float64),
            metric="exact match",
            unit="share of answers",
            lower_is_better=False,
        )

    def find(self, text: str) -> str | None:
        """Return what counts of a text, in a canonical form; None where there is nothing."""
        if self.extract == "whole":
            return " ".join(text.split()) or None
        if self.extract == "after-marker":
            _, found, after = text.rpartition(self.marker)
            whole = " ".join(after.split())
            return (_number(whole) or whole or None) if found else None
        numbers = _NUMBER.findall(text)
        return _number(numbers[-1]) if numbers else None

    def _question(self, row: Row, model: ModelRef) -> _Question | None:
        from tamis.rendering import generation_prompt, render

        wanted = self.find(str(row.messages[-1].get("content") or "")) if row.kind == "chat" else None
        rendered = render(row, model)
        if wanted is None or rendered.reason:
            why = rendered.reason.text or "no reference can be extracted from it"
            log.warning("evaluation row %s:%d is left out: %s", row.file, row.position, why)
            return None
        prompt = generation_prompt(row.messages, model, tools=row.tools)
        if len(prompt) + self.max_new_tokens > model.max_tokens:
            log.warning(
                "evaluation row %s:%d is left out: %d tokens of prompt and %d of answer do not fit in %d",
                *(row.file, row.position, len(prompt), self.max_new_tokens, model.max_tokens),
            )
            return None
        scored = rendered.ids[rendered.turn >= 0]
        return _Question(row.key, prompt, int(scored[-1]), wanted)


def _number(text: str) -> str | None:
    """Write a number in canonical form: no separators, sign of zero or trailing zeros; None if the text is none."""
    text = text.strip().rstrip(".").replace("$", "")
    if not _NUMBER.fullmatch(text):
        return None
    return format(Decimal(text.replace(",", "")).normalize() + 0, "f")


def _generate(model: Any, name: str, questions: list[_Question], longest: int, device: str) -> list[str]:
    """Greedy answers, padded on the left; the settings of the model's own folder (sampling, penalties) do not count."""
    import torch
    from transformers import GenerationConfig

    from tamis.models import open_tokenizer

    tokenizer: Any = open_tokenizer(name)
    special = set(tokenizer.all_special_ids)
    stops = {one.closing for one in questions if one.closing in special} | {tokenizer.eos_token_id} - {None}
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(stops, default=0)
    width = max(len(one.prompt) for one in questions)
    ids = torch.tensor([[filler] * (width - len(one.prompt)) + one.prompt for one in questions], device=device)
    real = torch.tensor([[0] * (width - len(one.prompt)) + [1] * len(one.prompt) for one in questions], device=device)
    settings = GenerationConfig(
        max_new_tokens=longest,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        eos_token_id=sorted(stops) or None,
        pad_token_id=filler,
        use_cache=True,
    )
    with torch.inference_mode():
        grown = model.generate(input_ids=ids, attention_mask=real, generation_config=settings)
    texts: list[str] = tokenizer.batch_decode(grown[:, width:], skip_special_tokens=True)
    return texts
