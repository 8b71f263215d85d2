"""Losses of rows recorded inside a training: who writes them (a hook) and who reads them (a pass) agree here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tamis.errors import TrainError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.training.checkpoints import Checkpoint

KEEPS = "losses"  # folder of the record, in `records` beside the checkpoints
FOLDER = "records"


def token_digests(sequences: Sequence[NDArray[np.int32]]) -> NDArray[np.uint64]:
    """(n,) 64-bit digests of rows in token ids: by these a row of a pool knows itself in a training."""
    import numpy as np

    found = (hashlib.blake2b(np.asarray(ids, "<i4").tobytes(), digest_size=8) for ids in sequences)
    return np.array([int.from_bytes(one.digest(), "little") for one in found], np.uint64)


def read_record(checkpoints: Sequence[Checkpoint]) -> Mapping[str, NDArray[Any]]:
    """The record of the training that left these checkpoints. TrainError where it has none."""
    from tamis.store import load_arrays

    if not checkpoints:
        raise TrainError("recorded needs the checkpoints of a training: name one that has `hooks: [record-losses]`")
    folder = checkpoints[-1].path.parent / FOLDER / KEEPS
    if not folder.is_dir():
        raise TrainError(
            f"{checkpoints[-1].path.parent} holds no losses of rows: train with `hooks: [record-losses]`, or measure "
            "them by the pass `trajectories`"
        )
    return load_arrays(folder)
