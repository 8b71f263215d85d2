"""What a model predicts at chosen positions, from logits that come in blocks of the vocabulary and are never kept.

A statistic of a whole prediction (normaliser, entropy, Σp², rank of a token, the k most probable) is a running one over
blocks, put together in float64. On a CPU a compiled loop reads each block while it lies in cache; torch does it on a
GPU, and where numba is not installed.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Predictions:
    """Statistics of the predictions of m tokens, tensors on one device.

    `nll` (m,) float32 nats of the token that came. `entropy` (m,) float32 nats. `square` (m,) float32 Σp² in (0, 1].
    `rank` (m,) int32: 1 and the number of tokens that are strictly more probable. `hidden_norm` (m,) float32: norm of
    the hidden state. `top_logprob` (m, k) float32, falling, and `top_id` (m, k) int32: the k most probable tokens.
    """

    nll: torch.Tensor
    entropy: torch.Tensor
    square: torch.Tensor
    rank: torch.Tensor
    hidden_norm: torch.Tensor
    top_logprob: torch.Tensor
    top_id: torch.Tensor


class Running(Protocol):
    """Statistics of m predictions that are made of blocks of logits (m, c), float32, from token `start` on."""

    def take(self, logits: torch.Tensor, start: int) -> None:
        """Take in a block."""
        ...

    def nll(self) -> torch.Tensor:
        """(m,) float32 nats of the gold tokens."""
        ...

    def all(self, hidden_norm: torch.Tensor) -> Predictions:
        """Every statistic; only of a running one that was begun with `top`."""
        ...


def begin(gold: torch.Tensor, target: torch.Tensor, top: int) -> Running:
    """Begin m predictions: `gold` (m,) float32 logits of the tokens `target` (m,) int64. `top` 0: losses alone."""
    return _Looped(gold, target, top) if gold.device.type == "cpu" and _compiled() else _Torch(gold, target, top)


@functools.cache
def _compiled() -> bool:
    return importlib.util.find_spec("numba") is not None


class _Looped:
    """By compiled loops, on a CPU."""

    def __init__(self, gold: torch.Tensor, target: torch.Tensor, top: int) -> None:
        import numpy as np

        count = len(gold)
        self.gold, self.target = gold.numpy(), target.numpy().astype(np.int32)
        self.peak = np.full(count, -np.inf)
        self.sums = np.zeros((count, 3))
        self.rank = np.ones(count, np.int32)
        self.top = np.full((count, top), -np.inf, np.float32)
        self.top_id = np.zeros((count, top), np.int32)

    def take(self, logits: torch.Tensor, start: int) -> None:
        """Take in a block."""
        from tamis.prediction.prediction_loops import add_all, add_total

        block = logits.contiguous().numpy()
        if not self.top.shape[1]:
            add_total(block, self.peak, self.sums[:, 0])
            return
        add_all(block, start, self.gold, self.target, self.peak, self.sums, self.rank, self.top, self.top_id)

    def nll(self) -> torch.Tensor:
        """(m,) float32 nats of the gold tokens."""
        import numpy as np
        import torch

        return torch.from_numpy((self._log_total() - self.gold).astype(np.float32))

    def all(self, hidden_norm: torch.Tensor) -> Predictions:
        """Every statistic."""
        import numpy as np
        import torch

        def single(values: Any) -> torch.Tensor:
            return torch.from_numpy(values.astype(np.float32))

        log_total = self._log_total()
        total, weighted, squared = self.sums.T
        with np.errstate(invalid="ignore", divide="ignore"):
            entropy, square = np.maximum(np.log(total) - weighted / total, 0.0), squared / total**2
        return Predictions(
            nll=self.nll(),
            entropy=single(entropy),
            square=single(square),
            rank=torch.from_numpy(self.rank),
            hidden_norm=hidden_norm,
            top_logprob=single(self.top - log_total[:, None]),
            top_id=torch.from_numpy(self.top_id),
        )

    def _log_total(self) -> Any:
        import numpy as np

        with np.errstate(invalid="ignore", divide="ignore"):
            return self.peak + np.log(self.sums[:, 0])


class _Torch:
    """By torch, on any device."""

    def __init__(self, gold: torch.Tensor, target: torch.Tensor, top: int) -> None:
        import torch

        self.gold, self.target, self.top = gold, target, top
        self.peak = torch.full_like(gold, -torch.inf, dtype=torch.float64)
        self.sums = torch.zeros((3, len(gold)), dtype=torch.float64, device=gold.device)
        self.rank = torch.ones(len(gold), dtype=torch.int32, device=gold.device)
        self.best = torch.empty((len(gold), 0), device=gold.device)
        self.best_id = torch.empty((len(gold), 0), dtype=torch.int64, device=gold.device)

    def take(self, logits: torch.Tensor, start: int) -> None:
        """Take in a block."""
        import torch

        if self.top:
            self._order(logits, start)
        peak = torch.maximum(self.peak, logits.amax(-1).double())
        safe = peak.masked_fill(peak == -torch.inf, 0.0)  # nothing but excluded tokens so far
        z = logits - safe[:, None].float()
        w = z.exp()
        fall = (self.peak - safe).clamp(min=-1e4)
        shrink = fall.exp()
        total, weighted, squared = self.sums
        if self.top:
            weighted = (weighted + total * fall) * shrink + torch.linalg.vecdot(w, z.clamp_(min=-1e4)).double()
            squared = squared * shrink**2 + torch.linalg.vecdot(w, w).double()
        self.sums = torch.stack([total * shrink + w.sum(-1).double(), weighted, squared])
        self.peak = peak

    def _order(self, logits: torch.Tensor, start: int) -> None:
        """Count the logits above the gold token's, and keep the largest."""
        import torch

        own = (self.target - start).clamp(0, logits.shape[1] - 1)
        inside = own == self.target - start
        again = inside & (logits.gather(1, own[:, None])[:, 0] > self.gold)  # another rounding of the same logit
        self.rank += ((logits > self.gold[:, None]).sum(-1) - again.long()).int()
        high, place = logits.topk(min(self.top, logits.shape[1]))
        best, ids = torch.cat([self.best, high], 1), torch.cat([self.best_id, place + start], 1)
        self.best, order = best.topk(min(self.top, best.shape[1]))
        self.best_id = ids.gather(1, order)

    def nll(self) -> torch.Tensor:
        """(m,) float32 nats of the gold tokens."""
        return (self._log_total() - self.gold.double()).float()

    def all(self, hidden_norm: torch.Tensor) -> Predictions:
        """Every statistic."""
        total, weighted, squared = self.sums
        return Predictions(
            nll=self.nll(),
            entropy=(total.log() - weighted / total).clamp(min=0.0).float(),
            square=(squared / total**2).float(),
            rank=self.rank,
            hidden_norm=hidden_norm,
            top_logprob=(self.best.double() - self._log_total()[:, None]).float(),
            top_id=self.best_id.int(),
        )

    def _log_total(self) -> torch.Tensor:
        return self.peak + self.sums[0].log()


def joined(parts: Sequence[Predictions]) -> Predictions:
    """The statistics of several lists of tokens, one after another; at least one list."""
    import torch

    names = [one.name for one in dataclasses.fields(Predictions)]
    return Predictions(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})
