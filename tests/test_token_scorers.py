"""Law: scorers over response tokens follow their formulas and the published values, whatever else was scored."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tiny
from tamis.errors import RecipeError
from tamis.models import ModelRef, open_model
from tamis.rendering import render_all
from tamis.scorers.cascades import Cascades
from tamis.scorers.difficulty import Ifd, ReversedIfd
from tamis.scorers.el2n import El2n
from tamis.scorers.novelty import Cge, TokenShift
from tamis.scorers.passes.reversed import Reversed
from tamis.scorers.passes.tokens import Tokens
from tamis.scorers.uncertainty import Entropy, LeastConfidence, LookBeforeYouLeap, Margin, PredictiveEntropy
from tamis.store import save_arrays
from tamis.values import Column, Machine, Reason
from tamis.views import ShardSignals

Lists = Sequence[Sequence[float]]


def tokens(losses: Lists, turns: Sequence[Sequence[int]] | None = None, **ragged: Any) -> dict[str, NDArray[Any]]:
    """Write the token signal down by hand: losses of every row; `turns` as the pass has them, by default one a row."""
    turns = [[0] * len(row) for row in losses] if turns is None else turns
    kept = [[loss for loss, turn in zip(*pair, strict=True) if turn >= 0] for pair in zip(losses, turns, strict=True)]
    arrays: dict[str, NDArray[Any]] = {
        "nll": np.array([loss for row in losses for loss in row], np.float32),
        "turn": np.array([turn for row in turns for turn in row], np.int16),
        "nll_offsets": np.cumsum([0, *map(len, losses)]).astype(np.int64),
        "response_nll_sum": np.array([sum(row) for row in kept], np.float64),
        "response_count": np.array([len(row) for row in kept], np.int64),
        "reason": np.array([0 if row else Reason.NEEDS_ANSWER for row in kept], np.uint8),
    }
    arrays |= {name: np.array(list(itertools.chain(*lists))) for name, lists in ragged.items()}
    if "entropy" in ragged:
        response = arrays["turn"] >= 0
        owners = np.repeat(np.arange(len(losses)), [len(row) for row in losses])
        arrays["entropy"] = arrays["entropy"].astype(np.float16)
        arrays["entropy_sum"] = np.bincount(
            owners[response], arrays["entropy"][response].astype(float), minlength=len(losses)
        )
    return arrays


def signals(folder: Path, **made: Mapping[str, Any]) -> ShardSignals:
    """Signals of one shard by name; `_at_` stands for `@`."""
    folders = {}
    for name, arrays in made.items():
        path = folder / name
        path.mkdir()
        save_arrays(path, {key: np.asarray(array) for key, array in arrays.items()})
        folders[name.replace("_at_", "@")] = path
    count = len(next(iter(made.values()))["reason"])
    return ShardSignals(tiny.make_pool(folder / "pool", tiny.make_rows(count)).shards[0], folders)


def checked(columns: Mapping[str, Column]) -> dict[str, list[float]]:
    """The values of columns that are NaN just where they have a reason."""
    for column in columns.values():
        assert column.values.dtype == np.float32 and column.reasons.dtype == np.uint8
        np.testing.assert_array_equal(np.isnan(column.values), column.reasons != 0)
    return {view: column.values.tolist() for view, column in columns.items()}


def losses_of(*probabilities: Sequence[float]) -> list[list[float]]:
    return [(-np.log(row)).tolist() for row in probabilities]


def test_golden_1_predictive_entropy_and_its_normalised_form(tmp_path: Path) -> None:
    """Golden 1: the four samples are rows, and the estimates the means of the columns."""
    have = signals(tmp_path, tokens=tokens(losses_of([0.5, 0.8], [0.6, 0.7, 0.9], [0.3, 0.4], [0.2])))
    columns = checked(PredictiveEntropy().score(have))
    assert np.mean(columns["sequence"]) == pytest.approx(1.404713, abs=1e-5)
    assert np.mean(columns["token"]) == pytest.approx(0.863001, abs=1e-5)


def test_golden_20_sum_average_and_quantiles_of_cascades(tmp_path: Path) -> None:
    have = signals(tmp_path, tokens=tokens(losses_of([0.9, 0.5, 0.99, 0.2])))
    columns = checked(Cascades(quantiles=(0.5, 0.8, 1.0)).score(have))
    expected = {"sum": 2.417996, "avg": 0.604499, "q100": 1.609438, "q80": 1.059663, "q50": 0.399254}
    assert {view: value for view, (value,) in columns.items()} == pytest.approx(expected, abs=1e-5)


def test_quantiles_equal_numpy_on_lists_of_any_length(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lists = [rng.exponential(size=count).tolist() for count in (1, 2, 0, 7, 30)]
    turns = [[-1 if place % 3 == 1 else place // 4 for place in range(len(row))] for row in lists]
    columns = Cascades().score(signals(tmp_path, tokens=tokens(lists, turns)))
    checked(columns)
    for row, (values, owners) in enumerate(zip(lists, turns, strict=True)):
        mine = [np.float32(value) for value, turn in zip(values, owners, strict=True) if turn >= 0]
        for level in Cascades().quantiles if mine else ():
            got = columns[f"q{100 * level:g}"].values[row]
            assert got == pytest.approx(np.quantile(np.array(mine, np.float64), level), rel=1e-6), (row, level)
    assert columns["q50"].reasons.tolist() == [0, 0, Reason.NEEDS_ANSWER, 0, 0]
    with pytest.raises(RecipeError, match=r"\[0, 1\]"):
        Cascades(quantiles=(1.2,))


def test_golden_el2n_closed_form_equals_the_explicit_norm(tmp_path: Path) -> None:
    """For random logits, 1 - 2p + Σp² is the squared length of softmax(z) - onehot(y)."""
    rng = np.random.default_rng(3)
    logits, gold = rng.normal(scale=4, size=(9, 50)), rng.integers(50, size=9)
    gold[:2] = logits[:2].argmax(axis=1)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    norms = np.linalg.norm(p - np.eye(50)[gold], axis=1)
    losses, squares = -np.log(p[np.arange(9), gold]), (p**2).sum(axis=1)
    made = tokens([losses[:4].tolist(), losses[4:].tolist()], square=[squares[:4], squares[4:]])
    columns = checked(El2n().score(signals(tmp_path, tokens=made)))
    assert columns["response"] == pytest.approx([norms[:4].mean(), norms[4:].mean()], rel=1e-5)


def test_el2n_of_a_certain_prediction_is_zero_and_not_broken(tmp_path: Path) -> None:
    made = tokens([[0.0, 0.0]], square=[[np.float32(0.9999999), 1.0]])
    assert checked(El2n().score(signals(tmp_path, tokens=made)))["response"][0] == pytest.approx(0, abs=1e-3)


def test_entropies_margin_and_confidence_by_hand(tmp_path: Path) -> None:
    """No value is published. One row of two turns, (1, 2) and (6), and a token of the prompt in between.

    The two likeliest tokens have (.5, .3), (.9, .05), (.4, .4): margins .2, .85, 0, least confidence .5, .1, .6.
    """
    top = np.log(np.array([[0.5, 0.3], [0.9, 0.05], [0.7, 0.1], [0.4, 0.4]]))
    made = tokens([[0.5, 1.0, 9.0, 3.0], []], [[0, 0, -1, 1], []], entropy=[[1, 2, 9, 6], []], top_logprob=[top, []])
    have = signals(tmp_path, tokens=made)
    views = ("response", "max", "sum")
    want = {"tokens": (3, 6, 9), "mean": (3.75, 4, 4.5), "last": (6, 6, 6), "max": (6, 6, 6), "sum": (7.5, 8, 9)}
    for turns, values in want.items():
        columns = checked(Entropy(turns=turns).score(have))  # type: ignore[arg-type]
        assert [columns[view][0] for view in views] == pytest.approx(values), turns
    margin, doubt = checked(Margin().score(have)), checked(LeastConfidence().score(have))
    assert (margin["response"][0], margin["min"][0]) == pytest.approx((0.35, 0), abs=1e-6)
    assert (doubt["response"][0], doubt["max"][0]) == pytest.approx((0.4, 0.6))
    assert checked(Margin(turns="last").score(have))["response"][0] == pytest.approx(0, abs=1e-6)
    assert checked(LeastConfidence(turns="mean").score(have))["response"][0] == pytest.approx(0.45)
    leap = checked(LookBeforeYouLeap().score(have))
    assert {view: values[0] for view, values in leap.items()} == pytest.approx(
        {"max-loss": 3, "mean-loss": 1.5, "max-entropy": 6, "mean-entropy": 3}
    )
    for scorer in (Entropy(), Margin(), LeastConfidence(), LookBeforeYouLeap(), PredictiveEntropy(), Cascades()):
        assert all(column.reasons[1] == Reason.NEEDS_ANSWER for column in scorer.score(have).values())


def test_token_shift_by_hand(tmp_path: Path) -> None:
    """No value is published per row. Ranks 1, 3, 4, 9 (and 50 of the prompt); 1, 1, 2."""
    made = tokens([[1] * 5, [1] * 3, []], [[0, 0, -1, 0, 0], [0] * 3, []], rank=[[1, 3, 50, 4, 9], [1, 1, 2], []])
    have = signals(tmp_path, tokens=made)
    columns = checked(TokenShift().score(have))
    assert columns["score"][:2] == [0.5, 0] and columns["marginal"][:2] == pytest.approx([0.25, 1 / 3])
    assert columns["unshifted"][:2] == pytest.approx([0.25, 2 / 3])
    assert checked(TokenShift(shallow=8).score(have))["score"][0] == 0.25
    with pytest.raises(RecipeError, match="rank"):
        TokenShift(shallow=0)


def test_novelty_by_hand(tmp_path: Path) -> None:
    """No value is published. Losses 1 + 2 tuned, 4 + 2 before: 3 nats, 1.5 a token; the last row counts otherwise."""
    tuned, base = tokens([[1, 2], [5], [], [1]]), tokens([[4, 2], [4], [], [1, 1]])
    columns = Cge().score(signals(tmp_path, tokens=tuned, tokens_at_reference=base))
    assert checked(columns)["sequence"][:2] == [3, -1] and checked(columns)["token"][:2] == [1.5, -1]
    assert columns["token"].reasons.tolist() == [0, 0, Reason.NEEDS_ANSWER, Reason.TEMPLATE]
    (need,) = (need for need in Cge().needs if need.by == "reference")
    assert need.key == "tokens@reference"


def test_reversed_ifd_by_hand(tmp_path: Path) -> None:
    """No value is published per row. Means 1.5 behind the answer and 2 alone: exp(-.5) = .6065, or .75."""
    reversed_view = {
        "reversed_nll_sum": [3.0, 6.0, 0.0, 0.0],
        "instruction_nll_sum": [4.0, 5.0, 0.0, 0.0],
        "instruction_count": [2, 1, 0, 0],
        "reason": np.array([0, 0, Reason.NEEDS_ANSWER, 0], np.uint8),
    }
    have = signals(tmp_path, reversed=reversed_view)
    columns = ReversedIfd().score(have)
    values = checked(columns)
    assert values["ppl"][:2] == pytest.approx([np.exp(-0.5), np.exp(1)]) and values["score"][:2] == values["ppl"][:2]
    assert values["loss"][:2] == pytest.approx([0.75, 1.2])
    assert checked(ReversedIfd(form="loss").score(have))["score"][:2] == values["loss"][:2]
    assert columns["score"].reasons.tolist() == [0, 0, Reason.NEEDS_ANSWER, Reason.TOO_SHORT]


def measured(folder: Path, ref: ModelRef) -> ShardSignals:
    """Eight rows of one to three turns, measured for real."""
    shard = tiny.make_pool(folder / "pool", tiny.make_rows(8, seed=4)).shards[0]
    passes: dict[str, Any] = {"tokens": Tokens(model=ref, loss="all", alone=True), "reversed": Reversed(model=ref)}
    for name, one in passes.items():
        (folder / name).mkdir()
        save_arrays(folder / name, one.measure(shard, ShardSignals(shard, {}), Machine()))
    return ShardSignals(shard, {name: folder / name for name in passes})


def test_golden_ifd_of_an_answer_that_is_independent_of_the_prompt_is_one(tmp_path: Path) -> None:
    """A Llama whose attention writes nothing is a bigram without positions: both IFDs, and r-IFD, are 1."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tiny.make_model(tmp_path / "bigram")
    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    model.save_pretrained(str(folder))
    have = measured(tmp_path, ModelRef(name=str(folder), dtype="float32", max_tokens=512))
    for columns in (Ifd().score(have), ReversedIfd().score(have)):
        for view, column in columns.items():
            assert not column.reasons.any()
            np.testing.assert_allclose(column.values, 1, atol=1e-6, err_msg=view)


def test_scorers_equal_a_plain_pass_over_each_row(tmp_path: Path) -> None:
    """The oracle: probabilities of one row at a time in float64, and the formulas written out."""
    import torch

    ref = ModelRef(name=str(tiny.make_model(tmp_path / "model")), dtype="float32", max_tokens=512)
    have = measured(tmp_path, ref)
    model = open_model(ref, "cpu")
    want: dict[str, list[float]] = {name: [] for name in ("el2n", "margin", "closest", "doubt", "shifted", "hardest")}
    for one in render_all(have.shard.read(), ref):
        places = np.flatnonzero(one.turn >= 0)
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(one.ids[None].astype(np.int64))).logits[0]
        p = logits.double().softmax(-1).numpy()[places - 1]
        gold = p[np.arange(len(places)), one.ids[places]]
        best = np.sort(p, axis=1)[:, ::-1]
        want["el2n"].append(np.linalg.norm(p - np.eye(p.shape[1])[one.ids[places]], axis=1).mean())
        want["margin"].append((best[:, 0] - best[:, 1]).mean())
        want["closest"].append((best[:, 0] - best[:, 1]).min())
        want["doubt"].append((1 - best[:, 0]).mean())
        want["shifted"].append(((p > gold[:, None]).sum(axis=1) >= 3).mean())
        want["hardest"].append(-np.log(gold.min()))
    got = {
        "el2n": El2n().score(have)["response"],
        "margin": Margin().score(have)["response"],
        "closest": Margin().score(have)["min"],
        "doubt": LeastConfidence().score(have)["response"],
        "shifted": TokenShift().score(have)["score"],
        "hardest": Cascades().score(have)["q100"],
    }
    for name, values in want.items():
        np.testing.assert_allclose(got[name].values, values, rtol=1e-4, atol=1e-6, err_msg=name)
