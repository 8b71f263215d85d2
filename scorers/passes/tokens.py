"""The token signal: negative log-likelihood and entropy of every scored token, in two views, from one batched pass.

Views: *full*, the rendered row; *alone*, every assistant turn by itself behind its generation prompt, positions counted
from zero. Both score the same token ids, so that ratios between them (IFD) compare like with like.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.errors import RecipeError
from tamis.models import ModelRef
from tamis.values import Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.forward import Forward
    from tamis.pool import Shard
    from tamis.rendering import Rendered
    from tamis.values import Arrays, Machine
    from tamis.views import ShardSignals

Loss = Literal["none", "response", "all"]
_RICHER: tuple[Loss, ...] = ("none", "response", "all")


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Losses and entropies of tokens, given the prompt and alone, and pooled hidden states, in one pass.

    `loss`: which tokens are scored: none, those of the response, or all. `pooled`: keep one vector per row, the mean of
    the last hidden states weighted by position (RDS+, Ivison et al. 2025, arXiv:2503.01807), of unit length.
    """

    model: ModelRef
    loss: Loss = "response"
    pooled: bool = False
    revision: ClassVar[int] = 1
    unaligned: ClassVar[tuple[str, ...]] = ("nll", "entropy", "turn", "alone_nll")

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def merge(self, other: Tokens) -> Tokens:
        """Return the poorest pass that gives what both give. Raises RecipeError if the models differ."""
        if self.model != other.model:
            raise RecipeError(f"passes over {self.model.name!r} and {other.model.name!r} cannot be one: models differ")
        loss = max(self.loss, other.loss, key=_RICHER.index)
        return dataclasses.replace(self, loss=loss, pooled=self.pooled or other.pooled)

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays of one shard of n rows; nats; sums are of the float32 values, in float64.

        Ragged over scored tokens in order, by `nll_offsets` (n + 1,): `nll` float32, `entropy` float16, `turn` int16
        (-1: not of a response; only with loss `all`). Ragged over response tokens, by `alone_offsets`: `alone_nll`
        float32, NaN where the token has no predecessor in the alone view. Per row: `response_nll_sum`,
        `response_count`, `entropy_sum` (response tokens); `alone_nll_sum` and `ifd_response_sum` over the
        `alone_count` tokens that both views score; with loss `all` `prompt_nll_sum` and `prompt_count` over all other
        tokens. With `pooled`, `pooled` (n, d) float32, zero where the row has no token. `reason` uint8 (`Reason`): why
        the response has no value.
        """
        from tamis.engine import set_threads
        from tamis.forward import forward_of
        from tamis.models import cached_model
        from tamis.rendering import render_all

        if self.loss == "none" and not self.pooled:
            raise RecipeError("the tokens pass has nothing to measure: set `loss` or `pooled`")
        rendered = render_all(shard.read(), self.model)
        sequences = _sequences(rendered, self.loss, pooled=self.pooled)
        set_threads(on.threads)
        model = cached_model(self.model, on.device)
        run = _Run.over(sequences, forward_of(model), on, len(rendered) if self.pooled else None)
        run.all()
        arrays = _rows(rendered, sequences, run, self.loss) if self.loss != "none" else _no_rows(rendered)
        if self.pooled:
            arrays["pooled"] = run.pooled
        return arrays


@dataclass(frozen=True)
class _Sequence:
    """Ids for one forward pass. `places`: scored positions (from 1). `at`: those tokens' places in the rendered row."""

    row: int
    alone: bool
    ids: NDArray[np.int32]
    places: NDArray[np.int64]
    at: NDArray[np.int64]


def _sequences(rendered: Sequence[Rendered], loss: Loss, *, pooled: bool) -> list[_Sequence]:
    import numpy as np

    done = []
    for row, one in enumerate(rendered):
        scored = np.flatnonzero(one.turn >= 0) if loss == "response" else np.arange(1, len(one.ids))
        if loss == "none":
            scored = scored[:0]
        if len(one.ids) and (pooled or len(scored)):
            done.append(_Sequence(row, False, one.ids, scored, scored))
        if loss != "none" and one.headers:  # text without turns has no prompt to be taken away
            done += [_alone(row, one, turn) for turn in np.unique(one.turn[one.turn >= 0])]
    return done


def _alone(row: int, one: Rendered, turn: int) -> _Sequence:
    """One turn behind its own header, no longer than the row may be: the header is cut first, at its start."""
    import numpy as np

    at = np.flatnonzero(one.turn == turn)
    body = one.ids[at[0] : at[-1] + 1]
    header = np.asarray(one.headers[turn], np.int32)
    header = header[max(0, len(header) + len(body) - len(one.ids)) :]
    places = at - at[0] + len(header)
    known = places >= 1
    return _Sequence(row, True, np.concatenate([header, body]), places[known], at[known])


@dataclass
class _Run:
    """Results of all sequences, flat: sequence i's are `[offsets[i]:offsets[i + 1]]`."""

    sequences: Sequence[_Sequence]
    forward: Forward
    on: Machine
    offsets: NDArray[np.int64]
    nll: NDArray[np.float32]
    entropy: NDArray[np.float32]
    pooled: NDArray[np.float32]

    @classmethod
    def over(cls, sequences: Sequence[_Sequence], forward: Forward, on: Machine, pooled_rows: int | None) -> _Run:
        import numpy as np

        offsets = np.concatenate([[0], np.cumsum([len(one.places) for one in sequences])]).astype(np.int64)
        flat = np.full(offsets[-1], np.nan, np.float32)
        pooled = np.zeros((pooled_rows or 0, forward.width if pooled_rows is not None else 0), np.float32)
        return cls(sequences, forward, on, offsets, flat, flat.copy(), pooled)

    def all(self) -> None:
        """Run every batch."""
        import numpy as np

        from tamis.batching import batches, with_halving

        lengths = np.array([len(one.ids) for one in self.sequences], np.int64)
        for batch in batches(lengths, self.on.tokens_per_batch):
            for _ in with_halving(self._batch, batch):
                pass

    def _batch(self, batch: NDArray[np.int64]) -> bool:
        import numpy as np
        import torch

        from tamis.batching import pad
        from tamis.pooled import position_weighted

        chosen = [self.sequences[place] for place in batch]
        padded, mask = pad([one.ids for one in chosen], 0)
        rows = np.repeat(np.arange(len(chosen)), [len(one.places) for one in chosen])
        places = np.concatenate([one.places for one in chosen])
        into = np.concatenate([np.arange(self.offsets[place], self.offsets[place + 1]) for place in batch])
        with torch.inference_mode():
            ids, real = (torch.from_numpy(array).to(self.on.device) for array in (padded, mask))
            hidden = self.forward.hidden(ids, real)
            if len(into):
                index = (torch.from_numpy(array).to(self.on.device) for array in (rows, places))
                nll, entropy = self.forward.losses(ids, real, hidden, *index)
                self.nll[into], self.entropy[into] = nll.cpu().numpy(), entropy.cpu().numpy()
            if len(self.pooled):
                keep = [place for place, one in enumerate(chosen) if not one.alone]
                vectors = position_weighted(hidden[keep], real[keep])
                self.pooled[[chosen[place].row for place in keep]] = vectors.cpu().numpy()
        return True


def _no_rows(rendered: Sequence[Rendered]) -> dict[str, NDArray[Any]]:
    import numpy as np

    return {"reason": np.array([int(one.reason) for one in rendered], np.uint8)}


def _rows(
    rendered: Sequence[Rendered], sequences: Sequence[_Sequence], run: _Run, loss: Loss
) -> dict[str, NDArray[Any]]:
    """Flat results put back in the order of rows and tokens, with sums."""
    import numpy as np

    starts = np.concatenate([[0], np.cumsum([len(one.ids) for one in rendered])]).astype(np.int64)
    turn = np.concatenate([one.turn for one in rendered]) if len(rendered) else np.zeros(0, np.int16)
    full, alone, entropy = (np.full(starts[-1], np.nan, np.float32) for _ in range(3))
    scored, paired = np.zeros(starts[-1], np.bool_), np.zeros(starts[-1], np.bool_)
    for place, one in enumerate(sequences):
        at, got = starts[one.row] + one.at, slice(run.offsets[place], run.offsets[place + 1])
        if one.alone:
            alone[at], paired[at] = run.nll[got], True
        else:
            full[at], entropy[at], scored[at] = run.nll[got], run.entropy[got], True
    owner = np.repeat(np.arange(len(rendered)), np.diff(starts))
    response = turn >= 0

    def total(values: NDArray[np.float32], where: NDArray[np.bool_]) -> NDArray[np.float64]:
        sums = np.bincount(owner[where], weights=values[where].astype(np.float64), minlength=len(rendered))
        return sums.astype(np.float64, copy=False)

    def count(where: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(owner[where], minlength=len(rendered)).astype(np.int64)

    def offsets(where: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(count(where))]).astype(np.int64)

    arrays: dict[str, NDArray[Any]] = {
        "nll_offsets": offsets(scored),
        "nll": full[scored],
        "entropy": entropy[scored].astype(np.float16),
        "turn": turn[scored],
        "alone_offsets": offsets(response),
        "alone_nll": alone[response],
        "response_nll_sum": total(full, response),
        "response_count": count(response),
        "entropy_sum": total(entropy, response),
        "alone_nll_sum": total(alone, paired),
        "alone_count": count(paired),
        "ifd_response_sum": total(full, paired),
    }
    if loss == "all":
        prompt = scored & ~response
        arrays |= {"prompt_nll_sum": total(full, prompt), "prompt_count": count(prompt)}
    return arrays | {"reason": _reasons(rendered, arrays)}


def _reasons(rendered: Sequence[Rendered], arrays: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    import numpy as np

    reasons = np.array([int(one.reason) for one in rendered], np.uint8)
    sums = ("response_nll_sum", "alone_nll_sum", "entropy_sum", "prompt_nll_sum")
    broken = ~np.all([np.isfinite(arrays[name]) for name in sums if name in arrays], axis=0)
    reasons[broken] = Reason.NOT_FINITE
    return reasons
