"""Checkpoints that other programs left, taken over into the form of tamis: weights, Adam's moments, learning rate.

A folder holds a PEFT adapter or a Hugging Face model in safetensors, as `Trainer` writes its `checkpoint-105`; beside
it, where they are, `optimizer.pt` or `optimizer.bin` and `trainer_state.json`. The tokenizer and its template are those
of the base model, so that every checkpoint is measured on the same tokens.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import ModelError, TrainError
from tamis.training.checkpoints import MOMENTS

if TYPE_CHECKING:
    from tamis.models import ModelRef
    from tamis.training.optimizer_states import OptimizerState

log = logging.getLogger(__name__)
Take = Literal["auto", "try", "none"]
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_MODEL = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")
_TOKENIZER = (
    "tokenizer*",
    "*.jinja",
    "*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
)
STATE = "trainer_state.json"
_ENDED = 0.01  # an epoch whose last batch was dropped is logged as 0.995 or 2.003


@dataclass(frozen=True)
class TrainerState:
    """What `trainer_state.json` says; `learning_rate`: mean over the steps of the epoch that the checkpoint ends."""

    step: int | None = None
    epoch: float | None = None
    learning_rate: float | None = None


def take_over(source: Path, base: ModelRef, to: Path, moments: Take = "auto") -> dict[str, Any]:
    """Copy an adapter or a model into `to`, with Adam's moments where there are any; the facts of the checkpoint.

    `moments`: `auto` takes them where they are, and refuses a state that does not fit; `try` does without one that
    does not fit, and warns; `none` leaves them. Raises TrainError where there is neither adapter nor model, its tensors
    cannot be read, or they are not those of `base`.
    """
    kind = _weights(source, base, to)
    model = _skeleton(to, base, kind)
    facts: dict[str, Any] = {"kind": kind, "base": asdict(base)}
    told = trainer_state(source)
    facts |= {"epoch": told.epoch, "step": told.step or 0, "learning_rate": told.learning_rate}
    state = None if moments == "none" else _state(source, model, moments)
    if state is not None:
        _save_moments(state, to / MOMENTS)
        facts |= {"step": state.step, "betas": list(state.betas), "eps": state.eps}
    return facts | {"optimizer": None if state is None else state.file}


def _weights(source: Path, base: ModelRef, to: Path) -> Literal["lora", "full"]:
    names = {file.name for file in source.iterdir() if file.is_file()}
    if ADAPTER[0] in names:
        missing = sorted(set(ADAPTER) - names)
        if missing:
            raise TrainError(f"the adapter in {source} lacks {', '.join(missing)}{_pickles(names)}")
        _copy(source, to, ADAPTER)
        kind = read_json(to / ADAPTER[0]).get("peft_type")
        if kind != "LORA":
            raise TrainError(f"the adapter in {source} is {kind!r}; tamis reads LORA")
        return "lora"
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise TrainError(
            f"{source} holds neither an adapter (adapter_config.json) nor a model (config.json and safetensors)"
            f"{_pickles(names)}; found {', '.join(sorted(names)[:8]) or 'nothing'}"
        )
    _copy(source, to, _MODEL)
    copy_tokenizer(base, to)
    return "full"


def _pickles(names: set[str]) -> str:
    pickled = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth")))
    return f" (only {', '.join(pickled)}, which is pickle: save as safetensors)" if pickled else ""


def _copy(source: Path, to: Path, patterns: Sequence[str]) -> None:
    for file in sorted({file for pattern in patterns for file in source.glob(pattern) if file.is_file()}):
        shutil.copyfile(file, to / file.name)


def copy_tokenizer(base: ModelRef, folder: Path) -> None:
    """Put the tokenizer's files of `base` into a folder that lacks them, so that the folder is a model."""
    from tamis.models import folder_of

    source = folder_of(base.name)
    for file in sorted({file for pattern in _TOKENIZER for file in source.glob(pattern) if file.is_file()}):
        if not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)


def _skeleton(folder: Path, base: ModelRef, kind: Literal["lora", "full"]) -> Any:
    """The trained model without weights, its trainable parameters marked; TrainError where it is not one of `base`."""
    from tamis.models import folder_of, skeleton

    try:
        model = skeleton(folder_of(base.name))
        if kind == "full":
            _check_alike(model, trained := skeleton(folder), folder, base)
            _check_shards(folder)
            return trained
        return _check_adapter(folder, skeleton(folder_of(base.name), folder), base)
    except ModelError as error:
        raise TrainError(f"{folder.name} does not fit {base.label}: {error}") from error


def _check_alike(model: Any, trained: Any, folder: Path, base: ModelRef) -> None:
    one, two = ({name: tuple(value.shape) for name, value in which.named_parameters()} for which in (model, trained))
    for name in sorted({*one, *two}):
        if one.get(name) != two.get(name):
            raise TrainError(
                f"the model in {folder.name} is not one trained from {base.label}: {name} has the shape "
                f"{two.get(name, 'of no parameter')}, there {one.get(name, 'of no parameter')}"
            )


def _check_adapter(folder: Path, model: Any, base: ModelRef) -> Any:
    """`model`, if the adapter's tensors are those that its configuration promises for this base."""
    from peft import get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    wanted = {
        name: tuple(value.shape)
        for name, value in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    try:
        with safe_open(str(folder / ADAPTER[1]), framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except SafetensorError as error:
        raise TrainError(f"the adapter {ADAPTER[1]} cannot be read: {error}") from error
    if not found:
        raise TrainError(f"the adapter {ADAPTER[1]} holds no tensor")
    for name in sorted(wanted):
        if found.get(name) != wanted[name]:
            raise TrainError(
                f"the adapter does not fit {base.label}: {name} has the shape {found.get(name, 'of no tensor')}, "
                f"expected {wanted[name]}"
            )
    return model


def _check_shards(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    for index in folder.glob("*.safetensors.index.json"):
        missing = {str(name) for name in read_json(index)["weight_map"].values()} - {
            file.name for file in folder.iterdir()
        }
        if missing:
            raise TrainError(f"the model lacks {', '.join(sorted(missing))}")
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(str(file), framework="pt"):
                pass
        except SafetensorError as error:
            raise TrainError(f"{file.name} cannot be read: {error}") from error


def _state(source: Path, model: Any, moments: Take) -> OptimizerState | None:
    from tamis.training.optimizer_states import find, read

    try:
        file = find(source)
        if file is not None:
            return read(file, model)
        if moments == "auto":
            log.warning("%s holds no optimiser state: influence takes raw gradients there", source)
    except TrainError as error:
        if moments == "auto":
            raise TrainError(f"{error}; set `moments: none` to do without (raw gradients)") from error
        log.warning("%s is taken over without Adam's moments: %s", source.name, error)
    return None


def _save_moments(state: OptimizerState, file: Path) -> None:
    from safetensors.torch import save_file

    pairs = state.moments.items()
    tensors = {f"exp_avg.{name}": first for name, (first, _) in pairs}
    save_file(tensors | {f"exp_avg_sq.{name}": second for name, (_, second) in pairs}, str(file))


def trainer_state(*folders: Path) -> TrainerState:
    """What the first `trainer_state.json` of the folders says (Hugging Face's Trainer); nothing without one."""
    for folder in folders:
        file = folder / STATE
        if file.is_file():
            told = read_json(file)
            step = int(told.get("global_step") or 0)
            epoch = None if told.get("epoch") is None else float(told["epoch"])
            return TrainerState(step or None, epoch, _mean_rate(told.get("log_history") or [], step, epoch))
    return TrainerState()


def _mean_rate(history: Sequence[Any], step: int, epoch: float | None) -> float | None:
    """Mean learning rate over the steps of the epoch that ends at `step`; between entries the rate is interpolated."""
    import numpy as np

    rates = {
        int(entry["step"]): float(entry["learning_rate"])
        for entry in history
        if isinstance(entry, dict) and entry.get("learning_rate") is not None and 0 < int(entry.get("step", 0)) <= step
    }
    if not rates or step < 1:
        return None
    before = 0
    if epoch:
        before = min(round(step * max(0.0, math.ceil(epoch - _ENDED) - 1) / epoch), step - 1)
    known = sorted(rates)
    steps = np.arange(before + 1, step + 1)
    if sum(before < one <= step for one in known) < min(2, len(steps)):
        log.warning("the log has one learning rate or none for the %d steps up to step %d", len(steps), step)
    return float(np.interp(steps, known, [rates[one] for one in known]).mean())


def read_json(file: Path) -> dict[str, Any]:
    """An object of a JSON file; TrainError for anything else."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainError(f"{file.name} is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise TrainError(f"{file.name} is no JSON object")
    return read
