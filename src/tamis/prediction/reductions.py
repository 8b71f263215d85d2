"""From numbers of response tokens to one number of a row: what the scorers over the token signal share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Arrays

Turns = Literal["tokens", "mean", "last", "max", "sum"]
Over = Literal["mean", "max", "sum"]
RESPONSE = Need(kind="signal", name="tokens", settings=(("loss", "response"),))


@dataclass(frozen=True)
class ResponseTokens:
    """The response tokens of a shard of `count` rows, in order.

    `at`: (m,) int64 places in the ragged arrays of the token signal. `rows` and `turns`: (m,) whose token each is.
    """

    at: NDArray[np.int64]
    rows: NDArray[np.int64]
    turns: NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, signal: Arrays) -> ResponseTokens:
        """Of the signal `tokens`, whichever tokens it was measured over (`loss` response or all)."""
        import numpy as np

        offsets = np.asarray(signal["nll_offsets"])
        turns = np.asarray(signal["turn"])
        at = np.flatnonzero(turns >= 0)
        owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        return cls(at, owners[at], turns[at].astype(np.int64), len(offsets) - 1)

    def values(self, array: NDArray[Any]) -> NDArray[np.float64]:
        """(m,) numbers of the response tokens, of a ragged array over all scored tokens."""
        import numpy as np

        return np.asarray(array)[self.at].astype(np.float64)

    def reduced(self, values: NDArray[np.float64], over: Over = "mean", turns: Turns = "tokens") -> NDArray[np.float64]:
        """(n,) one number a row of `values` (m,); NaN where a row has no response token.

        `over` says how tokens become one number: their mean, max or sum. With `turns` tokens that is over all tokens of
        the row; else over those of each turn, and then over the turns: their mean, last, max or sum.
        """
        import numpy as np

        done = np.full(self.count, np.nan)
        starts, owners = self._segments(split=turns != "tokens")
        if not len(starts):
            return done
        parts = _by_segment(values, starts, over)
        if turns == "tokens":
            done[owners] = parts
            return done
        first = np.flatnonzero(np.diff(owners, prepend=-1) != 0)
        if turns == "last":
            done[owners[first]] = parts[np.append(first[1:], len(parts)) - 1]
        else:
            done[owners[first]] = _by_segment(parts, first, turns)
        return done

    def quantiles(self, values: NDArray[np.float64], levels: Sequence[float]) -> NDArray[np.float64]:
        """(n, q) quantiles of the tokens of every row, interpolated linearly; NaN where a row has none.

        >>> import numpy as np
        >>> tokens = ResponseTokens(np.arange(3), np.array([0, 0, 2]), np.zeros(3, np.int64), 3)
        >>> tokens.quantiles(np.array([4.0, 2.0, 7.0]), (0, 0.25, 1)).tolist()
        [[2.0, 2.5, 4.0], [nan, nan, nan], [7.0, 7.0, 7.0]]
        """
        import numpy as np

        done = np.full((self.count, len(levels)), np.nan)
        starts, owners = self._segments(split=False)
        if not len(starts):
            return done
        ordered = values[np.lexsort((values, self.rows))]
        counts = np.diff(np.append(starts, len(values)))
        place = np.asarray(levels, np.float64) * (counts - 1)[:, None]
        low = np.floor(place).astype(np.int64)
        high = np.minimum(low + 1, counts[:, None] - 1)
        below, above = (ordered[starts[:, None] + end] for end in (low, high))
        done[owners] = below + (place - low) * (above - below)
        return done

    def _segments(self, *, split: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts of rows, or of turns where `split`, among the tokens; and the row of each."""
        import numpy as np

        new = np.diff(self.rows, prepend=-1) != 0
        if split:
            new |= np.diff(self.turns, prepend=-1) != 0
        starts = np.flatnonzero(new)
        return starts, self.rows[starts]


def _by_segment(values: NDArray[np.float64], starts: NDArray[np.int64], over: Over) -> NDArray[np.float64]:
    import numpy as np

    if over == "max":
        return np.maximum.reduceat(values, starts)
    sums: NDArray[np.float64] = np.add.reduceat(values, starts)
    return sums / np.diff(np.append(starts, len(values))) if over == "mean" else sums


def column(values: NDArray[Any], reasons: NDArray[Any], unit: str) -> Column:
    """A column of `values` (n,), NaN wherever there is a reason; a value that is not finite has one of its own."""
    import numpy as np

    why = np.asarray(reasons, np.uint8).copy()
    with np.errstate(over="ignore", invalid="ignore"):
        done = np.asarray(values).astype(np.float32)
    why[(why == Reason.NONE) & ~np.isfinite(done)] = Reason.NOT_FINITE
    done[why != Reason.NONE] = np.nan
    return Column(values=done, unit=unit, reasons=why)


def columns(views: Mapping[str, NDArray[Any]], reasons: NDArray[Any], unit: str) -> dict[str, Column]:
    """`column` of several views of one unit, NaN for the same reasons."""
    return {name: column(values, reasons, unit) for name, values in views.items()}


def response_reasons(signal: Arrays) -> NDArray[np.uint8]:
    """(n,) why a row has no number over its response; "too short" where no token of it was scored."""
    import numpy as np

    reasons = np.asarray(signal["reason"], np.uint8).copy()
    reasons[(reasons == Reason.NONE) & (np.asarray(signal["response_count"]) == 0)] = Reason.TOO_SHORT
    return reasons
