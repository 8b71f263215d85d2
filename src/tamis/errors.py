"""The errors of tamis, as one tree.

TamisError                 anything that tamis raises on purpose
├── RecipeError            the recipe or the command line is wrong; nothing was started         (exit 2)
├── DataError              input files, rows or columns cannot be used as asked                 (exit 2 or 1)
├── StoreError             the store on disk is damaged, locked or full                         (exit 1)
├── ModelError             a model, tokenizer or chat template cannot be used                   (exit 1)
├── TrainError             a training run failed or left no checkpoint                          (exit 1)
└── GateError              a gate said no: too many bad rows, contamination, disk               (exit 3)

Every message says what was found, what was expected and what to change.
"""

from __future__ import annotations

from collections.abc import Sequence


class TamisError(Exception):
    """Anything that tamis raises on purpose."""

    exit_code = 1


class RecipeError(TamisError):
    """The recipe or the command line is wrong; carries every fault found, not only the first."""

    exit_code = 2

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults: tuple[str, ...] = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(self.faults))


class DataError(TamisError):
    """Input files, rows or columns cannot be used as asked."""

    exit_code = 2


class StoreError(TamisError):
    """The store on disk is damaged, locked or full."""


class ModelError(TamisError):
    """A model, tokenizer or chat template cannot be used."""


class TrainError(TamisError):
    """A training run failed or left no checkpoint."""


class GateError(TamisError):
    """A gate said no: too many bad rows, contamination, not enough disk."""

    exit_code = 3
