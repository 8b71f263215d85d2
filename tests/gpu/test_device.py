"""What a GPU computes is what the CPU computes: signals, influence and training, within tolerance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny
from tamis.models import ModelRef
from tamis.rendering import render_rows
from tamis.scorers.passes.influence import Influence
from tamis.scorers.passes.lengths import Lengths
from tamis.scorers.passes.tokens import Tokens
from tamis.store import save_arrays
from tamis.submodular.cosines import Cosine
from tamis.trainers.lora import Lora
from tamis.values import Machine, Seeds
from tamis.views import ShardSignals

pytestmark = pytest.mark.gpu


def _signals(folder: Path, model: ModelRef, on: Machine) -> dict[str, dict[str, np.ndarray]]:
    pool = tiny.make_pool(folder / "pool", tiny.make_rows(24))
    shard = pool.shards[0]
    lengths = dict(Lengths(model=model).measure(shard, ShardSignals(shard, {}), on))
    kept = folder / "lengths"
    kept.mkdir()
    save_arrays(kept, lengths)
    have = ShardSignals(shard, {"lengths": kept})
    rows = render_rows(pool.read(range(16)), model)
    trainer = Lora(epochs=1, rank=4, alpha=8, dropout=0.0, batch_rows=8, keep="every-epoch")
    kept_runs = trainer.train(model, rows, Seeds(), (), folder / "training", Machine())  # one checkpoint for both
    influence = Influence(checkpoints=tuple(kept_runs), target=pool)
    return {
        "tokens": dict(Tokens(model=model, loss="all", alone=True, pooled=True).measure(shard, have, on)),
        "influence": dict(influence.measure(shard, have, on)),
    }


def _close(left: np.ndarray, right: np.ndarray) -> None:
    """Within 1e-4 of the standard deviation over the rows (DESIGN §7), with a floor for constant columns."""
    scale = max(float(np.nanstd(left)), 1e-2)
    assert np.nanmax(np.abs(left - right)) <= 1e-4 * scale + 1e-5


def test_signals_in_float32_agree_with_the_cpu(tmp_path: Path, device: str) -> None:
    model = ModelRef(name=str(tiny.make_model(tmp_path / "model")), max_tokens=64, dtype="float32")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "gpu").mkdir()
    cpu = _signals(tmp_path / "cpu", model, Machine())
    gpu = _signals(tmp_path / "gpu", model, Machine(device=device, tokens_per_batch=4096))
    for name in ("response_nll_sum", "alone_nll_sum", "pooled"):
        _close(cpu["tokens"][name], gpu["tokens"][name])
    _close(cpu["influence"]["scores"], gpu["influence"]["scores"])


def test_bfloat16_training_lowers_the_loss(tmp_path: Path, device: str) -> None:
    model = ModelRef(name=str(tiny.make_model(tmp_path / "model")), max_tokens=64, dtype="bfloat16")
    rows = render_rows(tiny.make_rows(32), model)
    trainer = Lora(epochs=4, rank=8, alpha=16, batch_rows=8, learning_rate=5e-3, keep="every-epoch")
    kept = trainer.train(model, rows, Seeds(), (), tmp_path / "out", Machine(device=device))
    losses = [float(checkpoint.facts["loss"]) for checkpoint in kept]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("rounded", [True, False])
def test_cosines_made_on_a_gpu_have_the_bits_of_the_processor(device: str, rounded: bool) -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(5000, 384))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    here, there = (Cosine(vectors.astype(np.float32), rounded=rounded, device=on) for on in ("cpu", device))
    some = np.arange(0, 5000, 7)
    for row in (0, 4999):
        np.testing.assert_array_equal(here.column(row)[1], there.column(row)[1])
    sums = [kernel.summed(some, lambda block, _: block) for kernel in (here, there)]
    np.testing.assert_array_equal(sums[0], sums[1])
    if rounded:
        np.testing.assert_array_equal(here.dense().by_candidate, there.dense().by_candidate)
