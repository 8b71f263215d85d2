"""Law: Adam's state of other trainers is read by name, safely, and influence with it is that of our own form."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tamis
import tiny
from tamis import catalogue, recipe
from tamis.engine import machine
from tamis.errors import RecipeError, TrainError
from tamis.models import ModelRef, skeleton
from tamis.rendering import render_rows
from tamis.stages import load
from tamis.stages.conduct import Conductor
from tamis.stages.plan import plan
from tamis.stages.workspace import Workspace
from tamis.trainers.lora import Lora
from tamis.training import optimizer_states
from tamis.training.checkpoints import FACTS, MOMENTS, Checkpoint
from tamis.training.foreign import trainer_state
from tamis.values import Machine, Seeds
from tamis.views import ShardSignals

RANK, STEPS = 3, 4  # of two epochs: 8 rows, 4 a step
ON = Machine()
RATES = [2e-3, 1.5e-3, 1e-3, 5e-4]  # linear


@dataclasses.dataclass
class Run:
    """A run of Hugging Face's Trainer: its folder, and the optimiser's state in memory at the end of each epoch."""

    base: ModelRef
    out: Path
    states: dict[int, dict[str, tuple[torch.Tensor, torch.Tensor]]] = dataclasses.field(default_factory=dict)

    def folder(self, step: int) -> Path:
        return self.out / f"checkpoint-{step}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    folder = tiny.make_model(tmp_path_factory.mktemp("states") / "base")
    return ModelRef(name=str(folder), max_tokens=64, dtype="float32")


@pytest.fixture(scope="module")
def adapter_run(base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(base, tmp_path_factory.mktemp("adapter"), adapter=True)


@pytest.fixture(scope="module")
def full_run(base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(base, tmp_path_factory.mktemp("full"), adapter=False)


def train(base: ModelRef, out: Path, *, adapter: bool) -> Run:
    """Two epochs of transformers' own Trainer, with weight decay, so that it makes its two groups."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    run = Run(base, out)

    class Remember(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            inside = getattr(given["optimizer"], "optimizer", given["optimizer"]).state
            run.states[state.global_step] = {
                name: (inside[value]["exp_avg"].clone(), inside[value]["exp_avg_sq"].clone())
                for name, value in given["model"].named_parameters()
                if value in inside
            }

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing` is deprecated")
        model: Any = AutoModelForCausalLM.from_pretrained(base.name, dtype=torch.float32)
        if adapter:
            model = get_peft_model(model, LoraConfig(r=RANK, target_modules=["v_proj", "q_proj"]))
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(out),
                num_train_epochs=2,
                per_device_train_batch_size=4,
                learning_rate=RATES[0],
                weight_decay=0.1,
                adam_beta2=0.99,
                optim="adamw_torch",
                lr_scheduler_type="linear",
                save_strategy="epoch",
                logging_steps=1,
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=_dataset(base),
            callbacks=[Remember()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return run


def _dataset(base: ModelRef) -> list[dict[str, torch.Tensor]]:
    rows = render_rows(tiny.make_rows(8, seed=1), base)
    examples = []
    for start, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True):
        ids = torch.full((64,), 0)
        labels = torch.full((64,), -100)
        ids[: end - start] = torch.from_numpy(rows.ids[start:end].astype(np.int64))
        labels[: end - start] = torch.from_numpy(np.where(rows.trained, rows.ids, -100)[start:end].astype(np.int64))
        examples.append({"input_ids": ids, "labels": labels, "attention_mask": (torch.arange(64) < end - start).long()})
    return examples


def work_at(base: ModelRef, folder: Path) -> Workspace:
    return Workspace(folder / "work", ON, base)


def loaded(run: Run, folder: Path, *steps: int, **settings: Any) -> list[Checkpoint]:
    folders = [run.folder(step) for step in steps or (2, 4)]
    return list(load.load_checkpoints(folders, work_at(run.base, folder), **settings).checkpoints)


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(a, b) for name in one for a, b in zip(one[name], two[name], strict=True)
    )


@pytest.mark.parametrize("kind", ["adapter_run", "full_run"])
def test_the_state_by_index_is_the_one_in_memory_by_name(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Run = request.getfixturevalue(kind)
    checkpoints = loaded(run, tmp_path)
    for step, checkpoint in zip((2, 4), checkpoints, strict=True):
        assert run.states[step] and same(checkpoint.moments(), run.states[step])
        facts = checkpoint.facts
        assert (facts["step"], facts["epoch"], facts["betas"], facts["eps"]) == (step, step / 2, [0.9, 0.99], 1e-8)
        assert facts["optimizer"] == "optimizer.pt" and facts["kind"] == ("lora" if kind == "adapter_run" else "full")
    assert [one.learning_rate for one in checkpoints] == pytest.approx([np.mean(RATES[:2]), np.mean(RATES[2:])])
    again = load.load_checkpoints([run.folder(2), run.folder(4)], work_at(run.base, tmp_path))
    assert not again.made and [one.digest for one in again.checkpoints] == [one.digest for one in checkpoints]


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_fsdp_wrapped_module."])
def test_the_state_by_name_is_the_same(adapter_run: Run, tmp_path: Path, prefix: str) -> None:
    folder = tmp_path / "fsdp"
    shutil.copytree(adapter_run.folder(4), folder)
    (folder / "optimizer.pt").unlink()
    model = skeleton(Path(adapter_run.base.name), folder)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    inner = {name: name.replace("layers.0.", "layers.0._checkpoint_wrapped_module.") for name in trained}
    state = {
        prefix + inner[name]: {"step": torch.tensor(4.0), "exp_avg": first, "exp_avg_sq": second}
        for name, (first, second) in reversed(adapter_run.states[4].items())
    }
    groups = [{"params": list(state), "betas": (0.9, 0.99), "eps": 1e-8, "lr": 5e-4, "weight_decay": 0.1}]
    torch.save({"state": state, "param_groups": groups}, folder / "optimizer.bin")
    read = optimizer_states.read(folder / "optimizer.bin", model)
    assert same(read.moments, adapter_run.states[4]) and (read.step, read.betas, read.eps) == (4, (0.9, 0.99), 1e-8)
    one = load.load_checkpoints([folder], work_at(adapter_run.base, tmp_path)).checkpoints[0]
    assert one.facts["optimizer"] == "optimizer.bin" and same(one.moments(), adapter_run.states[4])


def influence(checkpoints: list[Checkpoint], pool: Any, target: Any, **settings: Any) -> Any:
    made = catalogue.build("passes", "influence", {"checkpoints": checkpoints, "target": target, **settings})
    return made.measure(pool.shards[0], ShardSignals(pool.shards[0], {}), ON)["scores"]


def test_influence_with_the_loaded_checkpoint_is_that_of_our_own_form(adapter_run: Run, tmp_path: Path) -> None:
    ours = []
    for step, rate in ((2, np.mean(RATES[:2])), (4, np.mean(RATES[2:]))):
        folder = tmp_path / f"ours-{step}"
        folder.mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(adapter_run.folder(step) / name, folder)
        pairs = adapter_run.states[step].items()
        save_file(
            {f"exp_avg.{name}": first for name, (first, _) in pairs}
            | {f"exp_avg_sq.{name}": second for name, (_, second) in pairs},
            folder / MOMENTS,
        )
        facts = {"kind": "lora", "base": dataclasses.asdict(adapter_run.base), "step": step}
        facts |= {"learning_rate": rate, "betas": [0.9, 0.99], "eps": 1e-8}
        (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        ours.append(Checkpoint(folder))
    pool, target = (tiny.make_pool(tmp_path / name, tiny.make_rows(6, seed=n)) for n, name in enumerate(("p", "t")))
    theirs = influence(loaded(adapter_run, tmp_path), pool, target)
    np.testing.assert_allclose(theirs, influence(ours, pool, target), rtol=1e-5, atol=1e-7)
    raw = influence(loaded(adapter_run, tmp_path), pool, target, moments="raw")
    assert np.abs(raw - theirs).max() > 1e-3, "the moments matter here"


def test_a_folder_without_a_state_gives_raw_gradients_and_says_so(
    adapter_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare = tmp_path / "checkpoint-4"
    shutil.copytree(adapter_run.folder(4), bare)
    (bare / "optimizer.pt").unlink()
    with caplog.at_level(logging.WARNING):
        found = load.load_checkpoints([bare], work_at(adapter_run.base, tmp_path))
    assert "raw gradients" in caplog.text and load.detail(found) == "1 checkpoints, no optimiser state: raw gradients"
    checkpoint = found.checkpoints[0]
    assert not (checkpoint.path / MOMENTS).exists() and checkpoint.facts["optimizer"] is None
    pool, target = (tiny.make_pool(tmp_path / name, tiny.make_rows(6, seed=n)) for n, name in enumerate(("p", "t")))
    with_state = loaded(adapter_run, tmp_path, 4)
    np.testing.assert_allclose(
        influence([checkpoint], pool, target), influence(with_state, pool, target, moments="raw"), rtol=1e-5, atol=1e-7
    )
    without = loaded(adapter_run, tmp_path, 4, moments="none")[0]
    assert not (without.path / MOMENTS).exists()


class Bomb:
    """Runs a program when it is unpickled by anybody who lets it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["optimizer.pt", "optimizer.bin"])
def test_a_file_that_wants_to_run_code_is_refused_and_runs_none(
    adapter_run: Run, tmp_path: Path, name: str, zipped: bool
) -> None:
    folder, fuse = tmp_path / "evil", tmp_path / "fuse"
    shutil.copytree(adapter_run.folder(4), folder)
    (folder / "optimizer.pt").unlink()
    bomb = {"state": {0: Bomb(fuse)}, "param_groups": [{"params": [0]}]}
    torch.save(bomb, folder / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(TrainError, match=f"{name}.*(wants to run code|needs code).*moments: none"):
        load.load_checkpoints([folder], work_at(adapter_run.base, tmp_path))
    assert not fuse.exists()
    torch.load(folder / name, weights_only=False)
    assert fuse.exists(), "the test's own bomb goes off where it is let"


def spoilt(run: Run, folder: Path, change: Any) -> Path:
    shutil.copytree(run.folder(4), folder)
    saved = torch.load(folder / "optimizer.pt", weights_only=True)
    change(saved)
    torch.save(saved, folder / "optimizer.pt")
    return folder


def _short(saved: dict[str, Any]) -> None:
    saved["param_groups"][0]["params"].pop()


def _turned(saved: dict[str, Any]) -> None:
    saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"].T.clone()


def _eight_bit(saved: dict[str, Any]) -> None:
    saved["state"][0] = {"step": 4, "state1": torch.zeros(3, dtype=torch.uint8)}


def _named(saved: dict[str, Any]) -> None:
    saved["param_groups"] = [{**saved["param_groups"][0], "params": ["lm_head.weight"]}]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_short, "groups of 7, 0 parameters.*makes 8 with weight decay and 0 without"),
        (_turned, r"exp_avg of .*lora_A.* has the shape \(32, 3\), the parameter \(3, 32\)"),
        (_eight_bit, "no exp_avg of .*state1.*not the state of Adam in full precision"),
        (_named, r"lacks 8 \(model.layers.0.*holds 1 others \(lm_head.weight\)"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(adapter_run: Run, tmp_path: Path, change: Any, what: str) -> None:
    folder = spoilt(adapter_run, tmp_path / "spoilt", change)
    with pytest.raises(TrainError, match=f"(?s){what}.*moments: none"):
        load.load_checkpoints([folder], work_at(adapter_run.base, tmp_path))
    assert load.load_checkpoints([folder], work_at(adapter_run.base, tmp_path), moments="none").made


def test_other_forms_and_damage_are_named(adapter_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    shutil.copytree(adapter_run.folder(4), folder)
    (folder / "optimizer.pt").write_bytes(b"\x80")
    with pytest.raises(TrainError, match="cannot be read as an optimiser's state"):
        load.load_checkpoints([folder], work_at(adapter_run.base, tmp_path))
    (folder / "optimizer.pt").unlink()
    (folder / "global_step4").mkdir()
    with pytest.raises(TrainError, match=r"global_step4.*DeepSpeed.*FULL_STATE_DICT"):
        load.load_checkpoints([folder], work_at(adapter_run.base, tmp_path))


def test_checkpoints_of_another_model_are_refused(adapter_run: Run, full_run: Run, tmp_path: Path) -> None:
    other = ModelRef(name=str(tiny.make_model(tmp_path / "wide", hidden=48)), max_tokens=64, dtype="float32")
    with pytest.raises(TrainError, match=r"adapter does not fit wide: .*lora_A.* has the shape \(3, 32\).*\(3, 48\)"):
        load.load_checkpoints([adapter_run.folder(2)], work_at(other, tmp_path))
    with pytest.raises(TrainError, match="is not one trained from wide"):
        load.load_checkpoints([full_run.folder(2)], work_at(other, tmp_path))


@pytest.mark.parametrize(
    ("step", "epoch", "history", "mean"),
    [
        (105, 0.995, [(step, 1.0 if step <= 105 else 0.0) for step in range(1, 106)], 1.0),
        (211, 2.003, [(step, float(step)) for step in range(1, 212)], 158.5),  # steps 106 … 211
        (6, 2.0, [(3, 3.0), (6, 6.0)], 5.0),  # logged at the ends of epochs: 4, 5 and 6 by interpolation
        (4, 1.6, [(step, float(step)) for step in range(1, 5)], 3.5),  # steps 3 and 4: since the end of epoch 1
        (4, None, [(step, float(step)) for step in range(1, 5)], 2.5),
        (4, 1.0, [], None),
    ],
)
def test_the_rate_is_the_mean_over_the_steps_of_the_epoch(
    tmp_path: Path, step: int, epoch: float | None, history: list[tuple[int, float]], mean: float | None
) -> None:
    entries = [{"step": one, "learning_rate": rate, "loss": 1.0} for one, rate in history]
    told = {"global_step": step, "epoch": epoch, "log_history": [*entries, {"step": step, "train_runtime": 1.0}]}
    (tmp_path / "trainer_state.json").write_text(json.dumps(told), encoding="utf-8")
    assert trainer_state(tmp_path).learning_rate == (None if mean is None else pytest.approx(mean))


def test_without_a_log_the_rate_must_be_set(adapter_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-4"
    shutil.copytree(adapter_run.folder(4), folder)
    (folder / "trainer_state.json").unlink()
    with pytest.raises(TrainError, match="set learning_rates"):
        load.load_checkpoints([folder], work_at(adapter_run.base, tmp_path))
    found = load.load_checkpoints([folder], work_at(adapter_run.base, tmp_path), learning_rates=3e-4)
    assert found.checkpoints[0].learning_rate == 3e-4 and found.checkpoints[0].step == 4, "the optimiser's own count"


RECIPE = """
model: {{name: {model}, max_tokens: 64, dtype: float32}}
pool: {{files: [{pool}]}}
target: {{files: [{target}]}}
warmup: {{load: ["{run}/checkpoint-*"]}}
influence: {{pass: influence, checkpoints: "@warmup"}}
subset: {{select: less, from: "@influence", budget: 3}}
"""


def write_rows(file: Path, count: int, seed: int) -> Path:
    lines = [json.dumps({"messages": list(row.messages)}) for row in tiny.make_rows(count, seed=seed)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def written(adapter_run: Run, tmp_path: Path) -> Path:
    pool, target = write_rows(tmp_path / "pool.jsonl", 8, 5), write_rows(tmp_path / "target.jsonl", 3, 6)
    text = RECIPE.format(model=adapter_run.base.name, pool=pool, target=target, run=adapter_run.out)
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_recipe_and_python_select_over_loaded_checkpoints(adapter_run: Run, written: Path) -> None:
    checked = recipe.load(str(written))
    work = Workspace(written.parent / "work", machine(workers=1), checked.model)
    assert any("2 checkpoints" in step["what"] for step in plan(checked, work)["steps"])
    conductor = Conductor.of(checked, work)
    conductor.ingest()
    for stage in checked.stages:
        conductor.carry_out(stage)
    assert conductor.took["warmup"]["detail"] == "2 checkpoints, Adam's moments from optimizer.pt"
    rows = conductor.outcomes["subset"].subset.positions.tolist()
    warm_up = tamis.load_checkpoints(str(adapter_run.out / "checkpoint-*"), work=work)
    assert not warm_up.training.made and "2 checkpoints" in repr(warm_up)
    pool, target = (str(written.parent / name) for name in ("pool.jsonl", "target.jsonl"))
    chosen = tamis.select(pool, "less", 3, target=target, warm_up=warm_up, work=work)
    assert len(rows) == 3 and chosen.subset.positions.tolist() == rows


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("warmup.load=no/such/folder", "there is no folder 'no/such/folder'"),
        ("warmup.learning_rates=[1.0]", "one for each of 2"),
        ("warmup.moments=some", "expected auto or none"),
        ("warmup.epochs=2", "unknown setting"),
        ("influence.checkpoints=@subset", "expected one that has train or load"),
    ],
)
def test_a_recipe_is_checked_before_it_runs(written: Path, override: str, what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        recipe.load(str(written), [override])


def test_our_own_trainer_reads_the_same_way(base: ModelRef, tmp_path: Path) -> None:
    """What `lora` keeps has the names that the reading of others gives."""
    rows = render_rows(tiny.make_rows(4), base)
    kept = Lora(rank=RANK, batch_rows=4, epochs=1, targets=("q_proj", "v_proj")).train(
        base, rows, Seeds(), [], tmp_path, ON
    )[-1]
    names = {name for name, value in skeleton(Path(base.name), kept.path).named_parameters() if value.requires_grad}
    assert set(kept.moments()) == names and load_file(kept.path / MOMENTS)
