"""Laws of training weights: what weighers say, that it reaches the loss token for token, and what refuses it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import synthetic
import tiny
from tamis import subsets
from tamis.catalogue import build
from tamis.errors import DataError, RecipeError, TrainError
from tamis.models import ModelRef, open_model
from tamis.pool import Pool
from tamis.rendering import render_all
from tamis.scorers.stm import Stm
from tamis.stages.train import rows_for
from tamis.stages.weigh import Weighing, weigh
from tamis.trainers.full import Full
from tamis.training import TrainingRows
from tamis.training.weighting import check_of, spread
from tamis.values import Machine, Need, Seeds, Subset, TokenWeights, Weights
from tamis.views import PoolView, ShardSignals

ON = Machine(tokens_per_batch=256)


def have(folder: Path, rows: int, **arrays: NDArray[Any]) -> ShardSignals:
    """One shard whose token signal is made by hand."""
    view = synthetic.view(folder, synthetic.rows(rows), {"tokens": arrays}, shard_rows=64)
    return next(iter(view.shards()))


def signal(probabilities: list[list[float]], turn: list[int] | None = None) -> dict[str, NDArray[Any]]:
    nll = -np.log(np.concatenate(probabilities)).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in probabilities])]).astype(np.int64)
    return {
        "nll": nll,
        "nll_offsets": offsets,
        "turn": np.zeros(len(nll), np.int16) if turn is None else np.array(turn, np.int16),
        "turn_offsets": offsets,
    }


def test_golden_stm_keeps_a_token_of_probability_041_and_masks_one_of_039(tmp_path: Path) -> None:
    """Masked iff the perplexity is above 2.5, strictly: a probability of exactly 0.4 stays."""
    given = have(tmp_path, 2, **signal([[0.41, 0.39, 0.4], [0.9, 0.01]], turn=[0, 0, 0, -1, 0]))
    weights = Stm().weigh(given)
    assert weights.tokens is not None and weights.offsets is not None and weights.rows is None
    assert weights.tokens.tolist() == [1, 0, 1, 0] and weights.offsets.tolist() == [0, 3, 4], "the prompt has no weight"
    low = Stm(mode="lowest").weigh(given)
    assert low.tokens is not None and low.tokens.tolist() == [0, 1, 1, 1]
    with pytest.raises(RecipeError, match="at least 1"):
        Stm(threshold=0.0)


def test_random_masks_leave_as_many_response_tokens_of_every_row_as_the_method(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    given = have(tmp_path, 3, **signal([draw.uniform(0.1, 0.9, count).tolist() for count in (40, 60, 1)]))
    method, one, two = (masks.weigh(given) for masks in (Stm(), Stm(mode="random", seed=0), Stm(mode="random", seed=1)))
    assert method.tokens is not None and one.tokens is not None and two.tokens is not None and one.offsets is not None
    for start, stop in zip(one.offsets[:-1], one.offsets[1:], strict=True):
        assert one.tokens[start:stop].sum() == method.tokens[start:stop].sum() == two.tokens[start:stop].sum()
    assert one.tokens.tolist() != method.tokens.tolist() and one.tokens.tolist() != two.tokens.tolist()


def test_token_shift_weighs_ranks_and_dft_probabilities_by_hand(tmp_path: Path) -> None:
    """No published value: rank 1 unshifted, 2 and 3 marginal, above 3 shifted."""
    made = signal([[0.5, 0.3, 0.2, 0.1]])
    rank = {"rank": np.array([1, 2, 3, 4], np.int32), "rank_offsets": made["nll_offsets"]}
    given = have(tmp_path, 1, **made, **rank)
    for settings, expected in (
        ({}, [0, 1, 1, 1]),
        ({"unshifted": 1, "marginal": 0.5, "shifted": 0}, [1, 0.5, 0.5, 0]),
    ):
        tokens = build("weighers", "token-shift", settings).weigh(given).tokens
        assert tokens.tolist() == expected
    np.testing.assert_allclose(build("weighers", "dft", {}).weigh(given).tokens, [0.5, 0.3, 0.2, 0.1], rtol=1e-6)


def test_row_weights_by_hand_and_the_golden_clip_of_iw_sft(tmp_path: Path) -> None:
    """Golden: equal probabilities give 1, a log-ratio of 10 gives 16. Entropy weights have no published value."""
    ours = {
        "response_count": np.array([2, 2, 0]),
        "response_nll_sum": np.array([3.0, 1.0, 0.0]),
        "entropy_sum": np.array([2.0, 0.0, 0.0]),
        "reason": np.array([0, 0, 2], np.uint8),
    }
    theirs = {**ours, "response_nll_sum": np.array([3.0, 21.0, 0.0])}
    view = synthetic.view(tmp_path, synthetic.rows(3), {"tokens": ours, "tokens@reference": theirs})
    given = next(iter(view.shards()))
    assert build("weighers", "iw-sft", {}).weigh(given).rows.tolist() == [1, 16, 0]
    half = build("weighers", "iw-sft", {"temperature": 0.1}).weigh(given).rows
    np.testing.assert_allclose(half, [1, math.e, 0], rtol=1e-6)
    np.testing.assert_allclose(
        build("weighers", "entropy-weights", {}).weigh(given).rows, [0.5 / math.e, 0.5, 0], rtol=1e-6
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return ModelRef(
        name=str(tiny.make_model(tmp_path_factory.mktemp("weights") / "base")), max_tokens=64, dtype="float32"
    )


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return tiny.make_pool(tmp_path_factory.mktemp("weighed") / "pool", tiny.make_rows(9, seed=4), shard_rows=4)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Weights drawn by row key, of response tokens and of rows."""

    revision: ClassVar[int] = 1
    needs: ClassVar[frozenset[Need]] = frozenset()

    def weigh(self, have: ShardSignals, /) -> Weights:
        keys = have.shard.table(["key"]).column("key").to_pylist()
        counts = have["tokens"]["response_count"]
        draws = [np.random.default_rng(int(key[:8], 16) if key[:8].isalnum() else len(key)) for key in map(_hex, keys)]
        tokens = [
            draw.uniform(0, 2, int(count)) * (draw.uniform(size=int(count)) < 0.7)
            for draw, count in zip(draws, counts, strict=True)
        ]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.array([draw.uniform(0.1, 2) for draw in draws], np.float32)
        return Weights(rows=rows, tokens=np.concatenate(tokens).astype(np.float32), offsets=offsets)


def _hex(key: str) -> str:
    from tamis import digests

    return digests.of_json(key)


def counted(pool: Pool, base: ModelRef, folder: Path) -> PoolView:
    """A view with the counts of response tokens."""
    from tamis.store import save_arrays

    folders = []
    for number, shard in enumerate(pool.shards):
        part = folder / str(number)
        part.mkdir(parents=True)
        counts = np.array([int((one.turn >= 0).sum()) for one in render_all(shard.read(), base)])
        save_arrays(part, {"response_count": counts})
        folders.append(part)
    return PoolView(pool, {"tokens": folders})


PICKS = [7, 2, 5, 0, 8]


@pytest.fixture(scope="module")
def weighed(pool: Pool, base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Subset:
    picked = Subset(
        positions=np.array(PICKS), gains=np.zeros(5, np.float32), weights=np.array([1, 2, 1, 0.5, 1], np.float32)
    )
    view = counted(pool, base, tmp_path_factory.mktemp("counts"))
    return weigh(view, picked, Weighing("drawn", Drawn()), base)


def test_weights_follow_the_picks_and_multiply_those_of_the_selector(
    weighed: Subset, pool: Pool, base: ModelRef
) -> None:
    assert weighed.tokens is not None and weighed.weights is not None and len(weighed.tokens) == 5
    for place, one in enumerate(render_all(pool.read(PICKS), base)):
        ids = one.ids[one.turn >= 0]
        assert weighed.tokens.offsets[place + 1] - weighed.tokens.offsets[place] == len(ids)
        assert weighed.tokens.checks[place] == check_of(ids)
    assert any("response tokens have a weight" in note for note in weighed.notes)
    assert any("row weights lie between" in note for note in weighed.notes)


def test_a_step_divides_the_weighed_loss_of_every_row_by_all_weights(
    weighed: Subset, pool: Pool, base: ModelRef, tmp_path: Path
) -> None:
    """Oracle: row by row with full logits, loss = sum of w · nll / sum of w, w = row weight times token weight."""
    rows = rows_for(None, pool, PICKS, base, weighed.weights, weighed.tokens)
    assert isinstance(rows, TrainingRows) and rows.token_weights is not None and weighed.tokens is not None
    trainer = Full(epochs=1, batch_rows=5, learning_rate=1e-3, warmup=0, max_grad_norm=None, keep="every-epoch")
    checkpoint = trainer.train(base, rows, Seeds(), (), tmp_path / "out", ON)[-1]
    model: Any = open_model(base, "cpu")
    total, weight = torch.zeros((), dtype=torch.float64), 0.0
    for place, one in enumerate(render_all(pool.read(PICKS), base)):
        ids = torch.from_numpy(one.ids.astype(np.int64))
        scores = torch.log_softmax(model(input_ids=ids[None]).logits[0].double(), -1)
        labels = np.flatnonzero(one.turn >= 0)
        own = weighed.tokens.values[weighed.tokens.offsets[place] : weighed.tokens.offsets[place + 1]]
        assert weighed.weights is not None
        for label, token in zip(labels.tolist(), own.tolist(), strict=True):
            w = token * float(weighed.weights[place])
            total = total - w * scores[label - 1, ids[label]]
            weight += w
    (total / weight).backward()
    assert checkpoint.facts["loss"] == pytest.approx(float(total.detach()) / weight, rel=1e-5)
    assert rows.trained_tokens == int((weighed.tokens.values > 0).sum()) == checkpoint.facts["trained_tokens"]
    for name, (first, _) in checkpoint.moments().items():
        gradient = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(first / 0.1, gradient, rtol=2e-4, atol=2e-6)


def test_a_subset_file_carries_the_weights_of_tokens(weighed: Subset, pool: Pool, tmp_path: Path) -> None:
    pool.save(tmp_path / "pool.json")
    subsets.save(tmp_path / "subset.parquet", pool, tmp_path / "pool.json", weighed)
    back = subsets.read(tmp_path / "subset.parquet")
    assert back.tokens is not None and weighed.tokens is not None and back.tokens.digest == weighed.tokens.digest
    np.testing.assert_array_equal(back.weights, weighed.weights)
    subsets.save(tmp_path / "plain.parquet", pool, tmp_path / "pool.json", dataclasses.replace(weighed, tokens=None))
    assert subsets.read(tmp_path / "plain.parquet").tokens is None


def test_weights_of_other_tokens_are_refused(weighed: Subset, pool: Pool, base: ModelRef, tmp_path: Path) -> None:
    assert weighed.tokens is not None
    longest = max(len(one.ids) for one in render_all(pool.read(PICKS), base))
    short = dataclasses.replace(base, max_tokens=longest - 1)
    with pytest.raises(DataError, match="is not that of the model that weighed them"):
        rows_for(None, pool, PICKS, short, weighed.weights, weighed.tokens)
    other = dataclasses.replace(weighed.tokens, checks=weighed.tokens.checks + np.uint32(1))
    with pytest.raises(DataError, match="row 0 of the subset"):
        rows_for(None, pool, PICKS, base, None, other)
    rows = rows_for(None, pool, PICKS[:2], base)
    assert isinstance(rows, TrainingRows)
    with pytest.raises(DataError, match="of 5 rows for 2 rows"):
        spread(rows, weighed.tokens, "base")


class _Gives:
    revision: ClassVar[int] = 1
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __init__(self, **weights: Any) -> None:
        self.weights = Weights(**weights)

    def weigh(self, have: ShardSignals, /) -> Weights:
        return self.weights


def test_weights_that_are_none_are_a_fault_of_the_weigher(pool: Pool, base: ModelRef, tmp_path: Path) -> None:
    view = counted(pool, base, tmp_path)
    picked = Subset(positions=np.array([0]), gains=np.zeros(1, np.float32))
    four = np.arange(5)
    for given, message in (
        ({"rows": np.array([1, np.nan, 1, 1], np.float32)}, "negative or not finite"),
        ({"rows": np.array([-1, 1, 1, 1], np.float32)}, "negative or not finite"),
        ({"rows": np.ones(3, np.float32)}, "do not fit"),
        ({}, "do not fit"),
        ({"tokens": np.ones(9, np.float32), "offsets": four}, "do not fit"),
        ({"tokens": np.ones(4, np.float32), "offsets": four}, "and 1 were weighed"),
        ({"rows": np.zeros(4, np.float32)}, "leaves no weight"),
    ):
        with pytest.raises(DataError, match=message):
            weigh(view, picked, Weighing("given", _Gives(**given)), base)


def test_pairs_have_no_token_weights(base: ModelRef, tmp_path: Path) -> None:
    import cheap

    pairs = tiny.make_pool(tmp_path / "pairs", cheap.pair_rows(2))
    tokens = TokenWeights(values=np.ones(2, np.float32), offsets=np.array([0, 1, 2]), checks=np.zeros(2, np.uint32))
    with pytest.raises(TrainError, match="no token weights"):
        rows_for(build("trainers", "trl-dpo", {}), pairs, [0, 1], base, None, tokens)
