"""The token signal: what the model predicts at every scored token, in one or two views, from one batched pass.

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

    from tamis.pool import Shard
    from tamis.prediction.pooled import How
    from tamis.prediction.scored import Run, Scored
    from tamis.rendering import Rendered
    from tamis.values import Arrays, Machine
    from tamis.views import ShardSignals

Loss = Literal["none", "response", "all"]
_RICHER: tuple[Loss, ...] = ("none", "response", "all")
_POOLED: dict[str, How] = {"pooled": "weighted", "pooled_mean": "mean", "pooled_last": "last"}
MOST = 64  # of the most probable tokens


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Losses, entropies and ranks of tokens, in one or two views, and pooled states, in one pass.

    `loss`: which tokens are scored: none, those of the response, or all. `alone`: score those of the response in the
    second view too. `top`: how many of the most probable tokens are kept at every place. `pooled`: keep one vector per
    row, the mean of the last hidden states weighted by position (RDS+, Ivison et al. 2025, arXiv:2503.01807);
    `pooled_mean`: their plain mean; `pooled_last`: that of the last token; all of unit length.
    """

    model: ModelRef
    loss: Loss = "response"
    alone: bool = False
    top: int = 2
    pooled: bool = False
    pooled_mean: bool = False
    pooled_last: bool = False
    revision: ClassVar[int] = 3
    unaligned: ClassVar[tuple[str, ...]] = (
        *("nll", "entropy", "square", "rank", "hidden_norm", "top_logprob", "top_id", "turn", "alone_nll"),
    )

    def __post_init__(self) -> None:
        if not 1 <= self.top <= MOST:
            raise RecipeError(f"tokens: `top` is 1 to {MOST}, got {self.top}")
        if self.alone and self.loss == "none":
            raise RecipeError("tokens: `alone` scores responses; set `loss` to response or all")

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def merge(self, other: Tokens) -> Tokens:
        """Return the poorest pass that gives what both give. Raises RecipeError if the models differ."""
        if self.model != other.model:
            raise RecipeError(f"passes over {self.model.name!r} and {other.model.name!r} cannot be one: models differ")
        return dataclasses.replace(
            self,
            loss=max(self.loss, other.loss, key=_RICHER.index),
            top=max(one.top for one in (self, other)),
            **{name: getattr(self, name) or getattr(other, name) for name in ("alone", *_POOLED)},
        )

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays of one shard of n rows; nats; sums are of the float32 values, in float64.

        Ragged over the m scored tokens in order, by `nll_offsets` (n + 1,): `nll` float32; of the prediction of which
        the token came `entropy` float16, `square` float32 (Σp²), `rank` int32 of the token (1: none is more probable),
        `hidden_norm` float16 of the hidden state that makes it, `top_logprob` float32 and `top_id` int32 (m, top), the
        most probable tokens first; `turn` int16 (-1: not of a response; only with loss `all`). Per row:
        `response_nll_sum`, `response_count`, `entropy_sum` (response tokens); with loss `all` `prompt_nll_sum` and
        `prompt_count` over all other tokens.

        With `alone`: ragged over response tokens, by `alone_offsets`, `alone_nll` float32, NaN where the token has no
        predecessor in the alone view; per row `alone_nll_sum` and `ifd_response_sum` (of the full view) over the
        `alone_count` tokens that both views score.

        With `pooled`, `pooled_mean`, `pooled_last`: (n, d) float32 each, zero where the row has no token. `reason`
        uint8 (`Reason`): why the response has no value.
        """
        import numpy as np

        from tamis.engine import set_threads
        from tamis.models import cached_model
        from tamis.prediction.forward import forward_of
        from tamis.prediction.scored import Run
        from tamis.rendering import render_all

        kept = [name for name in _POOLED if getattr(self, name)]
        if self.loss == "none" and not kept:
            raise RecipeError(
                "the tokens pass has nothing to measure: set `loss`, `pooled`, `pooled_mean` or `pooled_last`"
            )
        rendered = render_all(shard.read(), self.model)
        set_threads(on.threads)
        forward = forward_of(cached_model(self.model, on.device))
        views = [_full(row, one, self.loss) for row, one in enumerate(rendered)]
        full = [one for one in views if len(one.places) or (kept and len(one.ids))]
        alone = _turns(rendered) if self.alone else []
        pooled = {name: np.zeros((len(rendered), forward.width), np.float32) for name in kept}
        run = Run(
            sequences=[*full, *(one for one, _ in alone)],
            forward=forward,
            on=on,
            whole=len(full),
            top=self.top if self.loss != "none" else 0,
            pooled={_POOLED[name]: into for name, into in pooled.items()},
        ).all()
        reason = np.array([int(one.reason) for one in rendered], np.uint8)
        if self.loss == "none":
            return {"reason": reason, **pooled}
        arrays = _of_tokens(rendered, views, run, self.loss)
        if self.alone:
            arrays |= _of_alone(rendered, alone, run, arrays)
        sums = [array for name, array in arrays.items() if name.endswith("_sum")]
        reason[~np.all(np.isfinite(sums), axis=0)] = Reason.NOT_FINITE
        return {**arrays, "reason": reason, **pooled}


def _full(row: int, one: Rendered, loss: Loss) -> Scored:
    """The whole row."""
    import numpy as np

    from tamis.prediction.scored import Scored

    places = np.flatnonzero(one.turn >= 0) if loss == "response" else np.arange(1, len(one.ids))
    return Scored(row, one.ids, places[:0] if loss == "none" else places)


def _turns(rendered: Sequence[Rendered]) -> list[tuple[Scored, NDArray[np.int64]]]:
    """The turns of all rows alone; text without turns has no prompt to be taken away."""
    import numpy as np

    from tamis.prediction.scored import alone

    return [
        alone(row, one, turn)
        for row, one in enumerate(rendered)
        if one.headers
        for turn in np.unique(one.turn[one.turn >= 0])
    ]


def _of_tokens(rendered: Sequence[Rendered], views: Sequence[Scored], run: Run, loss: Loss) -> dict[str, NDArray[Any]]:
    """Arrays of the full view; its tokens come first among the results, in order."""
    import numpy as np

    offsets = _offsets([len(one.places) for one in views])
    nll = run.nll[: offsets[-1]]
    turns = [one.turn[view.places] for one, view in zip(rendered, views, strict=True)]
    turn = np.concatenate([np.zeros(0, np.int16), *turns])
    response = turn >= 0
    arrays: dict[str, NDArray[Any]] = {
        "nll_offsets": offsets,
        "nll": nll,
        "turn": turn,
        **run.statistics,
        "response_nll_sum": _sums(nll, offsets, response),
        "response_count": _sums(response, offsets, response).astype(np.int64),
        "entropy_sum": _sums(run.entropy, offsets, response),
    }
    if loss == "all":
        arrays |= {
            "prompt_nll_sum": _sums(nll, offsets, ~response),
            "prompt_count": _sums(~response, offsets, ~response).astype(np.int64),
        }
    return arrays


def _of_alone(
    rendered: Sequence[Rendered],
    turns: Sequence[tuple[Scored, NDArray[np.int64]]],
    run: Run,
    full: dict[str, NDArray[Any]],
) -> dict[str, NDArray[Any]]:
    """Arrays of the second view, and of the first over the tokens that both score."""
    import numpy as np

    offsets = _offsets([int((one.turn >= 0).sum()) for one in rendered])
    nll = np.full(offsets[-1], np.nan, np.float32)
    into = np.concatenate([np.zeros(0, np.int64), *[offsets[one.row] + at for one, at in turns]])
    nll[into] = run.nll[len(full["nll"]) :]
    paired = np.zeros(len(nll), np.bool_)
    paired[into] = True
    return {
        "alone_offsets": offsets,
        "alone_nll": nll,
        "alone_nll_sum": _sums(nll, offsets, paired),
        "alone_count": _sums(paired, offsets, paired).astype(np.int64),
        "ifd_response_sum": _sums(full["nll"][full["turn"] >= 0], offsets, paired),
    }


def _offsets(counts: Sequence[int]) -> NDArray[np.int64]:
    import numpy as np

    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _sums(values: NDArray[Any], offsets: NDArray[np.int64], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sums by row of the values at some places, in float64."""
    import numpy as np

    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    sums = np.bincount(owner[where], values[where].astype(np.float64), len(offsets) - 1)
    return sums.astype(np.float64, copy=False)
