"""GraNd: norms are those of batch-1 autograd whichever way they are taken, and the proxy that of the output layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import warmed
from tamis import catalogue
from tamis.errors import ModelError, RecipeError
from tamis.gradient.norms import squared_norms
from tamis.scorers.passes.gradient_norms import GradientNorms
from tamis.values import Column, Machine
from tamis.views import ShardSignals
from warmed import UNUSABLE, Warmed

ON = Machine(tokens_per_batch=256)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Warmed:
    return Warmed.make(tmp_path_factory.mktemp("norms"))


def measured(world: Warmed, on: Machine = ON, **fields: Any) -> dict[str, Any]:
    shard = world.pool.shards[0]
    component = GradientNorms(model=world.base.resolved("cpu"), **fields)
    return dict(component.measure(shard, ShardSignals(shard, {}), on))


@pytest.mark.parametrize("kind", ["model", "checkpoints"])
@pytest.mark.parametrize("layers", ["all", "last 50%"])
def test_norms_are_those_of_one_row_at_a_time(world: Warmed, kind: str, layers: str) -> None:
    given: dict[str, Any] = {"layers": layers} | ({"checkpoints": world.lora} if kind == "checkpoints" else {})
    found = measured(world, **given)
    assert found["norms"].shape == (len(world.rows), len(given.get("checkpoints", (0,))))
    component = GradientNorms(model=world.base.resolved("cpu"), **given)
    for number in range(found["norms"].shape[1]):
        opened = component.open(number, "cpu")
        opened.model.requires_grad_(True)
        for place in world.usable[::4]:
            gradient = warmed.gradient(opened.model, list(opened.layers), world.rows[place], world.base)
            assert found["norms"][place, number] == pytest.approx(float(gradient.norm()), rel=1e-5)
    assert np.flatnonzero(found["reason"]).tolist() == list(UNUSABLE)
    assert np.isnan(found["norms"][list(UNUSABLE)]).all() and not found["count"][list(UNUSABLE)].any()


@pytest.mark.parametrize("tokens", [2, 40])  # by products of tokens, and by the gradient itself
def test_both_ways_to_a_norm_agree(tokens: int) -> None:
    draw = torch.Generator().manual_seed(0)
    delta, seen = (torch.randn(3, tokens, width, generator=draw) for width in (24, 32))
    wanted = [float((d.double().T @ s.double()).square().sum()) for d, s in zip(delta, seen, strict=True)]
    assert squared_norms(delta, seen).tolist() == pytest.approx(wanted, rel=1e-5)
    delta[:, -1] = 0  # padding
    assert squared_norms(delta[:, :-1], seen[:, :-1]).tolist() == pytest.approx(squared_norms(delta, seen).tolist())


def test_layers_are_said_and_checked(world: Warmed) -> None:
    assert GradientNorms(model=world.base, layers="last 25%").notes() == (
        "approximation: only layers 'last 25%' count",
    )
    assert not GradientNorms(model=world.base).notes()
    with pytest.raises(RecipeError, match="the share must lie"):
        GradientNorms(model=world.base, layers="last 0%")
    with pytest.raises(ModelError, match="fits none"):
        measured(world, layers="no_such_layer")


def score(signals: dict[str, Any], **fields: Any) -> Column:
    found: Column = catalogue.build("scorers", "grand", fields).score(signals)["score"]
    return found


def test_exact_scores_by_hand() -> None:
    signal = {
        "norms": np.array([[3, 5], [1, 2], [np.nan, np.nan]], np.float32),
        "count": np.array([4, 2, 0]),
        "reason": np.array([0, 0, 1], np.uint8),
    }
    assert score({"gradient-norms": signal}).values[:2].tolist() == [4, 1.5]  # mean over checkpoints
    assert score({"gradient-norms": signal}, reduction="sum").values[:2].tolist() == [16, 3]  # of the summed loss
    assert score({"gradient-norms": signal}).reasons.tolist() == [0, 0, 1]


def test_the_proxy_by_hand_and_against_autograd_of_the_head() -> None:
    """Row 0 has p = (½, ¼, ¼) with gold ½ and ‖h‖ = 2, and an even split of two with ‖h‖ = 4; row 1 is sure."""
    tokens = {
        "nll": np.log(np.array([2, 2, 7, 1], np.float32)),
        "square": np.array([0.375, 0.5, 0.3, 1], np.float32),
        "hidden_norm": np.array([2, 4, 9, 3], np.float16),
        "turn": np.array([0, 0, -1, 0], np.int16),  # the third is of a prompt
        "nll_offsets": np.array([0, 3, 4], np.int64),
        "reason": np.zeros(2, np.uint8),
    }
    errors = [np.sqrt(0.25 + 0.0625 + 0.0625), np.sqrt(0.25 + 0.25)]
    norms = [2 * errors[0], 4 * errors[1]]
    found = score({"tokens": tokens}, form="proxy")
    assert found.values.tolist() == pytest.approx([np.mean(norms), 0], abs=1e-6)
    assert score({"tokens": tokens}, form="proxy", reduction="sum").values[0] == pytest.approx(sum(norms), rel=1e-6)
    hidden = torch.tensor([1.0, -2.0, 0.5])
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    p = torch.softmax(weight @ hidden, 0)
    (gradient,) = torch.autograd.grad(-p[2].log(), weight)
    one = {
        "nll": np.array([-float(p[2].detach().log())], np.float32),
        "square": np.array([float(p.detach().square().sum())], np.float32),
        "hidden_norm": np.array([float(hidden.norm())], np.float32),
        "turn": np.zeros(1, np.int16),
        "nll_offsets": np.array([0, 1], np.int64),
        "reason": np.zeros(1, np.uint8),
    }
    assert score({"tokens": one}, form="proxy").values[0] == pytest.approx(float(gradient.norm()), rel=1e-5)
