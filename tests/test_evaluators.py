"""Laws of evaluators: one result per usable row, equal to a plain computation, whatever the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from tamis import catalogue
from tamis.errors import DataError, ModelError, RecipeError
from tamis.models import ModelRef, open_model, open_tokenizer
from tamis.pool import Pool
from tamis.rendering import generation_prompt, render
from tamis.values import Items, Machine


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return ModelRef(name=str(tiny.make_model(tmp_path_factory.mktemp("model"))), max_tokens=96, dtype="float32")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    rows = tiny.make_rows(14)
    rows.insert(3, tiny.make_row(tiny.chat("no answer here?"), key="unanswered", kind="prompt"))
    return tiny.make_pool(tmp_path_factory.mktemp("pool"), rows, shard_rows=6)


def evaluate(name: str, ref: ModelRef, pool: Pool, on: Machine | None = None, **settings: Any) -> Items:
    items: Items = catalogue.build("evaluators", name, settings).evaluate(ref, pool, on or Machine())
    return items


def plain_nll(model: Any, ids: Any, turn: Any) -> float:
    """Batch of one, full logits, float64."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor(ids[None].astype(np.int64))).logits[0].double()
    logs = torch.log_softmax(logits, -1)
    return float(sum(-logs[place - 1, int(ids[place])] for place in np.flatnonzero(turn >= 0)))


@pytest.mark.parametrize("adapted", [False, True])
def test_held_out_loss_equals_a_plain_loop(base: ModelRef, pool: Pool, tmp_path: Path, adapted: bool) -> None:
    import dataclasses

    ref = base
    if adapted:
        ref = dataclasses.replace(base, adapter=str(tiny.make_adapter(Path(base.name), tmp_path / "adapter")))
    items = evaluate("held-out-loss", ref, pool)
    model = open_model(ref, "cpu")
    usable = [row for row in pool if row.kind == "chat"]
    assert list(items.keys) == [row.key for row in usable] and "unanswered" not in items.keys
    for place, row in enumerate(usable):
        one = render(row, ref)
        assert items.values[place] == pytest.approx(plain_nll(model, one.ids, one.turn), rel=1e-4)
        assert items.weights[place] == (one.turn >= 0).sum()


def test_held_out_loss_is_the_same_twice_and_close_over_batches(base: ModelRef, pool: Pool) -> None:
    one, two = evaluate("held-out-loss", base, pool), evaluate("held-out-loss", base, pool)
    assert one.values.tolist() == two.values.tolist()
    small = evaluate("held-out-loss", base, pool, Machine(tokens_per_batch=1))
    assert np.abs(small.values - one.values).max() < 1e-4 * one.values.std()


def test_nothing_to_score_and_a_diverged_model_are_errors(base: ModelRef, tmp_path: Path) -> None:
    empty = tiny.make_pool(tmp_path / "empty", [tiny.make_row(tiny.chat("q?"), kind="prompt")])
    for name in ("held-out-loss", "exact-match"):
        with pytest.raises(DataError, match="no evaluation row can be"):
            evaluate(name, base, empty)
    broken = tiny.make_model(tmp_path / "broken")
    _poison(broken)
    with pytest.raises(ModelError, match="not finite on 4 of 4"):
        ref = ModelRef(name=str(broken), dtype="float32")
        evaluate("held-out-loss", ref, tiny.make_pool(tmp_path / "rows", tiny.make_rows(4)))


def _poison(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def plain_answer(model: Any, tokenizer: Any, prompt: list[int], stops: set[int], longest: int) -> str:
    """Greedy, one token at a time, no cache, no padding."""
    import torch

    ids = list(prompt)
    for _ in range(longest):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in stops:
            break
    text: str = tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
    return text


def test_exact_match_equals_greedy_without_batch_or_cache(base: ModelRef, tmp_path: Path) -> None:
    model, tokenizer = open_model(base, "cpu"), open_tokenizer(base.name)
    stops = {int(tokenizer.eos_token_id)}
    rows, right = [], []
    for place, row in enumerate(tiny.make_rows(10, seed=4)):
        prompt = generation_prompt(row.messages, base)
        if len(prompt) + 6 > base.max_tokens:
            continue
        answer = plain_answer(model, tokenizer, prompt, stops, 6)
        good = place % 2 == 0 and bool(answer.split())
        messages = (*row.messages[:-1], {"role": "assistant", "content": answer if good else "something else"})
        rows.append(tiny.make_row(messages, key=row.key))
        right.append(float(good))
    made = tiny.make_pool(tmp_path, rows, shard_rows=4)
    items = evaluate("exact-match", base, made, extract="whole", max_new_tokens=6)
    assert list(items.keys) == [row.key for row in rows]
    assert items.values.tolist() == right and sum(right) >= 2
    assert not items.lower_is_better and items.weights.tolist() == [1.0] * len(rows)
    small = evaluate("exact-match", base, made, Machine(tokens_per_batch=1), extract="whole", max_new_tokens=6)
    assert small.values.tolist() == right


@pytest.mark.parametrize(
    ("extract", "text", "found"),
    [
        ("last-number", "3 apples and 1,234.50 dollars.", "1234.5"),
        ("last-number", "so the answer is -07", "-7"),
        ("last-number", "-0.0", "0"),
        ("last-number", "100", "100"),
        ("last-number", "1,23", "23"),
        ("last-number", "none", None),
        ("after-marker", "work 5\n#### 1,000", "1000"),
        ("after-marker", "#### 7 #### $8.0", "8"),
        ("after-marker", "no marker 8", None),
        ("after-marker", "####  Paris   France ", "Paris France"),
        ("whole", " a \n b ", "a b"),
        ("whole", "  ", None),
    ],
)
def test_extraction_by_hand(extract: str, text: str, found: str | None) -> None:
    assert catalogue.build("evaluators", "exact-match", {"extract": extract}).find(text) == found


def test_prompts_that_leave_no_room_are_left_out_and_logged(
    base: ModelRef, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        tiny.make_row(tiny.chat("add " * 200, "it is 4"), key="long"),
        tiny.make_row(tiny.chat("add", "it is 4"), key="short"),
        tiny.make_row(tiny.chat("add", "no figure"), key="no number"),
    ]
    items = evaluate("exact-match", base, tiny.make_pool(tmp_path, rows), max_new_tokens=4)
    assert list(items.keys) == ["short"]
    assert len([record for record in caplog.records if "left out" in record.message]) == 2


def test_settings_are_checked_before_anything_runs() -> None:
    with pytest.raises(RecipeError, match="at least 1"):
        catalogue.build("evaluators", "exact-match", {"max_new_tokens": 0})
    with pytest.raises(RecipeError, match="extract"):
        catalogue.build("evaluators", "exact-match", {"extract": "guess"})
