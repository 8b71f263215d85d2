"""Settings of the optimiser, learning rates and data order of a training run: functions of settings and seeds alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tamis.errors import TrainError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Schedule = Literal["linear", "cosine", "constant"]
Keep = Literal["last", "every-epoch"]


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """AdamW and its schedule; the settings that `Lora` and `Full` have in common."""

    epochs: int
    learning_rate: float
    schedule: Schedule
    warmup: float
    batch_rows: int
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    max_grad_norm: float | None
    keep: Keep
    save_steps: int

    def check(self) -> None:
        """Raise a TrainError that names every setting out of its range."""
        faults = [
            f"{name} is {value}: it must be {wanted}"
            for name, value, good, wanted in (
                ("epochs", self.epochs, self.epochs >= 1, "at least 1"),
                ("batch_rows", self.batch_rows, self.batch_rows >= 1, "at least 1"),
                ("save_steps", self.save_steps, self.save_steps >= 1, "at least 1"),
                ("learning_rate", self.learning_rate, self.learning_rate > 0, "above 0"),
                ("warmup", self.warmup, 0 <= self.warmup <= 1, "a share of the steps in [0, 1]"),
            )
            if not good
        ]
        if faults:
            raise TrainError("; ".join(faults))


def learning_rates(steps: int, peak: float, schedule: Schedule, warmup: float) -> NDArray[np.float64]:
    """Learning rate (steps,) of every optimiser step: a linear rise over `ceil(warmup * steps)` steps, then decay.

    Unlike transformers' schedules, which give the first step a rate of 0, step s of a rise over w has (s + 1) / w of
    the peak: no step is wasted, which shows in runs of a few dozen steps.
    """
    import math

    import numpy as np

    rise = math.ceil(warmup * steps)
    step = np.arange(steps, dtype=np.float64)
    left = (steps - step) / max(1, steps - rise)  # 1 at the end of the rise, 1 / (steps - rise) at the last step
    if schedule == "linear":
        factor = left
    elif schedule == "cosine":
        factor = 0.5 * (1 - np.cos(math.pi * np.minimum(left, 1.0)))
    else:
        factor = np.ones(steps)
    factor = np.where(step < rise, (step + 1) / max(1, rise), factor)
    return peak * factor


def epoch_order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return (rows,) the order of the rows in an epoch (from 0): a counter-based draw keyed on (seed, epoch)."""
    import numpy as np

    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)))
    return generator.permutation(rows)
