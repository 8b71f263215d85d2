"""Adam's state as other trainers leave it, read safely: Hugging Face's Trainer, by index, or FSDP, by name.

Both are files of `torch.save`, and are read with `weights_only=True`: tensors and plain values, nothing is run.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.errors import TrainError

if TYPE_CHECKING:
    import torch

Moments = dict[str, tuple["torch.Tensor", "torch.Tensor"]]
FILES = ("optimizer.bin", "optimizer.pt")
_ELSEWHERE = ("global_step*", "optimizer_*", "rank*-of-*-optimizer.pt")  # DeepSpeed, sharded FSDP, XLA
_DAMAGE = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, EOFError, OSError)  # of a broken pickle
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_DEFAULT = re.compile(r"\.default(?=\.|$)")


@dataclass(frozen=True)
class OptimizerState:
    """Adam's moments by the parameter names of the model, float32 on the CPU, with what its update needs.

    `step`: optimiser steps done. `file`: name of the file that they were read from.
    """

    moments: Moments
    step: int
    betas: tuple[float, float]
    eps: float
    file: str


def plain_name(name: str) -> str:
    """A parameter's name without what DDP, FSDP, torch.compile and PEFT put around it.

    >>> plain_name("module.base_model.model.lm_head._fsdp_wrapped_module.lora_A.default.weight")
    'lm_head.lora_A.weight'
    """
    return _DEFAULT.sub("", _WRAPPERS.sub("", name).removeprefix("base_model.model."))


def find(folder: Path) -> Path | None:
    """The optimiser's file of a checkpoint folder; None without one. TrainError for forms that are not read."""
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path.name for pattern in _ELSEWHERE for path in folder.glob(pattern))
    if found:
        raise TrainError(
            f"{folder} holds its optimiser state in {', '.join(found[:3])} (DeepSpeed, or sharded); tamis reads "
            f"{' and '.join(FILES)}: save a full state dict (FSDP: FULL_STATE_DICT)"
        )
    return None


def read(file: Path, model: Any) -> OptimizerState:
    """Adam's state of every trainable parameter of `model` (which may lie on the meta device); zeros if never stepped.

    Raises TrainError for a file that needs code to be read, is no Adam's, or does not fit the model: other names, other
    parameter groups than Hugging Face's Trainer makes, or other shapes.
    """
    import torch

    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    saved = _load(file)
    groups = saved["param_groups"]
    names = _names(file, groups, model, list(parameters))
    moments: Moments = {}
    steps: set[int] = set()
    for name, parameter in parameters.items():
        state = saved["state"].get(names[name], {})
        if not state:
            moments[name] = (torch.zeros(parameter.shape), torch.zeros(parameter.shape))
            continue
        moments[name] = (
            _moment(file, name, state, "exp_avg", parameter),
            _moment(file, name, state, "exp_avg_sq", parameter),
        )
        steps.add(int(state["step"] if "step" in state else groups[0].get("step", 0)))
    if not steps or max(steps) < 1:
        raise TrainError(f"{file} holds no step of the optimiser: a checkpoint before the first one")
    betas, eps = groups[0].get("betas"), groups[0].get("eps")
    if betas is None or eps is None or any((one["betas"], one["eps"]) != (betas, eps) for one in groups[1:]):
        raise TrainError(f"{file} names no betas and eps that hold for all its groups: not one Adam's")
    return OptimizerState(moments, max(steps), (float(betas[0]), float(betas[1])), float(eps), file.name)


def _load(file: Path) -> dict[str, Any]:
    """The state dict of a file, by nothing but tensors and plain values."""
    from _pickle import UnpicklingError  # what torch raises; nothing of it is called

    import torch

    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(str(file)) if zipfile.is_zipfile(file) else []
        if unsafe:
            raise TrainError(
                f"{file} wants to run code when it is read ({', '.join(sorted(unsafe)[:3])}), and is not read. An "
                f"optimiser's state dict holds tensors and numbers: save that"
            )
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (UnpicklingError, struct.error, *_DAMAGE) as error:
        raise TrainError(
            f"{file} cannot be read as an optimiser's state (damaged, or it needs code to be read): "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    if isinstance(saved, dict) and isinstance(saved.get("optimizer"), dict):
        saved = saved["optimizer"]
    if not (isinstance(saved, dict) and isinstance(saved.get("state"), dict) and saved.get("param_groups")):
        raise TrainError(f"{file} is no optimiser's state dict: expected `state` and `param_groups`")
    return saved


def _names(file: Path, groups: Sequence[Mapping[str, Any]], model: Any, wanted: list[str]) -> dict[str, Any]:
    """Name of the model's parameter -> its key in the file's `state`."""
    keys = [key for group in groups for key in group["params"]]
    if all(isinstance(key, str) for key in keys):
        return _by_name(file, keys, wanted)
    if all("param_names" in group for group in groups):  # an optimiser that was given named parameters
        given = [name for group in groups for name in group["param_names"]]
        found = _by_name(file, given, wanted)
        return {name: keys[given.index(found[name])] for name in wanted}
    ordered = _in_groups(file, [len(group["params"]) for group in groups], model, wanted)
    return dict(zip(ordered, keys, strict=True))


def _by_name(file: Path, keys: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    given = {plain_name(key): key for key in keys}
    known = {plain_name(name): name for name in wanted}
    if len(given) != len(keys) or given.keys() != known.keys():
        lacks, beside = sorted(known.keys() - given.keys()), sorted(given.keys() - known.keys())
        raise TrainError(
            f"{file} does not fit the checkpoint: of {len(known)} trained parameters it lacks {len(lacks)}"
            f"{_first(lacks)}, and holds {len(beside)} others{_first(beside)}"
        )
    return {name: given[short] for short, name in known.items()}


def _first(names: Sequence[str]) -> str:
    return f" ({names[0]}{', …' if len(names) > 1 else ''})" if names else ""


def _in_groups(file: Path, sizes: list[int], model: Any, wanted: list[str]) -> list[str]:
    """Names in the order of the file's numbers: with weight decay first, then without, as transformers' Trainer does.

    An optimiser of one group was given the parameters as they come.
    """
    from transformers import Trainer

    if sizes == [len(wanted)]:
        return wanted
    names_of: Any = Trainer.get_decay_parameter_names  # a method that asks nothing of its trainer
    decay = set(names_of(None, model))
    parts = [[name for name in wanted if name in decay], [name for name in wanted if name not in decay]]
    if [len(part) for part in parts] != sizes:
        raise TrainError(
            f"{file} does not fit the checkpoint: it has groups of {', '.join(map(str, sizes))} parameters; Hugging "
            f"Face's Trainer makes {len(parts[0])} with weight decay and {len(parts[1])} without of the trained "
            f"parameters of this one"
        )
    return [*parts[0], *parts[1]]


def _moment(file: Path, name: str, state: Mapping[str, Any], key: str, parameter: Any) -> torch.Tensor:
    value = state.get(key)
    if value is None:
        raise TrainError(
            f"{file} holds no {key} of {name}, but {', '.join(sorted(map(str, state)))}: not the state of Adam in full "
            f"precision"
        )
    if value.shape != parameter.shape:
        raise TrainError(
            f"{file} does not fit the checkpoint: {key} of {name} has the shape {tuple(value.shape)}, the parameter "
            f"{tuple(parameter.shape)}"
        )
    moment: torch.Tensor = value.detach().float().contiguous().clone()
    return moment
