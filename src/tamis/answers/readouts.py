"""The answer of a model read off its next-token distribution: the probability of each label, without generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.errors import ModelError
from tamis.values import Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.answers.rating_prompts import RatingSet
    from tamis.models import ModelRef
    from tamis.values import Machine

_SPACED = ("▁", "Ġ")  # how vocabularies write a space in front of a word


def label_ids(name: str, labels: Sequence[str]) -> list[list[int]]:
    """Token ids that mean each label, with and without a space in front, found through the tokenizer of model `name`.

    A label that is no single token is refused: its first token would count other words too. ModelError names it.
    """
    from tamis.models import open_tokenizer

    tokenizer: Any = open_tokenizer(name)
    vocabulary = tokenizer.get_vocab()
    found = []
    for label in labels:
        tries = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (label, f" {label}")]
        ids = {vocabulary[text] for text in (label, *(mark + label for mark in _SPACED)) if text in vocabulary}
        ids |= {one[0] for one in tries if len(one) == 1}
        if not ids:
            pieces = tokenizer.convert_ids_to_tokens(tries[0])
            raise ModelError(
                f"the label {label!r} is no single token of {name!r} (it is {' + '.join(map(repr, pieces))}), so its "
                "probability cannot be read off one prediction; use labels that are, as the digits of most tokenizers"
            )
        found.append(sorted(ids))
    flat = [one for ids in found for one in ids]
    if len(set(flat)) < len(flat):
        raise ModelError(f"two of the labels {', '.join(map(repr, labels))} are the same token of {name!r}")
    return found


def masses(
    ref: ModelRef, prompts: Sequence[NDArray[np.int32]], ids: Sequence[Sequence[int]], on: Machine
) -> NDArray[np.float32]:
    """(p, labels + 1) float32: the probability that the next token is one of each label's, and of any other, last.

    Rows add up to 1. The head runs on the last position of every prompt alone.
    """
    import numpy as np
    import torch

    from tamis.batching import batches, pad, with_halving
    from tamis.models import cached_model
    from tamis.prediction.logits import selected_logits

    model = cached_model(ref, on.device)
    found = np.zeros((len(prompts), len(ids) + 1), np.float32)
    lengths = np.array([len(one) for one in prompts], np.int64)

    def run(batch: NDArray[np.int64]) -> bool:
        padded, real = pad([prompts[place] for place in batch], 0)
        last = np.zeros_like(real)
        last[np.arange(len(batch)), lengths[batch] - 1] = True
        with torch.inference_mode():
            tokens, at = (torch.from_numpy(array).to(on.device) for array in (padded, last))
            chances = torch.log_softmax(selected_logits(model, tokens, at).float(), -1)
            parts = [chances[:, list(group)].double().exp().sum(-1) for group in ids]
            labelled = torch.stack(parts, -1)
            whole = torch.cat([labelled, (1 - labelled.sum(-1, keepdim=True)).clamp(min=0)], -1)
        found[batch] = whole.float().cpu().numpy()
        return True

    for batch in batches(lengths, on.tokens_per_batch):
        for _ in with_halving(run, batch):
            pass
    return found


@dataclass(frozen=True)
class Readings:
    """What a set of prompts was answered with. `chances` (m, templates, labels + 1) float64; `owner` (m,) row of each.

    `reasons` (n,) uint8: why a row has none.
    """

    chances: NDArray[np.float64]
    owner: NDArray[np.int64]
    reasons: NDArray[np.uint8]

    @classmethod
    def of(cls, signal: Mapping[str, NDArray[Any]], one: RatingSet) -> Readings:
        """Those of a set in the signal `ratings`. ModelError where the signal holds other prompts."""
        import numpy as np

        if one.key not in signal:
            raise ModelError(f"the ratings measured hold no answers to the prompts {one.key!r}")
        chances = np.asarray(signal[one.key], np.float64)
        reasons = np.array(signal[f"{one.key}_reason"], np.uint8)
        rows = np.arange(len(reasons))
        offsets = signal.get(f"{one.key}_offsets")
        owner = rows if offsets is None else np.repeat(rows, np.diff(offsets))
        known = np.isfinite(chances).all(axis=(1, 2)) & (reasons[owner] == 0)
        lacking = (reasons == 0) & (np.bincount(owner[known], minlength=len(rows)) == 0)
        reasons[lacking] = np.where(signal["reason"][lacking] > 0, signal["reason"][lacking], Reason.NOT_MEASURED)
        return cls(chances[known], owner[known], reasons)

    def over_labels(self) -> NDArray[np.float64]:
        """(m, templates, labels): the distribution over the labels alone; NaN where they have no probability at all."""
        import numpy as np

        inside = self.chances[..., :-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            shares: NDArray[np.float64] = inside / inside.sum(-1, keepdims=True)
        return shares

    def expected(self, one: RatingSet) -> NDArray[np.float64]:
        """(m,) mean over templates of Σ_c value_c · P(c | some label)."""
        import numpy as np

        found: NDArray[np.float64] = (self.over_labels() @ np.array(one.values, np.float64)).mean(-1)
        return found

    def outside(self) -> NDArray[np.float64]:
        """(m,) mean over templates of the probability of all tokens that are no label."""
        found: NDArray[np.float64] = self.chances[..., -1].mean(-1)
        return found

    def by_row(self, values: NDArray[np.float64], turns: str = "mean") -> NDArray[np.float64]:
        """(n,) one number a row from those of its turns (m,): their `mean`, `sum`, `max` or `last`; NaN where none."""
        import numpy as np

        count = len(self.reasons)
        done = np.full(count, np.nan)
        if turns == "last":
            done[self.owner] = values  # the later one overwrites
        elif turns == "max":
            np.fmax.at(done, self.owner, values)
        else:
            parts = np.bincount(self.owner, minlength=count)
            total = np.bincount(self.owner, values, minlength=count)
            some = parts > 0
            done[some] = total[some] / (parts[some] if turns == "mean" else 1)
        return done
