"""DELIFT: rows that as examples help the model most with all others, a target, or beyond what it knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.demonstrations.utility_kernels import Distance, Other, Shape
from tamis.errors import RecipeError
from tamis.values import Need
from tamis.vectors.nearness import POOLED, Duplicates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.demonstrations.utility_kernels import Found, Utilities
    from tamis.submodular.kernels import Kernel
    from tamis.submodular.objective import Objective
    from tamis.values import Budget, Machine, Subset
    from tamis.views import PoolView

Stage = Literal["instruction", "task", "continual"]
Definition = Literal["paper", "saturating"]
Side = Literal["pool", "target", "existing"]
_OTHER: dict[Stage, Literal["target", "existing"]] = {"task": "target", "continual": "existing"}
SETTLES = 1e-6


@dataclass(frozen=True, kw_only=True)
class Delift:
    """DELIFT (Agarwal et al. 2025): rows that as examples help the model most with all the others.

    ICLR 2025, arXiv 2411.04425. Facility location over the utilities s_ij that the pass `utility` measured: how much
    nearer the model comes to the response of row i behind row j. `stage`: `instruction` maximises Σ_i max_j s_ij (FL);
    `task` adds eta Σ_j max_q s_qj over queries q of the target (FLMI, the paper's definition), or, with
    `definition: saturating`, takes Σ_i min(max_j s_ij, eta max_q s_iq), as the released code does with the target's
    rows as demonstrations; `continual` takes Σ_i max(max_j s_ij - nu max_k s_ik, 0) over existing rows k (FLCG).

    `distance`: `norm` is ||1 - p||_2 / √T; `pmi` the pointwise mutual information of Theorem 1. `shape`: `clip` is
    max(U, 0), the paper's; `min-max` and `exponential` are those of the released code, which scales the two kernels
    apart (`scale: apart`; here `together`). With the pass's `layout: released` and `diagonal: true` that is the code's
    whole variant. `surrogate`: so many utilities a row are added that a small network on pairs of embeddings predicts
    from the measured ones (NN-CIFT, arXiv 2502.09969); its R² on pairs held out is in the notes.

    A millionth of a row's summed utility counts with the rest, so that rows go by it where no row gains any more: few
    pairs are exhausted soon. Time: lazy greedy over the measured pairs, O(p log n); the surrogate O(n²).
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    stage: Stage = "instruction"
    definition: Definition = "paper"
    eta: float = 1.0
    nu: float = 1.0
    distance: Distance = "norm"
    shape: Shape = "clip"
    scale: Literal["together", "apart"] = "together"
    surrogate: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        _check("delift", self.eta, self.nu)
        if self.surrogate < 0:
            raise RecipeError(f"delift: surrogate must not be negative, got {self.surrogate}")

    @property
    def needs(self) -> frozenset[Need]:
        """Utilities measured for the stage, lengths of rows and of the other side, and for a surrogate embeddings."""
        saturating = self.stage == "task" and self.definition == "saturating"
        settings = (("stage", self.stage), ("target_as", "demonstrations" if saturating else "queries"))
        needs = {Need(kind="signal", name="utility", settings=settings), *_lengths(self.stage)}
        if self.surrogate:
            needs.add(Need(kind="signal", name="tokens", settings=(("loss", "none"), ("pooled", True))))
        return frozenset(needs)

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows; a gain is what a row added to the objective when it was picked."""
        from tamis.demonstrations.utility_kernels import shaped, utilities
        from tamis.submodular.selecting import subset_of

        found = utilities(view, self.distance, self._other, "delift")
        inside, notes = self._with_surrogate(view, found)
        parts = shaped(
            [inside, *([found.other] if found.other is not None else [])], self.shape, self.scale == "together"
        )
        objective = self._objective(len(found.places), parts)
        unit = "summed utility of the row alone"
        return subset_of(view, budget, objective, found.places, unit=unit, reasons=found.reasons, notes=notes)

    @property
    def _other(self) -> Other | None:
        """Pairs with the other side that the objective reads."""
        if self.stage == "instruction":
            return None
        return "target" if self.stage == "task" and self.definition == "paper" else "shown"

    def _with_surrogate(self, view: PoolView, found: Utilities) -> tuple[Found, tuple[str, ...]]:
        """Utilities within the pool, those predicted among them, and what is to be said of these."""
        if not self.surrogate:
            return found.inside, ()
        from tamis.demonstrations.surrogate import fill_in, fit
        from tamis.vectors.index import unit

        vectors = unit(view.signal("tokens", "pooled")[found.places])
        network = fit(vectors, found.inside, self.seed)
        said = (
            f"{self.surrogate} utilities a row are predicted by a network fitted on {len(found.inside.values):,} pairs"
        )
        note = f"approximation: {said}; R² {network.r2:.2f} on {network.held_out:,} pairs held out"
        return fill_in(found.inside, vectors, network, self.surrogate), (note,)

    def _objective(self, count: int, parts: list[Found]) -> Objective:
        kernel, other = parts[0].kernel(count), None
        if self._other is not None:  # of demonstrations of the target's queries, or of queries behind the other side
            other = parts[1].highest("columns" if self._other == "target" else "rows", count)
        return _settled(kernel, other, self.stage, self.definition, self.eta, self.nu)


@dataclass(frozen=True, kw_only=True)
class DeliftSe:
    """DELIFT(SE) (Agarwal et al. 2025): DELIFT's objectives over cosines of embeddings alone.

    ICLR 2025, arXiv 2411.04425, the model-independent form: s_ij = (cosine + 1) / 2 of sentence embeddings, here of
    pooled hidden states (the paper embeds with bge-large). `stage`, `definition`, `eta` and `nu` are those of `delift`:
    facility location over the pool, with the target (`task`), or beyond the existing data (`continual`). `duplicates`:
    `once` lets only the first of rows with equal text take part.

    Time O(n² d) and memory 4 n² up to 10,000 rows; beyond, every row represents its `neighbours` nearest alone (a k-NN
    graph, O(n k) memory), which a note says.
    """

    revision: ClassVar[int] = 2
    nested: ClassVar[bool] = True

    stage: Stage = "instruction"
    definition: Definition = "paper"
    eta: float = 1.0
    nu: float = 1.0
    neighbours: int = 64
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        _check("delift-se", self.eta, self.nu)
        if self.neighbours < 1:
            raise RecipeError(f"delift-se: neighbours is at least 1, got {self.neighbours}")

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of the pool and of the other side, and lengths."""
        sides: list[Side] = ["pool", *([_OTHER[self.stage]] if self.stage in _OTHER else [])]
        signals = {Need(kind="signal", name="tokens", side=side, settings=POOLED) for side in sides}
        return frozenset({*signals, *_lengths(self.stage)})

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows; a gain is what a row added to the objective when it was picked."""
        from tamis.submodular.cosines import nearest
        from tamis.submodular.selecting import subset_of
        from tamis.submodular.similar import kernel_of
        from tamis.vectors import embeddings

        found = embeddings.of_pool(view, "delift-se", self.duplicates)
        kernel, notes = kernel_of(_lifted(found.vectors), "auto", self.neighbours, on)
        other = None
        if self.stage != "instruction":
            theirs = embeddings.of_side(view, _OTHER[self.stage], "delift-se")
            other = (nearest(found.vectors, theirs) + 1) / 2
        objective = _objective(kernel, self.stage, other, self.definition, self.eta, self.nu)
        unit = "summed similarity of the row alone"
        return subset_of(view, budget, objective, found.places, unit=unit, reasons=found.reasons, notes=notes)


def _check(name: str, eta: float, nu: float) -> None:
    if not (eta >= 0 and nu >= 0):
        raise RecipeError(f"{name}: eta and nu must not be negative, got {eta} and {nu}")


def _lengths(stage: Stage) -> frozenset[Need]:
    """Lengths of the pool, and of the other side, whose files a run must name."""
    sides: list[Side] = ["pool", *([_OTHER[stage]] if stage in _OTHER else [])]
    return frozenset(Need(kind="signal", name="lengths", side=side) for side in sides)


def _lifted(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, d + 1) unit vectors whose cosines are (cosine + 1) / 2 of the unit vectors (n, d)."""
    import numpy as np

    lifted: NDArray[np.float64] = np.concatenate([vectors, np.ones((len(vectors), 1), np.float32)], axis=1) / np.sqrt(2)
    return lifted.astype(np.float32)


def _settled(
    kernel: Kernel, other: NDArray[np.float64] | None, stage: Stage, definition: Definition, eta: float, nu: float
) -> Objective:
    """The objective, and of every row a millionth of its summed utility, by which rows go where nothing else is gained.

    Few measured pairs are exhausted long before a budget is.
    """
    from tamis.submodular.facility_location import flmi
    from tamis.submodular.sums import Modular, WeightedSum

    alone = SETTLES * kernel.totals()
    if stage == "continual" or (stage == "task" and definition == "saturating"):
        whole = _objective(kernel, stage, other, definition, eta, nu)
        return WeightedSum(((1.0, whole), (1.0, Modular(alone))))
    return flmi(kernel, alone if other is None else alone + eta * other)


def _objective(
    kernel: Kernel,
    stage: Stage,
    other: NDArray[np.float64] | None,
    definition: Definition = "paper",
    eta: float = 1.0,
    nu: float = 1.0,
) -> Objective:
    """FL, FLMI or FLCG. `other`: (n,) highest similarity to the target, or to existing rows."""
    from tamis.submodular.facility_location import FacilityLocation, flcg, flmi

    if other is None:
        return FacilityLocation(kernel)
    return flmi(kernel, other, definition, eta) if stage == "task" else flcg(kernel, other, nu)
