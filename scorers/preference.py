"""Columns of preference pairs, a view for each answer: `.chosen` and `.rejected`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.views import ShardSignals

SIDES = ("chosen", "rejected")


@dataclass(frozen=True, kw_only=True)
class PairPerplexity:
    """Perplexity of the chosen and of the rejected answer of a pair, given the prompt.

    exp of the mean negative log-likelihood per answer token, range [1, inf). Rows that are no pairs have no value.
    As `perplexity`, by answer; no source of its own, and no published value.
    """

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The pair signal."""
        return frozenset({Need(kind="signal", name="pairs")})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Views `chosen` and `rejected`, in perplexity."""
        import numpy as np

        signal = have["pairs"]
        columns = {}
        for side in SIDES:
            with np.errstate(over="ignore", invalid="ignore"):
                mean = signal[f"{side}_nll_sum"] / np.maximum(signal[f"{side}_count"], 1)
                values = np.exp(mean).astype(np.float32)
            columns[side] = _column(values, signal["reason"], "perplexity")
        return columns


@dataclass(frozen=True, kw_only=True)
class PairLength:
    """Length in tokens of the chosen and of the rejected answer of a pair, and their difference.

    `difference` is chosen minus rejected: where it leans one way over a whole pool, preference tuning learns length
    (Singhal et al., 2023, arXiv:2310.03716). No published value.
    """

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths signal."""
        return frozenset({Need(kind="signal", name="lengths")})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Views `chosen`, `rejected` and `difference`, in tokens."""
        import numpy as np

        lengths = have["lengths"]
        sides = {side: np.asarray(lengths[f"{side}_tokens"]).astype(np.float32) for side in SIDES}
        reasons = np.asarray(lengths["reason"]).copy()
        reasons[np.asarray(lengths["pair"]) == 0] = Reason.WRONG_KIND
        views = {**sides, "difference": sides["chosen"] - sides["rejected"]}
        return {view: _column(values, reasons, "tokens") for view, values in views.items()}


@dataclass(frozen=True, kw_only=True)
class PairMargin:
    """Implicit reward margin of a pair: how far the model prefers the chosen answer over a reference.

    β [(log π(chosen) - log π_ref(chosen)) - (log π(rejected) - log π_ref(rejected))], logs summed over answer tokens:
    the logit of DPO (Rafailov et al. 2023, arXiv 2305.18290). π is the model of the run, π_ref the one named by
    `reference`. Below 0 the model would order the pair the other way round; of a model that is its own reference every
    margin is 0. `average` divides each sum by its tokens. No published value; range (-inf, inf).
    """

    revision: ClassVar[int] = 1

    beta: float = 0.1
    average: bool = False

    @property
    def needs(self) -> frozenset[Need]:
        """The pair signal, by the model and by the reference."""
        return frozenset({Need(kind="signal", name="pairs"), Need(kind="signal", name="pairs", by="reference")})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Column `score`, the margin; `chosen` and `rejected`, the implicit rewards; all in nats times β.

        `policy` and `reference`: log-ratio of the chosen to the rejected answer under either model, in nats.
        """
        import numpy as np

        model, reference = (_log_likelihoods(have[name], self.average) for name in ("pairs", "pairs@reference"))
        rewards = {side: self.beta * (model[side] - reference[side]) for side in SIDES}
        views = {
            "score": (rewards["chosen"] - rewards["rejected"], "reward"),
            **{s: (rewards[s], "reward") for s in SIDES},
        }
        views["policy"] = (model["chosen"] - model["rejected"], "nats")
        views["reference"] = (reference["chosen"] - reference["rejected"], "nats")
        reason = _either(have)
        return {name: _column(values.astype(np.float32), reason, unit) for name, (values, unit) in views.items()}


@dataclass(frozen=True, kw_only=True)
class PairUncertainty:
    """Uncertainty of a pair in APL: how near the implicit rewards of its two answers are.

    Muldrew et al. 2024, *Active Preference Learning for Large Language Models* (arXiv 2402.08114): u = 1 - 2
    |sigmoid(r_a - r_b) - ½|, r the implicit reward of the model over the `reference` at `beta` (0.2 there). APL's
    `certainty` keeps the pairs of lowest u, which do not depend on which answer was chosen. Where the model still is
    its reference, every u is 1. In [0, 1].
    """

    revision: ClassVar[int] = 1

    beta: float = 0.2

    @property
    def needs(self) -> frozenset[Need]:
        """Those of the margin."""
        return PairMargin(beta=self.beta).needs

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Column `score`, from 0 (certain) to 1."""
        import numpy as np

        model, reference = (_log_likelihoods(have[name], False) for name in ("pairs", "pairs@reference"))
        rewards = {side: self.beta * (model[side] - reference[side]) for side in SIDES}
        values = uncertainty(rewards["chosen"] - rewards["rejected"])
        return {"score": _column(values.astype(np.float32), _either(have), "uncertainty")}


def uncertainty(margin: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - 2 |sigmoid(margin) - ½| in [0, 1], which is 1 - tanh(|margin| / 2).

    >>> import numpy as np
    >>> uncertainty(np.array([0, -0.5, 3])).round(6).tolist()
    [1.0, 0.755081, 0.094852]
    """
    import numpy as np

    values: NDArray[np.float64] = 1 - np.tanh(np.abs(margin) / 2)
    return values


def _log_likelihoods(signal: Mapping[str, NDArray[np.float64]], average: bool) -> dict[str, NDArray[np.float64]]:
    """(n,) log-likelihood of either answer, summed over its tokens or their mean."""
    import numpy as np

    return {
        side: -np.asarray(signal[f"{side}_nll_sum"], np.float64)
        / (np.maximum(signal[f"{side}_count"], 1) if average else 1)
        for side in SIDES
    }


def _either(have: ShardSignals) -> NDArray[np.uint8]:
    """(n,) why the model, or else the reference, has no value."""
    import numpy as np

    own, other = (np.asarray(have[name]["reason"], np.uint8) for name in ("pairs", "pairs@reference"))
    return np.where(own > 0, own, other)


def _column(values: NDArray[np.float32], reason: NDArray[np.uint8], unit: str) -> Column:
    import numpy as np

    reasons = np.asarray(reason).copy()
    reasons[(reasons == 0) & ~np.isfinite(values)] = Reason.NOT_FINITE
    values[reasons != 0] = np.nan
    return Column(values=values, unit=unit, reasons=reasons)
