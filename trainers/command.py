"""Your own training program as a trainer: Axolotl, LLaMA-Factory, `accelerate launch`, a Slurm script."""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.errors import RecipeError, TrainError
from tamis.store import write_json
from tamis.trainers.schedule import Keep
from tamis.training import Takes
from tamis.training.checkpoints import Checkpoint

if TYPE_CHECKING:
    from tamis.models import ModelRef
    from tamis.protocols import Hook
    from tamis.training import TrainingSubset
    from tamis.training.foreign import Take
    from tamis.values import Machine, Need, Seeds

PLACES = ("subset", "model", "out", "seed", "epochs", "learning_rate")
LOG = "log.txt"
KEPT = "kept.json"
log = logging.getLogger(__name__)
_ENDINGS = {"parquet": ".parquet", "llama-factory": ".json", "hf": ""}  # hf is a folder; the others are JSON Lines
_PLACE = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, kw_only=True)
class Command:
    """Runs your own training command on the subset and takes over the checkpoint that it leaves.

    `command` is split as a shell would, but no shell runs it; `{subset}` (the rows, written in `format`), `{model}` (a
    folder), `{out}` (a folder of its own), `{seed}`, `{epochs}` and `{learning_rate}` are filled in. It must end with
    exit code 0 within `time_limit` (90, 30m, 6h, 2d) and leave, in the folder `checkpoint`, a PEFT adapter or a Hugging
    Face model, in safetensors; `{out}/checkpoint-*` means the highest number. Its output is kept as `log.txt`. Whatever
    ends tamis ends the command. A later try finds in `{out}` what an earlier one left; once taken over, `{out}` is
    deleted. The files named in the command, and `files`, count by content: change one and the training is another.

    `keep: every-epoch` takes over every folder that fits the pattern, in order of its numbers, with Adam's moments from
    `optimizer.pt` or `optimizer.bin` (without: raw gradients): the warm-up of LESS. `keep: last` takes the moments of
    an adapter if they are there. Learning rates are those of `trainer_state.json`, else `learning_rate`.
    """

    revision: ClassVar[int] = 2
    takes: ClassVar[Takes] = "rows"

    command: str
    format: str = "trl"
    checkpoint: str = "{out}"
    epochs: int | None = None
    learning_rate: float | None = None
    keep: Keep = "last"
    files: tuple[str, ...] = ()
    time_limit: str | float = field(default="24h", metadata={"science": False})

    def __post_init__(self) -> None:
        from tamis.catalogue import nearest
        from tamis.exporting import FORMS
        from tamis.trainers.outside import seconds_of

        faults = []
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise RecipeError(f"command {self.command!r} cannot be split into words: {error}") from error
        used = set(_PLACE.findall(self.command))
        known = ", ".join(f"{{{name}}}" for name in PLACES)
        for name in sorted((used | set(_PLACE.findall(self.checkpoint))) - set(PLACES)):
            faults.append(f"command has no place {{{name}}}{nearest(name, list(PLACES))} Known: {known}")
        needed = {"subset", "out"} | {name for name in ("epochs", "learning_rate") if getattr(self, name) is not None}
        for name in sorted(needed - used):
            faults.append(f"command needs {{{name}}}: nothing else tells your program. Known: {known}")
        if not words:
            faults.append("command is empty: write what starts your training program")
        if self.format not in FORMS:
            faults.append(
                f"format {self.format!r} is unknown{nearest(self.format, list(FORMS))} Known: {', '.join(FORMS)}"
            )
        try:
            seconds_of(self.time_limit)
        except TrainError as error:
            faults.append(str(error))
        if faults:
            raise RecipeError(faults)

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    @property
    def reads(self) -> dict[str, str]:
        """Files named in the command and in `files`, with the digest of their content."""
        from tamis import digests

        words = [word for word in shlex.split(self.command)[1:] if not _PLACE.search(word)]
        missing = [name for name in self.files if not Path(name).is_file()]
        if missing:
            raise RecipeError(f"files: there is no file {', '.join(missing)}")
        return {name: digests.of_file(Path(name)) for name in (*words, *self.files) if Path(name).is_file()}

    def train(
        self, model: ModelRef, rows: TrainingSubset, seeds: Seeds, hooks: Sequence[Hook], out: Path, on: Machine, /
    ) -> Sequence[Checkpoint]:
        """`final`, or `epoch-1`, …; `{seed}` is the seed of the order. Errors: TrainError with the end of the log."""
        from tamis.trainers import outside

        if model.adapter is not None:
            raise TrainError(f"{model.label} has an adapter; the command gets the folder of a model without one")
        kept = out / KEPT  # written last: it is there where a run was killed just before its end
        if not kept.is_file():
            values = self._values(model, rows, seeds, out)
            outside.run(_filled(shlex.split(self.command), values), out / LOG, outside.seconds_of(self.time_limit))
            found = outside.find(_filled([self.checkpoint], values)[0], out / LOG)
            write_json(kept, self._keep(found, model.resolved(on.device), seeds, rows, out))
        for name in ("work", "data"):
            shutil.rmtree(out / name, ignore_errors=True)
        return [Checkpoint(out / name) for name in json.loads(kept.read_text(encoding="utf-8"))]

    def _values(self, model: ModelRef, rows: TrainingSubset, seeds: Seeds, out: Path) -> dict[str, str]:
        """Write the subset; what is filled in for the places."""
        from tamis.exporting import export, not_carried
        from tamis.models import folder_of

        unset = [
            name
            for name in ("epochs", "learning_rate")
            if f"{{{name}}}" in self.command and getattr(self, name) is None
        ]
        if unset:
            raise TrainError(f"command has {{{unset[0]}}}, but the setting {unset[0]} is not given: add it")
        work = (out / "work").absolute()
        work.mkdir(parents=True, exist_ok=True)
        subset = out.absolute() / "data" / f"subset{_ENDINGS.get(self.format, '.jsonl')}"
        subset.parent.mkdir(exist_ok=True)
        if lost := not_carried(self.format, rows.tokens_weighed, model):
            raise TrainError(
                f"{lost}. Choose another format (jsonl, parquet and hf carry all), or select without `weigh`"
            )
        made = export(
            rows.pool,
            rows.positions,
            subset,
            self.format,
            weights=rows.row_weights,
            tokens=rows.tokens_weighed,
            model=model,
        )
        for note in made.notes:
            log.info("%s: %s", self.format, note)
        if made.rows != len(rows):
            raise TrainError(
                f"the form {self.format} carries {made.rows} of {len(rows)} rows: {'; '.join(made.notes)}. Choose "
                "another format, or filter"
            )
        return {
            "subset": str(subset),
            "model": str(folder_of(model.name).absolute()),
            "out": str(work),
            "seed": str(seeds.order),
            "epochs": str(self.epochs),
            "learning_rate": str(self.learning_rate),
        }

    def _keep(self, found: Sequence[Path], base: ModelRef, seeds: Seeds, rows: TrainingSubset, out: Path) -> list[str]:
        """Take over the last of the folders, or all; the names that they get."""
        if self.keep == "last":
            return [self._keep_one(found[-1], "final", base, seeds, rows, out)]
        numbered = enumerate(found, 1)
        return [self._keep_one(source, f"epoch-{number}", base, seeds, rows, out) for number, source in numbered]

    def _keep_one(self, source: Path, name: str, base: ModelRef, seeds: Seeds, rows: TrainingSubset, out: Path) -> str:
        from tamis.trainers.keeping import save_checkpoint
        from tamis.trainers.outside import take_over
        from tamis.training.foreign import ADAPTER, trainer_state

        small = (source / ADAPTER[0]).is_file()
        facts: dict[str, Any] = {}

        def save(folder: Path) -> None:
            moments: Take = "try" if small or self.keep == "every-epoch" else "none"
            facts.update(take_over(source, base, folder, out / LOG, moments))
            told = trainer_state(source, out / "work")
            facts.update(
                epoch=told.epoch or self.epochs,
                step=facts["step"] or told.step or 0,
                learning_rate=told.learning_rate or self.learning_rate,
                seeds=asdict(seeds),
                rows=len(rows),
                tokens=rows.tokens,
                trained_tokens=rows.trained_tokens,
            )

        save_checkpoint(out / name, save, facts, None)
        return name


def _filled(words: Sequence[str], values: dict[str, str]) -> list[str]:
    return [_PLACE.sub(lambda match: values.get(match[1], match[0]), word) for word in words]
