"""Formulas of influence: how gradients become the direction Γ of a row, the vector V of a task, and a score.

    Γ(z)      direction in which a row z alone would move the parameters (`tamis.gradient.directions`)
    V_k       target vector of task k, from the raw gradients of its rows (`tamis.gradient.influence.task_vectors`)
    score     Σ_i w_i <Γ_i(z), V_ik>, divided by ‖Γ_i(z)‖ where the similarity is the cosine

Sources: LESS (Xia et al. 2024, arXiv 2402.04333), TracInCP (Pruthi et al. 2020, arXiv 2002.08484), DataInf (Kwon et
al. 2024, arXiv 2310.00902).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Moments = Literal["less", "adam", "raw", "sign"]
EpsMode = Literal["inside", "outside"]
Momentum = Literal["keep", "drop"]
SubtaskAgg = Literal["mean_cos", "cos_mean", "mean"]
Similarity = Literal["cosine", "dot"]
Weights = Literal["share", "rate"]
Curvature = Literal["none", "datainf"]
Profile = Literal["recommended", "less-official", "tracin", "datainf"]


@dataclass(frozen=True, kw_only=True)
class Formula:
    """How a row's gradient g becomes Γ, how the gradients of a task become V, and how both become a score.

    `moments`: `less` updates the checkpoint's moments with g first, m' = β₁m + (1-β₁)g and v' = β₂v + (1-β₂)g²;
    `adam` keeps v as it stands (a fixed diagonal scaling); `raw`: Γ = g; `sign`: Γ = sign(g). `momentum: drop` leaves
    β₁m out of m', which is the same for every row. `bias_correction` divides m' by 1-β₁^t and v' by 1-β₂^t. `eps_mode`:
    m' / (√v' + ε) (`outside`, as Adam) or m' / √(v' + ε) (`inside`, as the released LESS). `subtask_agg`: V is the unit
    vector along the mean gradient (`cos_mean`, the paper), the mean of the unit gradients (`mean_cos`, the code), or
    the mean gradient as it is (`mean`). `similarity`: whether the length of Γ counts (`dot`) or not (`cosine`).
    `weights` of checkpoints: mean learning rates of their epochs, scaled to sum to 1 (`share`) or as they are (`rate`).
    `curvature: datainf` puts the inverse of a damped Fisher matrix before V (`tamis.gradient.curvature`).
    """

    moments: Moments = "less"
    eps_mode: EpsMode = "outside"
    bias_correction: bool = True
    momentum: Momentum = "drop"
    subtask_agg: SubtaskAgg = "cos_mean"
    similarity: Similarity = "cosine"
    weights: Weights = "share"
    curvature: Curvature = "none"

    def but(self, **settings: Any) -> Formula:
        """Return the same with every setting replaced that is not None."""
        return dataclasses.replace(self, **{name: value for name, value in settings.items() if value is not None})

    @property
    def reads_moments(self) -> bool:
        """Whether Γ takes the optimiser's state."""
        return self.moments in ("less", "adam")


_PRODUCT = Formula(moments="raw", subtask_agg="mean", similarity="dot")
PROFILES: dict[Profile, Formula] = {
    "recommended": Formula(),
    "less-official": Formula(eps_mode="inside", bias_correction=False, momentum="keep", subtask_agg="mean_cos"),
    "tracin": _PRODUCT.but(weights="rate"),
    "datainf": _PRODUCT.but(curvature="datainf"),
}
