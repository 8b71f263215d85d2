"""Per-example gradients, the profiles of influence and the gradient store give on a GPU what they give on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tiny
from tamis.gradient.per_example import lora_layers, pad, per_example
from tamis.models import ModelRef, open_model
from tamis.pool import Pool
from tamis.rendering import render_rows
from tamis.scorers.passes.gradients import Gradients
from tamis.scorers.passes.influence import Influence
from tamis.trainers.lora import Lora
from tamis.training.checkpoints import Checkpoint
from tamis.values import Machine, Seeds
from tamis.views import ShardSignals

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    folder = tmp_path_factory.mktemp("adapted")
    base = tiny.make_model(folder / "base")
    adapter = tiny.make_adapter(base, folder / "adapter", rank=4)
    return ModelRef(name=str(base), adapter=str(adapter), dtype="float32")


@pytest.fixture(scope="module")
def warm_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[Checkpoint, ...], Pool]:
    """Checkpoints of two epochs, trained on the CPU, and a pool."""
    folder = tmp_path_factory.mktemp("warm-up")
    model = ModelRef(name=str(tiny.make_model(folder / "model")), max_tokens=64, dtype="float32")
    pool = tiny.make_pool(folder / "pool", tiny.make_rows(24))
    trainer = Lora(epochs=2, rank=4, alpha=8, dropout=0.0, batch_rows=8, keep="every-epoch")
    rows = render_rows(pool.read(range(16)), model)
    return tuple(trainer.train(model, rows, Seeds(), (), folder / "training", Machine())), pool


def _flat(ref: ModelRef, device: str) -> torch.Tensor:
    """(9, p) float32 gradients of rows of very different lengths."""
    draw = np.random.default_rng(0)
    rows = [(draw.integers(0, 380, n).astype(np.int32), np.arange(n) >= n // 3) for n in draw.integers(3, 60, 9)]
    model: Any = open_model(ref, device).requires_grad_(False)
    found: dict[str, torch.Tensor] = {}
    ids, labels = pad(rows, device)
    layers = lora_layers(model)
    per_example(model, layers, ids, labels, lambda name, one: found.update({name: one.flatten(1).float().cpu()}))
    return torch.cat([found[name] for name in layers], 1)


def test_gradients_in_float32_are_those_of_the_cpu_and_bfloat16_points_the_same_way(
    adapted: ModelRef, device: str
) -> None:
    import dataclasses

    cpu, gpu = _flat(adapted, "cpu"), _flat(adapted, device)
    torch.testing.assert_close(gpu, cpu, rtol=1e-3, atol=1e-5 * float(cpu.abs().max()))
    narrow = _flat(dataclasses.replace(adapted, dtype="bfloat16"), device)
    assert float(torch.nn.functional.cosine_similarity(narrow, cpu).min()) > 0.98


@pytest.mark.parametrize("profile", ["recommended", "less-official", "tracin", "datainf"])
def test_scores_of_every_profile_are_those_of_the_cpu(warm_up: Any, profile: Any, device: str) -> None:
    checkpoints, pool = warm_up
    influence = Influence(checkpoints=checkpoints, target=pool, profile=profile, pool=pool)
    shard = pool.shards[0]
    cpu, gpu = (
        influence.measure(shard, ShardSignals(shard, {}), Machine(device=one, tokens_per_batch=tokens))["scores"]
        for one, tokens in (("cpu", 256), (device, 4096))
    )
    assert np.abs(cpu - gpu).max() <= 2e-4 * float(cpu.std())


def test_the_gradient_store_is_that_of_the_cpu(warm_up: Any, device: str) -> None:
    checkpoints, pool = warm_up
    store = Gradients(checkpoints=checkpoints, dim=1024)
    shard = pool.shards[0]
    cpu, gpu = (store.measure(shard, ShardSignals(shard, {}), Machine(device=one)) for one in ("cpu", device))
    np.testing.assert_allclose(gpu["norms"], cpu["norms"], rtol=1e-3)

    def vectors(arrays: Any) -> Any:
        features = arrays["features"].astype(np.float64).reshape(len(arrays["scales"]), len(checkpoints), -1)
        return features * arrays["scales"][:, :, None]

    left, right = vectors(cpu), vectors(gpu)
    assert np.linalg.norm(left - right) <= 2e-3 * np.linalg.norm(left)  # float16 rounds at 5e-4
