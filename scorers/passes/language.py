"""The language signal: which language is asked in, and which is answered in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.values import Need, Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tamis.pool import Shard
    from tamis.values import Arrays, Machine
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Language:
    """Language of prompt and response of every row, told apart by py3langid from 600 characters of each."""

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays (n,) of one shard: `prompt`, `response` int32, and `prompt_probability`, `response_probability`.

        The first are languages as numbers (`tamis.text.languages.name_of`), 0 where there is no letter; the others
        float32 in [0, 1]. `reason` uint8: `needs an answer` where there is none.
        """
        import numpy as np

        from tamis.text.languages import code_of, detect
        from tamis.text.passages import of_row

        texts = [of_row(row) for row in shard.read()]
        arrays: dict[str, NDArray[Any]] = {}
        for field in ("prompt", "response"):
            found = [detect(getattr(one, field)) for one in texts]
            arrays[field] = np.array([code_of(name) for name, _ in found], np.int32)
            arrays[f"{field}_probability"] = np.array([probability for _, probability in found], np.float32)
        missing = [not one.answered for one in texts]
        arrays["reason"] = np.where(missing, int(Reason.NEEDS_ANSWER), 0).astype(np.uint8)
        return arrays
