"""What a training run writes: checkpoints, the log, and the state from which a killed run goes on.

Everything is safetensors and JSON, written under a temporary name and renamed. No file holds a time or a folder of
the run that would change its digest between two equal runs.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.errors import TrainError
from tamis.training.checkpoints import FACTS, MOMENTS, Checkpoint

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

log = logging.getLogger(__name__)
LOG = "log.jsonl"
STATE = "state.safetensors"
Save = Callable[[Path], None]


@dataclass
class Progress:
    """Where a run stands: optimiser steps done, and the sums over the epoch under way."""

    step: int = 0
    loss: float = 0.0
    weight: float = 0.0
    rate: float = 0.0
    trained_tokens: int = 0
    tokens: int = 0

    def new_epoch(self) -> None:
        """Forget the sums."""
        self.loss = self.weight = self.rate = 0.0
        self.trained_tokens = self.tokens = 0


def moments_of(parameters: Mapping[str, torch.nn.Parameter], optimizer: Any) -> dict[str, torch.Tensor]:
    """Adam's state by parameter name: `exp_avg.<name>`, `exp_avg_sq.<name>`, float32; zeros where never stepped."""
    import torch

    found: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter, {})
        for moment in ("exp_avg", "exp_avg_sq"):
            value = state[moment] if moment in state else torch.zeros_like(parameter)
            found[f"{moment}.{name}"] = value.detach().float().contiguous().cpu()
    return found


def save_state(
    folder: Path,
    progress: Progress,
    run: str,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: Any,
    records: Sequence[Mapping[str, NDArray[Any]]] = (),
) -> None:
    """Write all that the next step depends on into one file, so that it is there whole or not at all.

    `records`: arrays of the hooks, in their order.
    """
    import numpy as np
    import torch

    from tamis.store import write_tensors

    folder.mkdir(parents=True, exist_ok=True)
    tensors = moments_of(parameters, optimizer)
    tensors |= {f"weight.{name}": value.detach().contiguous().cpu() for name, value in parameters.items()}
    for number, record in enumerate(records):
        made = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in record.items()}
        tensors |= {f"record.{number}.{name}": array for name, array in made.items()}
    write_tensors(folder / STATE, tensors, {"progress": json.dumps(asdict(progress)), "run": run})


def load_state(
    folder: Path,
    run: str,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: Any,
    records: Sequence[dict[str, NDArray[Any]]] = (),
) -> Progress:
    """Put back what `save_state` wrote; a fresh Progress if there is nothing, or what is there is of another run."""
    import torch
    from safetensors import SafetensorError, safe_open

    file = folder / STATE
    if not file.is_file():
        return Progress()
    try:
        opened = safe_open(str(file), framework="pt")
    except SafetensorError as error:
        log.warning("the state of a training that was stopped cannot be read (%s): it starts over", error)
        shutil.rmtree(folder)
        return Progress()
    with opened as state:
        facts = state.metadata()
        if facts["run"] != run:
            shutil.rmtree(folder)
            return Progress()
        progress = Progress(**json.loads(facts["progress"]))
        for name, parameter in parameters.items():
            moments = {key: state.get_tensor(f"{key}.{name}").to(parameter.device) for key in ("exp_avg", "exp_avg_sq")}
            with torch.no_grad():
                parameter.copy_(state.get_tensor(f"weight.{name}"))
            optimizer.state[parameter] = {"step": torch.tensor(float(progress.step)), **moments}
        for key in (key for key in state.keys() if key.startswith("record.")):
            _, number, name = key.split(".", 2)
            records[int(number)][name] = state.get_tensor(key).numpy()
    return progress


def trim_log(file: Path, step: int) -> None:
    """Drop what a killed run logged after its last saved state."""
    if not file.exists():
        return
    lines = file.read_text(encoding="utf-8").splitlines()
    kept = [line for line in _whole(lines) if json.loads(line)["step"] <= step]
    file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _whole(lines: list[str]) -> Iterator[str]:
    for line in lines:
        try:
            json.loads(line)
        except ValueError:  # the line under way when the run was killed
            continue
        yield line


def save_checkpoint(
    folder: Path, save: Save, facts: Mapping[str, Any], moments: Mapping[str, torch.Tensor] | None
) -> Checkpoint:
    """Write a checkpoint folder whole or not at all; one that is there is replaced."""
    from safetensors import SafetensorError

    from tamis.store import write_json, write_tensors
    from tamis.writing import full, no_space

    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        save(temporary)
        if moments is not None:
            write_tensors(temporary / MOMENTS, moments, durable=False)
    except (OSError, SafetensorError) as error:
        if no_space(error):
            raise full(folder) from error
        raise TrainError(
            f"the checkpoint {folder.name} cannot be written ({error}); free disk space and run again"
        ) from error
    write_json(temporary / FACTS, dict(facts))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return Checkpoint(folder)
