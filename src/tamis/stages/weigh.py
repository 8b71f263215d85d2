"""Weigh: training weights for the rows of a subset and their response tokens, kept with the subset."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.catalogue import build
from tamis.errors import DataError
from tamis.protocols import Weigher
from tamis.recipe import scorer_settings
from tamis.values import Subset, TokenWeights, Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.models import ModelRef
    from tamis.views import PoolView

BATCH = 1024  # rows rendered at once


@dataclass(frozen=True)
class Weighing:
    """A weigher, and the name by which a reader knows it."""

    name: str
    weigher: Weigher

    @property
    def identity(self) -> list[Any]:
        """What goes into the identity of a subset that is weighed."""
        return [type(self.weigher).__name__, type(self.weigher).revision, self.weigher]


def weigher_of(value: Any) -> Weighing | None:
    """The weigher of a `weigh` setting: a name, or a name with settings; None where there is none."""
    found = scorer_settings(value)
    if not found:
        return None
    name, settings = next(iter(found.items()))
    return Weighing(name, build("weighers", name, settings))


def weigh(view: PoolView, subset: Subset, weighing: Weighing, model: ModelRef) -> Subset:
    """The subset with the weights of its rows (times those that the selector gave) and of their response tokens.

    Raises DataError where nothing of it has a weight, where a weight is negative or not finite, and where the weights
    do not belong to the tokens that `model` would be trained on.
    """
    import numpy as np

    places = np.asarray(subset.positions)
    rows, lists = _gather(view, weighing, places)
    notes = [f"{weighing.name}: {weighing.weigher.about()}"] if hasattr(weighing.weigher, "about") else []
    laid: list[NDArray[np.float32]] = []
    if rows is not None:
        weights = rows if subset.weights is None else (rows * subset.weights).astype(np.float32)
        notes.append(f"{weighing.name}: {_of_rows(weights)}")
        subset = dataclasses.replace(subset, weights=weights)
        laid.append(weights)
    if lists is not None:
        tokens = _checked_tokens(view, places, lists, model)
        notes.append(f"{weighing.name}: {_of_tokens(tokens)}")
        subset = dataclasses.replace(subset, tokens=tokens)
        laid.append(tokens.values)
    if not all((weights > 0).any() for weights in laid):
        raise DataError(f"{weighing.name} leaves no weight to any of the {len(places)} rows: {'; '.join(notes)}")
    return dataclasses.replace(subset, notes=(*subset.notes, *notes))


def _gather(
    view: PoolView, weighing: Weighing, places: NDArray[np.int64]
) -> tuple[NDArray[np.float32] | None, list[NDArray[np.float32]] | None]:
    """Weights of the rows at `places` and lists of their tokens' weights, in that order."""
    import numpy as np

    rows: NDArray[np.float32] | None = None
    lists: dict[int, NDArray[np.float32]] = {}
    start = 0
    for have in view.shards():
        inside = np.flatnonzero((places >= start) & (places < start + len(have)))
        if len(inside):
            made = weighing.weigher.weigh(have)
            check(made, len(have), weighing.name)
            own = places[inside] - start
            if made.rows is not None:
                rows = np.zeros(len(places), np.float32) if rows is None else rows
                rows[inside] = made.rows[own]
            if made.tokens is not None and made.offsets is not None:
                lists |= {
                    int(at): np.asarray(made.tokens[made.offsets[row] : made.offsets[row + 1]])
                    for at, row in zip(inside, own, strict=True)
                }
        start += len(have)
    return rows, [lists[at] for at in range(len(places))] if lists else None


def check(made: Weights, count: int, name: str) -> None:
    """Raise DataError where weights of a shard of `count` rows are no weights: a fault of the weigher."""
    import numpy as np

    for given in (made.rows, made.tokens):
        if given is not None and not bool((np.isfinite(given) & (given >= 0)).all()):
            raise DataError(f"{name} gave a weight that is negative or not finite: a fault of the weigher")
    fits = made.rows is None or made.rows.shape == (count,)
    if made.tokens is not None:
        offsets = made.offsets
        fits &= offsets is not None and len(offsets) == count + 1 and offsets[-1] == len(made.tokens)
    if not fits or (made.rows is None and made.tokens is None):
        raise DataError(f"{name} gave weights that do not fit the {count} rows of a shard: a fault of the weigher")


def _checked_tokens(
    view: PoolView, places: NDArray[np.int64], lists: list[NDArray[np.float32]], model: ModelRef
) -> TokenWeights:
    """Lists of weights packed, with the checks of the tokens that they belong to."""
    import numpy as np

    from tamis.training.weighting import check_of

    checks = np.zeros(len(places), np.uint32)
    for place, ids in enumerate(_responses(view, places, model)):
        if len(ids) != len(lists[place]):
            raise DataError(
                f"row {place} of the subset has {len(ids)} response tokens, and {len(lists[place])} were weighed: the "
                "signal was measured with another template; measure it again"
            )
        checks[place] = check_of(ids)
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
    values = np.concatenate([np.zeros(0, np.float32), *lists]).astype(np.float32)
    return TokenWeights(values=values, offsets=offsets, checks=checks)


def _responses(view: PoolView, places: NDArray[np.int64], model: ModelRef) -> Iterator[NDArray[np.int32]]:
    """Ids of the response tokens of the rows at `places`, as a trainer gets them."""
    from tamis.rendering import render_all

    for start in range(0, len(places), BATCH):
        rows = view.pool.read(places[start : start + BATCH].tolist())
        for one in render_all(rows, model):
            yield one.ids[one.turn >= 0]


def _of_rows(weights: NDArray[np.float32]) -> str:
    import numpy as np

    low, middle, high = np.quantile(weights, (0, 0.5, 1))
    return f"row weights lie between {low:.3g} and {high:.3g}, their median is {middle:.3g}"


def _of_tokens(tokens: TokenWeights) -> str:
    """How much of the response tokens is left, in words."""
    import numpy as np

    lit = tokens.values > 0
    empty = sum(not lit[a:b].any() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True))
    said = f"{lit.mean() if len(lit) else 0:.1%} of {len(lit):,} response tokens have a weight"
    if not tokens.masks:
        said += f", {np.mean(tokens.values) if len(lit) else 0:.3g} in the mean"
    return said + (f"; {empty:,} rows have none and train nothing" if empty else "")
