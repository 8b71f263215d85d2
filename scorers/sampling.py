"""Uncertainty seen in several answers of the model to one prompt: entropies over samples, and how far they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.answers.sampling import Sampling
from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.answers.sampling import Samples
    from tamis.views import ShardSignals

Form = Literal["discrete", "rao", "mc", "kuhn"]
KUHN_SHIFT = 5.0  # of the code of Kuhn et al., without a meaning


@dataclass(frozen=True, kw_only=True)
class SampledEntropy:
    """Predictive entropy over the model's sampled answers, by sequence and by token.

    `sequence` (PE) = -mean of log p(answer), nats per sequence, which grows with length; `token` (LNPE, Malinin & Gales
    2021; `regular_entropy` in semantic entropy's code) = -mean of log p(answer) / tokens. Log-probabilities are the
    model's at temperature 1, the closing token included; drawn at another temperature the mean is biased.
    """

    sampling: Sampling = field(default_factory=Sampling)
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The generations."""
        return _needs(self.sampling)

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `sequence` and `token`, in nats."""
        import numpy as np

        def both(samples: Samples, row: int) -> tuple[float, float]:
            nll, tokens = samples.of("nll", row), np.maximum(samples.of("tokens", row), 1)
            return float(nll.mean()), float((nll / tokens).mean())

        return _scored(have, both, {"sequence": "nats per sequence", "token": "nats per token"})


@dataclass(frozen=True, kw_only=True)
class SemanticEntropy:
    """Entropy over answers that mean the same: here, that hold the same answer after normalisation.

    Kuhn et al. 2023 and Farquhar et al. 2024 (Nature) group by entailment; for sums and short answers equality of what
    is found in them by `answers` serves, and needs no second model. An answer without one is a group of its own text.
    Three published formulas do not agree, so each is a column where `forms` names it: `discrete` = -sum of n_c/K
    log n_c/K (no log-probabilities needed); `rao`, of the released code of Farquhar, over groups weighed by
    exp(log p / tokens); `mc`, of lm-polygraph, by exp(log p); `kuhn`, with its shift of 5. ln K bounds `discrete`.

    Against the rate of right answers among other samples: no signal on 200 tasks whose answers are sentences that end
    in a word (`discrete`, Spearman 0.02 [-0.13, 0.18], tiny-lm tuned), where hardly two samples are equal.
    """

    forms: tuple[Form, ...] = ("discrete", "rao")
    answers: Literal["numeric", "exact"] = "numeric"
    sampling: Sampling = field(default_factory=Sampling)
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The generations."""
        return _needs(self.sampling)

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """One column a form, in nats."""
        import numpy as np

        from tamis.verifiers.answers import answer_of

        def of(samples: Samples, row: int) -> tuple[float, ...]:
            texts = samples.texts(row)
            groups = grouped([answer_of(text, self.answers) or f"? {' '.join(text.split())}" for text in texts])
            nll = samples.of("nll", row)
            tokens = np.maximum(samples.of("tokens", row), 1)
            return tuple(semantic(form, -nll, -nll / tokens, groups) for form in self.forms)

        return _scored(have, of, dict.fromkeys(self.forms, "nats"))


@dataclass(frozen=True, kw_only=True)
class VariationRatio:
    """Variation ratio of sampled answers: how little they resemble each other, or the greedy answer.

    *Look Before You Leap* (Huang et al. 2023, arXiv:2307.10236). `samples` (VR) = 1 - mean similarity of all pairs;
    `greedy` (VRO) = 1 - mean similarity to the greedy answer, where `sampling.greedy` draws one. `similarity`: `words`,
    the share of words that both have (Jaccard), or `answer`, 1 where both hold the same number (texts where one
    holds none). The paper writes 1 - dist, which some code takes literally, and turns the sign; this follows the text.
    """

    similarity: Literal["words", "answer"] = "words"
    sampling: Sampling = field(default_factory=Sampling)
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The generations."""
        return _needs(self.sampling)

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `samples` and, with a greedy answer, `greedy`; both in [0, 1]."""
        units = {"samples": "1 - similarity"}
        if self.sampling.greedy:
            units["greedy"] = "1 - similarity"

        def of(samples: Samples, row: int) -> tuple[float, ...]:
            texts = samples.texts(row)
            alike = [self._alike(one, two) for place, one in enumerate(texts) for two in texts[place + 1 :]]
            found = (variation(alike),)
            if "greedy" not in units:
                return found
            best = samples.greedy(row) or ""
            return (*found, variation([self._alike(text, best) for text in texts]))

        return _scored(have, of, units)

    def _alike(self, one: str, two: str) -> float:
        from tamis.text.similarity import jaccard
        from tamis.verifiers.answers import answer_of, plain

        if self.similarity == "words":
            return jaccard(one.split(), two.split())
        found = [answer_of(text, "numeric") or plain(text) for text in (one, two)]
        return float(found[0] == found[1])


def grouped(answers: Sequence[str]) -> NDArray[np.int64]:
    """(k,) number of every answer's group, groups numbered as they first come."""
    import numpy as np

    seen: dict[str, int] = {}
    return np.array([seen.setdefault(answer, len(seen)) for answer in answers], np.int64)


def semantic(form: Form, total: NDArray[np.float64], mean: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
    """Semantic entropy in nats. `total` and `mean` (k,): log-probability of a sample, and that over its tokens."""
    import numpy as np

    if form == "discrete":
        shares = np.bincount(groups) / len(groups)
        return float(-(shares * np.log(shares)).sum())
    logs = total if form == "mc" else mean
    by_group = np.array([np.logaddexp.reduce(logs[groups == number]) for number in range(groups.max() + 1)])
    if form == "mc":
        return float(-by_group[groups].mean())
    if form == "kuhn":
        return float(-(by_group - KUHN_SHIFT).mean())
    by_group = by_group - np.logaddexp.reduce(by_group)
    return float(-(np.exp(by_group) * by_group).sum())


def variation(alike: Sequence[float]) -> float:
    """1 - mean similarity; NaN where there is nothing to compare."""
    return 1.0 - sum(alike) / len(alike) if alike else float("nan")


def _needs(sampling: Sampling) -> frozenset[Need]:
    return frozenset({Need(kind="signal", name="generations", settings=(("sampling", sampling),))})


def _scored(
    have: ShardSignals, of: Callable[[Samples, int], tuple[float, ...]], units: Mapping[str, str]
) -> dict[str, Column]:
    """Columns of what `of` says of every row with samples; NaN (no log-probability, too few samples) has a reason."""
    import numpy as np

    from tamis.answers.sampling import Samples

    samples = Samples(have["generations"])
    base = np.asarray(samples.signal["reason"], np.uint8)
    found: NDArray[Any] = np.full((len(units), len(base)), np.nan)
    for row in np.flatnonzero(base == 0):
        found[:, row] = of(samples, int(row))
    done = {}
    for view, values in zip(units, found, strict=True):
        reasons = np.where((base == 0) & ~np.isfinite(values), int(Reason.NOT_MEASURED), base).astype(np.uint8)
        kept = np.where(reasons == 0, values, np.nan).astype(np.float32)
        done[view] = Column(values=kept, unit=units[view], reasons=reasons)
    return done
