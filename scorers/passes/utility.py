"""The utility signal of DELIFT: how much a row, shown as an example, helps the model to answer another."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.demonstrations.pairing import Candidates
from tamis.demonstrations.prompting import Layout
from tamis.errors import RecipeError
from tamis.models import ModelRef
from tamis.pool import Pool
from tamis.values import Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.demonstrations.asked import Asked
    from tamis.demonstrations.utility import Measured
    from tamis.pool import Shard
    from tamis.ragged import Ragged
    from tamis.values import Arrays, Machine
    from tamis.views import PoolView, ShardSignals

Stage = Literal["instruction", "task", "continual"]
_POOLED = (("loss", "none"), ("pooled", True))
_WHICH = {"copying": "pairs with most words in common", "neighbours": "nearest pairs", "sampled": "drawn pairs"}


@dataclass(frozen=True, kw_only=True)
class Utility:
    """In-context utility of rows as demonstrations for others (DELIFT, Agarwal et al., 2025).

    ICLR 2025, arXiv 2411.04425. UF_ij = d(i) - d(i | j), d = ||1 - p(gold tokens)||_2 / √T, teacher-forced: how much
    nearer the model comes to the response of row i where row j stands before it. What is kept are the distances d and
    the negative log-likelihoods, with and without the demonstration; `delift` makes kernels of them. The diagonal is
    left out (a row is no example for itself) but with `diagonal`. Rows that the model's maximum length does not hold
    whole have a reason and no pair; pairs that it does not hold are not measured.

    `stage`: `instruction` measures pool on pool; `task` also the rows of the target as queries behind rows of the pool
    (`target_as: demonstrations`: rows of the pool behind rows of the target, as the released code has it); `continual`
    also rows of the pool behind the `existing` data. `candidates`: `copying` measures `per_row` demonstrations a query
    in the mean, those that hold most of its response word for word, more where the response is short (see
    `tamis.demonstrations.pairing.copying_pairs`; and, of the target's queries, `per_row` for every demonstration);
    `neighbours` the nearest `per_row` by pooled hidden states; `sampled` draws `per_row` queries by `seed` and row key,
    and shows them every demonstration (of the other side's rows, as many are drawn); `all` measures every pair, n² of
    them. `layout`: see `tamis.demonstrations.prompting`.

    Time: a forward pass over every row as demonstration, and one over query tokens for every pair, whose attention sees
    the demonstration's kept keys and values; vocabulary logits for response tokens alone.
    """

    revision: ClassVar[int] = 2
    fits_rows: ClassVar[bool] = True  # numbers of single rows: new ones have none until it is fitted anew
    unaligned: ClassVar[tuple[str, ...]] = ("target_key", "target_bare_distance", "target_bare_nll")

    model: ModelRef
    stage: Stage = "instruction"
    target: Pool | None = None
    existing: Pool | None = None
    target_as: Literal["queries", "demonstrations"] = "queries"
    candidates: Candidates = "copying"
    per_row: int = 8
    layout: Layout = "chat"
    diagonal: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_row < 1:
            raise RecipeError(f"utility: per_row is at least 1, got {self.per_row}")
        if not self.reads_target:
            object.__setattr__(self, "target", None)  # so that another target leaves the identity alone
        if not self.reads_existing:
            object.__setattr__(self, "existing", None)

    @property
    def reads_target(self) -> bool:
        """Whether it measures pairs with a target."""
        return self.stage == "task"

    @property
    def reads_existing(self) -> bool:
        """Whether it measures pairs with data that the model knows."""
        return self.stage == "continual"

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states where neighbours are looked for."""
        near = self.candidates == "neighbours"
        return frozenset({Need(kind="signal", name="tokens", settings=_POOLED)} if near else ())

    def notes(self) -> tuple[str, ...]:
        """What a reader must know: which pairs are measured."""
        if self.candidates == "all":
            return ()
        pairs = f"{self.per_row} {_WHICH[self.candidates]}"
        return (f"approximation: utility is measured on {pairs} a row; other pairs count as 0",)

    def fit(self, view: PoolView, on: Machine, /) -> tuple[Arrays, dict[str, Any]]:
        """Every row once in token ids, and which pairs are measured.

        Arrays: those of `tamis.demonstrations.asked.Asked` (the other side's rows, of target or existing data, behind
        the pool's); for row j of the pool as the demonstration the places of its queries, `asked` by `asked_offsets`;
        as the query the places of the other side's demonstrations, `met` by `met_offsets`; where the other side's rows
        are queries, what they are worth without an example, `bare_distance` and `bare_nll` (q,). RecipeError where that
        side is missing.
        """
        import numpy as np

        from tamis.demonstrations.asked import ask, lists

        other = self._other()
        asked, draws = ask(view.pool, other, self.model, self.layout, self.seed)
        pairs, met = self._chosen(asked, draws, view, other, on)
        if self.diagonal:
            own = np.unique(pairs[:, 1])
            pairs = np.concatenate([pairs, np.stack([own, own], 1)])
        bare: dict[str, NDArray[np.float32]] = {}
        if self._others_are_queries:
            pairs, met = np.concatenate([pairs, met]), met[:0]
            bare = self._bare(asked, np.arange(asked.own, len(asked.reason)), on)
        facts = {"pairs": len(pairs) + len(met)}
        packed = lists("asked", pairs, asked.keys, asked.own) | lists("met", met, asked.keys, asked.own)
        return asked.arrays() | packed | bare, facts

    def _chosen(
        self, asked: Asked, draws: NDArray[np.uint64], view: PoolView, other: Pool | None, on: Machine
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs (demonstration, query) of the pool, and pairs (row of the pool, row of the other side)."""
        import numpy as np

        from tamis.demonstrations.pairing import choose_pairs, copying_pairs, copying_queries

        near = self.candidates == "neighbours"
        inside = asked.side(slice(0, asked.own), view.signal("tokens", "pooled") if near else None, draws)
        nothing = np.zeros((0, 2), np.int64)
        if self.candidates == "copying":
            pairs = copying_pairs(asked, inside.places, inside.places, self.per_row)[:, ::-1]
            if other is None:
                return pairs, nothing
            theirs = asked.side(slice(asked.own, None), None, draws).places
            if self._others_are_queries:
                return pairs, copying_queries(asked, theirs, inside.places, self.per_row)
            return pairs, copying_pairs(asked, inside.places, theirs, self.per_row)
        choose = functools.partial(choose_pairs, self.candidates, self.per_row)
        pairs = choose(inside, inside)
        pairs = pairs[:, ::-1] if near else pairs
        if other is None:
            return pairs, nothing
        vectors = self._embedded(other, on) if near else None
        return pairs, choose(inside, asked.side(slice(asked.own, None), vectors, draws))

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays of one shard of n rows; distances in [0, 1] and nats, float32.

        `key` (n,) uint64 digests of row keys, `reason` (n,); `bare_distance`, `bare_nll` (n,) without an example. For
        row j as the demonstration: `pair`, the digests of its queries' keys, ascending, `distance` and `nll`, each
        ragged by offsets of its own. The same with `target_` where rows of the target are the queries; of these there
        are `target_key`, `target_bare_distance` and `target_bare_nll` (q,). With `shown_`, row i is the query, and
        `shown_pair` are demonstrations of the other side.
        """
        import numpy as np

        from tamis.demonstrations.asked import Asked
        from tamis.engine import set_threads
        from tamis.ragged import Ragged

        set_threads(on.threads)
        fit = have["fit"]
        asked = Asked.of(fit)
        places = asked.places(shard)
        bare = self._bare(asked, places, on)
        reason = np.array(asked.reason[places], np.uint8)
        reason[(reason == 0) & ~np.isfinite(bare["bare_nll"])] = Reason.NOT_FINITE
        rows, queries = Ragged(fit["asked"], fit["asked_offsets"]).some(places)
        found = self._measure(asked, places[rows], queries, on)
        inside = queries < asked.own
        arrays: dict[str, NDArray[Any]] = {"key": np.array(asked.keys[places]), "reason": reason, **bare}
        arrays |= _by_row("", rows, asked.keys[queries], found, shard.rows, inside)
        if self._others_are_queries:
            arrays |= _by_row("target_", rows, asked.keys[queries], found, shard.rows, ~inside)
            arrays["target_key"] = np.array(asked.keys[asked.own :])
            arrays |= {f"target_{name}": np.array(fit[name]) for name in ("bare_distance", "bare_nll")}
        elif self.stage != "instruction":
            rows, shown = Ragged(fit["met"], fit["met_offsets"]).some(places)
            found = self._measure(asked, shown, places[rows], on)
            arrays |= _by_row("shown_", rows, asked.keys[shown], found, shard.rows, np.ones(len(rows), np.bool_))
        return arrays

    @property
    def _others_are_queries(self) -> bool:
        return self.stage == "task" and self.target_as == "queries"

    def _other(self) -> Pool | None:
        """The pool on the other side."""
        if self.stage == "instruction":
            return None
        side = self.target if self.stage == "task" else self.existing
        if side is None or not len(side):
            name = "target" if self.stage == "task" else "existing"
            raise RecipeError(
                f"utility: stage {self.stage!r} needs {name} data; name its files by `{name}: {{files: …}}`"
            )
        return side

    def _embedded(self, other: Pool, on: Machine) -> NDArray[np.float32]:
        from tamis.prediction.pooled import pooled_states
        from tamis.rendering import render_all

        return pooled_states(render_all(list(other), self.model), self.model, on)

    def _bare(self, asked: Asked, places: NDArray[np.int64], on: Machine) -> dict[str, NDArray[np.float32]]:
        """Distances and losses of rows without an example, NaN where a row has a reason."""
        import numpy as np

        from tamis.ragged import Ragged

        found = {name: np.full(len(places), np.nan, np.float32) for name in ("bare_distance", "bare_nll")}
        usable = np.flatnonzero(asked.reason[places] == 0)
        nothing = np.zeros(len(usable), np.int64)
        measured = self._measure(asked, nothing, places[usable], on, Ragged.of([asked.bare], np.int32))
        found["bare_distance"][usable], found["bare_nll"][usable] = measured.distance, measured.nll
        return found

    def _measure(
        self,
        asked: Asked,
        before: NDArray[np.int64],
        queries: NDArray[np.int64],
        on: Machine,
        prefixes: Ragged | None = None,
    ) -> Measured:
        import numpy as np

        from tamis.demonstrations.utility import Pairs, measure_pairs
        from tamis.models import cached_model
        from tamis.prediction.forward import forward_of
        from tamis.rendering import longest

        model = cached_model(self.model, on.device)
        what = Pairs(
            asked.shown if prefixes is None else prefixes,
            asked.queries,
            asked.scored,
            np.stack([before, queries], 1),
            longest(self.model),
        )
        return measure_pairs(forward_of(model), what, on)


def _by_row(
    name: str,
    rows: NDArray[np.int64],
    keys: NDArray[np.uint64],
    found: Measured,
    count: int,
    where: NDArray[np.bool_],
) -> dict[str, NDArray[Any]]:
    """Pairs as ragged arrays by row; those that were not measured are left out."""
    import numpy as np

    from tamis.ragged import Ragged

    kept = where & np.isfinite(found.nll) & np.isfinite(found.distance)
    done: dict[str, NDArray[Any]] = {}
    for key, values in (("pair", keys), ("distance", found.distance), ("nll", found.nll)):
        packed = Ragged.by_row(rows[kept], values[kept], count)
        done |= {f"{name}{key}": packed.values, f"{name}{key}_offsets": packed.offsets}
    return done
