"""Somebody else's training program: run with a time limit and a log, its checkpoint checked and taken over.

What is taken over is safetensors and JSON; the tokenizer and its template are those of the base model, so that every
arm of a comparison is measured on the same tokens.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import TrainError

if TYPE_CHECKING:
    from tamis.models import ModelRef

LAST_LINES = 15
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_MODEL = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")


def seconds_of(text: str | float) -> float:
    """Seconds of `90`, `"30m"`, `"6h"` or `"2d"`; TrainError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", str(text))
    if match is None or float(match[1]) <= 0:
        raise TrainError(f"time_limit {text!r} is not understood: write seconds, or 30m, 6h, 2d")
    return float(match[1]) * _UNITS[match[2]]


def run(words: Sequence[str], log: Path, limit: float) -> None:
    """Run a command to its end, its output appended to `log`. It ends with this process, whatever ends that.

    Raises TrainError with the end of the log where there is no such program, it fails, or it takes longer than
    `limit` seconds.
    """
    if shutil.which(words[0]) is None:
        raise TrainError(f"there is no program {words[0]!r} on the PATH; check the first word of `command`")
    script = Path(__file__).with_name("supervisor.py")
    with log.open("ab") as file:
        file.write(f"$ {' '.join(words)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            [sys.executable, "-I", str(script), *words],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdin is not None
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired as error:
            process.stdin.close()
            process.wait()
            raise TrainError(
                f"the command did not end within its time_limit of {limit:g} s and was stopped; raise it, and the run "
                f"goes on with what the command left. {_end_of(log)}"
            ) from error
        finally:
            process.stdin.close()  # also on a signal: the supervisor ends the command
            process.wait()
    if code != 0:
        raise TrainError(f"the command ended with exit code {code}. {_end_of(log)}")


def _end_of(log: Path) -> str:
    """The last lines of the log, for an error message."""
    lines = log.read_bytes()[-8192:].decode("utf-8", "replace").splitlines()[-LAST_LINES:]
    return f"Its output ({log}) ends with:\n" + "\n".join(f"  {line[:400]}" for line in lines)


def find(pattern: str, log: Path) -> Path:
    """The folder of the checkpoint: a path, or a pattern (`out/checkpoint-*`), of which the highest number counts."""
    path = Path(pattern)
    if any(sign in path.name for sign in "*?["):
        found = [folder for folder in path.parent.glob(path.name) if folder.is_dir()]
        if not found:
            raise TrainError(f"the command left no folder {pattern}: set `checkpoint`. {_end_of(log)}")
        return max(found, key=lambda folder: [int(number) for number in re.findall(r"\d+", folder.name)])
    if not path.is_dir():
        raise TrainError(f"the command left no folder {pattern}: set `checkpoint`. {_end_of(log)}")
    return path


def take_over(source: Path, base: ModelRef, to: Path, log: Path) -> Literal["lora", "full"]:
    """Copy an adapter or a model into `to`; TrainError where there is neither, or its tensors cannot be read."""
    from tamis.trainers.keeping import copy_tokenizer

    names = {file.name for file in source.iterdir() if file.is_file()}
    if "adapter_config.json" in names:
        missing = sorted(set(_ADAPTER) - names)
        if missing:
            raise TrainError(f"the adapter in {source} lacks {', '.join(missing)}{_pickles(names)}. {_end_of(log)}")
        _copy(source, to, _ADAPTER)
        _check_adapter(to)
        return "lora"
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise TrainError(
            f"{source} holds neither an adapter (adapter_config.json) nor a model (config.json and safetensors)"
            f"{_pickles(names)}; found {', '.join(sorted(names)[:8]) or 'nothing'}. Set `checkpoint` if it lies "
            f"elsewhere. {_end_of(log)}"
        )
    _copy(source, to, _MODEL)
    _check_shards(to)
    copy_tokenizer(base, to)
    return "full"


def _pickles(names: set[str]) -> str:
    pickled = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth")))
    return f" (only {', '.join(pickled)}, which is pickle: save as safetensors)" if pickled else ""


def _copy(source: Path, to: Path, patterns: Sequence[str]) -> None:
    for file in sorted({file for pattern in patterns for file in source.glob(pattern) if file.is_file()}):
        shutil.copyfile(file, to / file.name)


def _check_adapter(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    kind = _json(folder / "adapter_config.json").get("peft_type")
    if kind != "LORA":
        raise TrainError(f"the adapter left by the command is {kind!r}; tamis reads LORA")
    try:
        with safe_open(str(folder / _ADAPTER[1]), framework="pt") as file:
            count = len(list(file.keys()))
    except SafetensorError as error:
        raise TrainError(f"the adapter left by the command cannot be read: {error}") from error
    if not count:
        raise TrainError("the adapter left by the command holds no tensor")


def _check_shards(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    for index in folder.glob("*.safetensors.index.json"):
        missing = {str(name) for name in _json(index)["weight_map"].values()} - {file.name for file in folder.iterdir()}
        if missing:
            raise TrainError(f"the model left by the command lacks {', '.join(sorted(missing))}")
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(str(file), framework="pt"):
                pass
        except SafetensorError as error:
            raise TrainError(f"{file.name}, left by the command, cannot be read: {error}") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrainError(f"{file.name}, left by the command, is not JSON: {error}") from error
    return read


def steps_of(*folders: Path) -> int:
    """Optimiser steps that `trainer_state.json` of one of the folders tells (Hugging Face's Trainer); 0 without one."""
    for folder in folders:
        file = folder / "trainer_state.json"
        if file.is_file():
            return int(_json(file).get("global_step", 0))
    return 0
