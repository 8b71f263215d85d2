"""Attention on the user's words is that of the whole model's matrices; context dependency is their maximum and mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tiny
from tamis import catalogue
from tamis.errors import ModelError, RecipeError
from tamis.models import ModelRef, open_model, open_tokenizer
from tamis.prediction.attention import attention_layers
from tamis.prediction.user_tokens import user_tokens
from tamis.rendering import render_all
from tamis.scorers.passes.attention import Attention
from tamis.values import Column, Machine, Reason, Row
from tamis.views import ShardSignals

Found = Mapping[str, NDArray[Any]]
ROWS = [
    tiny.make_row(tiny.chat("which river?", "the left river.", "user", "eleven apples", system="add seven")),
    tiny.make_row(tiny.chat("count the stone", "because")),
    tiny.make_row(tiny.chat("no answer follows"), kind="prompt"),
    tiny.make_row(({"role": "user", "content": "plain text"},), kind="text"),
    tiny.make_row(({"role": "assistant", "content": "nobody asked"},)),
    tiny.make_row(
        tiny.chat("which price?"),
        kind="pair",
        chosen=({"role": "assistant", "content": "eleven"},),
        rejected=({"role": "assistant", "content": "seven"},),
    ),
]


@pytest.fixture(scope="module")
def ref(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    folder = tiny.make_model(tmp_path_factory.mktemp("model"), layers=3)
    return ModelRef(name=str(folder), max_tokens=80, dtype="float32")


def measured(ref: ModelRef, folder: Path, rows: list[Row] = ROWS, on: Machine | None = None, **fields: Any) -> Found:
    shard = tiny.make_pool(folder, rows).shards[0]
    return Attention(model=ref, **fields).measure(shard, ShardSignals(shard, {}), on or Machine())


def scored(found: Found, **fields: Any) -> Column:
    columns: Mapping[str, Column] = catalogue.build("scorers", "context-dependency", fields).score({"attention": found})
    return columns["score"]


@pytest.mark.parametrize("template", ["marks", "plain"])
def test_the_users_tokens_are_the_contents_of_user_messages(template: str, tmp_path: Path) -> None:
    tiny.make_tokenizer(tmp_path / "tokens", template=template)
    ref = ModelRef(name=str(tmp_path / "tokens"), max_tokens=200)
    tokenizer = open_tokenizer(ref.name)
    rendered = render_all(ROWS, ref)
    for row, one, mine in zip(ROWS, rendered, user_tokens(ROWS, ref), strict=True):
        assert mine is not None
        said = [str(m["content"]) for m in row.messages if m["role"] == "user" and row.kind not in ("text", "prompt")]
        if row.kind in ("text", "prompt"):
            assert not len(mine)
            continue
        assert len(mine) == len(one.ids)
        assert str(tokenizer.decode(one.ids[mine])).replace(" ", "") == "".join(said).replace(" ", "")
    cut = user_tokens(ROWS, dataclasses.replace(ref, max_tokens=9, truncation="left"))
    assert [len(mine) for mine in cut if mine is not None][:2] == [9, 9]


def plain(ref: ModelRef, row: Row, layer: int) -> list[NDArray[np.float64]]:
    """Oracle: (tokens, heads) of every assistant turn, from all attention matrices of the whole model, batch 1."""
    import torch

    model: Any = open_model(dataclasses.replace(ref, attention="eager"), "cpu")
    one = render_all([row], ref)[0]
    mine = user_tokens([row], ref)[0]
    with torch.no_grad():
        ids = torch.from_numpy(one.ids.astype(np.int64))[None]
        weights = model(input_ids=ids, output_attentions=True).attentions[layer][0].double().numpy()
    special = set(open_tokenizer(ref.name).all_special_ids)
    turns: dict[int, list[NDArray[np.float64]]] = {}
    for place, turn in enumerate(one.turn.tolist()):
        if turn >= 0 and int(one.ids[place]) not in special:
            turns.setdefault(turn, []).append(weights[:, place, mine].sum(axis=1))
    return [np.stack(found) for found in turns.values()]


@pytest.mark.parametrize("layer", [None, 2])
def test_mass_and_dependency_are_those_of_the_whole_models_matrices(
    ref: ModelRef, layer: int | None, tmp_path: Path
) -> None:
    found = measured(ref, tmp_path, layer=layer)
    alone = measured(ref, tmp_path / "alone", on=Machine(tokens_per_batch=1), layer=layer)
    assert np.allclose(found["mass"], alone["mass"], atol=1e-3)
    assert found["reason"].tolist() == [
        0,
        0,
        Reason.NEEDS_ANSWER,
        Reason.WRONG_KIND,
        Reason.TOO_SHORT,
        0,
    ]
    columns = {turns: scored(found, turns=turns, layer=layer) for turns in ("max", "mean", "last")}
    for place in (0, 1, 5):
        turns = plain(ref, ROWS[place], 1 if layer is None else layer)
        part = slice(found["mass_offsets"][place], found["mass_offsets"][place + 1])
        assert np.allclose(found["mass"][part], np.concatenate(turns), atol=1e-3)
        means = [turn.max(axis=1).mean() for turn in turns]
        wanted = {"max": max(means), "mean": np.mean(means), "last": means[-1]}
        for name, value in wanted.items():
            assert columns[name].values[place] == pytest.approx(value, abs=1e-3)
    assert columns["max"].values[0] != columns["mean"].values[0]
    assert np.isnan(columns["max"].values[2:5]).all() and columns["max"].reasons.tolist() == found["reason"].tolist()


def test_dependency_of_two_rows_by_hand() -> None:
    signal: Found = {  # a row of two turns and one of a single token, two heads
        "mass": np.array([[0.2, 0.6], [0.4, 0.2], [0.9, 0.1], [0.3, 0.1]], np.float16),
        "mass_offsets": np.array([0, 3, 4], np.int64),
        "turn_tokens": np.array([2, 1, 1], np.int32),
        "turn_tokens_offsets": np.array([0, 2, 3], np.int64),
        "reason": np.zeros(2, np.uint8),
    }
    assert scored(signal).values.tolist() == pytest.approx([0.9, 0.3], abs=1e-3)  # turns: (0.6 + 0.4) / 2 and 0.9
    assert scored(signal, turns="mean").values.tolist() == pytest.approx([0.7, 0.3], abs=1e-3)


def test_a_layer_that_is_not_there_is_named(ref: ModelRef, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="layer 3 of a model with 3 layers"):
        measured(ref, tmp_path, layer=3)
    with pytest.raises(RecipeError, match="counts from 0"):
        Attention(model=ref, layer=-1)
    eager, sdpa = (Attention(model=dataclasses.replace(ref, attention=kernel)) for kernel in ("eager", "sdpa"))
    assert eager == sdpa, "whatever attention the run uses, the pass and its identity are the same"
    model: Any = open_model(ref, "cpu")
    model.config.num_hidden_layers = 2
    with pytest.raises(ModelError, match="3 attention modules in 2 layers"):
        attention_layers(model)
