"""Influence measured on landmark rows alone, and carried over to all other rows by closeness of their embeddings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.errors import DataError, RecipeError
from tamis.values import Need, Reason
from tamis.vectors.interpolation import Kernel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.pool import Shard
    from tamis.values import Arrays, Machine
    from tamis.views import PoolView, ShardSignals

LEAST = 8  # landmarks below which no interpolation is worth the name


@dataclass(frozen=True, kw_only=True)
class Landmarks:
    """Influence on all rows interpolated from exact influence on some (Nikdan et al. 2025, 2505.19051).

    Influence Distillation, an approximation. Reads the signal `influence` of a stage with `only: "@some-rows"` (best a
    random selection), keeps it where it is, and gives every other row the kernel ridge regression
    (`tamis.vectors.interpolation`) of the landmarks' scores on embeddings, one output a task. Since the regression is
    linear in what is carried over, that equals carrying over the landmarks' unit gradients and taking their cosines.

    The paper embeds rows by Jacobian-vector products through the first four blocks; here an embedding is the pooled
    hidden state of the `tokens` pass, that of RDS+: one forward pass over the whole model, which other methods share.
    At most `most` landmarks (4096, as in the paper) enter the fit, drawn by `seed` and the keys of rows. R² on a share
    of them, `held_out`, by a fit that did not see these, is in the facts of the fit, in the report and in `explain`.
    """

    revision: ClassVar[int] = 1
    makes: ClassVar[str] = "influence"
    in_process: ClassVar[bool] = True

    kernel: Kernel = "rbf"
    most: int = 4096
    held_out: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1 or self.most < LEAST:
            raise RecipeError(f"landmarks: held_out must lie between 0 and 1, and most be at least {LEAST}")

    @property
    def needs(self) -> frozenset[Need]:
        """Influence on the landmarks, and embeddings of all rows."""
        pooled = (("loss", "none"), ("pooled", True))
        return frozenset({Need(kind="signal", name="influence"), Need(kind="signal", name="tokens", settings=pooled)})

    def fit(self, view: PoolView, on: Machine, /) -> tuple[Arrays, dict[str, Any]]:
        """Arrays of the interpolation, and facts: landmarks, held out, R² by task. DataError for too few landmarks."""
        from tamis.vectors.interpolation import fit

        points, values, tasks = self._landmarks(view)
        if len(points) < LEAST:
            raise DataError(
                f"influence was measured on {len(points)} rows that can be embedded; landmarks need {LEAST} at least, "
                "and some hundreds to be of use: raise the budget of the selection that `only` names"
            )
        held_out = round(self.held_out * len(points))
        found, shares = fit(points, values, self.kernel, held_out)
        shown = ", ".join(f"{share:.2f}" for share in shares[:5]) + (", …" if len(shares) > 5 else "")
        facts = {
            "landmarks": len(points),
            "held_out": held_out,
            "r2": {task: None if share != share else float(share) for task, share in zip(tasks, shares, strict=True)},
            "ridge": found.ridge,
            "scale": found.scale,
            "note": f"approximation: influence is measured on {len(points):,} landmarks and interpolated for all other "
            f"rows; R² {shown} on {held_out:,} landmarks held out",
        }
        return found.arrays(), facts

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """`scores` (n, tasks) float32, `reason` (n,), `tasks` as influence gives them, `exact` (n,) uint8.

        `exact` is 1 where the score was measured and 0 where it is interpolated or missing. Rows that have neither
        influence nor an embedding keep the reason for it.
        """
        import numpy as np

        from tamis.vectors.interpolation import Interpolation

        measured = have["influence"]
        scores, reason = np.array(measured["scores"], np.float32), np.array(measured["reason"], np.uint8)
        exact = (reason == 0).astype(np.uint8)
        points, refused = _embedded(have["tokens"])
        missing = reason == Reason.NOT_MEASURED
        reason[missing] = np.where(refused[missing] > 0, refused[missing], 0)
        wanted = np.flatnonzero(missing & (reason == 0))
        if len(wanted):
            scores[wanted] = Interpolation.of(have["fit"])(points[wanted])
        text = {name: np.array(measured[name]) for name in ("tasks", "unit") if name in measured}
        return {"scores": scores, "reason": reason, "exact": exact, **text}

    def _landmarks(self, view: PoolView) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str]]:
        """Embeddings and scores of at most `most` measured rows, in the order of draws keyed by row and seed."""
        import numpy as np

        draws, points, values = np.zeros(0, np.uint64), None, None
        tasks: list[str] = []
        for shard in view.shards():
            tasks = tasks or json.loads(bytes(np.asarray(shard["influence"]["tasks"], np.uint8)))
            embedded, refused = _embedded(shard["tokens"])
            good = np.flatnonzero((np.asarray(shard["influence"]["reason"]) == 0) & (refused == 0))
            draws = np.concatenate([draws, self._draws(shard, good)])
            new, scores = embedded[good], np.asarray(shard["influence"]["scores"], np.float32)[good]
            points = new if points is None else np.concatenate([points, new])
            values = scores if values is None else np.concatenate([values, scores])
            first = np.argsort(draws, kind="stable")[: self.most]  # at once, so that a pool of any size fits
            draws, points, values = draws[first], points[first], values[first]
        if points is None or values is None:
            raise DataError("the pool is empty: there is no landmark")
        return points, values, tasks

    def _draws(self, shard: ShardSignals, places: NDArray[np.int64]) -> NDArray[np.uint64]:
        import numpy as np

        secret = self.seed.to_bytes(16, "little", signed=True)
        keys = shard.shard.table(["key"]).column("key").take(places).to_pylist()
        bits = (hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, key=secret) for key in keys)
        return np.array([int.from_bytes(one.digest(), "little") for one in bits], np.uint64)


def _embedded(tokens: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Embeddings (n, d), and why a row has none."""
    import numpy as np

    reason, points = np.array(tokens["reason"], np.uint8), np.array(tokens["pooled"], np.float32)
    broken = ~np.isfinite(points).all(1)
    reason[(reason == 0) & broken] = Reason.NOT_FINITE
    points[broken] = 0
    return points, reason
