"""Law: the reversed pass gives what a plain pass over each written-out conversation gives, on the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import tiny
from tamis.models import ModelRef, open_model, open_tokenizer
from tamis.scorers.passes.reversed import ASKED, Reversed
from tamis.values import Machine, Reason, Row
from tamis.views import ShardSignals


def measure(ref: ModelRef, rows: list[Row], folder: Path) -> dict[str, NDArray[Any]]:
    shard = tiny.make_pool(folder, rows).shards[0]
    return dict(Reversed(model=ref).measure(shard, ShardSignals(shard, {}), Machine(tokens_per_batch=300)))


def plain(model: Any, before: list[int], ids: list[int]) -> float:
    """Nats of `ids` behind `before`, from one unbatched pass; without anything before, of all but the first."""
    import torch

    whole = before + ids
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return -sum(float(log_p[at - 1, whole[at]]) for at in range(max(1, len(before)), len(whole)))


@pytest.mark.parametrize("template", ["marks", "plain", "bos"])
def test_both_views_equal_a_plain_pass_over_the_same_tokens(tmp_path: Path, template: str) -> None:
    ref = ModelRef(name=str(tiny.make_model(tmp_path / "model", template=template)), dtype="float32")
    rows = tiny.make_rows(8)
    got = measure(ref, rows, tmp_path)
    model, tokenizer = open_model(ref, "cpu"), open_tokenizer(ref.name)
    assert not got["reason"].any()
    for place, row in enumerate(rows):
        first = next(number for number, message in enumerate(row.messages) if message["role"] == "user")
        asked, answered = (row.messages[number]["content"] for number in (first, first + 1))
        start = "<|bos|>" if template == "bos" else ""
        before = f"{start}<|user|>\n{ASKED.format(answered)}<|end|>\n<|assistant|>\n"
        context, header, ids = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (before, f"{start}<|assistant|>\n", asked)
        )
        assert tokenizer(before + asked, add_special_tokens=False)["input_ids"] == context + ids
        assert got["instruction_count"][place] == len(ids)
        want = plain(model, context, ids), plain(model, header, ids)
        found = got["reversed_nll_sum"][place], got["instruction_nll_sum"][place]
        np.testing.assert_allclose(found, want, rtol=1e-5)


def test_every_kind_of_row_has_a_value_or_a_reason(tmp_path: Path) -> None:
    ref = ModelRef(name=str(tiny.make_model(tmp_path / "model")), dtype="float32", max_tokens=200)
    one, two = tiny.chat("add seven", "eleven"), tiny.chat("sort it", "apple river")
    answer = ({"role": "assistant", "content": "eleven"},)
    rows = [
        tiny.make_row(one),
        tiny.make_row([*one, *two]),  # of several turns the first
        tiny.make_row(one[:1], kind="pair", chosen=answer, rejected=({"role": "assistant", "content": "no"},)),
        tiny.make_row(one, kind="rated", label=True),
        tiny.make_row([{"role": "system", "content": "Be brief."}, *one]),
        tiny.make_row(one[:1], kind="prompt"),
        tiny.make_row(one[:1], kind="text"),
        tiny.make_row(one[1:]),
        tiny.make_row([one[0], {"role": "assistant", "content": " "}]),
        tiny.make_row([{"role": "user", "content": " "}, one[1]]),
        tiny.make_row(tiny.chat("add", "the answer is too long " * 60)),
    ]
    got = measure(ref, rows, tmp_path)
    assert got["reason"].tolist() == [
        *[Reason.NONE] * 5,
        Reason.NEEDS_ANSWER,
        Reason.WRONG_KIND,
        Reason.WRONG_KIND,
        Reason.NEEDS_ANSWER,
        Reason.TOO_SHORT,
        Reason.CUT,
    ]
    for name, dtype in (("reversed_nll_sum", "f8"), ("instruction_nll_sum", "f8"), ("instruction_count", "i8")):
        assert got[name].dtype == dtype and not got[name][5:].any()
        np.testing.assert_allclose(got[name][:5], got[name][0], rtol=1e-6)
    assert got["instruction_count"][0] > 1
