"""Laws of the trainers: exact weighted objective, seeds decide everything, Adam's moments kept, killed runs go on."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from safetensors.torch import load_file

from tamis.errors import TrainError
from tamis.models import ModelRef, open_model
from tamis.rendering import render_rows
from tamis.trainers.full import Full
from tamis.trainers.lora import Lora
from tamis.trainers.schedule import epoch_order, learning_rates
from tamis.training import TrainingRows
from tamis.training.checkpoints import Checkpoint
from tamis.values import Machine, Seeds
from tiny import make_model, make_rows

ON = Machine(tokens_per_batch=256)
SMALL: dict[str, Any] = {"rank": 3, "alpha": 6, "batch_rows": 4, "epochs": 2, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return ModelRef(name=str(make_model(tmp_path_factory.mktemp("trainers") / "base")), max_tokens=64, dtype="float32")


@pytest.fixture(scope="module")
def rows(base: ModelRef) -> TrainingRows:
    return render_rows(make_rows(14, seed=4), base)


def part(rows: TrainingRows, places: list[int], **weights: Any) -> TrainingRows:
    spans = [slice(rows.offsets[place], rows.offsets[place + 1]) for place in places]
    lengths = [span.stop - span.start for span in spans]
    return TrainingRows(
        ids=np.concatenate([rows.ids[span] for span in spans]),
        trained=np.concatenate([rows.trained[span] for span in spans]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        **weights,
    )


def weights_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    name = "adapter_model.safetensors" if checkpoint.kind == "lora" else "model.safetensors"
    return load_file(str(checkpoint.path / name))


def train(trainer: Any, base: ModelRef, rows: TrainingRows, out: Path, **more: Any) -> Checkpoint:
    seeds, hooks, on = more.get("seeds", Seeds()), more.get("hooks", []), more.get("on", ON)
    return trainer.train(base, rows, seeds, hooks, out, on)[-1]  # type: ignore[no-any-return]


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def full_step(base: ModelRef, rows: TrainingRows) -> Full:
    return Full(epochs=1, batch_rows=len(rows), learning_rate=1e-3, warmup=0, max_grad_norm=None, keep="every-epoch")


def plain_loss(model: Any, rows: TrainingRows) -> torch.Tensor:
    """Oracle: row by row, full logits, weighted mean over trained tokens."""
    total, weight = torch.zeros((), dtype=torch.float64), 0.0
    for place in range(len(rows)):
        span = slice(rows.offsets[place], rows.offsets[place + 1])
        ids = torch.from_numpy(rows.ids[span].astype(np.int64))
        nll = functional.cross_entropy(model(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="none")
        w = rows.trained[span].astype(np.float64)
        w = w if rows.token_weights is None else w * rows.token_weights[span]
        w = w if rows.row_weights is None else w * rows.row_weights[place]
        total = total + (nll.double() * torch.from_numpy(w)[1:]).sum()
        weight += float(w[1:].sum())
    return total / weight


def test_a_step_is_the_plain_weighted_loss_and_torch_adam(base: ModelRef, rows: TrainingRows, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    weighted = dataclasses.replace(
        rows,
        row_weights=draw.uniform(0, 3, len(rows)).astype(np.float32),
        token_weights=draw.uniform(0, 2, rows.tokens).astype(np.float32),
    )
    trainer = dataclasses.replace(full_step(base, weighted), epochs=3, batch_rows=5)
    checkpoint = train(trainer, base, weighted, tmp_path / "out")
    model: Any = open_model(base, "cpu")
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    rates = learning_rates(9, 1e-3, "linear", 0)
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == list(range(1, 10))
    for step, rate in enumerate(rates):
        order = epoch_order(len(rows), 0, step // 3)[step % 3 * 5 :][:5].tolist()
        spans = [np.arange(rows.offsets[place], rows.offsets[place + 1]) for place in order]
        assert weighted.row_weights is not None and weighted.token_weights is not None
        batch = part(
            rows,
            order,
            row_weights=weighted.row_weights[order],
            token_weights=weighted.token_weights[np.concatenate(spans)],
        )
        loss = plain_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        assert log[step]["loss"] == pytest.approx(loss.item(), rel=1e-5)
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
        assert log[step]["gradient_norm"] == pytest.approx(norm, rel=1e-4)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    moments = checkpoint.moments()
    trained = weights_of(checkpoint)
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        torch.testing.assert_close(moments[name][0], state["exp_avg"], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(moments[name][1], state["exp_avg_sq"], rtol=1e-3, atol=1e-9)
        torch.testing.assert_close(trained[name], parameter.detach(), rtol=1e-3, atol=1e-4)
    assert checkpoint.facts["loss"] == pytest.approx(
        np.average([entry["loss"] for entry in log[6:]], weights=_weights(weighted)), rel=1e-5
    )


def _weights(rows: TrainingRows) -> list[float]:
    from tamis.trainers.objective import Examples

    examples = Examples.of(rows)
    return [examples.batch(epoch_order(len(rows), 0, 2)[low : low + 5]).weight for low in (0, 5, 10)]


def test_weight_two_is_a_row_twice_and_weight_zero_is_no_row(
    base: ModelRef, rows: TrainingRows, tmp_path: Path
) -> None:
    def moments(name: str, given: TrainingRows) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return train(full_step(base, given), base, given, tmp_path / name).moments()

    ones = np.ones(4, np.float32)
    twice = moments("twice", part(rows, [0, 1, 2, 3, 1]))
    heavy = moments("heavy", part(rows, [0, 1, 2, 3], row_weights=ones + np.array([0, 1, 0, 0], np.float32)))
    few = moments("few", part(rows, [0, 2, 3]))
    light = moments("light", part(rows, [0, 1, 2, 3], row_weights=ones - np.array([0, 1, 0, 0], np.float32)))
    for name, (first, _) in twice.items():
        torch.testing.assert_close(heavy[name][0], first, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(light[name][0], few[name][0], rtol=1e-4, atol=1e-7)


def test_token_weight_zero_is_a_masked_token(base: ModelRef, rows: TrainingRows, tmp_path: Path) -> None:
    weights = (np.arange(rows.tokens) % 3 != 0).astype(np.float32)
    masked = dataclasses.replace(rows, trained=rows.trained & (weights > 0))
    one = train(full_step(base, rows), base, dataclasses.replace(rows, token_weights=weights), tmp_path / "one")
    other = train(full_step(base, rows), base, masked, tmp_path / "other")
    assert same(weights_of(one), weights_of(other)) and one.facts["trained_tokens"] == other.facts["trained_tokens"]


def test_the_step_does_not_depend_on_the_micro_batches(base: ModelRef, rows: TrainingRows, tmp_path: Path) -> None:
    found = [
        train(full_step(base, rows), base, rows, tmp_path / str(tokens), on=Machine(tokens_per_batch=tokens)).moments()
        for tokens in (1, 4096)
    ]
    for name, (first, _) in found[0].items():
        torch.testing.assert_close(found[1][name][0], first, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_equal_seeds_give_equal_bits_and_other_seeds_do_not(
    base: ModelRef, rows: TrainingRows, tmp_path: Path, kind: str
) -> None:
    trainer = Lora(**SMALL) if kind == "lora" else Full(epochs=1, batch_rows=4)
    first = train(trainer, base, rows, tmp_path / "a")
    torch.rand(3)  # the state of torch's generator does not matter, and is left alone
    before = torch.get_rng_state()
    assert same(weights_of(first), weights_of(train(trainer, base, rows, tmp_path / "b")))
    assert torch.equal(before, torch.get_rng_state())
    assert first.digest == Checkpoint(tmp_path / "b" / "final").digest
    assert not same(weights_of(first), weights_of(train(trainer, base, rows, tmp_path / "c", seeds=Seeds(order=1))))
    if kind == "lora":
        other = train(trainer, base, rows, tmp_path / "d", seeds=Seeds(adapter=1))
        assert not same(weights_of(first), weights_of(other))


def test_every_epoch_is_kept_with_moments_facts_and_mean_learning_rate(
    base: ModelRef, rows: TrainingRows, tmp_path: Path
) -> None:
    trainer = Lora(**SMALL, keep="every-epoch", warmup=0.0)
    kept = trainer.train(base, rows, Seeds(adapter=5), [], tmp_path, ON)
    assert [one.path.name for one in kept] == ["epoch-1", "epoch-2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-1", "epoch-2", "log.jsonl"]
    assert [one.step for one in kept] == [4, 8]
    # linear from 1e-3 over 8 steps: 8/8, 7/8, 6/8, 5/8 and 4/8 … 1/8 of the peak
    assert [one.learning_rate for one in kept] == pytest.approx([6.5 / 8 * 1e-3, 2.5 / 8 * 1e-3])
    facts = kept[0].facts
    assert facts["kind"] == "lora" and facts["seeds"] == {"adapter": 5, "order": 0}
    assert facts["tokens"] == rows.tokens and facts["trained_tokens"] == rows.trained_tokens
    model: Any = open_model(kept[-1].model(), "cpu")
    names = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert set(kept[-1].moments()) == names


def test_checkpoints_are_models(base: ModelRef, rows: TrainingRows, tmp_path: Path) -> None:
    few = part(rows, [0, 1, 2, 3])
    before = plain_loss(open_model(base, "cpu"), few).item()
    for name, trainer in {
        "lora": Lora(**{**SMALL, "epochs": 10, "learning_rate": 2e-2}),
        "full": Full(epochs=10, batch_rows=4, learning_rate=5e-3),
    }.items():
        checkpoint = train(trainer, base, few, tmp_path / name)
        assert plain_loss(open_model(checkpoint.model(), "cpu"), few).item() < 0.8 * before
    again = render_rows(make_rows(3), checkpoint.model())
    assert again.ids.tolist() == render_rows(make_rows(3), base).ids.tolist()


def test_learning_rates() -> None:
    np.testing.assert_allclose(learning_rates(5, 1.0, "linear", 0.4), [0.5, 1, 1, 2 / 3, 1 / 3])
    np.testing.assert_allclose(learning_rates(4, 2.0, "constant", 0.25), [2, 2, 2, 2])
    np.testing.assert_allclose(
        learning_rates(3, 1.0, "cosine", 0),
        [1, 0.5 * (1 + math.cos(math.pi / 3)), 0.5 * (1 + math.cos(2 * math.pi / 3))],
    )
    # LESS's released warm-up (checkpoints 105, 211, 317, 420; published means of the epochs) is linear
    rates = learning_rates(420, 2e-5, "linear", 0.03)
    means = [rates[low:high].mean() for low, high in ((0, 105), (105, 211), (211, 317), (317, 420))]
    np.testing.assert_allclose(means, [1.6877e-5, 1.2859e-5, 7.7030e-6, 2.5616e-6], rtol=0.02)


def test_hooks_see_every_step(base: ModelRef, rows: TrainingRows, tmp_path: Path) -> None:
    seen: list[tuple[int, set[str]]] = []

    class Watch:
        def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
            seen.append((step, set(log)))

    train(Lora(**SMALL), base, rows, tmp_path, hooks=[Watch()])
    assert seen == [(step, {"step", "epoch", "loss", "learning_rate", "gradient_norm"}) for step in range(1, 9)]


def test_what_cannot_be_trained_is_refused(base: ModelRef, rows: TrainingRows, tmp_path: Path) -> None:
    bad = np.full(len(rows), np.nan, np.float32)
    for given, message in (
        (dataclasses.replace(rows, row_weights=bad), "finite"),
        (dataclasses.replace(rows, trained=np.zeros_like(rows.trained)), "none of the 14 rows"),
    ):
        with pytest.raises(TrainError, match=message):
            train(Lora(**SMALL), base, given, tmp_path / "a")
    for trainer, message in (
        (Lora(**{**SMALL, "learning_rate": 1e30}), "step [0-9]+: loss"),
        (Lora(**SMALL, targets=("nowhere",)), "nowhere"),
        (Lora(**{**SMALL, "epochs": 0, "batch_rows": 0}), "epochs is 0.*batch_rows is 0"),
    ):
        with pytest.raises(TrainError, match=message):
            train(trainer, base, rows, tmp_path / "b")
    with pytest.raises(TrainError, match="has an adapter already"):
        adapter = train(Lora(**SMALL), base, rows, tmp_path / "c")
        train(Lora(**SMALL), adapter.model(), rows, tmp_path / "d")


_KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_trainers as t
from tamis.models import ModelRef
base = ModelRef(name=sys.argv[2], max_tokens=64, dtype="float32")
rows = t.render_rows(t.make_rows(14, seed=4), base)
class Slow:
    def after_step(self, step, log):
        if step >= 5:
            print(step, flush=True)
            time.sleep(0.2 if step < 8 else 60)
t.train(t.KINDS[sys.argv[4]], base, rows, Path(sys.argv[3]), hooks=[Slow()])
"""
KINDS: dict[str, Any] = {
    "lora": Lora(**{**SMALL, "epochs": 3}, keep="every-epoch", save_steps=3),
    "full": Full(epochs=3, batch_rows=4, keep="every-epoch", save_steps=3),
}


@pytest.mark.parametrize("kind", ["lora", pytest.param("full", marks=pytest.mark.soak)])
def test_a_killed_run_goes_on_to_the_same_bits(base: ModelRef, rows: TrainingRows, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    arguments = [sys.executable, "-c", _KILLED, str(Path(__file__).parent), base.name, str(out), kind]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        steps: list[int] = []
        while (line := child.stdout.readline()) and not (steps and steps[-1] == 7):
            steps.append(int(line))
        if not steps:
            pytest.fail(child.stderr.read())
        time.sleep(0.1)
        child.send_signal(signal.SIGKILL)
    assert (out / "resume" / "state.safetensors").is_file() and (out / "epoch-1").is_dir()
    steps_again: list[int] = []

    class Watch:
        def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
            steps_again.append(step)

    resumed = KINDS[kind].train(base, rows, Seeds(), [Watch()], out, ON)
    assert steps_again[0] in (7, 9) and steps_again[-1] == 12  # from the state of step 6, or that of the epoch's end
    undisturbed = KINDS[kind].train(base, rows, Seeds(), [], tmp_path / "undisturbed", ON)
    for one, other in zip(resumed, undisturbed, strict=True):
        assert one.digest == other.digest
    assert (out / "log.jsonl").read_bytes() == (tmp_path / "undisturbed" / "log.jsonl").read_bytes()
    assert not (out / "resume").exists()


def test_a_state_of_another_run_is_not_used(base: ModelRef, rows: TrainingRows, tmp_path: Path) -> None:
    class Stop:
        def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
            if step == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Lora(**SMALL), base, rows, tmp_path / "a", hooks=[Stop()])
    assert (tmp_path / "a" / "resume").is_dir()
    other = part(rows, list(range(13)))
    assert same(
        weights_of(train(Lora(**SMALL), base, other, tmp_path / "a")),
        weights_of(train(Lora(**SMALL), base, other, tmp_path / "b")),
    )


_RANK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_trainers as t
from tamis.models import ModelRef
base = ModelRef(name=sys.argv[2], max_tokens=64, dtype="float32")
t.train(t.full_step(base, rows := t.render_rows(t.make_rows(14, seed=4), base)), base, rows, Path(sys.argv[3]))
"""


@pytest.mark.soak
def test_two_processes_give_the_result_of_one(base: ModelRef, rows: TrainingRows, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(_RANK)
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [*launch, str(script), str(Path(__file__).parent), base.name, str(tmp_path / "two")]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONWARNINGS": "ignore"}, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    one = train(full_step(base, rows), base, rows, tmp_path / "one")
    two = Checkpoint(tmp_path / "two" / "epoch-1")
    assert two.facts["loss"] == pytest.approx(one.facts["loss"], rel=1e-6)
    for name, (first, _) in one.moments().items():
        torch.testing.assert_close(two.moments()[name][0], first, rtol=1e-3, atol=1e-6)
