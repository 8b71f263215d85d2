"""SelectIT: a model rates its own training data, and its doubt takes points off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.answers.rating_prompts import RatingSet, rating_set
from tamis.errors import RecipeError
from tamis.values import Need, Role

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.answers.readouts import Readings
    from tamis.values import Column
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class SelectIt:
    """SelectIT: rating from 1 to 5 by the model itself, less its doubt (Liu et al., NeurIPS 2024).

    arXiv:2402.16705. For each of K = 5 rewordings of the question, P' is the next-token distribution over the digits
    alone, q = softmax(P') once more, base = argmax q, and s_k = base · (1 / 4) Σ_c (q_base - q_c). `token` is s of one
    `template` (the released code draws one for a whole data set), `sentence` mean_k(s) / (1 + `alpha` · std_k(s)), std
    of the population, `model` the mean of `sentence` over `models` by their parameters (θ_m / Σθ; the released weights
    add up to 1.9). `score` is the one that `level` names.

    The second softmax squashes s to at most 1.2788 (all mass on 5), with 0.2558 for all on 1 and 0 for none preferred;
    `softmax: once` leaves it out and reaches 5. High: good; the paper keeps the top 20 %. The shipped
    rewordings are our own (the released ones carry no licence); `prompts` takes others, the worst label first.

    Measured with a model of 4M parameters on 148 of Alpaca's rows: Spearman 0.09 with GPT-4o-mini's ratings; AUC 0.68
    (0.60 to 0.77) for ChatGPT's of 4.5 or more, where those rows are the short ones. So small a model gives no signal
    that is not length: 88 % of its answer is no digit at all (`outside`).
    """

    level: Literal["token", "sentence", "model"] = "sentence"
    prompts: str | RatingSet = "selectit"
    alpha: float = 0.2
    template: int = 0
    softmax: Literal["twice", "once"] = "twice"
    models: tuple[Role, ...] = ("model",)
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        rewordings = len(rating_set(self.prompts).templates)
        if not 0 <= self.template < rewordings:
            raise RecipeError(f"selectit: template is {self.template}; there are {rewordings}, counted from 0")
        if not self.models or len(set(self.models)) < len(self.models):
            raise RecipeError("selectit: `models` names each of model, judge, reference once at most, and one at least")
        if self.level == "model" and len(self.models) < 2:
            raise RecipeError(
                "selectit: level model is a mean over several models; name them as `models: [model, judge]`, and the "
                "second in the head of the recipe or by --judge"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """The answers of every model to the rewordings."""
        return frozenset(self._need(role) for role in self.models)

    def _need(self, role: Role) -> Need:
        return Need(kind="signal", name="ratings", settings=(("sets", (self.prompts,)),), by=role)

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `token`, `sentence`, with several `models` also `model`, and `score`, in points; `outside`.

        `outside` is the probability that the first model gave to tokens that are no digit from 1 to 5.
        """
        import numpy as np

        from tamis.answers.readouts import Readings
        from tamis.prediction.reductions import column

        reads = [Readings.of(have[self._need(role).key], rating_set(self.prompts)) for role in self.models]
        points = [self.points(read.over_labels()) for read in reads]
        levels = [read.by_row(self.sentence(one)) for read, one in zip(reads, points, strict=True)]
        reasons = reads[0].reasons
        found = {"token": reads[0].by_row(points[0][:, self.template]), "sentence": levels[0]}
        columns = {name: column(values, reasons, "points") for name, values in found.items()}
        if len(reads) > 1:
            sizes = np.array([self._size(have, role) for role in self.models], np.float64)
            columns["model"] = column(sizes / sizes.sum() @ np.stack(levels), first_reason(reads), "points")
        return {
            **columns,
            "score": columns[self.level],
            "outside": column(reads[0].by_row(reads[0].outside()), reasons, "probability"),
        }

    def points(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """(…,) points of distributions over the labels (…, C): the label preferred, times how much it is preferred."""
        import numpy as np

        doubted = np.exp(shares) if self.softmax == "twice" else shares
        doubted = doubted / doubted.sum(-1, keepdims=True)
        classes = shares.shape[-1]
        best = doubted.max(-1)
        lead = (classes * best - doubted.sum(-1)) / (classes - 1)
        found: NDArray[np.float64] = (doubted.argmax(-1) + 1) * lead
        return found

    def sentence(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(m,) of the points by template (m, K)."""
        found: NDArray[np.float64] = points.mean(-1) / (1 + self.alpha * points.std(-1))
        return found

    def _size(self, have: ShardSignals, role: Role) -> int:
        sizes = have[self._need(role).key]["parameters"]
        return int(sizes.max()) if len(sizes) else 1


def first_reason(reads: list[Readings]) -> NDArray[np.uint8]:
    """(n,) the first reason that any of them has."""
    import numpy as np

    reasons = reads[0].reasons
    for read in reads[1:]:
        reasons = np.where(reasons > 0, reasons, read.reasons).astype(np.uint8)
    return reasons
