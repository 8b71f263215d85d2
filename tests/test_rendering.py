"""Law: the scored tokens are exactly those that start inside an assistant turn, closing token included (DESIGN §7)."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from tamis.errors import DataError, ModelError
from tamis.models import ModelRef, open_tokenizer
from tamis.rendering import Rendered, generation_prompt, render, render_all, render_rows
from tamis.values import Reason, Row

Make = Callable[..., ModelRef]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Refer to a folder with only a tokenizer of the template asked for."""
    made: dict[Any, Path] = {}

    def one(template: str, *, byte_fallback: bool = False, **settings: Any) -> ModelRef:
        name = (template, byte_fallback)
        if name not in made:
            folder = tmp_path_factory.mktemp(template)
            made[name] = tiny.make_tokenizer(folder, template=template, byte_fallback=byte_fallback)
        return ModelRef(name=str(made[name]), **settings)

    return one


def with_processor(ref: ModelRef, folder: Path, processor: Any, template: str | None = None) -> ModelRef:
    """Save the same tokenizer anew, with a post-processor of its own."""
    from transformers import PreTrainedTokenizerFast

    old: Any = open_tokenizer(ref.name)
    raw = old.backend_tokenizer
    before = raw.post_processor
    raw.post_processor = processor
    new = PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=template, **old.special_tokens_map)
    new.save_pretrained(str(folder))
    raw.post_processor = before
    return dataclasses.replace(ref, name=str(folder))


def scored(one: Rendered, ref: ModelRef, turn: int | None = None) -> str:
    tokenizer: Any = open_tokenizer(ref.name)
    return str(tokenizer.decode(one.ids[one.turn >= 0 if turn is None else one.turn == turn]))


def text(ids: Any, ref: ModelRef) -> str:
    tokenizer: Any = open_tokenizer(ref.name)
    return str(tokenizer.decode(list(ids)))


def test_with_marks_ids_and_mask_are_those_of_transformers(make: Make) -> None:
    # TRL trains on this very call when `assistant_only_loss` is set
    ref = make("marks")
    tokenizer: Any = open_tokenizer(ref.name)
    rows = tiny.make_rows(40)
    for row, one in zip(rows, render_all(rows, ref), strict=True):
        expected = tokenizer.apply_chat_template(
            list(row.messages), return_dict=True, return_assistant_tokens_mask=True
        )
        assert one.ids.tolist() == expected["input_ids"]
        assert (one.turn >= 0).astype(int).tolist() == expected["assistant_masks"]
        assert one.reason == Reason.NONE and not one.truncated


def test_without_marks_the_span_is_what_the_turn_adds(make: Make) -> None:
    ref = make("plain")
    row = tiny.make_row(tiny.chat("first?", "second réponse.", "third?", "fourth."))
    one = render(row, ref)
    assert scored(one, ref, 0) == "second réponse.<|end|>\n"
    assert scored(one, ref, 1) == "fourth.<|end|>\n"
    assert [text(header, ref) for header in one.headers] == ["<|assistant|>\n"] * 2


def test_both_methods_agree_on_the_same_text(make: Make) -> None:
    marks, plain = make("marks"), make("plain")
    newline = open_tokenizer(plain.name)("\n")["input_ids"][0]
    for row in tiny.make_rows(20):
        a, b = render(row, marks), render(row, plain)
        assert a.ids.tolist() == b.ids.tolist()
        assert a.headers == b.headers
        differ = np.flatnonzero(a.turn != b.turn)  # only the line end behind the closing token
        assert (b.ids[differ] == newline).all() and len(differ) == len(a.headers)


def test_a_template_that_rewrites_history_is_named(make: Make) -> None:
    ref = make("rewriting")
    thinking = tiny.chat("first?", "<think>well</think>one", "second?", "<think>hm</think>two")
    with pytest.raises(ModelError, match="rewrites earlier turns") as caught:
        render(tiny.make_row(thinking), ref)
    assert ref.name in str(caught.value)
    assert scored(render(tiny.make_row(thinking[:2]), ref), ref) == "<think>well</think>one<|end|>\n"


def test_a_token_across_the_border_is_scored_only_if_it_starts_inside(make: Make) -> None:
    ref = make("merging")
    tokenizer: Any = open_tokenizer(ref.name)
    assert len(tokenizer("answers")["input_ids"]) == 1, "the tokenizer must merge across the border"
    one = render(tiny.make_row(tiny.chat("count", "s seven", "sort", "river")), ref)
    whole = "count answers seven<|end|>sort answerriver<|end|>"
    assert text(one.ids, ref) == whole
    spans = [(12, 26), (37, 49)]
    assert [whole[low:high] for low, high in spans] == ["s seven<|end|>", "river<|end|>"]
    offsets = tokenizer(whole, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    inside = [next((turn for turn, (a, b) in enumerate(spans) if a <= low < b), -1) for low, _ in offsets]
    assert one.turn.tolist() == inside
    assert not scored(one, ref, 0).startswith("s")  # 'answers' began outside


def test_trimmed_offsets_do_not_move_the_border(make: Make, tmp_path: Path) -> None:
    from tokenizers import processors

    template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ 'So: ' + m['content'] + '<|end|>' }}{% else %}"
        "{{ m['content'] + ' ' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'So: ' }}{% endif %}"
    )
    plain = make("plain")
    ref = with_processor(plain, tmp_path, processors.ByteLevel(trim_offsets=True), template)
    one = render(tiny.make_row(tiny.chat("count", "answer stone")), ref)
    assert text(one.ids, ref) == "count So: answer stone<|end|>"
    assert scored(one, ref) == " stone<|end|>"  # ' answer' begins with the header's space
    assert scored(render(tiny.make_row(tiny.chat("count", " river")), ref), ref).endswith("river<|end|>")


def test_every_byte_of_a_character_is_scored(make: Make) -> None:
    ref = make("marks", byte_fallback=True)
    one = render(tiny.make_row(tiny.chat("sort 🦉?", "🦉é\n")), ref)
    tokenizer: Any = open_tokenizer(ref.name)
    pieces = tokenizer.convert_ids_to_tokens(one.ids[one.turn >= 0].tolist())
    owl = [f"<0x{byte:02X}>" for byte in "🦉é\n".encode()]
    assert [piece for piece in pieces if piece != "▁"] == [*owl, "<|end|>"]
    assert one.turn[:5].max() == -1


@pytest.mark.parametrize("template", ["marks", "plain", "default-system", "bos"])
def test_an_empty_system_turn_is_kept(make: Make, template: str) -> None:
    ref = make(template)
    row = tiny.make_row(tiny.chat("first?", "second.", system=""))
    one = render(row, ref)
    assert "<|system|>\n<|end|>" in text(one.ids, ref)
    assert scored(one, ref).removesuffix("\n") == "second.<|end|>"
    assert text(one.headers[0], ref).endswith("<|assistant|>\n")


def test_bos_is_never_doubled_and_opens_every_header(make: Make, tmp_path: Path) -> None:
    from tokenizers import processors

    adds = processors.TemplateProcessing(single=f"{tiny.BOS} $A", special_tokens=[(tiny.BOS, 1)])
    writes = with_processor(make("bos"), tmp_path / "writes", adds, tiny.TEMPLATES["bos"])
    silent = with_processor(make("plain"), tmp_path / "silent", adds, tiny.TEMPLATES["plain"])
    default = with_processor(make("plain"), tmp_path / "default", adds)
    row = tiny.make_row(tiny.chat("first?", "second.", "third?", "fourth."))
    for ref, count in ((writes, 1), (default, 1), (silent, 0)):
        one = render(row, ref)
        assert (one.ids == 1).sum() == count
        assert all(header.count(1) == count and (not count or header[0] == 1) for header in one.headers)
    for content in ("first second", f"{tiny.BOS}first second"):
        one = render(tiny.make_row([{"role": "user", "content": content}], kind="text"), silent)
        assert (one.ids == 1).sum() == 1 and one.ids[0] == 1
        assert one.turn.tolist() == [-1] + [0] * (len(one.ids) - 1)


def test_headers_are_the_tokens_before_the_response_and_the_generation_prompt(make: Make) -> None:
    for template in ("marks", "plain", "bos", "default-system"):
        ref = make(template)
        for row in tiny.make_rows(12):
            one = render(row, ref)
            for turn, header in enumerate(one.headers):
                first = int(np.flatnonzero(one.turn == turn)[0])
                bare = [token for token in header if token != 1]
                assert one.ids[first - len(bare) : first].tolist() == bare
            last = int(np.flatnonzero(one.turn == len(one.headers) - 1)[0])
            assert generation_prompt(row.messages, ref) == one.ids[:last].tolist()


@pytest.mark.parametrize("side", ["right", "left"])
def test_truncation_keeps_one_end_and_says_so(make: Make, side: Any) -> None:
    for row in tiny.make_rows(15):
        whole = render(row, make("marks"))
        cut = render(row, make("marks", max_tokens=20, truncation=side))
        kept = slice(0, 20) if side == "right" else slice(max(0, len(whole.ids) - 20), None)
        assert cut.ids.tolist() == whole.ids[kept].tolist()
        expected = whole.turn[kept].copy()
        expected[0] = -1  # nothing comes before it
        assert cut.turn.tolist() == expected.tolist()
        assert cut.full_tokens == len(whole.ids) and cut.truncated == (len(whole.ids) > 20)
        assert cut.reason == (Reason.NONE if (expected >= 0).any() else Reason.ALL_MASKED)


def test_no_row_is_longer_than_the_model_has_positions(make: Make, tmp_path: Path) -> None:
    for name, config in (("a", {"n_positions": 12}), ("b", {"text_config": {"max_position_embeddings": 12}})):
        ref = with_processor(make("marks"), tmp_path / name, None, tiny.TEMPLATES["marks"])
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        one = render(tiny.make_rows(1)[0], ref)
        assert len(one.ids) == 12 < one.full_tokens and ref.max_tokens == 2048


def test_every_kind_of_row_has_its_rule(make: Make) -> None:
    ref = make("marks")
    prompt = tiny.chat("first?")
    good, bad = ({"role": "assistant", "content": "good."},), ({"role": "assistant", "content": "bad."},)
    asked = render(tiny.make_row(prompt, kind="prompt"), ref)
    assert asked.reason == Reason.NEEDS_ANSWER and text(asked.ids, ref) == "<|user|>\nfirst?<|end|>\n"
    pair = tiny.make_row(prompt, kind="pair", chosen=good, rejected=bad)
    assert scored(render(pair, ref), ref) == "good.<|end|>"
    assert scored(render(pair, ref, side="rejected"), ref) == "bad.<|end|>"
    earlier = tiny.make_row(tiny.chat("a", "b", "c"), kind="pair", chosen=good, rejected=bad)
    for template in ("marks", "plain"):  # only the answers that were compared are scored
        assert scored(render(earlier, make(template)), make(template)).strip() == "good.<|end|>"
    assert scored(render(tiny.make_row((*prompt, *good), kind="rated", label=False), ref), ref) == "good.<|end|>"
    free = render(tiny.make_row([{"role": "user", "content": "river stone"}], kind="text"), ref)
    assert text(free.ids, ref) == "river stone" and free.turn.tolist() == [-1] + [0] * (len(free.ids) - 1)


def test_what_the_template_refuses_stays_with_its_row(make: Make) -> None:
    strict, marks = make("strict"), make("marks")
    good = tiny.make_row(tiny.chat("first?", "second."))
    odd = tiny.make_row(tiny.chat("first?", "second.", system="be brief"))
    listed = tiny.make_row([{"role": "user", "content": 3}, {"role": "assistant", "content": ["x"]}])
    assert [one.reason for one in render_all([good, odd, good], strict)] == [0, Reason.TEMPLATE, 0]
    assert [one.reason for one in render_all([listed, good], marks)] == [Reason.TEMPLATE, 0]
    call = [{"type": "function", "function": {"name": "clock", "arguments": {}}}]
    tools = json.dumps([{"type": "function", "function": {"name": "clock", "parameters": {}}}])
    messages = (*tiny.chat("time?"), {"role": "assistant", "content": None, "tool_calls": call})
    row = tiny.make_row(messages, tools=tools)
    assert render(row, marks).reason == Reason.TEMPLATE  # it would train on an empty answer
    shown = scored(render(row, make("none")), make("none"))
    assert "clock" in shown and shown.endswith(tiny.END)
    assert render(dataclasses.replace(good, tools="{"), marks).reason == Reason.TEMPLATE


def test_a_broken_template_is_a_fault_of_the_model(make: Make, tmp_path: Path) -> None:
    ref = with_processor(make("plain"), tmp_path, None, "{% for m in %}")
    with pytest.raises(ModelError, match="not valid Jinja"):
        render(tiny.make_row(tiny.chat("a", "b")), ref)


def test_marks_in_pieces_belong_to_their_turn(make: Make, tmp_path: Path) -> None:
    pieces = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
        "{{ m['content'] }}{% endgeneration %}{{ ' --' }}{% generation %}{{ '<|end|>' }}{% endgeneration %}"
        "{% else %}{{ m['content'] }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    ref = with_processor(make("plain"), tmp_path, None, pieces)
    one = render(tiny.make_row(tiny.chat("a", "seven", "b", "eleven")), ref)
    assert [scored(one, ref, turn) for turn in (0, 1)] == ["seven<|end|>", "eleven<|end|>"]
    assert [text(header, ref) for header in one.headers] == ["<|assistant|>\n"] * 2


def test_the_default_template_is_announced_once(make: Make, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    ref = with_processor(make("plain"), tmp_path, None)
    with caplog.at_level(logging.WARNING, "tamis"):
        for _ in range(2):
            one = render(tiny.make_row(tiny.chat("first?", "second.")), ref)
    assert len([record for record in caplog.records if "no chat template" in record.message]) == 1
    assert text(one.ids, ref) == "User:\nfirst?\n\nAssistant:\nsecond.<|end|>\n\n"
    assert scored(one, ref) == "second.<|end|>"


def test_text_that_is_not_unicode_keeps_its_places(make: Make) -> None:
    one = render(tiny.make_row(tiny.chat("é\ud800?", "\udfffseven\x00.")), make("marks"))
    assert scored(one, make("marks")) == "?seven\x00.<|end|>"


def test_training_rows_are_the_scored_tokens(make: Make) -> None:
    ref = make("marks", max_tokens=30)
    rows = [row for row in tiny.make_rows(20) if render(row, ref).reason == Reason.NONE]
    weights = np.arange(len(rows), dtype=np.float32)
    per_token = [np.full(len(one.ids), 0.5, np.float32) for one in render_all(rows, ref)]
    made = render_rows(rows, ref, row_weights=weights, token_weights=per_token)
    assert len(made) == len(rows) and made.token_weights is not None
    for place, one in enumerate(render_all(rows, ref)):
        part = slice(made.offsets[place], made.offsets[place + 1])
        assert made.ids[part].tolist() == one.ids.tolist()
        assert made.trained[part].tolist() == (one.turn >= 0).tolist()
    assert made.row_weights is not None and made.row_weights.tolist() == weights.tolist()
    assert len(made.token_weights) == made.tokens
    assert len(render_rows([], ref)) == 0


def test_rows_that_cannot_be_trained_on_are_named(make: Make) -> None:
    ref = make("marks")
    rows: list[Row] = [*tiny.make_rows(2), tiny.make_row(tiny.chat("a?"), kind="prompt", file="x.jsonl", position=7)]
    with pytest.raises(DataError, match=r"1 of 3 rows.*x\.jsonl:7.*needs an answer"):
        render_rows(rows, ref)
    with pytest.raises(DataError, match="token weights"):
        render_rows(rows[:1], ref, token_weights=[np.ones(1, np.float32)])
    with pytest.raises(DataError, match="row weights"):
        render_rows(rows[:1], ref, row_weights=np.ones(2, np.float32))
