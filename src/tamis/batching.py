"""Batches of sequences of like length, formed by a rule that sees one shard only, so that the same bits come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from tamis.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Result = TypeVar("Result")


def batches(lengths: NDArray[Any], tokens_per_batch: int) -> list[NDArray[np.int64]]:
    """Places of the sequences, batch by batch: shortest first, ties by place.

    `lengths` (n,) tokens, all at least 1. A batch holds at most `tokens_per_batch` tokens, padding included, or one
    sequence that is longer than that. Every place comes exactly once.

    >>> import numpy as np
    >>> [batch.tolist() for batch in batches(np.array([5, 2, 9, 2]), 8)]
    [[1, 3], [0], [2]]
    """
    import numpy as np

    lengths = np.asarray(lengths, np.int64)
    order = np.argsort(lengths, kind="stable")
    done = []
    start = 0
    for place in range(1, len(order) + 1):
        if place == len(order) or (place - start + 1) * lengths[order[place]] > tokens_per_batch:
            done.append(order[start:place])
            start = place
    return done


def pad(sequences: list[NDArray[np.int32]], fill: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(ids, real) of shape (sequences, longest), padded on the right with the token `fill`."""
    import numpy as np

    lengths = np.array([len(ids) for ids in sequences], np.int64)
    real = np.arange(lengths.max(initial=0))[None, :] < lengths[:, None]
    ids = np.full(real.shape, fill, np.int64)
    ids[real] = np.concatenate(sequences)
    return ids, real


def with_halving(run: Callable[[NDArray[np.int64]], Result], batch: NDArray[np.int64]) -> Iterator[Result]:
    """`run(batch)`, or, where there is no memory for it, `run` of its two halves and so on down to one sequence.

    Raises ModelError if one sequence alone does not fit.
    """
    try:
        result = run(batch)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        if len(batch) == 1:
            raise too_long(error) from error
        result = None
    if result is not None:
        yield result
        return
    free_memory()  # outside the handler: the failed call's tensors are gone by now
    half = len(batch) // 2
    yield from with_halving(run, batch[:half])
    yield from with_halving(run, batch[half:])


_NO_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory: torch has a class of its own for some devices, and words."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def too_long(error: BaseException) -> ModelError:
    """The error of a sequence that does not fit alone."""
    return ModelError(
        "there is no memory for one sequence alone: use a smaller `max_tokens`, a smaller model or dtype "
        f"({str(error).splitlines()[0][:200] if str(error) else type(error).__name__})"
    )


def free_memory() -> None:
    """Give back what torch keeps of a GPU; to be called when the tensors of the failed call are gone."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
