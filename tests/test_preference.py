"""Laws of preference tuning: pairs rendered on both sides, DPO's margins and gradients equal to their definition."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

import tiny
from cheap import pair_rows
from tamis import catalogue
from tamis.evaluators.margin import PreferenceMargin
from tamis.gradient.per_example import lora_layers, pad, per_pair
from tamis.models import ModelRef, open_model
from tamis.pool import Pool
from tamis.rendering import render, render_pairs, render_rows
from tamis.scorers.passes.influence import Influence
from tamis.scorers.passes.lengths import Lengths
from tamis.scorers.passes.pairs import Pairs
from tamis.trainers.lora import Lora
from tamis.training.checkpoints import Checkpoint
from tamis.values import Machine, Reason, Row, Seeds
from tamis.views import ShardSignals

ON = Machine(tokens_per_batch=300)
Side = Literal["chosen", "rejected"]
BETA = 0.1


@dataclasses.dataclass
class World:
    """A base, an adapter with random weights, a warm-up, and pairs between other rows."""

    base: ModelRef
    adapted: ModelRef
    warmup: tuple[Checkpoint, ...]
    rows: list[Row]
    pool: Pool
    target_rows: list[Row]
    target: Pool


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("preference")
    base = ModelRef(name=str(tiny.make_model(root / "base")), max_tokens=64, dtype="float32")
    adapted = dataclasses.replace(base, adapter=str(tiny.make_adapter(Path(base.name), root / "adapter")))
    rows = pair_rows(7)
    rows[2] = tiny.make_rows(1)[0]
    long = ({"role": "assistant", "content": "add " * 100},)
    rows[4] = dataclasses.replace(rows[4], messages=tiny.chat("word " * 100), rejected=long)
    rows[5] = dataclasses.replace(rows[5], rejected=long)  # cut, but something is left
    targets = pair_rows(4, seed=50)
    lora = Lora(rank=2, alpha=4, epochs=2, batch_rows=3, keep="every-epoch", learning_rate=5e-3)
    warmup = lora.train(base, render_rows(tiny.make_rows(6, seed=3), base), Seeds(), [], root / "warmup", Machine())
    pool, target = tiny.make_pool(root / "pool", rows), tiny.make_pool(root / "target", targets)
    return World(base, adapted, tuple(warmup), rows, pool, targets, target)


PAIRS = (0, 1, 3, 5, 6)  # the pairs of the world that can be used


def log_prob(model: Any, row: Row, side: Side, ref: ModelRef) -> torch.Tensor:
    """Oracle: summed log-probability of the answer's tokens, batch 1, full logits."""
    one = render(row, ref, side=side)
    ids = torch.tensor(one.ids.astype(np.int64))
    logs = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1], dim=-1)
    picked = logs[torch.arange(len(ids) - 1), ids[1:]]
    return picked[torch.tensor(one.turn[1:] >= 0)].sum()


def test_pairs_are_rendered_on_both_sides_and_cost_both(world: World) -> None:
    pairs = [world.rows[place] for place in PAIRS]
    rendered = render_pairs(pairs, world.base)
    shard = world.pool.shards[0]
    lengths = Lengths(model=world.base).measure(shard, ShardSignals(shard, {}), ON)
    for place, row in enumerate(world.rows):
        one, two = render(row, world.base), render(row, world.base, side="rejected")
        if row.kind != "pair":
            assert (lengths["tokens"][place], lengths["pair"][place]) == (len(one.ids), 0)
            continue
        answers = [int((side.turn >= 0).sum()) for side in (one, two)]
        assert lengths["tokens"][place] == len(one.ids) + len(two.ids)
        assert lengths["full_tokens"][place] == one.full_tokens + two.full_tokens
        assert [lengths["chosen_tokens"][place], lengths["rejected_tokens"][place]] == answers
        assert lengths["response_tokens"][place] == sum(answers)
        assert (lengths["reason"][place] == 0) == (place in PAIRS)
    assert rendered.tokens == int(lengths["tokens"][list(PAIRS)].sum())
    assert rendered.trained_tokens == int(lengths["response_tokens"][list(PAIRS)].sum())
    assert len(rendered) == len(pairs) and rendered.digest != render_pairs(pairs[::-1], world.base).digest


def test_columns_of_both_answers_equal_the_plain_loss(world: World) -> None:
    shard = world.pool.shards[0]
    signals = {
        "pairs": Pairs(model=world.adapted).measure(shard, ShardSignals(shard, {}), ON),
        "lengths": Lengths(model=world.adapted).measure(shard, ShardSignals(shard, {}), ON),
    }
    perplexity = catalogue.build("scorers", "pair-perplexity", {}).score(signals)
    length = catalogue.build("scorers", "pair-length", {}).score(signals)
    model = open_model(world.adapted, "cpu")
    sides: tuple[Side, ...] = ("chosen", "rejected")
    for side in sides:
        reasons = perplexity[side].reasons
        assert [place for place in range(7) if reasons[place] == 0] == list(PAIRS)
        assert reasons[2] == length[side].reasons[2] == Reason.WRONG_KIND and np.isnan(perplexity[side].values[2])
        for place in PAIRS:
            with torch.no_grad():
                total = -float(log_prob(model, world.rows[place], side, world.base))
            count = int((render(world.rows[place], world.base, side=side).turn >= 0).sum())
            assert perplexity[side].values[place] == pytest.approx(np.exp(total / count), rel=1e-4)
            assert length[side].values[place] == count
    good = list(PAIRS)
    gap = length["chosen"].values[good] - length["rejected"].values[good]
    assert length["difference"].values[good].tolist() == gap.tolist()


def test_margins_equal_their_definition_and_are_zero_for_the_untouched_model(world: World) -> None:
    items = PreferenceMargin().evaluate(world.adapted, world.pool, ON)
    model, base = (open_model(ref, "cpu") for ref in (world.adapted, world.base))
    expected = []
    with torch.no_grad():
        for place in PAIRS:
            one = functools.partial(log_prob, row=world.rows[place], ref=world.base)
            ratios = [float(one(model, side=side) - one(base, side=side)) for side in ("chosen", "rejected")]
            expected.append(ratios[0] - ratios[1])
    assert list(items.keys) == [world.rows[place].key for place in PAIRS]
    assert items.values == pytest.approx(expected, abs=1e-3) and not items.lower_is_better
    accuracy = PreferenceMargin(measure="accuracy").evaluate(world.adapted, world.pool, ON)
    assert accuracy.values.tolist() == [float(value > 0) for value in expected]
    untouched = PreferenceMargin().evaluate(world.base, world.pool, ON)
    assert untouched.values.tolist() == [0.0] * len(PAIRS) and untouched.keys == items.keys
    ties = PreferenceMargin(measure="accuracy").evaluate(world.base, world.pool, ON)
    assert ties.values.tolist() == [0.5] * len(PAIRS)
    named = PreferenceMargin(reference=world.adapted).evaluate(world.base, world.pool, ON)
    assert named.values == pytest.approx(-items.values, abs=1e-9)


def dpo_gradient(model: Any, names: Sequence[str], row: Row, ref: ModelRef) -> torch.Tensor:
    """Oracle: autograd of DPO's own loss, the reference being the model itself, held fixed."""
    chosen, rejected = (log_prob(model, row, side, ref) for side in ("chosen", "rejected"))
    margin = (chosen - chosen.detach()) - (rejected - rejected.detach())
    loss = -functional.logsigmoid(BETA * margin)
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(loss, [parameters[name] for name in names])
    return torch.cat([part.flatten() for part in found])


def test_the_gradient_of_a_pair_is_that_of_the_loss_of_dpo_at_the_reference(world: World) -> None:
    model: Any = open_model(world.adapted, "cpu").double()
    model.requires_grad_(True)
    layers = lora_layers(model)
    rows = [world.rows[place] for place in PAIRS]
    expected = torch.stack([dpo_gradient(model, list(layers), row, world.base) for row in rows])
    model.requires_grad_(False)
    rendered = [render(row, world.base, side=side) for side in ("chosen", "rejected") for row in rows]
    found: dict[str, torch.Tensor] = {}
    ids, labels = pad([(one.ids, one.turn >= 0) for one in rendered], "cpu")
    per_pair(model, layers, ids, labels, BETA, lambda name, gradient: found.update({name: gradient.flatten(1)}))
    got = torch.cat([found[name] for name in layers], dim=1)
    assert float(expected.abs().max()) > 1e-3
    assert torch.allclose(got, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("moments", ["raw", "less"])
def test_influence_on_pairs_equals_the_double_loop(world: World, moments: Literal["raw", "less"]) -> None:
    influence = Influence(checkpoints=world.warmup, target=world.target, loss="dpo", beta=BETA, moments=moments)
    shard = world.pool.shards[0]
    found = influence.measure(shard, ShardSignals(shard, {}), ON)
    scores = np.zeros((len(PAIRS), 2))
    for checkpoint, weight in zip(world.warmup, influence.source.weights, strict=True):
        model: Any = open_model(checkpoint.model(), "cpu").double()
        model.requires_grad_(True)
        second = {name: pair[1] for name, pair in checkpoint.moments().items()}
        names = list(second)
        root = torch.cat([second[name].flatten().double() for name in names])
        targets = [dpo_gradient(model, names, row, world.base) for row in world.target_rows]
        for line, place in enumerate(PAIRS):
            gamma = dpo_gradient(model, names, world.rows[place], world.base)
            if moments == "less":  # bias corrected, without the shared momentum, epsilon outside
                t = checkpoint.step + 1
                v = (0.999 * root + 0.001 * gamma**2) / (1 - 0.999**t)
                gamma = 0.1 * gamma / (1 - 0.9**t) / (v.sqrt() + 1e-8)
            for task, name in enumerate(("sums", "words")):
                vector = sum(g for g, row in zip(targets, world.target_rows, strict=True) if row.source == name)
                assert isinstance(vector, torch.Tensor)
                scores[line, task] += weight * float(functional.cosine_similarity(gamma, vector, dim=0))
    assert found["scores"][list(PAIRS)] == pytest.approx(scores, abs=2e-5)
    assert found["reason"][2] == Reason.WRONG_KIND and found["reason"][4] != 0 and np.isnan(found["scores"][2]).all()


@pytest.mark.real
def test_dpo_runs_from_the_recipe_on_real_pairs(
    real_data: Path, real_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tamis.recipe import load
    from tamis.stages.conduct import Conductor
    from tamis.stages.workspace import Workspace

    monkeypatch.setenv("TAMIS_REAL_DATA", str(real_data))
    monkeypatch.setenv("TAMIS_REAL_MODELS", str(real_models))
    recipe = load("dpo-real")
    conductor = Conductor.of(recipe, Workspace(tmp_path, Machine(workers=2), recipe.model))
    conductor.ingest()
    for stage in recipe.stages:
        conductor.carry_out(stage)
    proof = conductor.outcomes["proof"]
    means = {arm["name"]: arm["mean"] for arm in proof["arms"]}
    untouched = next(entry for entry in proof["differences"] if entry["arm"] == "untouched")
    assert means["untouched"] == 0 and means["less"] > 0 and untouched["low"] < untouched["mean"] < untouched["high"]
