"""Law: text without a model: words, repetition, statistics, hashes and languages follow their definitions."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from tamis.duplicates.shingling import shingled
from tamis.scorers.passes.hashes import Hashes
from tamis.scorers.passes.language import Language
from tamis.scorers.passes.text import Text
from tamis.text.languages import code_of, detect, known, name_of
from tamis.text.minhash import EMPTY, collision_probability, signatures, threshold
from tamis.text.passages import exchanges, of_row
from tamis.text.refusals import boilerplate, disclaimers, refuses
from tamis.text.repetition import shares
from tamis.text.text_statistics import DUPLICATES, NAMES, TOP, measured
from tamis.text.words import Flat, WordHashes, ngrams, plain, words_of
from tamis.values import Machine, Reason, Row
from tamis.views import ShardSignals

ON = Machine()
words_drawn = st.lists(st.sampled_from("a bb ccc dddd".split()), max_size=40)


def one(text: str) -> dict[str, float]:
    return dict(zip(NAMES, measured([text])[0].tolist(), strict=True))


# words and repetition


def top_by_counting(words: Sequence[str], n: int) -> float:
    """Oracle: Gopher's top n-gram by a Counter; equally frequent ones by length."""
    grams = Counter(tuple(words[place : place + n]) for place in range(len(words) - n + 1))
    repeated = [(count, len("".join(gram))) for gram, count in grams.items() if count > 1]
    count, size = max(repeated, default=(0, 0))
    return min(1.0, count * size / max(1, len("".join(words))))


def duplicates_by_marking(words: Sequence[str], n: int) -> float:
    """Oracle: mark every word inside an n-gram that was seen before."""
    seen: set[tuple[str, ...]] = set()
    inside: set[int] = set()
    for place in range(len(words) - n + 1):
        gram = tuple(words[place : place + n])
        if gram in seen:
            inside |= set(range(place, place + n))
        seen.add(gram)
    return sum(len(words[place]) for place in inside) / max(1, len("".join(words)))


@settings(max_examples=60, deadline=None)
@given(st.lists(words_drawn, min_size=1, max_size=5))
def test_shares_of_repeated_ngrams_are_those_of_plain_counting_text_by_text(texts: list[list[str]]) -> None:
    top, duplicate = shares(Flat.of(texts), TOP, DUPLICATES)
    for place, words in enumerate(texts):
        for n in TOP:
            assert top[n][place] == pytest.approx(top_by_counting(words, n)), (n, words)
        for n in DUPLICATES:
            assert duplicate[n][place] == pytest.approx(duplicates_by_marking(words, n)), (n, words)


def test_repetition_of_a_text_by_hand() -> None:
    """No published value: "a b c a b d", letters. (a, b) twice: 2 x 2 of 6; no n-gram of five stands twice."""
    top, duplicate = shares(Flat.of(["a b c a b d".split()]), TOP, DUPLICATES)
    assert top[2][0] == pytest.approx(4 / 6) and top[3][0] == 0 and duplicate[5][0] == 0
    # ten times the same word: each n-gram but the first repeats, so all but the first word is covered
    assert shares(Flat.of([["a"] * 10]), TOP, DUPLICATES)[1][5][0] == pytest.approx(0.9)


def test_ngrams_are_equal_where_their_words_are_and_never_cross_texts() -> None:
    flat = Flat.of([["x", "y", "z"], ["y", "z"], ["z"], [], ["y", "z", "x", "y"]])
    hashes, starts = ngrams(flat, 2)
    said = [tuple(str(flat.hashes[at + step]) for step in range(2)) for at in starts.tolist()]
    assert len(said) == 2 + 1 + 0 + 0 + 3
    for (one_hash, one_words), (other_hash, other_words) in itertools.combinations(zip(hashes, said, strict=True), 2):
        assert (one_hash == other_hash) == (one_words == other_words)


def test_words_and_plain_text() -> None:
    assert words_of("Café-Bar: it's 3.5 km; 你好") == ["Café", "Bar", "it's", "3", "5", "km", "你", "好"]
    assert plain("Élan 1,200") == "elan 1,200" and plain("Élan 1,200", "zero") == "elan 0,0"


# statistics


def test_statistics_of_a_text_by_hand() -> None:
    """No published value; counted by hand."""
    found = one("# Apples\n- one apple.\n- one apple.\nAnd so on...")
    assert found["characters"] == 47 and found["words"] == 8 and found["pieces"] == 11 and found["lines"] == 4
    assert found["bullet_lines"] == 2 and found["duplicate_lines"] == 1 and found["duplicate_line_characters"] == 12
    assert found["ellipsis_lines"] == 1 and found["ellipses"] == 1 and found["hash_signs"] == 1
    assert found["terminal_lines"] == 3 and found["short_lines"] == 4 and found["newlines"] == 3
    assert found["c4_lines"] == 2 and found["c4_sentences"] == 2 and found["alphabetic_pieces"] == 8
    assert found["gopher_stop_words"] == 1 and found["ends"] == 1
    assert set(one("").values()) == {0.0}


def test_broken_encodings_and_broken_ends_are_seen() -> None:
    assert (
        one("it costs 5\u00c2\u00a0euros")["broken_characters"] > 0
        and one("caf\u00e9 \u00e0 la carte")["broken_characters"] == 0
    )
    assert one("a \x00 b")["broken_characters"] == 1 and one("the list must begin with the wo")["ends"] == 0
    assert one("Paris")["ends"] == 1 and one("the result is then 72")["ends"] == 1


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=300))
def test_no_text_breaks_statistics_hashes_or_languages(text: str) -> None:
    table = measured([text, text + text])
    assert table.shape == (2, len(NAMES)) and np.isfinite(table).all() and (table >= 0).all()
    assert (table[:, [name.endswith("_share") for name in NAMES]] <= 1).all()
    refuses(text), disclaimers(text), boilerplate(text)
    flat = Flat.of([words_of(plain(text))])
    signature = signatures(shingled([text], 5, "words", "keep"), 8, 1)
    assert (signature == EMPTY).all() == (len(flat.hashes) == 0)


def test_half_a_surrogate_pair_passes(tmp_path: Path) -> None:
    text = "half \ud83d of it"
    assert one(text)["broken_characters"] == 1 and len(WordHashes()["\ud83d"].to_bytes(8, "big")) == 8
    assert detect(text)[1] > 0


# refusals


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but as an AI language model I cannot help with that request.",
        "I\u2019m sorry, I can\u2019t help with that.",
        "Unfortunately I do not have access to the information that is needed.",
        "I'm sorry, but I'm currently unable to assist with booking flights.",
        "As an AI assistant, I am not able to answer this question.",
    ],
)
def test_refusals_are_found(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "I can't wait to see you!",
        "I'm sorry to hear that you don't think it's a good idea.",
        "I cannot sit on a cloud as it is made of vapour.",
        "Racism is illegal in many places, and unethical.",
        "The man said: I'm sorry, I cannot help you.",
    ],
)
def test_what_is_no_refusal_is_let_through(text: str) -> None:
    assert not refuses(text) and not disclaimers(text)


# hashes


def test_minhash_collision_golden() -> None:
    """Golden values: s = 0.8 gives 0.924, and the threshold of 14 bands of 8 is 0.72."""
    assert collision_probability(0.8, 14, 8) == pytest.approx(0.924, abs=5e-4)
    assert threshold(14, 8) == pytest.approx(0.72, abs=5e-3)


def shard_of(folder: Path, rows: Sequence[Row]) -> ShardSignals:
    return ShardSignals(tiny.make_pool(folder, rows).shards[0], {})


ROWS = (
    tiny.make_row(tiny.chat("Say it, please.", "One two THREE four; five six. Seven eight nine")),
    tiny.make_row(tiny.chat("say it please", "one two three four five six seven eight nine")),
    tiny.make_row(tiny.chat("Say it again", "one two three")),
    tiny.make_row(tiny.chat("Say it once more", "one two three!")),
    tiny.make_row(tiny.chat("nothing"), kind="prompt"),
    tiny.make_row(({"role": "user", "content": "?!"},), kind="text"),
)


def test_hashes_are_equal_for_equal_words_and_fall_back_for_short_texts(tmp_path: Path) -> None:
    have = shard_of(tmp_path, ROWS)
    arrays = Hashes().measure(have.shard, have, ON)
    exact = arrays["response_exact"]
    assert (exact[0] == exact[1]).all() and (exact[2] == exact[3]).all() and not (exact[0] == exact[2]).any()
    assert exact[4].tolist() == [0, 0] and exact[5].any()
    assert arrays["response_characters"].tolist() == [46, 44, 13, 14, 0, 2]
    assert np.diff(arrays["response_n8_offsets"]).tolist() == [2, 2, 0, 0, 0, 0]
    assert arrays["response_n8"][:2].tolist() == arrays["response_n8"][2:].tolist() and not len(arrays["response_n13"])
    assert arrays["reason"].tolist() == [0, 0, 0, 0, Reason.NEEDS_ANSWER, 0]
    verbatim = Hashes(normalise="none", ngrams=()).measure(have.shard, have, ON)["response_exact"]
    assert len(np.unique(verbatim, axis=0)) == 6, "as they are, no two are equal, and the empty one is 0, 0"


def test_numbers_differ_unless_they_are_asked_to_be_equal(tmp_path: Path) -> None:
    rows = [tiny.make_row(tiny.chat("add", f"3 and {number} and then all of it")) for number in (4, 5)]
    have = shard_of(tmp_path, rows)
    for numbers, equal in (("keep", False), ("zero", True)):
        exact = Hashes(numbers=numbers).measure(have.shard, have, ON)["response_exact"]  # type: ignore[arg-type]
        assert (exact[0] == exact[1]).all() == equal


# passages, text and language


def test_passages_of_every_kind() -> None:
    row = tiny.make_row(tiny.chat("a", "b", "c", "d", system="s"))
    assert (of_row(row).prompt, of_row(row).response, of_row(row).whole) == ("s\na\nc", "b\nd", "s\na\nb\nc\nd")
    assert exchanges(row) == [("a", "b"), ("c", "d")]
    pair = tiny.make_row(tiny.chat("q"), kind="pair", chosen=({"role": "assistant", "content": "good"},))
    assert of_row(pair).response == "good" and exchanges(pair) == [("q", "good")]
    text = tiny.make_row(({"role": "user", "content": "just text"},), kind="text")
    assert of_row(text).response == "just text" and of_row(text).prompt == "" and exchanges(text) == []
    tools = (
        *tiny.chat("look it up", "I call a tool"),
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "It is 42."},
    )
    assert exchanges(tiny.make_row(tools)) == [("look it up", "It is 42.")]


def test_the_text_pass_measures_prompt_and_response(tmp_path: Path) -> None:
    have = shard_of(tmp_path, ROWS)
    arrays = Text().measure(have.shard, have, ON)
    words = NAMES.index("words")
    assert arrays["prompt"][:, words].tolist() == [3, 3, 3, 4, 1, 0]
    assert arrays["response"][:, words].tolist() == [9, 9, 3, 3, 0, 0]
    assert arrays["reason"].tolist() == [0, 0, 0, 0, Reason.NEEDS_ANSWER, 0]


def test_languages_are_told_apart_and_stored_as_numbers(tmp_path: Path) -> None:
    answers = [
        "Der Hund läuft durch den grünen Wald.",
        "The dog runs through the green forest.",
        "狗跑过绿色的森林。",
        "12 + 3",
    ]
    have = shard_of(tmp_path, [tiny.make_row(tiny.chat("What does the dog do in the forest?", one)) for one in answers])
    arrays = Language().measure(have.shard, have, ON)
    assert [name_of(code) for code in arrays["response"].tolist()] == ["de", "en", "zh", ""]
    assert {name_of(code) for code in arrays["prompt"].tolist()} == {"en"}
    assert arrays["response_probability"][3] == 0 and (arrays["response_probability"][:3] > 0.5).all()
    assert len(known()) > 100 and all(name_of(code_of(name)) == name for name in known())
