"""In-context utility, measured: how far the gold response is from certain, with and without a demonstration.

d = ||1 - p(gold tokens)||_2 / sqrt(T), teacher-forced (DELIFT, Agarwal et al., ICLR 2025, arXiv 2411.04425), and the
negative log-likelihood beside it. The keys and values of a demonstration are computed once for all of its queries.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.prediction.forward import Forward
    from tamis.ragged import Ragged
    from tamis.values import Machine

LOGITS = 1 << 21  # logits held at once: 8 MiB in float32, which a processor's cache may hold


@dataclass(frozen=True)
class Measured:
    """By pair: `distance` (p,) float32 in [0, 1], `nll` (p,) float32 in nats, summed over the response's T tokens.

    NaN where demonstration and query together are longer than the model's maximum.
    """

    distance: NDArray[np.float32]
    nll: NDArray[np.float32]


@dataclass(frozen=True)
class Pairs:
    """Queries behind prefixes. `pairs` (p, 2) int64: number of the prefix, number of the query.

    `prefixes[a]` and `queries[b]` are int32 token ids, `scored[b]` is bool over the tokens of query b, its first token
    left out; `limit` is the longest sequence that the model takes.
    """

    prefixes: Ragged
    queries: Ragged
    scored: Ragged
    pairs: NDArray[np.int64]
    limit: int


# Places of the pairs of some prefixes -> those to be measured, round by round, with the results so far in sight.
Rounds = Callable[["NDArray[np.int64]", Measured], Iterable["NDArray[np.int64]"]]


def measure_pairs(forward: Forward, what: Pairs, on: Machine, rounds: Rounds | None = None) -> Measured:
    """Distances and losses of all pairs, in their order; of those that `rounds` asks for, where it is given.

    Prefixes of like length are taken together and their keys and values kept; queries of like length then follow in
    batches of at most `tokens_per_batch` tokens, prefix included. A model whose cache is not plain keys and values
    (sliding windows, recurrent layers), or is no decoder with a head, sees every pair whole. Softmax in float32.
    """
    import numpy as np

    from tamis.batching import batches, with_halving

    found = Measured(*(np.full(len(what.pairs), np.nan, np.float32) for _ in range(2)))
    before = what.prefixes.lengths
    whole = before[what.pairs[:, 0]] + what.queries.lengths[what.pairs[:, 1]]
    fits = whole <= what.limit
    used = np.unique(what.pairs[fits, 0])
    read = functools.partial(_Prefixes.read, forward, what, _keeps_plainly(forward), on)
    for batch in batches(np.maximum(before[used], 1), on.tokens_per_batch):
        for run in with_halving(read, used[batch]):
            mine = np.flatnonzero(fits & np.isin(what.pairs[:, 0], run.numbers))
            longest = int(before[run.numbers].max())  # what prefixes are padded to
            for asked in [mine] if rounds is None else rounds(mine, found):
                for queries in batches(longest + what.queries.lengths[what.pairs[asked, 1]], on.tokens_per_batch):
                    for places, nll in with_halving(run.follow, asked[queries]):
                        _reduce(found, what, places, nll)
    return found


def _reduce(found: Measured, what: Pairs, places: NDArray[np.int64], nll: NDArray[np.float32]) -> None:
    """Write distances and sums of a batch, in float64."""
    import numpy as np

    counts = np.array([int(what.scored[query].sum()) for query in what.pairs[places, 1]])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    wide = nll.astype(np.float64)
    far = np.add.reduceat((1 - np.exp(-wide)) ** 2, starts)
    found.distance[places] = np.sqrt(far / counts)
    found.nll[places] = np.add.reduceat(wide, starts)


def _keeps_plainly(forward: Forward) -> bool:
    """Whether every layer of the model keeps keys and values of all tokens, and nothing else."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if forward.whole:
        return False
    cache = DynamicCache(config=forward.model.config)
    layers = int(forward.model.config.get_text_config().num_hidden_layers)
    return len(cache.layers) in (0, layers) and all(type(layer) is DynamicLayer for layer in cache.layers)


@dataclass(frozen=True)
class _Prefixes:
    """Prefixes of one batch with what the model keeps of them. `numbers` (m,): which; `real` (m, t); `kept` by layer.

    Without `kept` they are sent with every query.
    """

    forward: Forward
    what: Pairs
    numbers: NDArray[np.int64]
    real: torch.Tensor
    kept: list[tuple[torch.Tensor, torch.Tensor]] | None
    device: str

    @classmethod
    def read(cls, forward: Forward, what: Pairs, keeps: bool, on: Machine, numbers: NDArray[np.int64]) -> _Prefixes:
        """Run the prefixes once."""
        import torch
        from transformers.cache_utils import DynamicCache

        from tamis.batching import pad

        padded, mask = pad([what.prefixes[number] for number in numbers], 0)
        ids, real = (torch.from_numpy(array).to(on.device) for array in (padded, mask))
        kept = None
        if keeps and ids.shape[1]:
            cache = DynamicCache(config=forward.model.config)
            with torch.inference_mode():
                forward.decoder(input_ids=ids, attention_mask=real.long(), past_key_values=cache, use_cache=True)
            layers: Any = cache.layers
            kept = [(layer.keys, layer.values) for layer in layers]
        return cls(forward, what, numbers, real, kept, on.device)

    def follow(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The pairs, and the losses of their scored tokens one pair after another."""
        import numpy as np
        import torch

        from tamis.batching import pad

        what, pairs = self.what, self.what.pairs[places]
        order = np.argsort(self.numbers)  # numbers stand in the order of length
        owners = order[np.searchsorted(self.numbers[order], pairs[:, 0])]
        scored = [np.flatnonzero(what.scored[query]) for query in pairs[:, 1]]
        asked = [what.queries[query] for query in pairs[:, 1]]
        # the last scored token and what follows it predict nothing
        sequences = [ids[: places[-1]] for ids, places in zip(asked, scored, strict=True)]
        offset = np.zeros(len(pairs), np.int64)
        if self.kept is None:
            fronts = [what.prefixes[number] for number in pairs[:, 0]]
            offset = np.array([len(front) for front in fronts], np.int64)
            sequences = [np.concatenate([a, b]) for a, b in zip(fronts, sequences, strict=True)]
        padded, mask = pad(sequences, 0)
        rows = np.repeat(np.arange(len(pairs)), [len(places) for places in scored])
        columns = np.concatenate(scored) + offset[rows]
        wanted = np.concatenate([ids[places] for ids, places in zip(asked, scored, strict=True)]).astype(np.int64)
        ids, real, at, gold, owner = (
            torch.from_numpy(array).to(self.device)
            for array in (padded, mask, np.stack([rows, columns - 1]), wanted, owners)
        )
        with torch.inference_mode():
            states = self._states(ids, real, owner)
            nll = _gold(self.forward, states, at[0], at[1], gold)
        return places, nll.cpu().numpy()

    def _states(self, ids: torch.Tensor, real: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        """Hidden states (b, t, d) of the tokens sent; logits where the model is called as one piece."""
        import torch
        from transformers.cache_utils import DynamicCache

        forward = self.forward
        if forward.whole:
            logits: torch.Tensor = forward.model(input_ids=ids, attention_mask=real.long(), use_cache=False).logits
            return logits
        if self.kept is None:
            return forward.hidden(ids, real)
        before = self.real[owner]
        cache: Any = DynamicCache([(None, None)] * len(self.kept))
        for layer, (keys, values) in zip(cache.layers, self.kept, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys[owner], values[owner]
        positions = before.sum(1, keepdim=True) + torch.arange(ids.shape[1], device=ids.device)
        mask = torch.cat([before, real], 1).long()
        states: torch.Tensor = forward.decoder(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )[0]
        return states


def _gold(
    forward: Forward, states: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, gold: torch.Tensor
) -> torch.Tensor:
    """(m,) float32 negative log-likelihood (nats) of the `gold` tokens after the states at (rows, columns)."""
    import torch

    nll = torch.empty(len(gold), dtype=torch.float32, device=gold.device)
    size = max(64, LOGITS // int(forward.model.config.get_text_config().vocab_size))
    for start in range(0, len(gold), size):
        part = slice(start, start + size)
        chosen = states[rows[part], columns[part]]
        logits = chosen.float() if forward.whole else forward.logits(chosen)
        nll[part] = logits.logsumexp(-1) - logits.gather(-1, gold[part, None])[:, 0]
    return nll
