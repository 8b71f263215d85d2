"""Law: the size of the pool does not appear in the peak memory of an influence pass, nor that of the logits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tiny
from tamis.gradient.head_loss import head_losses
from tamis.gradient.one_product import one_product_modules
from tamis.gradient.per_example import example_losses, lora_layers, pad, per_example
from tamis.models import ModelRef, open_model
from tamis.rendering import render_rows
from tamis.trainers.lora import Lora
from tamis.values import Machine, Seeds

CHILD = """
import resource, sys
from pathlib import Path
from tamis.training.checkpoints import Checkpoint
from tamis.pool import Pool
from tamis.scorers.passes.influence import Influence
from tamis.values import Machine
from tamis.views import ShardSignals

pool = Pool.open(Path(sys.argv[1]) / "pool.json")
influence = Influence(checkpoints=(Checkpoint(Path(sys.argv[2])),), target=Pool(pool.shards[:1]), vector_bytes=1 << 20)
for shard in pool.shards[: int(sys.argv[3])]:
    influence.measure(shard, ShardSignals(shard, {}), Machine(tokens_per_batch=512))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
SHARD_ROWS = 100
ALLOWED_KB = 12_000  # three shards more; one row's gradients alone are 4 MB, those of the three shards 1.2 GB


@pytest.mark.soak
def test_four_times_the_rows_take_the_same_peak_memory(tmp_path: Path) -> None:
    base = ModelRef(name=str(tiny.make_model(tmp_path / "model", hidden=256)), max_tokens=64)
    rows = tiny.make_rows(4 * SHARD_ROWS)
    trainer = Lora(rank=256, epochs=1, keep="every-epoch")
    kept = trainer.train(base, render_rows(rows[:32], base), Seeds(), (), tmp_path / "warm-up", Machine())
    tiny.make_pool(tmp_path / "pool", rows, shard_rows=SHARD_ROWS).save(tmp_path / "pool.json")

    def peak(shards: int) -> int:
        command = [sys.executable, "-c", CHILD, str(tmp_path), str(kept[-1].path), str(shards)]
        done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True)
        return int(json.loads(done.stdout))

    once, four_times = peak(1), peak(4)
    assert four_times - once < ALLOWED_KB, (once, four_times)


def test_losses_block_by_block_are_those_of_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 50).double().requires_grad_(False)
    states = torch.randn(23, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 50, (23,))
    weights = torch.rand(23, dtype=torch.float64)
    plain = torch.nn.functional.cross_entropy(head(states), targets, reduction="none")
    (wanted,) = torch.autograd.grad((plain * weights).sum(), states)
    monkeypatch.setattr("tamis.gradient.head_loss.LOGITS", 150)  # three positions a block
    found = head_losses(head, states, targets)
    (gradient,) = torch.autograd.grad((found * weights).sum(), states)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-14)
    with torch.no_grad():
        torch.testing.assert_close(head_losses(head, states, targets), plain, rtol=1e-12, atol=0)


def test_one_product_follows_the_weights_and_leaves_training_alone(tmp_path: Path) -> None:
    base = tiny.make_model(tmp_path / "base")
    ref = ModelRef(name=str(base), adapter=str(tiny.make_adapter(base, tmp_path / "adapter", rank=3)))
    model = open_model(ref, "cpu").requires_grad_(False)
    layers = lora_layers(model)
    assert {name for one in one_product_modules(model, layers) for name in one.names} == set(layers)
    ids, labels = pad([(list(range(9)), [True] * 9)], "cpu")

    def both() -> tuple[float, float]:
        ours = per_example(model, layers, ids, labels, lambda name, gradient: None)
        with torch.no_grad():
            return float(ours), float(example_losses(model, ids, labels))

    before = both()
    assert before[0] == pytest.approx(before[1], rel=1e-5)
    with torch.no_grad():
        for layer in layers.values():
            layer.weight.mul_(1.5)
    after = both()
    assert after[0] == pytest.approx(after[1], rel=1e-5) and after[0] != pytest.approx(before[0], rel=1e-3)
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    assert not one_product_modules(model, layers)
