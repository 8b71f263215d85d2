"""What share of a model's own answers is right, and what DART, VPS and Think-Prune-Train make of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.answers.sampling import Sampling
from tamis.errors import RecipeError
from tamis.values import Column, Need, Reason
from tamis.verifiers import Verify

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Arrays
    from tamis.views import PoolView, ShardSignals

NORMAL_975 = 1.959963984540054  # of the standard normal distribution, for an interval of 95 %


@dataclass(frozen=True, kw_only=True)
class PassRate:
    """Share of the model's sampled answers that are right, with their number and a 95 % interval.

    Columns `score` (the share), `n` (samples), `low` and `high` (Wilson 1927, which stays in [0, 1] and has a width at
    0 and 1 too). `sampling` says how answers are drawn, `verify` how they are checked. Where sampling stops early the
    share is biased; `n` tells of it. Scorers of one run share the samples: settings given to one of them serve all. No
    published value.
    """

    sampling: Sampling = field(default_factory=Sampling)
    verify: Verify = field(default_factory=Verify)
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """Generations and verdicts on them."""
        return _needs(self.sampling, self.verify)

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `score`, `low` and `high` in shares, `n` in samples."""
        import numpy as np

        signal, share = have["verdicts"], "share of samples"
        n, right = np.asarray(signal["count"], np.float64), np.asarray(signal["right_count"], np.float64)
        low, high = wilson(right, n)
        rates, reasons = _rates(have)
        made = {"score": (rates, share), "n": (n, "samples"), "low": (low, share), "high": (high, share)}
        return {view: _column(values, unit, reasons) for view, (values, unit) in made.items()}


def wilson(right: NDArray[np.float64], n: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounds of the 95 % interval of a share, (n,) each in [0, 1]; [0, 1] where nothing was drawn."""
    import numpy as np

    drawn = np.maximum(n, 1)
    share, squared = right / drawn, NORMAL_975**2 / drawn
    middle = (share + squared / 2) / (1 + squared)
    half = NORMAL_975 / (1 + squared) * np.sqrt(share * (1 - share) / drawn + squared / (4 * drawn))
    low, high = np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)
    return np.where(n > 0, np.where(right > 0, low, 0.0), 0.0), np.where(n > 0, np.where(right < n, high, 1.0), 1.0)


@dataclass(frozen=True, kw_only=True)
class ThinkPruneTrain:
    """Think-Prune-Train: 1 where a sampled answer of the model is right, and which of them is kept.

    Costello et al. 2025 (arXiv:2504.18116) sample answers to every training question with the current model, keep those
    that are verified, one a question, replace the data of the round before and train again from the base model. Columns
    `score` (0 or 1; `first: true` counts the first sample alone), `sample` (place of the one kept: the first right
    one, or the shortest; -1 where none is) and `distinct` (different right answers of the row). Writing the kept
    answers as rows and going round are the loop, not this scorer. No published value.
    """

    sampling: Sampling = field(default_factory=Sampling)
    verify: Verify = field(default_factory=Verify)
    first: bool = False
    keep: Literal["first", "shortest"] = "first"
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """Generations and verdicts on them."""
        return _needs(self.sampling, self.verify)

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `score` (0 or 1), `sample` (a place) and `distinct` (answers)."""
        import numpy as np

        from tamis.answers.sampling import Samples

        signal, samples = have["verdicts"], Samples(have["generations"])
        reasons = np.asarray(signal["reason"], np.uint8)
        offsets = signal["right_offsets"].tolist()
        found = np.zeros((3, len(reasons)))
        for row in np.flatnonzero(reasons == 0):
            right = np.flatnonzero(signal["right"][offsets[row] : offsets[row + 1]])
            texts = samples.texts(int(row))
            found[0, row] = bool(len(right)) if not self.first else bool(len(right) and right[0] == 0)
            found[1, row] = self._kept(right, texts) if found[0, row] else -1
            found[2, row] = len({" ".join(texts[place].split()) for place in right})
        return {
            "score": _column(found[0], "0 or 1", reasons),
            "sample": _column(found[1], "place among the samples", reasons),
            "distinct": _column(found[2], "answers", reasons),
        }

    def _kept(self, right: NDArray[Any], texts: list[str]) -> int:
        if self.keep == "shortest" and not self.first:
            places: list[int] = right.tolist()
            return min(places, key=lambda place: (len(texts[place]), place))
        return int(right[0])


@dataclass(frozen=True, kw_only=True)
class Dart:
    """DART: how many answers to gather for a prompt, more for those that the model seldom answers right.

    DARS of Tong et al. 2024 (NeurIPS, arXiv:2407.13690; code hkust-nlp/dart-math). Columns, in right answers wanted:
    `prop2diff` = ceil(k_p (1 - p) / max(1 - p)), at least one, the hardest row of the pool k_p; `uniform` = k_u for
    every row. `trials_prop2diff` and `trials_uniform` are the samples that this is expected to take, n / p, at most
    `max_trials`, which is also what a row that was never right gets: without a cap its sampling would not end. The
    released loop stops at *more* than k_u right answers (`released: true` wants one more).
    """

    sampling: Sampling = field(default_factory=Sampling)
    verify: Verify = field(default_factory=Verify)
    k_p: int = 192
    k_u: int = 40
    max_trials: int = 2048
    released: bool = False
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if min(self.k_p, self.k_u, self.max_trials) < 1:
            raise RecipeError("dart: k_p, k_u and max_trials are at least 1")

    @property
    def needs(self) -> frozenset[Need]:
        """Generations and verdicts on them."""
        return _needs(self.sampling, self.verify)

    def fit(self, view: PoolView, /) -> tuple[Arrays, Mapping[str, Any]]:
        """`hardest` (1,) float64: the largest 1 - p of the pool."""
        import numpy as np

        rates = [_rates(shard)[0] for shard in view.shards()]
        hardest = max((float(np.nanmax(1.0 - p, initial=0.0)) for p in rates), default=0.0)
        return {"hardest": np.array([hardest], np.float64)}, {}

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `prop2diff` and `uniform` in right answers, `trials_…` in samples."""
        import numpy as np

        p, reasons = _rates(have)
        hardest = float(have["fit"]["hardest"][0])
        shares = np.minimum((1.0 - p) / hardest, 1.0) if hardest > 0 else np.zeros_like(p)  # newer rows may be harder
        wanted = {
            "prop2diff": np.maximum(np.ceil(self.k_p * shares - 1e-9), 1.0),  # 1e-9: for the last digit of a quotient
            "uniform": np.full(len(p), float(self.k_u)),
        }
        done: dict[str, Column] = {}
        for view, count in wanted.items():
            trials = np.ceil((count + self.released) / np.maximum(p, 1e-9) - 1e-9)
            done[view] = _column(count, "right answers", reasons)
            done[f"trials_{view}"] = _column(np.minimum(trials, self.max_trials), "samples", reasons)
        return done


@dataclass(frozen=True, kw_only=True)
class Vps:
    """VPS of MMR1: variance p (1 - p) of the verdicts and diversity of the answers, as a sampling score.

    Leng et al. 2025 (arXiv:2509.21268; code LengSicong/MMR1): `alpha` p (1 - p) + `beta` diversity; their example is
    0.8 and 0.2, their shipped settings, and the default here, the variance alone. Column `score`, and `weight`, the
    score scaled to [0, 1] over the pool (the released sampler draws half of every batch in proportion to it, so that a
    prompt of the smallest score is drawn by the other half alone). `diversity`: `distinct-3`, different word triples
    over all of them, or `1-self-bleu`. The released code adds self-BLEU itself, which favours answers that are alike:
    `self-bleu`, to compare with.
    """

    alpha: float = 1.0
    beta: float = 0.0
    diversity: Literal["distinct-3", "1-self-bleu", "self-bleu"] = "distinct-3"
    sampling: Sampling = field(default_factory=Sampling)
    verify: Verify = field(default_factory=Verify)
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """Generations and verdicts on them."""
        return _needs(self.sampling, self.verify)

    def fit(self, view: PoolView, /) -> tuple[Arrays, Mapping[str, Any]]:
        """`bounds` (2,) float64: the smallest and the largest score of the pool."""
        import numpy as np

        parts = [self._scores(shard)[0] for shard in view.shards()]
        known = np.concatenate([part[np.isfinite(part)] for part in parts] or [np.zeros(0)])
        return {"bounds": np.array([known.min(initial=np.inf), known.max(initial=-np.inf)], np.float64)}, {}

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `score`, in variance of a verdict (plus diversity), and `weight` in [0, 1]."""
        import numpy as np

        scores, reasons = self._scores(have)
        low, high = have["fit"]["bounds"].tolist()
        weight = (
            np.clip((scores - low) / (high - low), 0, 1) if high > low else np.ones_like(scores)
        )  # of newer rows too
        unit = "variance" if not self.beta else f"{self.alpha:g} variance + {self.beta:g} {self.diversity}"
        return {"score": _column(scores, unit, reasons), "weight": _column(weight, "share of the range", reasons)}

    def _scores(self, have: ShardSignals) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        import numpy as np

        p, reasons = _rates(have)
        scores = self.alpha * p * (1.0 - p)
        if self.beta:
            scores = scores + self.beta * self._diversity(have["generations"])
        short = (reasons == 0) & ~np.isfinite(scores)
        return scores, np.where(short, int(Reason.TOO_SHORT), reasons).astype(np.uint8)

    def _diversity(self, signal: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """(n,) in [0, 1]; NaN where no sample is long enough, or, for self-BLEU, where there is one alone."""
        import numpy as np

        from tamis.answers.sampling import Samples
        from tamis.text.similarity import distinct, self_bleu

        samples = Samples(signal)
        lists = [[text.split() for text in samples.texts(row)] for row in range(len(samples))]
        if self.diversity == "distinct-3":
            return np.array([distinct(words, 3) for words in lists], np.float64)
        alike = np.array([self_bleu(words, 3) for words in lists], np.float64)
        return alike if self.diversity == "self-bleu" else 1.0 - alike


def _needs(sampling: Sampling, verify: Verify) -> frozenset[Need]:
    drawn = Need(kind="signal", name="generations", settings=(("sampling", sampling),))
    return frozenset({drawn, Need(kind="signal", name="verdicts", settings=(("verify", verify),))})


def _rates(have: ShardSignals) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """(n,) share of right samples, NaN where a row has none, and why."""
    import numpy as np

    signal = have["verdicts"]
    reasons = np.asarray(signal["reason"], np.uint8)
    n = np.asarray(signal["count"], np.float64)
    rates = np.where(reasons == 0, np.asarray(signal["right_count"], np.float64) / np.maximum(n, 1), np.nan)
    return rates, reasons


def _column(values: NDArray[Any], unit: str, reasons: NDArray[np.uint8]) -> Column:
    import numpy as np

    kept = np.where(reasons == 0, values, np.nan).astype(np.float32)
    return Column(values=kept, unit=unit, reasons=np.array(reasons, np.uint8))
