"""Token weights of a subset laid over the tokens of a trainer: the same tokens, or a fault that says why not."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.training import TrainingRows
    from tamis.values import TokenWeights


def check_of(ids: NDArray[Any]) -> int:
    """CRC-32 of token ids (t,), whatever their integer type."""
    import numpy as np

    return zlib.crc32(np.ascontiguousarray(ids, "<i4").tobytes())


def weights_of(tokens: TokenWeights, place: int, ids: NDArray[Any], model: str) -> NDArray[np.float32]:
    """(t,) weights of row `place` of a subset, whose response tokens are `ids` (t,) under the template of `model`.

    Raises DataError where those are not the tokens that were weighed.
    """
    found = tokens.values[tokens.offsets[place] : tokens.offsets[place + 1]]
    if len(found) != len(ids) or check_of(ids) != int(tokens.checks[place]):
        raise DataError(
            f"row {place} of the subset has {len(found)} weighed response tokens, and {len(ids)} others under {model}: "
            "its tokenizer, template or max_tokens is not that of the model that weighed them. Select again with the "
            "model that is trained"
        )
    return found


def spread(rows: TrainingRows, tokens: TokenWeights, model: str) -> TrainingRows:
    """The same rows with a weight per token, 0 where no label is; see `weights_of` for what is refused."""
    import numpy as np

    if len(tokens) != len(rows):
        raise DataError(f"got token weights of {len(tokens)} rows for {len(rows)} rows")
    flat = np.zeros(rows.tokens, np.float32)
    for place, (start, end) in enumerate(zip(rows.offsets[:-1], rows.offsets[1:], strict=True)):
        labels = start + np.flatnonzero(rows.trained[start:end])
        flat[labels] = weights_of(tokens, place, rows.ids[labels], model)
    return dataclasses.replace(rows, token_weights=flat)


def responses(signal: Mapping[str, NDArray[Any]], *names: str) -> tuple[NDArray[np.int64], list[NDArray[Any]]]:
    """Offsets (n + 1,) int64, and the arrays `names` of a token signal, of the response tokens alone, in order."""
    import numpy as np

    inside = np.asarray(signal["turn"]) >= 0
    before = np.concatenate([[0], np.cumsum(inside)]).astype(np.int64)
    return before[np.asarray(signal["nll_offsets"])], [np.asarray(signal[name])[inside] for name in names]
