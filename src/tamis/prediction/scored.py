"""Sequences of ids of which some tokens are scored, run in batches of like length: what every token pass stands on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.prediction.forward import Forward
    from tamis.prediction.pooled import How
    from tamis.rendering import Rendered
    from tamis.values import Machine


CACHED = 1024  # tokens of a batch on a CPU, at most: what a layer makes of more falls out of its cache


@dataclass(frozen=True)
class Scored:
    """Ids (t,) int32 of one forward pass, and the positions (k,) int64, from 1 on, of the tokens that are scored."""

    row: int
    ids: NDArray[np.int32]
    places: NDArray[np.int64]


def alone(row: int, one: Rendered, turn: int) -> tuple[Scored, NDArray[np.int64]]:
    """One turn of a rendered row behind its generation prompt, positions counted from zero.

    And (k,) int64, the places of the tokens scored so among all that the row has in spans of turns: a token without a
    predecessor is not scored. The sequence is no longer than the row: the prompt is cut first, at its start.
    """
    import numpy as np

    at = np.flatnonzero(one.turn == turn)
    body = one.ids[at[0] : at[-1] + 1]
    header = np.asarray(one.headers[turn], np.int32)
    header = header[max(0, len(header) + len(body) - len(one.ids)) :]
    places = at - at[0] + len(header)
    known = places >= 1
    among = np.cumsum(one.turn >= 0) - 1
    return Scored(row, np.concatenate([header, body]), places[known]), among[at[known]]


@dataclass
class Run:
    """Results of all sequences, flat, in their order: those of sequence i are `[offsets[i]:offsets[i + 1]]`.

    `nll` (p,) float32. Of the first `whole` sequences, `statistics` has the fields of `Predictions` (q, …), if `top` is
    not 0, and `pooled` a vector (rows, d) float32 for each way of pooling, zero where a row has no sequence.
    """

    sequences: Sequence[Scored]
    forward: Forward
    on: Machine
    whole: int = 0
    top: int = 0
    offsets: NDArray[np.int64] = field(init=False)
    nll: NDArray[np.float32] = field(init=False)
    statistics: dict[str, NDArray[Any]] = field(init=False)
    entropy: NDArray[np.float32] = field(init=False)  # before it is rounded
    pooled: Mapping[How, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import numpy as np

        self.offsets = np.concatenate([[0], np.cumsum([len(one.places) for one in self.sequences])]).astype(np.int64)
        self.nll = np.full(self.offsets[-1], np.nan, np.float32)
        count, top = int(self.offsets[self.whole]), min(self.top, self.forward.vocabulary)
        self.statistics = {
            "entropy": np.zeros(count, np.float16),
            "square": np.zeros(count, np.float32),
            "rank": np.zeros(count, np.int32),
            "hidden_norm": np.zeros(count, np.float16),
            "top_logprob": np.zeros((count, top), np.float32),
            "top_id": np.zeros((count, top), np.int32),
        }
        self.entropy = np.zeros(count, np.float32)

    def all(self) -> Run:
        """Run every batch; returns itself."""
        import numpy as np

        from tamis.batching import batches, with_halving

        lengths = np.array([len(one.ids) for one in self.sequences], np.int64)
        most = self.on.tokens_per_batch if self.on.device != "cpu" else min(self.on.tokens_per_batch, CACHED)
        for batch in batches(lengths, most):
            for _ in with_halving(self._batch, batch):
                pass
        return self

    def sums(self, rows: int, some: slice) -> NDArray[np.float64]:
        """(rows,) float64 nats of every row, over some of the sequences."""
        import numpy as np

        totals = [self.nll[start:stop].sum(dtype=np.float64) for start, stop in itertools.pairwise(self.offsets)]
        done = np.zeros(rows, np.float64)
        np.add.at(done, [one.row for one in self.sequences[some]], totals[some])
        return done

    def _batch(self, batch: NDArray[np.int64]) -> bool:
        import numpy as np
        import torch

        from tamis.batching import pad
        from tamis.prediction.pooled import pool

        padded, mask = pad([self.sequences[place].ids for place in batch], 0)
        with torch.inference_mode():
            ids, real = (torch.from_numpy(array).to(self.on.device) for array in (padded, mask))
            hidden = self.forward.hidden(ids, real)
            whole = batch < self.whole
            self._score(ids, hidden, batch, np.flatnonzero(whole & (self.top > 0)), self.top)
            self._score(ids, hidden, batch, np.flatnonzero(~whole | (self.top == 0)), 0)
            keep = np.flatnonzero(whole)
            if self.pooled and len(keep):
                rows = [self.sequences[place].row for place in batch[keep]]
                states, kept = (hidden, real) if len(keep) == len(batch) else (hidden[keep], real[keep])
                for how, into in self.pooled.items():
                    into[rows] = pool(states, kept, how).cpu().numpy()
        return True

    def _score(
        self, ids: torch.Tensor, hidden: torch.Tensor, batch: NDArray[np.int64], some: NDArray[np.int64], top: int
    ) -> None:
        """Score the tokens of some sequences of a batch."""
        import numpy as np
        import torch

        chosen = [self.sequences[place].places for place in batch[some]]
        if not sum(map(len, chosen)):
            return
        rows = np.repeat(some, [len(places) for places in chosen])
        into = np.concatenate([np.arange(self.offsets[place], self.offsets[place + 1]) for place in batch[some]])
        at, places = (torch.from_numpy(array).to(ids.device) for array in (rows, np.concatenate(chosen)))
        if not top:
            self.nll[into] = self.forward.losses(ids, hidden, at, places).cpu().numpy()
            return
        found = self.forward.predictions(ids, hidden, at, places, top)
        self.nll[into], self.entropy[into] = found.nll.cpu().numpy(), found.entropy.cpu().numpy()
        for name, array in self.statistics.items():
            values = getattr(found, name).cpu().numpy()
            array[into] = np.minimum(values, np.finfo(np.float16).max) if array.dtype == np.float16 else values
