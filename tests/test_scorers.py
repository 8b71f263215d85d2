"""Law: scorers over the token signal follow their formulas, and say why where they give no number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from tamis.models import ModelRef, open_model, open_tokenizer
from tamis.pool import Shard
from tamis.scorers.difficulty import Ifd
from tamis.scorers.length import Length
from tamis.scorers.passes.lengths import Lengths
from tamis.scorers.passes.tokens import Tokens
from tamis.scorers.perplexity import Perplexity
from tamis.scorers.uncertainty import Entropy
from tamis.store import save_arrays
from tamis.values import Column, Machine, Reason, Row
from tamis.views import ShardSignals


def made_by_hand(folder: Path, **arrays: Any) -> ShardSignals:
    """Write a signal `tokens` down instead of measuring it."""
    (folder / "signal").mkdir()
    save_arrays(folder / "signal", {name: np.asarray(array) for name, array in arrays.items()})
    shard = tiny.make_pool(folder, tiny.make_rows(len(arrays["reason"]))).shards[0]
    return ShardSignals(shard, {"tokens": folder / "signal"})


def check(columns: Mapping[str, Column], rows: int) -> None:
    for column in columns.values():
        assert column.values.shape == column.reasons.shape == (rows,) and column.values.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(column.values), column.reasons != 0)


def test_ifd_of_two_rows_by_hand(tmp_path: Path) -> None:
    """No value is published per row, so: losses (0.2, 0.1, 0.06) given, (0.3, 0.2, 0.1) alone; (2.5, 2.9), (3, 3).

    Means 0.12 / 0.2 = 0.6 and 2.7 / 3 = 0.9; exp(-0.08) = 0.9231 and exp(-0.3) = 0.7408: the order turns round.
    """
    have = made_by_hand(
        tmp_path,
        ifd_response_sum=[0.36, 5.4, 0.0, 1.0, 0.0],
        alone_nll_sum=[0.6, 6.0, 0.0, 0.0, 0.0],
        alone_count=[3, 2, 0, 4, 0],
        reason=np.array([0, 0, 0, 0, Reason.NEEDS_ANSWER], np.uint8),
    )
    columns = Ifd().score(have)
    check(columns, 5)
    np.testing.assert_allclose(columns["loss"].values[:2], [0.6, 0.9], rtol=1e-6)
    np.testing.assert_allclose(columns["ppl"].values[:2], [0.92312, 0.74082], rtol=1e-5)
    reasons = [0, 0, Reason.TOO_SHORT, Reason.NOT_FINITE, Reason.NEEDS_ANSWER]
    assert columns["loss"].reasons.tolist() == reasons
    for form in ("loss", "ppl"):
        score = Ifd(form=form).score(have)["score"]
        np.testing.assert_array_equal(score.values, columns[form].values)


def test_entropy_of_turns_by_hand(tmp_path: Path) -> None:
    have = made_by_hand(
        tmp_path,
        nll_offsets=[0, 5, 5],
        entropy=np.array([1, 2, 9, 4, 5], np.float16),
        turn=np.array([0, 0, -1, 1, -1], np.int16),
        entropy_sum=[7.0, 0.0],
        response_count=[3, 0],
        reason=np.array([0, Reason.ALL_MASKED], np.uint8),
    )
    for turns, value in (("tokens", 7 / 3), ("mean", 2.75), ("last", 4), ("max", 4), ("sum", 5.5)):
        columns = Entropy(turns=turns).score(have)  # type: ignore[arg-type]
        check(columns, 2)
        assert columns["response"].values[0] == pytest.approx(value)
        assert columns["response"].reasons[1] == Reason.ALL_MASKED


@pytest.fixture(scope="module")
def ref(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return ModelRef(name=str(tiny.make_model(tmp_path_factory.mktemp("scorers"))), dtype="float32", max_tokens=120)


def rows() -> list[Row]:
    odd = [
        tiny.make_row(tiny.chat("first second?"), kind="prompt"),
        tiny.make_row(tiny.chat("x", ["y"])),  # type: ignore[arg-type]  # a content no template takes
        tiny.make_row([{"role": "user", "content": "river stone apple"}], kind="text"),
        tiny.make_row(tiny.chat("count letter " * 80, "seven.")),
    ]
    return [*tiny.make_rows(16), *odd]


@pytest.fixture(scope="module")
def have(ref: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> ShardSignals:
    folder = tmp_path_factory.mktemp("signals")
    shard: Shard = tiny.make_pool(folder, rows()).shards[0]
    folders = {}
    for name, one in (("tokens", Tokens(model=ref, loss="all", alone=True)), ("lengths", Lengths(model=ref))):
        folders[name] = folder / name
        folders[name].mkdir()
        save_arrays(folders[name], one.measure(shard, ShardSignals(shard, {}), Machine(tokens_per_batch=512)))
    return ShardSignals(shard, folders)


def mean_loss(model: Any, ids: list[int], mask: Any) -> float:
    import torch

    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return float(-np.mean([float(log_p[place - 1, ids[place]]) for place in np.flatnonzero(mask)]))


def test_perplexity_and_ifd_equal_a_plain_pass_over_each_row(ref: ModelRef, have: ShardSignals) -> None:
    model, tokenizer = open_model(ref, "cpu"), open_tokenizer(ref.name)
    perplexity, ifd = Perplexity().score(have), Ifd().score(have)
    assert len(have) == 20
    single = [place for place, row in enumerate(have.shard.read()[:16]) if len(row.messages) - (place % 4 == 0) == 2]
    assert len(single) > 4
    for place, row in enumerate(have.shard.read()[:16]):
        made: Any = tokenizer.apply_chat_template(
            list(row.messages), return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = made["input_ids"][:120], np.array(made["assistant_masks"], bool)[:120]
        others = ~mask
        others[0] = False
        want = {
            "response": np.exp(mean_loss(model, ids, mask)),
            "prompt": np.exp(mean_loss(model, ids, others)),
            "whole": np.exp(mean_loss(model, ids, np.arange(len(ids)) > 0)),
        }
        for view, value in want.items():
            np.testing.assert_allclose(perplexity[view].values[place], value, rtol=1e-4)
        if place in single:
            header: Any = tokenizer("<|assistant|>\n")["input_ids"]
            answer = [token for token, scored in zip(ids, mask, strict=True) if scored]
            alone = mean_loss(model, header + answer, np.arange(len(header) + len(answer)) >= len(header))
            given = mean_loss(model, ids, mask)
            np.testing.assert_allclose(ifd["loss"].values[place], given / alone, rtol=1e-4)
            np.testing.assert_allclose(ifd["ppl"].values[place], np.exp(given - alone), rtol=1e-4)


def test_every_scorer_says_why_it_has_no_number(have: ShardSignals) -> None:
    for scorer in (Ifd(), Perplexity(), Entropy(), Entropy(turns="max"), Length()):
        columns = scorer.score(have)
        check(columns, len(have))
        for column in columns.values():
            assert not column.reasons[:16].any() and (column.values[:16] >= 0).all()
    reasons = {
        "ifd": Ifd().score(have)["score"].reasons[16:].tolist(),
        "entropy": Entropy().score(have)["response"].reasons[16:].tolist(),
        "tokens": Length().score(have)["tokens"].reasons[16:].tolist(),
        "response": Length().score(have)["response"].reasons[16:].tolist(),
        "words": Length().score(have)["words"].reasons[16:].tolist(),
    } | {f"ppl.{view}": column.reasons[16:].tolist() for view, column in Perplexity().score(have).items()}
    asked, refused, masked = Reason.NEEDS_ANSWER, Reason.TEMPLATE, Reason.ALL_MASKED
    assert reasons == {
        "ifd": [asked, refused, Reason.WRONG_KIND, masked],
        "entropy": [asked, refused, 0, masked],
        "tokens": [0, refused, 0, 0],
        "response": [asked, refused, 0, masked],
        "words": [0, 0, 0, 0],
        "ppl.prompt": [0, refused, Reason.TOO_SHORT, 0],
        "ppl.response": [asked, refused, 0, masked],
        "ppl.whole": [0, refused, 0, 0],
    }


def test_length_counts(have: ShardSignals) -> None:
    columns = Length().score(have)
    row = have.shard.read()[1]
    assert columns["words"].values[1] == sum(len(message["content"].split()) for message in row.messages)
    assert np.nanmax(columns["tokens"].values) == 120 and columns["tokens"].unit == "tokens"
    assert (columns["response"].values[:16] < columns["tokens"].values[:16]).all()


def test_needs_grow_with_what_is_asked() -> None:
    (poor,) = Perplexity(views=("response",)).needs
    (rich,) = Perplexity().needs
    assert dict(poor.settings) == {"loss": "response"} and dict(rich.settings) == {"loss": "all"}
    assert {need.name for scorer in (Ifd(), Entropy()) for need in scorer.needs} == {"tokens"}
