"""Rows to tokens: the chat template rendered once, tokenised once, and the exact spans of the assistant's turns.

Span rules (DESIGN §7): (1) the assistant mask of the template if it has generation marks; (2) otherwise the text of
`messages[:i]` with the generation prompt and of `messages[:i + 1]`: the second must start with the first and the full
rendering with the second, else a ModelError names the template; (3) the closing token belongs to the span. A token
that straddles a border is scored iff it starts inside. The set of scored tokens is the set of trained tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tamis.values import Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.models import ModelRef
    from tamis.training import TrainingRows
    from tamis.values import Row


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """One row as the model sees it, after truncation.

    `ids` (t,) int32. `turn` (t,) int16: -1 for tokens that are not scored, else the number of the assistant turn whose
    response token it is. `headers[k]`: ids of the generation prompt in front of turn k (with the BOS token in front, if
    the template writes one): the context of the response-alone view. `full_tokens`: length before truncation.
    `reason`: why no token is scored.
    """

    ids: NDArray[np.int32]
    turn: NDArray[np.int16]
    headers: tuple[tuple[int, ...], ...] = ()
    full_tokens: int = 0
    reason: Reason = Reason.NONE

    @property
    def truncated(self) -> bool:
        """Whether tokens were cut."""
        return self.full_tokens > len(self.ids)
