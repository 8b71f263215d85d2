"""Is one arm better than another? Paired differences, crossed bootstrap over items and runs, and what was picked.

An arm is a way to choose training rows; a run of it is one training (adapter seed, data order and, for random, a new
subset), measured on the same evaluation items. Runs are paired by number, items by key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Items

LEVEL = 0.95
_BLOCK = 1 << 20  # resampled items held at once


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A difference with its 95 % bootstrap interval, in the unit of the metric.

    `per_run`: the difference of every run. `over`: what was resampled. `clear`: the interval excludes zero and every
    run has the sign of the mean. `p`: two-sided bootstrap p-value, at least 2 / (draws + 1).
    """

    mean: float
    low: float
    high: float
    per_run: tuple[float, ...]
    over: Literal["items and runs", "items"]
    clear: bool
    p: float


@dataclass(frozen=True, kw_only=True)
class Components:
    """Variance of a grid of adapter seeds by order seeds: mean squares, and the parts of the two seeds."""

    adapter_square: float
    order_square: float
    error_square: float
    adapter: float
    order: float


def crossed_bootstrap(
    differences: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    draws: int = 2000,
    seed: int = 0,
    over: Literal["items and runs", "items"] = "items and runs",
) -> Interval:
    """Percentile interval of the mean over runs of sum(differences) / sum(weights).

    `differences` (runs, items): summed statistic of one arm minus that of the other; `weights` (items,) counts, above
    0. Every draw resamples items and, independently, runs, with replacement (crossed: one draw of items serves all
    runs, whose items are the same). With `over="items"`, or a single run, runs are not resampled.
    """
    import numpy as np

    per_run = differences.sum(axis=1) / weights.sum()
    mean = float(per_run.mean())
    if len(differences) == 1:
        over = "items"
    means = np.concatenate(list(_resampled(differences, weights, draws, seed, runs=over != "items")))
    low, high = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Interval(
        mean=mean,
        low=float(low),
        high=float(high),
        per_run=tuple(float(value) for value in per_run),
        over=over,
        clear=bool((low > 0 or high < 0) and (np.sign(per_run) == np.sign(mean)).all()),
        p=min(1.0, 2 * (tail + 1) / (draws + 1)),
    )


def _resampled(
    differences: NDArray[np.float64], weights: NDArray[np.float64], draws: int, seed: int, *, runs: bool
) -> Iterator[NDArray[np.float64]]:
    import numpy as np

    random = np.random.Generator(np.random.Philox(seed))
    count, items = differences.shape
    block = max(1, _BLOCK // (items * count))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        drawn = random.integers(items, size=(size, items))
        by_run = differences[:, drawn].sum(axis=2) / weights[drawn].sum(axis=1)
        if runs:
            by_run = by_run[random.integers(count, size=(count, size)), np.arange(size)]
        yield by_run.mean(axis=0)


def compare_arms(
    method: str, arms: Mapping[str, Sequence[Items]], *, draws: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Give the figures of every arm, `method` minus every other arm with intervals, and a verdict, as plain JSON.

    `arms`: arm -> its runs. Run r is paired with run r. An arm with one run (untouched, full) is paired with every run
    of the other; such an interval is over items only. Arms that were not measured on the same items are a DataError.
    """
    _check(method, arms)
    first = arms[method][0]
    differences = [
        _difference(method, arm, arms[method], runs, draws, seed) for arm, runs in arms.items() if arm != method
    ]
    for entry, clear in zip(differences, holm([entry["p"] for entry in differences]), strict=True):
        entry["clear_after_holm"] = bool(entry["clear"] and clear)
    return {
        "metric": first.metric,
        "unit": first.unit,
        "lower_is_better": first.lower_is_better,
        "method": method,
        "items": len(first.keys),
        "draws": draws,
        "arms": [_figures(arm, runs) for arm, runs in arms.items()],
        "differences": differences,
        "verdict": _verdict(method, differences, first, len(arms[method])),
    }


def _check(method: str, arms: Mapping[str, Sequence[Items]]) -> None:
    import numpy as np

    if method not in arms or not all(arms.values()):
        raise DataError(f"a comparison of {method!r} needs at least one run of it and of every arm; have {list(arms)}")
    first = arms[method][0]
    if not len(first.keys):
        raise DataError("nothing was evaluated: no evaluation row could be used; look into the quarantine")
    for arm, runs in arms.items():
        for number, items in enumerate(runs):
            if list(items.keys) != list(first.keys) or not np.array_equal(items.weights, first.weights):
                raise DataError(
                    f"run {number} of {arm} was measured on other items than {method} "
                    f"({len(items.keys)} and {len(first.keys)}): evaluate every arm on the same rows and template"
                )
            if items.metric != first.metric:
                raise DataError(f"run {number} of {arm} was measured by {items.metric}, {method} by {first.metric}")
            if not np.isfinite(items.values).all() or not (items.weights > 0).all():
                raise DataError(f"run {number} of {arm} holds an item without a finite value or without a count")


def _figures(arm: str, runs: Sequence[Items]) -> dict[str, Any]:
    values = [float(items.values.sum() / items.weights.sum()) for items in runs]
    return {
        "name": arm,
        "runs": [{"run": run, "value": value} for run, value in enumerate(values)],
        "mean": sum(values) / len(values),
    }


def _difference(
    method: str, arm: str, ours: Sequence[Items], theirs: Sequence[Items], draws: int, seed: int
) -> dict[str, Any]:
    """One entry of `differences`: `method` minus `arm`."""
    import numpy as np

    if len(ours) != len(theirs) and min(len(ours), len(theirs)) > 1:
        raise DataError(f"{method} has {len(ours)} runs and {arm} has {len(theirs)}: give both the same number, or one")
    pairs = max(len(ours), len(theirs))
    values = np.stack([ours[run % len(ours)].values - theirs[run % len(theirs)].values for run in range(pairs)])
    paired = len(ours) == len(theirs)
    found = crossed_bootstrap(
        values.astype(np.float64), ours[0].weights, draws=draws, seed=seed, over="items and runs" if paired else "items"
    )
    better = (found.mean < 0) == ours[0].lower_is_better if found.clear else None
    return {
        "arm": arm,
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "per_run": list(found.per_run),
        "over": found.over,
        "clear": found.clear,
        "p": found.p,
        "better": better,
        "verdict": _sentence(method, arm, found, better, ours[0].unit),
    }


def _sentence(method: str, arm: str, found: Interval, better: bool | None, unit: str) -> str:
    words = {True: "beats", False: "loses to", None: "is not clearly different from"}[better]
    why = ""
    if better is None:
        why = " (the interval holds zero)" if found.low <= 0 <= found.high else " (the runs disagree in sign)"
    alone = "; one run, interval over items only" if found.over == "items" else ""
    return f"{method} {words} {arm}: {found.mean:+.4g} {unit} [{found.low:+.4g}, {found.high:+.4g}]{why}{alone}"


def _verdict(method: str, differences: Sequence[Mapping[str, Any]], first: Items, runs: int) -> str:
    """One sentence over all arms."""
    parts = []
    for better, words in ((True, "beats"), (False, "loses to"), (None, "is not clearly different from")):
        names = [str(entry["arm"]) for entry in differences if entry["better"] is better]
        if names:
            parts.append(f"{words} {' and '.join([', '.join(names[:-1]), names[-1]] if names[1:] else names)}")
    said = "; ".join(parts) or "stands alone: there is no other arm"
    count = f"{runs} run{'s' if runs > 1 else ''}"
    return f"{method} {said} ({first.metric}, 95 % intervals, {len(first.keys)} items, {count})."


def holm(p_values: Sequence[float], level: float = 1 - LEVEL) -> list[bool]:
    """Which hypotheses stay rejected at family-wise `level` by Holm's step-down rule (Holm, 1979)."""
    rejected = [False] * len(p_values)
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        if p_values[place] > level / (len(p_values) - rank):
            break
        rejected[place] = True
    return rejected


def composition(groups: NDArray[np.str_], positions: NDArray[np.int64] | None = None) -> dict[str, float]:
    """Share of every group among the rows at `positions` (None: among all), largest first; shares add up to 1."""
    import numpy as np

    chosen = groups if positions is None else groups[positions]
    names, counts = np.unique(chosen, return_counts=True)
    shares = sorted(zip(names.tolist(), counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    return {name: count / len(chosen) for name, count in shares}


def expected_best(values: Sequence[float], trials: int, *, lower_is_better: bool = False) -> float:
    """Give the expected best of `trials` draws with replacement from these runs: sum of v_k ((k/N)^n - ((k-1)/N)^n).

    Shown beside a best-of-n figure, so that nobody compares a best of five with a best of one.
    """
    ranked = sorted(values, reverse=lower_is_better)
    count = len(ranked)
    return sum(value * ((k / count) ** trials - ((k - 1) / count) ** trials) for k, value in enumerate(ranked, 1))


def variance_components(grid: NDArray[np.float64]) -> Components:
    """Two-way random effects of `grid` (adapter seeds, order seeds), both at least 2, one training a cell.

    The variance of a seed is max(0, (its mean square - residual mean square) / number of the other seeds).
    """
    import numpy as np

    grid = np.asarray(grid, np.float64)
    adapters, orders = grid.shape
    if min(grid.shape) < 2:
        raise DataError(f"variance components need at least 2 x 2 trainings, got {adapters} x {orders}")
    mean = grid.mean()
    by_adapter, by_order = grid.mean(axis=1), grid.mean(axis=0)
    adapter = orders * float(((by_adapter - mean) ** 2).sum()) / (adapters - 1)
    order = adapters * float(((by_order - mean) ** 2).sum()) / (orders - 1)
    residual = grid - by_adapter[:, None] - by_order[None, :] + mean
    error = float((residual**2).sum()) / ((adapters - 1) * (orders - 1))
    return Components(
        adapter_square=adapter,
        order_square=order,
        error_square=error,
        adapter=max(0.0, (adapter - error) / orders),
        order=max(0.0, (order - error) / adapters),
    )
