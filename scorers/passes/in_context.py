"""The in-context signal of Nuggets: losses of a few anchors, asked behind every row as their demonstration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.demonstrations.anchors import Stop
from tamis.demonstrations.prompting import Layout
from tamis.errors import DataError, RecipeError
from tamis.models import ModelRef
from tamis.pool import Pool
from tamis.values import Need, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tamis.demonstrations.prompting import Prompts
    from tamis.demonstrations.utility import Measured
    from tamis.pool import Shard
    from tamis.values import Arrays, Machine, Row
    from tamis.views import PoolView, ShardSignals

Anchors = Literal["clusters", "drawn", "target"]


@dataclass(frozen=True, kw_only=True)
class InContext:
    """Losses of anchors behind every row as their demonstration, and without one (Nuggets).

    Li et al. 2024, arXiv 2312.10302. Anchors are `count` rows of the pool, the nearest to each centre of k-means over
    mean hidden states (`anchors: clusters`, as in the paper) or drawn by `seed` and key (`drawn`), or rows of the
    `target`, at most `count` by the same draw. No row is longer than `anchor_tokens` that is an anchor; a row is not
    tried on itself, nor on an anchor of equal text. `layout`: see `tamis.demonstrations.prompting`; the released code
    cuts anchors at 200 tokens and leaves out the BOS of the zero-shot side (`nuggets-released`), which lifts every
    score.

    `stop`: `never` tries every row on every anchor. `certain` stops a row whose share of anchors helped must fall below
    `threshold`, `hoeffding` one whose share does with probability 1 - `delta`; `block` anchors are tried in a round.
    Rows that are not stopped have the outcome of `never`, to the bit but for the sums of other batches.

    Time: every row once as demonstration, whose keys and values are kept for all of its anchors, and the tokens of an
    anchor for every pair: rows times anchors.
    """

    revision: ClassVar[int] = 1

    model: ModelRef
    target: Pool | None = None
    anchors: Anchors = "clusters"
    count: int = 100
    anchor_tokens: int = 512
    layout: Layout = "chat"
    stop: Stop = "never"
    threshold: float = 0.8
    delta: float = 0.05
    block: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        faults = [
            f"in-context: {name} is at least 1, got {value}"
            for name, value in (("count", self.count), ("anchor_tokens", self.anchor_tokens), ("block", self.block))
            if value < 1
        ]
        faults += [
            f"in-context: {name} lies in {said}, got {value:g}"
            for name, value, said, good in (
                ("threshold", self.threshold, "[0, 1]", 0 <= self.threshold <= 1),
                ("delta", self.delta, "(0, 1)", 0 < self.delta < 1),
            )
            if not good
        ]
        if faults:
            raise RecipeError(faults)
        if not self.reads_target:
            object.__setattr__(self, "target", None)  # so that another target leaves the identity alone

    @property
    def reads_target(self) -> bool:
        """Whether the anchors are rows of a target."""
        return self.anchors == "target"

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths of rows, and mean hidden states where anchors are spread over them."""
        lengths = Need(kind="signal", name="lengths")
        if self.anchors != "clusters":
            return frozenset({lengths})
        pooled = (("loss", "none"), ("pooled_mean", True))
        return frozenset({lengths, Need(kind="signal", name="tokens", settings=pooled)})

    @property
    def forwards(self) -> float:
        """Forward passes over the pool: every row once and, were anchors as long as rows, once for each of them."""
        return 1.0 + self.count

    def notes(self) -> tuple[str, ...]:
        """What a reader must know: which rows have an estimate only."""
        if self.stop == "never":
            return ()
        sure = "" if self.stop == "certain" else f", each with probability {1 - self.delta:g}"
        return (f"in-context: rows below {self.threshold:g} were not tried on every anchor{sure}",)

    def fit(self, view: PoolView, on: Machine, /) -> tuple[Arrays, dict[str, Any]]:
        """The anchors in token ids, in the order in which they are tried, and their losses without a demonstration.

        `query_ids` int32 and `scored` bool by `query_offsets`; `bare` (b,) int32; `anchor_nll` (M,) float32 nats;
        `anchor_key` and `anchor_content` (M,) uint64 digests. DataError where no row can be an anchor.
        """
        import numpy as np

        from tamis.demonstrations.pairing import short_keys
        from tamis.demonstrations.prompting import prompts_of
        from tamis.engine import set_threads
        from tamis.ragged import Ragged

        set_threads(on.threads)
        rows = self._anchors(view)
        draws = short_keys([row.key for row in rows], self.seed)
        rows = [rows[place] for place in np.argsort(draws, kind="stable")][: self.count]
        prompts = prompts_of(rows, self.model, self.layout)
        losses = self._bare(prompts, on)
        good = np.flatnonzero((prompts.reason == 0) & np.isfinite(losses))
        if not len(good):
            raise DataError(
                f"in-context: no row of the {'target' if self.reads_target else 'pool'} can be an anchor: an answer is "
                f"needed, and at most {self.anchor_tokens} tokens (`anchor_tokens`)"
            )
        queries = Ragged.of([prompts.queries[place] for place in good], np.int32)
        scored = Ragged.of([prompts.scored[place] for place in good], np.bool_)
        arrays = {"query_ids": queries.values, "query_offsets": queries.offsets, "scored": scored.values}
        arrays |= {"bare": prompts.bare, "anchor_nll": losses[good]}
        arrays["anchor_key"] = short_keys([rows[place].key for place in good])
        arrays["anchor_content"] = short_keys([rows[place].content for place in good])
        return arrays, {"anchors": len(good)}

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """For every row the anchors tried, in order: `nll` float32 nats behind it, `bare_nll` without it; ragged.

        Offsets `nll_offsets` and `bare_nll_offsets`. `possible` (n,) int64: anchors that the row can be tried on, equal
        to those tried where it was not stopped. `reason` (n,) why a row has none.
        """
        import numpy as np

        from tamis.demonstrations.anchors import Race
        from tamis.demonstrations.pairing import short_keys
        from tamis.demonstrations.prompting import prompts_of
        from tamis.demonstrations.utility import Pairs, measure_pairs
        from tamis.engine import set_threads
        from tamis.models import cached_model
        from tamis.prediction.forward import forward_of
        from tamis.ragged import Ragged
        from tamis.rendering import longest

        set_threads(on.threads)
        fit = have["fit"]
        prompts = prompts_of(shard.read(), self.model, self.layout)
        own = short_keys(shard.table(["content"]).column("content").to_pylist())
        queries = Ragged(fit["query_ids"], fit["query_offsets"])
        usable = np.flatnonzero(prompts.reason == 0)
        pairs = np.stack([np.repeat(usable, len(queries)), np.tile(np.arange(len(queries)), len(usable))], 1)
        pairs = pairs[own[pairs[:, 0]] != fit["anchor_content"][pairs[:, 1]]]
        what = Pairs(
            Ragged.of(prompts.demonstrations, np.int32),
            queries,
            Ragged(fit["scored"], fit["query_offsets"]),
            pairs,
            longest(self.model),
        )
        bare = np.asarray(fit["anchor_nll"], np.float32)[pairs[:, 1]]
        race = Race(pairs[:, 0], bare, self.stop, self.threshold, self.delta, self.block)
        found = measure_pairs(forward_of(cached_model(self.model, on.device)), what, on, race.rounds)
        return self._by_row(prompts, what, bare, found, shard.rows)

    def _by_row(
        self, prompts: Prompts, what: Any, bare: NDArray[np.float32], found: Measured, rows: int
    ) -> dict[str, NDArray[Any]]:
        import numpy as np

        from tamis.ragged import Ragged

        before, behind = what.prefixes.lengths[what.pairs[:, 0]], what.queries.lengths[what.pairs[:, 1]]
        fits = before + behind <= what.limit
        possible = np.bincount(what.pairs[fits, 0], minlength=rows).astype(np.int64)
        tried = np.isfinite(found.nll)
        arrays: dict[str, NDArray[Any]] = {}
        for name, values in (("nll", found.nll), ("bare_nll", bare)):
            packed = Ragged.by_row(what.pairs[tried, 0], values[tried], rows)
            arrays |= {name: packed.values, f"{name}_offsets": packed.offsets}
        reason = prompts.reason.copy()
        reason[(reason == 0) & (possible == 0)] = Reason.CUT
        reason[(reason == 0) & (np.diff(arrays["nll_offsets"]) == 0)] = Reason.NOT_FINITE
        return arrays | {"possible": possible, "reason": reason}

    def _anchors(self, view: PoolView) -> list[Row]:
        """Rows that may be anchors."""
        import numpy as np

        from tamis.demonstrations.anchors import spread
        from tamis.draws import of_keys
        from tamis.rendering import longest

        if self.reads_target:
            if self.target is None or not len(self.target):
                raise RecipeError(
                    "in-context: `anchors: target` needs a target; add `target: {files: [few_shot.jsonl]}`"
                )
            return self._short(list(self.target))
        draws = of_keys(view, self.seed)
        eligible = view.usable & (view.cost <= self.anchor_tokens) & (view.cost < longest(self.model))  # none is cut
        vectors = None
        if self.anchors == "clusters":
            vectors = np.asarray(view.signal("tokens", "pooled_mean"), np.float32)
            eligible &= np.isfinite(vectors).all(axis=1)
        places = np.flatnonzero(eligible)
        if vectors is not None:
            places = places[spread(vectors[places], draws[places], self.count)]
        else:
            places = np.sort(places[np.argsort(draws[places], kind="stable")[: self.count]])
        return view.pool.read(places.tolist())

    def _short(self, rows: Sequence[Row]) -> list[Row]:
        from tamis.rendering import render_all

        rendered = render_all(rows, self.model)
        return [row for row, one in zip(rows, rendered, strict=True) if one.full_tokens <= self.anchor_tokens]

    def _bare(self, prompts: Prompts, on: Machine) -> NDArray[np.float32]:
        """(M,) losses of the anchors without a demonstration, NaN where one has a reason."""
        import numpy as np

        from tamis.demonstrations.utility import Pairs, measure_pairs
        from tamis.models import cached_model
        from tamis.prediction.forward import forward_of
        from tamis.ragged import Ragged
        from tamis.rendering import longest

        usable = np.flatnonzero(prompts.reason == 0)
        losses = np.full(len(prompts.reason), np.nan, np.float32)
        what = Pairs(
            Ragged.of([prompts.bare], np.int32),
            Ragged.of(prompts.queries, np.int32),
            Ragged.of(prompts.scored, np.bool_),
            np.stack([np.zeros(len(usable), np.int64), usable], 1),
            longest(self.model),
        )
        losses[usable] = measure_pairs(forward_of(cached_model(self.model, on.device)), what, on).nll
        return losses
