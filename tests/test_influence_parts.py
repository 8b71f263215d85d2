"""Law: chosen layers, one checkpoint, queries and groups of tasks are the plain formula on that part, and cost less."""

from __future__ import annotations

import json
import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch.utils.flop_counter import FlopCounterMode

from tamis import digests
from tamis.errors import DataError, ModelError, RecipeError
from tamis.gradient import influence
from tamis.gradient.layers import choose_layers
from tamis.gradient.objective import SFT
from tamis.gradient.prepared import prepare
from tamis.gradient.source import open_checkpoint
from tamis.models import open_model
from tamis.rendering import render_rows
from tamis.trainers.full import Full
from tamis.values import Machine, Seeds
from tiny import chat, make_pool, make_row, make_rows
from warmed import Warmed, gradient, measure

LAYERS = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Warmed:
    return Warmed.make(tmp_path_factory.mktemp("parts"), layers=LAYERS)


def raw_cosines(world: Warmed, checkpoint: Any, names: list[str]) -> Any:
    """Oracle: cosines of raw gradients over these weights with the task `sums`, of the usable rows."""
    model: Any = open_model(checkpoint.model(), "cpu").double()
    model.requires_grad_(True)
    own = [gradient(model, names, row, world.base) for row in world.target_rows if row.source == "sums"]
    mean = torch.stack(own).mean(0)
    rows = [gradient(model, names, world.rows[place], world.base) for place in world.usable]
    return np.array([float(functional.cosine_similarity(row, mean, dim=0)) for row in rows])


def assert_sums(world: Warmed, found: dict[str, Any], wanted: Any) -> None:
    place = json.loads(bytes(found["tasks"])).index("sums")
    np.testing.assert_allclose(found["scores"][world.usable, place], wanted, rtol=2e-3, atol=1e-4)


def test_last_layers_are_the_formula_on_the_blocks_from_the_end(world: Warmed) -> None:
    last = [name for name in open_checkpoint(world.lora[1], "cpu").layers if ".layers.3." in name]
    found = measure(world, moments="raw", layers="last 25%", use="last")
    assert_sums(world, found, raw_cosines(world, world.lora[1], last))
    assert found["norms"].shape == (len(world.rows), 1)


def test_blocks_are_counted_from_the_end_and_rounded_up(world: Warmed) -> None:
    every = open_checkpoint(world.lora[0], "cpu").layers
    for text, blocks in {"last 25%": 1, "last 26%": 2, "last 50%": 2, "last 1%": 1, "last 100%": 4}.items():
        held = {int(name.split(".layers.")[1].split(".")[0]) for name in choose_layers(every, text)}
        assert held == set(range(LAYERS - blocks, LAYERS)), text
    assert list(choose_layers(every, "all")) == list(every)
    assert all("q_proj.lora_B" in name for name in choose_layers(every, r"q_proj\.lora_B"))
    with pytest.raises(ModelError, match="fits none of the"):
        choose_layers(every, "w_pack")


@pytest.mark.parametrize("text", ["last ", "last 0%", "last 101%", "last five", "(", "last 25% or so"])
def test_layers_that_mean_nothing_are_refused_before_a_run(world: Warmed, text: str) -> None:
    with pytest.raises(RecipeError, match="layers"):
        world.influence(layers=text)


def test_the_backward_pass_ends_at_the_first_layer_that_counts(world: Warmed) -> None:
    rows, _ = SFT.examples([world.rows[0]], world.base)
    spent, reached = [], []
    for layers in ("last 25%", "all"):
        opened = open_checkpoint(world.lora[0], "cpu", layers)
        seen: set[str] = set()

        def into(name: str, seen: set[str] = seen) -> Any:
            def hook(_: Any, inputs: Any, output: torch.Tensor) -> None:
                if output.requires_grad:
                    output.register_hook(lambda _: seen.add(name))

            return hook

        for name, module in opened.model.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(into(name))
        with FlopCounterMode(display=False) as counter:
            SFT.gradients(opened, rows, lambda name, gradient: None)
        spent.append(counter.get_total_flops())
        reached.append({int(name.split(".layers.")[1].split(".")[0]) for name in seen if ".layers." in name})
    assert reached == [{3}, {0, 1, 2, 3}]
    assert spent[0] < 0.75 * spent[1]


def test_full_models_count_chosen_layers_through_adam(world: Warmed, tmp_path: Path) -> None:
    trainer = Full(epochs=1, batch_rows=4, keep="every-epoch", learning_rate=1e-3)
    rows = render_rows(make_rows(8, seed=3), world.base)
    full = tuple(trainer.train(world.base, rows, Seeds(), [], tmp_path, Machine()))
    names = [name for name in open_checkpoint(full[0], "cpu").layers if name.endswith("down_proj.weight")]
    assert len(names) == LAYERS
    found = measure(world, checkpoints=full, layers=r"down_proj\.weight$", moments="raw")
    assert_sums(world, found, raw_cosines(world, full[0], names))
    adam = measure(world, checkpoints=full, layers=r"down_proj\.weight$")
    assert np.isfinite(adam["scores"][world.usable]).all()
    assert np.abs(adam["scores"] - found["scores"])[world.usable].max() > 1e-3


def test_approximations_are_said(world: Warmed) -> None:
    sentences = world.influence(layers="last 25%", use="last").notes()
    assert sentences == [
        "approximation: only layers 'last 25%' count",
        "approximation: only the last of 2 checkpoints counts",
    ]
    assert not world.influence(checkpoints=world.lora[:1], use="last").notes()


def test_every_row_can_be_a_query_and_those_without_answer_are_left_out(
    world: Warmed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = make_pool(tmp_path / "target", [*world.target_rows, make_row(chat("word " * 100, "cut off"))])
    found = measure(world, target=target, by="row")
    assert json.loads(bytes(found["tasks"])) == [row.key for row in world.target_rows]
    assert "1 of 8 target rows cannot be used" in caplog.text
    alone = make_pool(tmp_path / "alone", world.target_rows[2:3])
    np.testing.assert_allclose(found["scores"][:, 2], measure(world, target=alone)["scores"][:, 0], atol=1e-6)
    with pytest.raises(DataError, match="no row is left for the target"):
        measure(world, target=make_pool(tmp_path / "none", [world.rows[3]]), by="row")


class Watch:
    """Counts the target vectors that are in memory, whenever some are made."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[int] = []
        self.alive: list[int] = []
        self.seen: list[weakref.ref[torch.Tensor]] = []
        self.make = influence.task_vectors
        patch.setattr(influence, "task_vectors", self)

    def __call__(self, *given: Any) -> Any:
        held = [tensor for one in self.seen if (tensor := one()) is not None]
        made, dropped = self.make(*given)
        first = next(iter(made.values()))
        self.calls.append(len(first))
        self.alive.append(len(first) + sum(len(tensor) for tensor in held))
        self.seen.append(weakref.ref(first))
        return made, dropped


@pytest.mark.parametrize("profile", ["recommended", "datainf"])
def test_vectors_beyond_memory_are_measured_in_groups_of_tasks(
    world: Warmed, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    pool = world.pool if profile == "datainf" else None
    prepare.cache_clear()
    watch = Watch(monkeypatch)
    whole = measure(world, by="row", profile=profile, pool=pool)
    count = 1 if pool else len(world.lora)
    assert watch.calls == [len(world.target_rows)] * count
    size = 4 * open_checkpoint(world.lora[0], "cpu").parameters
    copies = 3 if pool else 2
    at_once = 3
    prepare.cache_clear()
    watch = Watch(monkeypatch)
    parts = measure(world, by="row", profile=profile, pool=pool, vector_bytes=at_once * copies * size)
    assert len(watch.calls) == count * math.ceil(len(world.target_rows) / at_once)
    assert max(watch.alive) == max(watch.calls) == at_once
    slack = 1e-6 * max(1.0, float(np.nanstd(whole["scores"])))
    np.testing.assert_allclose(parts["scores"], whole["scores"], rtol=1e-5, atol=slack)
    np.testing.assert_array_equal(parts["reason"], whole["reason"])


def test_the_bound_on_memory_is_no_part_of_the_identity(world: Warmed) -> None:
    identities = {digests.of_component(world.influence(vector_bytes=size)) for size in (1, 1 << 30)}
    assert len(identities) == 1
    assert len({digests.of_component(world.influence(layers=text)) for text in ("all", "last 25%")}) == 2
