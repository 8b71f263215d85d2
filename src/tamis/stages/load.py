"""Load: checkpoints that another program left, taken over into the store, as if a stage had trained them here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tamis import digests
from tamis.errors import RecipeError, TrainError
from tamis.models import content_digest
from tamis.stages.train import TRAINING, Training
from tamis.stages.workspace import Workspace
from tamis.store import write_json
from tamis.training.checkpoints import FACTS, Checkpoint
from tamis.training.foreign import ADAPTER, STATE, Take, take_over
from tamis.training.optimizer_states import FILES

MOMENTS = ("auto", "none")
_REVISION = 1


def folders_of(value: Any) -> list[Path]:
    """Folders of a `load`: one name or a list of names; a pattern stands for its folders in order of their numbers.

    Raises RecipeError, with every fault, for what is no folder with an adapter or a model.
    """
    found: list[Path] = []
    faults = []
    for name in [value] if isinstance(value, str) else list(value or []):
        path = Path(str(name))
        some = path.parent.glob(path.name) if any(sign in path.name for sign in "*?[") else [path]
        some = [path for path in some if path.is_dir()]
        if not some:
            faults.append(f"there is no folder {str(name)!r}")
        found += sorted(some, key=lambda path: ([int(number) for number in re.findall(r"\d+", path.name)], path.name))
    faults += [
        f"{path} holds neither {ADAPTER[0]} nor config.json: give folders such as runs/checkpoint-105"
        for path in found
        if not any((path / name).is_file() for name in (ADAPTER[0], "config.json"))
    ]
    if not found and not faults:
        faults.append("names no folder; write `load: [runs/checkpoint-105, …]`")
    if faults:
        raise RecipeError(faults)
    return found


def rates_of(value: Any, count: int) -> list[float | None]:
    """Learning rates given for `count` folders: none, one for all, or one each. Raises RecipeError for others."""
    values = [value] * count if value is None or isinstance(value, (int, float)) else value
    good = isinstance(values, Sequence) and not isinstance(values, str) and len(values) == count
    if not good or not all(one is None or (_is_number(one) and one > 0) for one in values):
        raise RecipeError(f"learning_rates {value!r}: expected one number above 0 for all, or one for each of {count}")
    return [None if one is None else float(one) for one in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check(settings: Mapping[str, Any]) -> list[str]:
    """Faults of a stage's settings, all at once."""
    faults: list[str] = []
    count = 0
    try:
        count = len(folders_of(settings["load"]))
    except RecipeError as error:
        faults += error.faults
    if count:
        try:
            rates_of(settings.get("learning_rates"), count)
        except RecipeError as error:
            faults += error.faults
    if settings.get("moments", "auto") not in MOMENTS:
        faults.append(f"moments: expected {' or '.join(MOMENTS)}, got {settings['moments']!r}")
    return faults


def load_checkpoints(
    folders: Sequence[Path], work: Workspace, *, learning_rates: Any = None, moments: Take = "auto"
) -> Training:
    """Checkpoints of `work.model` from folders of Hugging Face's Trainer, PEFT or FSDP, in the order given.

    `learning_rates`: given instead of the log's; see `rates_of`. `moments: none` leaves the optimiser's state alone.
    Raises TrainError where a folder does not fit the model, its state does not fit it, or no learning rate is told.
    """
    base = work.model.resolved(work.machine.device)
    if base.adapter is not None:
        raise TrainError(f"{base.label} has an adapter; load checkpoints onto the model without one")
    rates = rates_of(learning_rates, len(folders))
    read = {"folders": [_content(folder, moments) for folder in folders], "rates": rates, "moments": moments}
    identity = digests.of_json({"load": _REVISION, "model": base.digest, **read})

    def make(to: Path) -> dict[str, Any]:
        names = []
        for number, (folder, rate) in enumerate(zip(folders, rates, strict=True), 1):
            name = f"checkpoint-{number}"
            (to / name).mkdir()
            facts = take_over(folder, base, to / name, moments)
            facts["learning_rate"] = rate if rate is not None else facts["learning_rate"]
            if facts["learning_rate"] is None:
                raise TrainError(f"nothing tells the learning rate of {folder} ({STATE} has none): set learning_rates")
            write_json(to / name / FACTS, facts)
            names.append(name)
        return {"checkpoints": names, "optimizer": [Checkpoint(to / name).facts["optimizer"] for name in names]}

    entry = work.store.get_or_make(TRAINING, identity, make, about={"load": [str(folder) for folder in folders]})
    checkpoints = tuple(Checkpoint(entry.path / name) for name in entry.facts["checkpoints"])
    return Training(checkpoints, entry.facts, entry.seconds, entry.made, entry.digest)


def _content(folder: Path, moments: Take) -> dict[str, str]:
    """Digests of what is read of a folder."""
    state = () if moments == "none" else FILES
    files = {name: digests.of_file(folder / name) for name in (*state, STATE) if (folder / name).is_file()}
    return {"weights": content_digest(folder), **files}


def detail(loaded: Training) -> str:
    """One line for people: how many, and where their moments come from."""
    found = loaded.facts["optimizer"]
    without = found.count(None)
    files = ", ".join(sorted({str(name) for name in found if name is not None}))
    parts = [f"Adam's moments from {files}"] if files else []
    if without:
        whose = "no optimiser state" if without == len(found) else f"no optimiser state in {without} of them"
        parts.append(f"{whose}: raw gradients")
    return f"{len(found)} checkpoints, {'; '.join(parts)}"
