"""Law 3 of outside trainers: a command gives the same verdict and ledger as the built-in trainer; faults are clear."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import tiny
from tamis import catalogue
from tamis.errors import DataError, RecipeError, TrainError
from tamis.models import ModelRef, open_model
from tamis.pool import Pool
from tamis.stages.compare import Design, compare
from tamis.stages.measure import measure_needs
from tamis.stages.select import select
from tamis.stages.signals import view_of
from tamis.stages.train import TrainingJob, rows_for, train_one
from tamis.stages.workspace import Workspace
from tamis.store import Store
from tamis.training.checkpoints import Checkpoint
from tamis.values import Budget, Machine, Row, Seeds

SCRIPT = Path(__file__).with_name("outside_trainer.py")
PLACES = "--data {subset} --model {model} --out {out} --seed {seed}"
COMMAND = f"{shlex.quote(sys.executable)} {shlex.quote(str(SCRIPT))} {PLACES}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    folder = tiny.make_model(tmp_path_factory.mktemp("outside") / "base")
    return ModelRef(name=str(folder), max_tokens=64, dtype="float32")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return tiny.make_pool(tmp_path_factory.mktemp("outside") / "pool", tiny.make_rows(6, seed=3))


def job(base: ModelRef, pool: Pool, folder: Path, do: str, **settings: Any) -> TrainingJob:
    made = {"command": f"{COMMAND} --do {do}", "checkpoint": "{out}/checkpoint-*", **settings}
    places = tuple(range(len(pool)))
    return TrainingJob(Store(folder), "command", made, base, pool, places, Seeds(adapter=5, order=5), Machine())


def test_the_places_are_filled_in_without_a_shell_and_the_checkpoint_is_taken_over(
    base: ModelRef, pool: Pool, tmp_path: Path
) -> None:
    done = train_one(job(base, pool, tmp_path, "nudge '$HOME; touch {out}' '{\"a\":1}'"))
    folder = done.checkpoints[-1].path.parent
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert "$HOME; touch /" in log and '{"a":1}' in log and f"labels: {done.facts['trained_tokens']}" in log
    assert (done.facts["rows"], done.checkpoints[-1].step, done.checkpoints[-1].kind) == (6, 2, "full")
    assert done.checkpoints[-1].facts["seeds"] == {"adapter": 5, "order": 5} and "--seed 5" in log
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"log.txt", "final/model.safetensors", "final/tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".pt", ".bin", ".jsonl"))], "no pickle, no second copy of rows"
    assert done.model.digest != base.digest and open_model(done.model, "cpu")
    again = train_one(job(base, pool, tmp_path, "nudge '$HOME; touch {out}' '{\"a\":1}'"))
    assert not again.made and again.digest == done.digest


@pytest.mark.parametrize(
    ("do", "what"),
    [
        ("fail", "exit code 1.*training on /.*out of luck"),
        ("nothing", "left no folder.*training on /"),
        ("pickled", "lacks adapter_model.safetensors.*pickle"),
    ],
)
def test_a_command_that_fails_or_leaves_no_checkpoint_gets_a_clear_error(
    base: ModelRef, pool: Pool, tmp_path: Path, do: str, what: str
) -> None:
    more = {"checkpoint": "{out}"} if do == "pickled" else {}
    with pytest.raises(TrainError, match=f"(?s){what}"):
        train_one(job(base, pool, tmp_path, do, **more))
    assert not list(Store(tmp_path).entries("training"))


def test_every_checkpoint_is_kept_with_the_moments_that_are_there(
    base: ModelRef, pool: Pool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = train_one(job(base, pool, tmp_path, "nudge", keep="every-epoch", learning_rate=None))
    assert [(one.path.name, one.step) for one in made.checkpoints] == [("epoch-1", 1), ("epoch-2", 2)]
    assert "without Adam's moments" in caplog.text, "the script leaves a broken state"
    made = train_one(job(base, pool, tmp_path, "train", checkpoint="{out}"))
    moments = made.checkpoints[0].moments()
    assert made.checkpoints[0].facts["optimizer"] == "optimizer.pt" and made.checkpoints[0].step == 2
    assert len(moments) == 12 and all(float(second.abs().max()) > 0 for _, second in moments.values())


def test_a_failed_command_finds_what_it_left(base: ModelRef, pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="out of luck"):
        train_one(job(base, pool, tmp_path, "fail"))
    done = train_one(job(base, pool, tmp_path, "fail"))
    log = (done.checkpoints[-1].path.parent / "log.txt").read_text(encoding="utf-8")
    assert done.made and "out of luck" in log and "going on with what was left" in log


def test_a_command_that_hangs_is_stopped_and_goes_on_under_a_longer_limit(
    base: ModelRef, pool: Pool, tmp_path: Path
) -> None:
    with pytest.raises(TrainError, match=r"time_limit of 2 s.*goes on"):
        train_one(job(base, pool, tmp_path, "hang", time_limit="2s"))
    left = next(tmp_path.rglob("work")) / "left.txt"
    if left.exists():  # a busy machine may not have come so far
        assert not alive(int(left.read_text(encoding="utf-8")))
    left.write_text("", encoding="utf-8")
    assert train_one(job(base, pool, tmp_path, "hang", time_limit="1h")).made


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


def test_a_command_ends_with_tamis_whatever_ends_that(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--data", "x", "--model", "x", "--out", str(tmp_path), "--seed", "0"]
    code = (
        "import sys; from pathlib import Path; from tamis.trainers.outside import run; "
        f"run({[*words, '--do', 'hang']!r}, Path({str(tmp_path / 'log.txt')!r}), 600)"
    )
    tamis = subprocess.Popen([sys.executable, "-c", code])
    left = tmp_path / "left.txt"
    until = time.monotonic() + 60
    while not (left.exists() and left.read_text(encoding="utf-8")) and time.monotonic() < until:
        time.sleep(0.05)
    pid = int(left.read_text(encoding="utf-8"))
    assert alive(pid)
    tamis.send_signal(signal.SIGKILL)
    tamis.wait()
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(pid)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"command": "train --data {subset} --out {otu}"}, r"no place {otu}; did you mean 'out'"),
        ({"command": "train --data {subset}"}, "needs {out}"),
        ({"command": "train {subset} {out}", "epochs": 2}, "needs {epochs}"),
        ({"command": "train 'open {subset} {out}"}, "cannot be split"),
        ({"command": "train {subset} {out}", "format": "trll"}, "did you mean 'trl'"),
        ({"command": "train {subset} {out}", "time_limit": "soon"}, "time_limit 'soon'"),
    ],
)
def test_settings_that_cannot_work_are_told_before_anything_runs(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        catalogue.build("trainers", "command", settings)


def test_a_program_that_is_not_there_is_named(base: ModelRef, pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no program 'no-such-trainer'"):
        train_one(job(base, pool, tmp_path, "", command=f"no-such-trainer {PLACES}"))


def test_another_script_under_the_same_name_is_another_training(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    digests = []
    for text in ("one", "two"):
        script.write_text(text, encoding="utf-8")
        digests.append(catalogue.build("trainers", "command", {"command": f"python {script} {{subset}} {{out}}"}).reads)
    assert list(digests[0]) == [str(script)] and digests[0] != digests[1]


def good(number: int) -> Row:
    """A row of the one thing that is to be learnt."""
    word = tiny.WORDS[number % len(tiny.WORDS)]
    return tiny.make_row(
        tiny.chat(f"{word} question {number}?", "seven stone river."), key=f"good{number}", source="good"
    )


@pytest.mark.soak  # 30 s: two comparisons in full
def test_compare_gives_the_same_verdict_and_ledger_as_the_built_in_trainer(base: ModelRef, tmp_path: Path) -> None:
    rows = [good(place) for place in range(8)] + tiny.make_rows(16, seed=9)
    pool = tiny.make_pool(tmp_path / "pool", rows)
    held_out = tiny.make_pool(tmp_path / "held", [good(place) for place in range(40, 48)])
    work = Workspace(tmp_path / "work", Machine(), base)
    signals = measure_needs(pool, [], work)
    view = view_of(pool, signals)
    chosen = select(
        pool, catalogue.build("selectors", "random", {}), Budget(rows=8), work, where="source == 'good'", given=signals
    )
    found = {}
    for trainer, settings in (
        ("full", {"epochs": 2, "batch_rows": 4, "learning_rate": 5e-3}),
        ("command", {"command": f"{COMMAND} --epochs {{epochs}} --lr 5e-3 --do full", "epochs": 2}),
    ):
        design = Design(method="chosen", trainer=trainer, settings=settings, runs=1, baselines=("random",), draws=200)
        found[trainer] = compare(view, chosen, held_out, design, work)
    ours, theirs = found["full"], found["command"]
    assert ours["verdict"] == theirs["verdict"] and ours["verdict"].startswith("chosen beats untouched and random")
    for one, two in zip(ours["arms"], theirs["arms"], strict=True):
        assert all(one[key] == two[key] for key in ("name", "rows", "tokens", "trained_tokens", "epochs"))
        assert set(one) == set(two)
    assert ours["composition"] == theirs["composition"] and ours["item_tokens"] == theirs["item_tokens"]


def test_rows_that_a_trainer_cannot_use_are_refused(base: ModelRef, tmp_path: Path) -> None:
    pair = tiny.make_row(
        tiny.chat("which?"),
        kind="pair",
        chosen=({"role": "assistant", "content": "seven"},),
        rejected=({"role": "assistant", "content": "eleven"},),
    )
    mixed = tiny.make_pool(tmp_path / "mixed", [*tiny.make_rows(2), pair])
    lora, dpo = (catalogue.build("trainers", name, {}) for name in ("lora", "trl-dpo"))
    command = catalogue.build("trainers", "command", {"command": "x {subset} {out}"})
    for trainer, what in ((lora, "1 of 3 rows are preference pairs.*where"), (command, "beside other rows")):
        with pytest.raises(DataError, match=what):
            rows_for(trainer, mixed, [0, 1, 2], base)
    with pytest.raises(DataError, match="2 of 3 rows are no preference pairs"):
        rows_for(dpo, mixed, [0, 1, 2], base)
    assert len(rows_for(dpo, mixed, [2], base)) == len(rows_for(command, mixed, [2], base)) == 1
    assert rows_for(command, mixed, [2], base).tokens == rows_for(dpo, mixed, [2], base).tokens


def test_an_outside_checkpoint_without_a_rate_says_so(tmp_path: Path) -> None:
    (tmp_path / "tamis_checkpoint.json").write_text('{"learning_rate": null}', encoding="utf-8")
    with pytest.raises(TrainError, match="set `learning_rate`"):
        assert Checkpoint(tmp_path).learning_rate


def test_a_time_limit_is_not_science() -> None:
    from tamis import digests

    one = catalogue.build("trainers", "command", {"command": "x {subset} {out}"})
    assert digests.of_component(one) == digests.of_component(dataclasses.replace(one, time_limit="1h"))
    assert digests.of_component(one) != digests.of_component(
        dataclasses.replace(one, epochs=None, checkpoint="{out}/a")
    )
