"""Training in several processes: one `accelerate launch` per run, its rows and settings handed over as files.

accelerate launch --num_processes 4 -m tamis.stages.launched FOLDER
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tamis import supervising
from tamis.catalogue import build
from tamis.errors import TrainError
from tamis.models import ModelRef
from tamis.store import load_arrays, save_arrays, write_json
from tamis.training import TrainingRows
from tamis.training.checkpoints import Checkpoint
from tamis.values import Machine, Seeds

JOB = "job"


def train_in_processes(
    trainer: str,
    settings: Mapping[str, Any],
    model: ModelRef,
    rows: TrainingRows,
    seeds: Seeds,
    folder: Path,
    on: Machine,
) -> list[Checkpoint]:
    """Train under `accelerate launch` with `on.processes` processes; raises TrainError with the end of its log."""
    job = folder / JOB
    job.mkdir(parents=True, exist_ok=True)
    arrays = {item.name: getattr(rows, item.name) for item in dataclasses.fields(rows)}
    save_arrays(job, {name: array for name, array in arrays.items() if array is not None})
    facts = {
        "model": dataclasses.asdict(model),
        "seeds": dataclasses.asdict(seeds),
        "machine": dataclasses.asdict(dataclasses.replace(on, processes=1)),
    }
    write_json(job / "job.json", {"trainer": trainer, "settings": dict(settings), **facts})
    log = folder / "launch.log"
    with log.open("ab") as stream:
        code = supervising.run(_command(folder, on), stream)  # ends with this process: a worker of Ray may be killed
    if code != 0:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise TrainError(f"accelerate launch ended with code {code}; the end of {log}:\n{end}")
    names: Sequence[str] = json.loads((job / "checkpoints.json").read_text(encoding="utf-8"))
    return [Checkpoint(folder / name) for name in names]


def _command(folder: Path, on: Machine) -> list[str]:
    options = ["--num_processes", str(on.processes), "--num_machines", "1", "--mixed_precision", "no"]
    options += ["--dynamo_backend", "no", "--main_process_port", "0"]
    options += ["--cpu"] if on.device == "cpu" else ["--multi_gpu"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *options]
    return [*launch, "-m", "tamis.stages.launched", str(folder)]


def main(folder: Path) -> None:
    """One of the processes: read the job, train; the main process writes the names of the checkpoints last."""
    from accelerate import PartialState

    job = json.loads((folder / JOB / "job.json").read_text(encoding="utf-8"))
    trainer = build("trainers", job["trainer"], job["settings"])
    rows = TrainingRows(**load_arrays(folder / JOB))
    seeds, machine = Seeds(**job["seeds"]), Machine(**job["machine"])
    kept = trainer.train(ModelRef(**job["model"]), rows, seeds, (), folder, machine)
    if PartialState().is_main_process:
        write_json(folder / JOB / "checkpoints.json", [one.path.relative_to(folder).as_posix() for one in kept])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
