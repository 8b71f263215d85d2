"""Law: an evaluation item is found wherever its words stand, whatever their dress, and its spans are the very text."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from tamis.cleaners.contamination import Contamination
from tamis.contamination.items import SHORT, Item, Rules
from tamis.contamination.letters import LETTER, Stream, classes, folded, offsets_of
from tamis.contamination.looking import look_for
from tamis.contamination.search import search
from tamis.errors import GateError, RecipeError
from tamis.pool import Pool
from tamis.values import Machine, Row
from tamis.views import PoolView

ITEM = (
    "Janet's ducks lay 16 eggs per day. She eats three for breakfast, and bakes muffins with four; how much does she "
    "make at the farmers' market if every egg sells for $2?"
)
OTHER = "The train leaves the station at nine in the morning and comes back at noon, so how long was it away from home?"


def row(place: int, *texts: str, file: str = "pool.jsonl", **fields: Any) -> Row:
    kind = fields.pop("kind", "chat")
    messages = tiny.chat(*texts)
    return Row(
        key=f"{file}-{place}", content=f"{place}", kind=kind, source="s", messages=messages, file=file, position=place,
        **fields,
    )  # fmt: skip


def pool_of(folder: Path, rows: Sequence[Row], **more: Any) -> Pool:
    folder.mkdir(parents=True, exist_ok=True)
    return tiny.make_pool(folder, rows, **more)


def asked(*texts: str, name: str = "eval.jsonl") -> list[Item]:
    return [Item(name, f"item-{place}", place, "prompt", text) for place, text in enumerate(texts)]


def found(folder: Path, items: Sequence[Item], rows: Sequence[Row], coverage: float = 0.8, **rules: Any) -> list[Any]:
    made: list[Any] = search(pool_of(folder, rows), look_for(items, Rules(**rules)), coverage).to_pylist()
    return made


# the search against plain counting


def plain_tokens(text: str) -> list[str]:
    return re.findall(r"[a-z]+|[0-9]", text.lower())


def plain_coverage(items: Sequence[str], texts: Sequence[str], n: int, header: int, shared: int) -> dict[int, float]:
    """Oracle for one row: items of at least SHORT tokens, by sets of all runs of tokens, letters joined."""
    split = [plain_tokens(item) for item in items]
    tenth = max(2, len(items) // 10)
    limit = min(shared, tenth)

    def runs(tokens: Sequence[str], size: int) -> list[str]:
        return ["".join(tokens[at : at + size]) for at in range(len(tokens) - size + 1)]

    def frequency(sizes: Sequence[int]) -> Counter[str]:
        return Counter(run for own, size in zip(split, sizes, strict=True) for run in set(runs(own, size)))

    lengths = [min(n, len(own)) if len(own) >= SHORT else len(own) + 1 for own in split]
    heads, often = frequency([header] * len(split)), frequency(lengths)
    said = [plain_tokens(text) for text in texts]
    there = {"".join(own[a:b]) for own in said for a in range(len(own)) for b in range(a + 1, len(own) + 1)}
    answer = {}
    for place, (own, size) in enumerate(zip(split, lengths, strict=True)):
        boiler = {at + k for at, run in enumerate(runs(own, header)) if heads[run] > tenth for k in range(header)}
        informative = [at for at, run in enumerate(runs(own, size)) if often[run] <= limit]
        counts = {at + k for at in informative for k in range(size)} - boiler
        strict = len(counts) < SHORT
        if strict:
            counts = {at + k for at in informative for k in range(size)}
        covered = {at + k for at in informative if "".join(own[at : at + size]) in there for k in range(size)}
        share = len(covered & counts) / max(1, len(counts))
        answer[place] = share if not strict or share == 1 else 0.0
    return {place: share for place, share in answer.items() if share > 0}


word = st.sampled_from("to be or not that is the question 7 12".split())
words = st.lists(word, max_size=26)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(word, min_size=SHORT, max_size=26), min_size=1, max_size=6),
    st.lists(words, max_size=3),
    st.data(),
)
def test_coverage_is_that_of_all_runs_of_tokens_counted_plainly(
    tmp_path_factory: pytest.TempPathFactory, items: list[list[str]], said: list[list[str]], data: st.DataObject
) -> None:
    base = data.draw(st.sampled_from(items))
    cut = data.draw(st.integers(0, len(base)))
    texts = [" ".join(own) for own in (*said, base[cut:] + base[:cut])]
    n = data.draw(st.integers(SHORT, 13))
    whole = [" ".join(own) for own in dict.fromkeys(map(tuple, items))]
    lines = found(tmp_path_factory.mktemp("c"), asked(*whole), [row(0, *texts)], coverage=1e-9, n=n, header=3, shared=2)
    scores = {line["position"]: line["score"] for line in lines if line["kind"] != "whole"}
    expected = plain_coverage(whole, [text for text in texts if text], n, 3, 2)
    short = {line["position"] for line in lines if line["kind"] == "whole"}
    assert scores == pytest.approx({place: share for place, share in expected.items() if place not in short})


# what does not hide an item, and what does

EDITS: dict[str, Callable[[str], str]] = {
    "upper case": str.upper,
    "no punctuation": lambda text: re.sub(r"[^\w\s]", "", text),
    "punctuation to spaces": lambda text: re.sub(r"[^\w\s]", " ", text),
    "other punctuation": lambda text: text.replace(",", " --").replace("'", "\u2019").replace(".", "!"),
    "white space": lambda text: f"\n\n {text}  ".replace(" ", "\u00a0\n\t "),
    "no spaces behind stops": lambda text: re.sub(r"([.,;]) ", r"\1", text),
    "full width": lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "accents": lambda text: text.replace("e", "é").replace("a", "a\u0308"),
    "soft hyphens": lambda text: text.replace("eggs", "eg\u00adgs").replace("day", "da\u200by"),
    "in a frame": lambda text: f"### Instruction:\n{text}\n\n### Response: Let's think step by step.",
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_its_dress_does_not_hide_an_item(tmp_path: Path, edit: str) -> None:
    text = EDITS[edit](ITEM)
    lines = found(tmp_path, asked(OTHER, ITEM), [row(0, "hello", "there"), row(1, text, "32")])
    assert {(line["place"], line["position"], line["kind"]) for line in lines} == {(1, 1, "words")}
    assert sum(line["score"] for line in lines) == len(lines)


def test_other_numbers_hide_an_item_and_are_named_so(tmp_path: Path) -> None:
    for number, changed in enumerate((ITEM.replace("16", "23"), ITEM.replace("$2", "$3"))):
        assert changed != ITEM
        lines = found(tmp_path / str(number), asked(ITEM), [row(0, changed, "18")])
        assert {line["kind"] for line in lines} == {"numbers"}
        view = PoolView(pool_of(tmp_path / f"p{number}", [row(0, changed, "18")]), against=(against(tmp_path, ITEM),))
        dropped = Contamination(against="eval.jsonl").clean(view, Machine())
        assert not dropped.rows.any() and dropped.facts["other_numbers"] == 1 and "other numbers" in dropped.notes[0]
        assert Contamination(against="eval.jsonl", numbers="any", coverage=0.8).clean(view, Machine()).rows.all()


@pytest.mark.parametrize(
    "item, text, kind",
    [
        ("Work out 66 + 11 * 4 step by step.", "Work out 66 + 1 * 14 step by step.", "numbers"),
        ("Compute 80 * 90.", "Compute 80 / 90.", "numbers"),
        ("Compute 80 * 90.", "compute 80 90", "whole"),
        (
            "It costs 1,200 a month, how much is that in a year?",
            "it costs 1200 a month how much is that in a year",
            "words",
        ),
        ("What are the numbers 12 3 and 7 in French?", "What are the numbers 1 23 and 7 in French?", "numbers"),
        ("What are the numbers 12 3 and 7 in French?", "What are the numbers 123 and 7 in French?", "numbers"),
    ],
)
def test_numbers_that_are_cut_otherwise_are_other_numbers(tmp_path: Path, item: str, text: str, kind: str) -> None:
    assert {line["kind"] for line in found(tmp_path, asked(item), [row(0, text, "x")])} == {kind}


@pytest.mark.parametrize(("number", "other"), [("$33", "$1534633"), ("$33", "$3392604"), ("33 Euro", "90433 Euro")])
def test_a_number_that_a_longer_one_ends_or_begins_with_is_another(tmp_path: Path, number: str, other: str) -> None:
    """Every digit is a token, so that the runs on both sides meet in the longer number."""
    text = "She has to choose between the boots and two pairs of heels. If one pair of heels costs {} and the other "
    text += "costs twice as much, how many of them are the boots?"
    rows = [row(0, text.format(other), "x"), row(1, f"{text.format(other)} {text.format(number)}", "x")]
    lines = found(tmp_path, asked(text.format(number)), rows, coverage=0.95)
    kinds = {place: {line["kind"] for line in lines if line["place"] == place} for place in (0, 1)}
    assert kinds == {0: {"numbers"}, 1: {"words"}}


def test_half_an_item_is_none_and_the_threshold_says_what_is_enough(tmp_path: Path) -> None:
    half, most = (" ".join(text.split()[: len(text.split()) * part // 20]) for text, part in ((ITEM, 10), (OTHER, 17)))
    assert found(tmp_path / "a", asked(ITEM), [row(0, half, "x")]) == []
    (line,) = found(tmp_path / "b", asked(ITEM), [row(0, half, "x")], coverage=0.4)
    assert 0.4 <= line["score"] < 0.6 and line["kind"] == "words"
    (line,) = found(tmp_path / "c", asked(OTHER), [row(0, most, "x")], coverage=0.95)
    assert 0.75 <= line["score"] < 0.95 and line["kind"] == "most"


def test_the_question_of_an_item_is_enough_where_choices_follow_it(tmp_path: Path) -> None:
    question = "Pens, computers, text books and paper clips can all be found where?"
    item = f"{question}\n(A) desktop\n(B) university\n(C) drawer\n(D) table\n(E) work"
    rows = [
        row(0, f"{question}\nOptions:\n- a desk\n- university\n- drawer", "b"),
        row(1, question.replace("where", "when"), "b"),
        row(2, "(A) desktop (B) university (C) drawer (D) table (E) work", "b"),
    ]
    assert [(line["place"], line["kind"]) for line in found(tmp_path, asked(item, OTHER), rows, 0.95)] == [
        *[(0, "words"), (1, "most")]
    ]


@pytest.mark.parametrize("share", [5, 3, 2, 0])
def test_the_question_is_enough_however_much_is_there_of_its_choices(tmp_path: Path, share: int) -> None:
    """With much of the item there but not enough, the question alone was once forgotten."""
    question = "Where would the clerk of a large office keep all of the papers that nobody will ever read?"
    choices = ["desktop", "university", "drawer", "table", "work"]
    item = "\n".join([question, *(f"({letter}) {text}" for letter, text in zip("ABCDE", choices, strict=True))])
    text = "\n- ".join([question + "\nOptions:", *choices[:share], "some other thing"])
    (line, *_) = found(tmp_path, asked(item), [row(0, text, "b")], coverage=0.95)
    assert (line["kind"], line["score"]) == ("words", 1.0)


def test_a_short_question_before_choices_is_found_as_a_line_and_a_common_one_is_not(tmp_path: Path) -> None:
    items = [f"Which is the right one?\n(A) {one} {one} tree\n(B) {one} {one} house" for one in ("oak", "elm", "ash")]
    items += ["Crabs live in what sort of place?\n(A) the deep ocean water\n(B) the dry desert sand"]
    rows = [
        row(0, "Crabs live in what sort of place?\nOptions:\n- fish market\n- salt water", "b"),
        row(1, "He asked if crabs live in what sort of place? nobody knew", "b"),
        row(2, "Which is the right one?\nOptions:\n- me\n- you", "b"),
    ]
    lines = found(tmp_path, asked(*items), rows, coverage=0.95)
    assert [(line["place"], line["position"], line["kind"]) for line in lines] == [(0, 3, "whole")]


def test_what_many_items_share_says_nothing_of_one(tmp_path: Path) -> None:
    head = "Answer the following question with true or false and give a reason for it in one sentence. Question: "
    questions = [f"{a} {b} a thing of {c} that people in {d} call by the name of {e}" for a, b, c, d, e in drawn(40)]
    items = asked(*(head + question for question in questions))
    rows = [row(0, head + "is water wet?", "yes"), row(1, questions[7], "no"), row(2, head + questions[9], "no")]
    assert {(line["place"], line["position"]) for line in found(tmp_path, items, rows)} == {(1, 7), (2, 9)}


def drawn(count: int) -> list[list[str]]:
    made = random.Random(1)
    return [["".join(made.choices("abcdefghij", k=6)) for _ in range(5)] for _ in range(count)]


# short items


@pytest.mark.parametrize(
    "text, is_there",
    [
        ("Are all limbs required for jujutsu?", True),
        ("ARE ALL LIMBS required  for jujutsu", True),
        ("Question: are all limbs required for jujutsu? Answer: no", True),
        ("Tell me.\nAre all limbs required for jujutsu?\nThink first.", True),
        ("Are all limbs required for jujutsu and for judo?", False),
        ("Say, are all limbs required for jujutsu?", False),
    ],
)
def test_items_of_few_words_are_compared_whole(tmp_path: Path, text: str, is_there: bool) -> None:
    lines = found(tmp_path, asked("Are all limbs required for jujutsu?"), [row(0, "hi", text)])
    assert [line["kind"] for line in lines] == ["whole"] * is_there


@pytest.mark.parametrize(
    "item, places", [("Simplify it", [0]), ("Please simplify it", [0, 2]), ("Do please simplify it at once", [0, 1, 2])]
)
def test_the_shorter_an_item_is_the_more_must_it_stand_alone(tmp_path: Path, item: str, places: list[int]) -> None:
    rows = [row(0, f"{item}?", "12"), row(1, f"Hello. {item}.", "12"), row(2, f"Well:\n{item.upper()}\nx", "12")]
    assert [line["place"] for line in found(tmp_path, asked(item), rows)] == places


def test_scripts_without_spaces_are_read_by_the_character(tmp_path: Path) -> None:
    chinese = "黑豹队的防守只丢了 308分\uff0c在联赛中排名第六\uff0c同时也以 24 次拦截领先国家橄榄球联盟。"
    rows = [row(0, "请看\uff1a" + chinese.replace("\uff0c", " ,\n"), "好"), row(1, chinese.replace("308", "309"), "好")]
    lines = found(tmp_path, asked(chinese), rows)
    assert {(line["place"], line["kind"]) for line in lines} == {(0, "words"), (1, "numbers")}


# spans


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=60), st.text(alphabet="aÄß½ﬁ\u0301'\u2019.\n 12黑Ⅳ\u0939\u093f\ud800", max_size=30))
def test_the_letters_of_a_text_are_those_of_the_stream_and_know_where_they_come_from(first: str, second: str) -> None:
    stream = Stream.of([first, second])
    for number, text in enumerate((first, second)):
        letters, places = offsets_of(text)
        own = stream.letters[stream.texts[number] : stream.texts[number + 1]]
        assert "".join(map(chr, own.tolist())) == letters
        assert all(letter in folded(text[place]) for letter, place in zip(letters, places, strict=True))


def test_spans_are_the_very_text_in_the_message_they_name(tmp_path: Path) -> None:
    dressed = "Ünd só: “" + ITEM.replace("eggs", "ÉGGS") + "” \u2013 ok?"
    rows = [row(0, OTHER, "no", dressed, "32"), row(1, "x", dressed + " " + OTHER)]
    lines = found(tmp_path, asked(ITEM), rows)
    assert [(line["field"], line["message"]) for line in lines] == [("messages", 2), ("messages", 1)]
    for line in lines:
        text = rows[line["place"]].messages[line["message"]]["content"]
        assert text[line["start"] : line["end"]] == line["text"]
        assert offsets_of(line["text"])[0] == offsets_of(ITEM)[0]


def test_rejected_answers_later_turns_and_plain_texts_are_searched(tmp_path: Path) -> None:
    pair = {"kind": "pair", "chosen": tiny.chat("", "fine")[1:]}
    bad = tuple({"role": "assistant", "content": text} for text in [f"Sure. {ITEM}"])
    rows = [
        row(0, "q", kind="pair", chosen=bad, rejected=pair["chosen"]),
        row(1, "q", kind="pair", chosen=pair["chosen"], rejected=bad),
        row(2, "a", "b", "c", f"As they say: {ITEM}"),
        Row(key="t", content="t", kind="text", source="s", messages=({"role": "text", "content": ITEM},)),
        row(4, "q", kind="pair", chosen=pair["chosen"], rejected=pair["chosen"]),
    ]
    places = [(line["place"], line["field"], line["message"]) for line in found(tmp_path, asked(ITEM), rows)]
    assert places == [(0, "chosen", 0), (1, "rejected", 0), (2, "messages", 3), (3, "messages", 0)]


def test_parts_of_an_item_in_several_messages_add_up(tmp_path: Path) -> None:
    first, second = ITEM.split(" and ", 1)
    (line, other) = found(tmp_path, asked(ITEM), [row(0, first, "go on", "and " + second, "32")])
    assert (line["message"], other["message"]) == (0, 2) and line["score"] == other["score"] == 1


# independence


def test_order_of_files_shards_and_rows_changes_nothing(tmp_path: Path) -> None:
    items = [*asked(ITEM, OTHER), *asked("What is the third letter of the word banana in capitals please?", name="b")]
    rows = [row(place, text, "x") for place, text in enumerate((OTHER, "no", ITEM.upper(), items[2].text))]

    def lines(order: Sequence[Item], **more: Any) -> list[Any]:
        pool = pool_of(tmp_path / f"{random.random()}", rows, **more)
        return sorted(map(str, search(pool, look_for(order, Rules()), 0.8).to_pylist()))

    expected = lines(items)
    assert len(expected) == 3
    assert lines(items[::-1]) == lines(items, shard_rows=1) == expected


def test_a_character_is_what_unicode_says() -> None:
    kinds = classes()
    assert kinds[ord("a")] == kinds[0x93F] == LETTER and kinds[0x301] != LETTER and kinds[ord("_")] == 0


# the cleaner


def against(folder: Path, *texts: str, answers: Sequence[str] = ()) -> PoolView:
    rows = [row(place, text, *answers[place : place + 1], file="eval.jsonl") for place, text in enumerate(texts)]
    return PoolView(pool_of(folder / f"eval{random.random()}", rows))


def test_the_gate_drops_reports_or_fails_with_counts_and_examples(tmp_path: Path) -> None:
    rows = [row(0, OTHER, "x"), row(1, ITEM, "x"), row(2, "no", ITEM)]
    view = PoolView(pool_of(tmp_path / "p", rows), against=(against(tmp_path, ITEM),))
    dropped = Contamination(against="e").clean(view, Machine())
    assert dropped.rows.tolist() == [False, True, True]
    assert dropped.reasons == ("holds 100% of the words of prompt 0 of eval.jsonl",) * 2
    assert dropped.facts["rows"] == 2 and dropped.facts["sets"]["eval.jsonl"]["found"] == 1
    assert dropped.tables["contaminated_items.parquet"].column("rows").to_pylist() == [2]
    reported = Contamination(against="e", action="report").clean(view, Machine())
    assert not reported.rows.any() and reported.facts == dropped.facts and "stay" in reported.notes[0]
    with pytest.raises(GateError, match=r"2 of 3 rows hold 1 of 1 evaluation items(.|\n)*Janet's ducks") as caught:
        Contamination(against="e", action="fail").clean(view, Machine())
    assert caught.value.exit_code == 3
    clean = PoolView(pool_of(tmp_path / "q", rows[:1]), against=view.against)
    assert not Contamination(against="e", action="fail").clean(clean, Machine()).rows.any()


def test_what_of_an_item_is_looked_for_is_a_setting(tmp_path: Path) -> None:
    answer = "She has sixteen, less three, less four, which are nine, and nine times two dollars make eighteen"
    rows = [row(0, ITEM, "x"), row(1, "x", answer), row(2, "x", "18")]
    view = PoolView(pool_of(tmp_path / "p", rows), against=(against(tmp_path, ITEM, answers=[answer]),))
    for of, expected in (("prompt", [1, 0, 0]), ("answer", [0, 1, 0]), ("both", [1, 1, 0])):
        assert Contamination(against="e", of=of).clean(view, Machine()).rows.tolist() == expected  # type: ignore[arg-type]
    short = PoolView(view.pool, against=(against(tmp_path, ITEM, answers=["18"]),))
    assert Contamination(against="e", of="both").clean(short, Machine()).rows.tolist() == [1, 0, 0]


def test_every_wrong_setting_is_said_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        Contamination(against=(), n=5, coverage=1.5, header=1, shared=0)
    assert len(caught.value.faults) == 5


def test_an_empty_pool_and_an_empty_set_are_clean(tmp_path: Path) -> None:
    view = PoolView(Pool(()), against=(against(tmp_path, ITEM),))
    assert Contamination(against="e").clean(view, Machine()).rows.shape == (0,)
    view = PoolView(pool_of(tmp_path / "p", [row(0, ITEM, "x")]), against=(PoolView(Pool(())),))
    assert Contamination(against="e").clean(view, Machine()).facts["looked_for"] == 0


def test_rows_near_an_item_by_their_embedding_are_named_where_asked_for(tmp_path: Path) -> None:
    from tamis.store import save_arrays

    def seen(pool: Pool, vectors: list[list[float]], reason: list[int], name: str) -> PoolView:
        (folder := tmp_path / name).mkdir()
        save_arrays(folder, {"pooled": np.array(vectors, np.float32), "reason": np.array(reason, np.uint8)})
        return PoolView(pool, {"tokens": [folder]})

    theirs = seen(against(tmp_path, ITEM, OTHER).pool, [[1, 0], [0, 2]], [0, 0], "theirs")
    pool = pool_of(tmp_path / "p", [row(place, f"text {place}", "x") for place in range(3)])
    own = seen(pool, [[0.1, 1], [1, 1], [0, 1]], [0, 0, 2], "own")
    view = PoolView(pool, own.signal_folders, against=(theirs,))
    cleaner = Contamination(against="e", embed=True, cosine=0.9)
    assert {(need.name, need.side) for need in cleaner.needs} == {("tokens", "pool"), ("tokens", "against")}
    dropped = cleaner.clean(view, Machine())
    assert dropped.rows.tolist() == [True, False, False]
    assert dropped.reasons == ("holds a text near to prompt 1 of eval.jsonl (cosine 0.995)",)
