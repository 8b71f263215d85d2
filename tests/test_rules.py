"""Law: scorers of rules and text follow their formulas, and say why where they give no number."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import synthetic
import tiny
from tamis.data.noisy_traces import Program, records, written
from tamis.errors import DataError, RecipeError
from tamis.scorers.concept_label import ConceptLabel, pmi
from tamis.scorers.constraint_satisfaction import ConstraintSatisfaction
from tamis.scorers.cot_trace import CotTrace
from tamis.scorers.dataset_complexity import DatasetComplexity
from tamis.scorers.error_propagation import ErrorPropagation
from tamis.scorers.heuristics import C4, FineWeb, Gopher
from tamis.scorers.instag import InsTag
from tamis.scorers.language import Language as LanguageScorer
from tamis.scorers.long_output import LongOutput, length_score, required_lengths
from tamis.scorers.passes.language import Language
from tamis.scorers.passes.text import Text
from tamis.scorers.refusal import Refusal
from tamis.store import save_arrays
from tamis.text.arithmetic import NotArithmetic, evaluate, steps_of, trace_of
from tamis.text.constraints import constraints_of
from tamis.values import Column, Machine, Reason, Row
from tamis.views import PoolView, ShardSignals

ON = Machine()


def measured(folder: Path, rows: Sequence[Row]) -> ShardSignals:
    """Rows with their signals `text` and `language`."""
    shard = tiny.make_pool(folder / "pool", rows).shards[0]
    folders = {}
    for name, made in (("text", Text()), ("language", Language())):
        folders[name] = folder / name
        folders[name].mkdir()
        save_arrays(folders[name], made.measure(shard, ShardSignals(shard, {}), ON))
    return ShardSignals(shard, folders)


def answered(*pairs: tuple[str, str], **fields: Any) -> list[Row]:
    return [tiny.make_row(tiny.chat(*pair), key=f"row-{place}", **fields) for place, pair in enumerate(pairs)]


def fitted(scorer: Any, view: PoolView, folder: Path) -> list[Mapping[str, Column]]:
    """Columns of a scorer that learns from the whole pool, shard by shard."""
    folder.mkdir(parents=True)
    save_arrays(folder, scorer.fit(view)[0])
    folders = {**view.signal_folders, "fit": [folder] * len(view.pool.shards)}
    return [scorer.score(have) for have in PoolView(view.pool, folders).shards()]


def joined(parts: Sequence[Mapping[str, Column]], name: str) -> list[float]:
    return [float(value) for part in parts for value in part[name].values]


# heuristics


def test_gopher_c4_and_fineweb_judge_each_rule_at_its_bound(tmp_path: Path) -> None:
    good = "The children have been told that a day with rain is good for the garden and to be of use. " * 3
    repeated = "The same line of the text stands here once more.\n" * 30
    rows = answered(("q", good), ("q", repeated), ("q", "{x}"), ("q", "Yes."))
    rows.append(tiny.make_row(tiny.chat("q"), kind="prompt"))
    have = measured(tmp_path, rows)
    gopher = Gopher().score(have)
    assert gopher["word_length"].values[0] == pytest.approx(len(good.replace(" ", "").replace(".", "")) / 60, abs=1e-5)
    assert gopher["words"].values[:4].tolist() == [60, 300, 1, 1] and gopher["stop_words"].values[0] == 8
    assert gopher["duplicate_lines"].values[1] == pytest.approx(29 / 30)
    assert gopher["failed"].values[3] == 2, "too few words and stop words; a mean length of 3 is enough"
    assert (np.isnan([column.values[4] for column in gopher.values()])).all()
    assert gopher["passed"].reasons[4] == Reason.NEEDS_ANSWER
    assert Gopher(min_words=60).score(have)["failed"].values[0] == gopher["failed"].values[0]
    assert Gopher(min_words=61).score(have)["failed"].values[0] == gopher["failed"].values[0] + 1
    mild = Gopher(rules="sft").score(have)["failed"].values
    assert mild[3] == 0 and mild[1] > 5 and mild[2] == 0
    c4 = C4().score(have)
    assert c4["sentences"].values[:4].tolist() == [3, 30, 0, 0] and c4["braces"].values[2] == 1
    assert c4["failed"].values[:4].tolist() == [1, 0, 2, 1]
    fineweb = FineWeb().score(have)
    assert fineweb["terminal_lines"].values[:4].tolist() == [1, 1, 0, 1]
    assert fineweb["failed"].values[:4].tolist() == [0, 1, 2, 1]
    asked = Gopher(of="prompt").score(have)
    assert asked["words"].values.tolist() == [1] * 5
    with pytest.raises(RecipeError, match="three thresholds"):
        Gopher(top_ngrams=(0.1,))


def test_refusal_and_language_of_rows_by_hand(tmp_path: Path) -> None:
    rows = answered(
        ("Please write a short poem about the flowers in our garden.", "I'm sorry, but I cannot help with that."),
        (
            "Please write a short poem about the flowers in our garden.",
            "Roses are red. As an AI language model, I cannot smell them.",
        ),
        (
            "Please write a short poem about the flowers in our garden.",
            "Great question! Rosen sind rot und Veilchen sind blau, das wissen alle Kinder.",
        ),
        ("Please write a short poem about the flowers in our garden.", "1 2 3"),
    )
    have = measured(tmp_path, rows)
    refusal = Refusal().score(have)
    assert refusal["refusal"].values.tolist() == [1, 0, 0, 0] and refusal["score"].values.tolist() == [1, 1, 0, 0]
    assert refusal["disclaimers"].values.tolist() == [0, 1, 0, 0] and refusal["boilerplate"].values.tolist() == [
        0,
        0,
        1,
        0,
    ]
    language = LanguageScorer(wanted="de").score(have)
    assert language["wanted"].values[:3].tolist() == [0, 0, 1] and language["same"].values[:3].tolist() == [1, 1, 0]
    assert language["probability"].reasons.tolist() == [0, 0, 0, Reason.NOTHING_TO_CHECK]


# long output


def test_long_output_golden() -> None:
    """Golden values of the SL score: (1000, 1000), (1000, 2000), (1000, 500), (20000, 7739)."""
    found = [length_score(*pair) for pair in ((1000, 1000), (1000, 2000), (1000, 500), (20000, 7739))]
    assert found == pytest.approx([100, 66.7, 50, 20.8], abs=0.05)
    assert length_score(100, 1000) == length_score(1000, 100) == 0


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("Write 1,000 words.", {("exact", 1000)}),
        ("Write up to 500 words", {("most", 500)}),
        ("in 50 words or less", {("most", 50)}),
        ("at least 300 words", {("least", 300)}),
        ("a 500-word essay", {("exact", 500)}),
        ("200-300 words", {("exact", 200), ("exact", 300)}),
        ("写一篇500字以内的文章", {("most", 500)}),
        ("写一篇三千字的文章", {("exact", 3000)}),
        ("写一万五千字", {("exact", 15000)}),
        ("不少于800字", {("least", 800)}),
        ("your words", set()),
        ("the number 3.5 words", set()),
    ],
)
def test_required_lengths_are_read(prompt: str, found: set[tuple[str, int]]) -> None:
    assert required_lengths(prompt) == found


def test_long_output_of_rows_by_hand(tmp_path: Path) -> None:
    rows = answered(
        ("Write exactly 10 words.", "one two three four five"),
        ("Write up to 10 words.", "one two three four five"),
        ("Write 5 words or 10 words.", "one two"),
        ("Write something.", "one two"),
    )
    have = measured(tmp_path, rows)
    kept, exact = LongOutput().score(have), LongOutput(bounds="exact").score(have)
    assert kept["score"].values[:2].tolist() == [50, 100] and exact["score"].values[:2].tolist() == [50, 50]
    assert kept["required"].values[0] == 10 and kept["written"].values[0] == 5
    assert kept["score"].reasons.tolist() == [0, 0, Reason.NOTHING_TO_CHECK, Reason.NOTHING_TO_CHECK]


# constraints


@pytest.mark.parametrize(
    ("prompt", "good", "bad"),
    [
        ("Answer in exactly 3 words.", "yes it is", "yes"),
        ("Answer in at least 3 words.", "yes it is so", "yes"),
        ("Answer in about 20 words.", "w " * 21, "w " * 30),
        ("Write a 20-word note.", "w " * 19, "w " * 10),
        ("Explain it in two sentences.", "It is. It was.", "It is."),
        ("Explain it in 2-3 sentences.", "It is. It was. Yes.", "It is."),
        ("Write three paragraphs.", "a\n\nb\n\nc", "a\n\nb"),
        ("Give 3 bullet points.", "- a\n- b\n- c", "- a"),
        ("Describe it without using the word 'hot'.", "It is warm, hotter still.", "It is hot."),
        ('Do not use the letter "e".', "It is warm.", "Here."),
        ('Make sure to include the phrase "deep sea".', "The deep sea is dark.", "The sea is dark."),
        ('Start your answer with "Dear Sir".', "Dear Sir, I write.", "Hello."),
        ('End your response with "Over and out."', "All is well. Over and out.", "Over and out, I say"),
        ("Write in all lowercase letters.", "all is small", "Not all"),
        ("Answer in all capital letters.", "ALL IS LARGE", "Not all"),
        ("Reply without any commas.", "no marks here", "a, b"),
        ("Return it as valid JSON.", '```json\n{"a": 1}\n```', "{a: 1"),
        ("Answer in French.", "Le chien traverse la forêt verte.", "The dog runs through the green forest."),
    ],
)
def test_a_constraint_is_found_and_checked(prompt: str, good: str, bad: str) -> None:
    (constraint,) = constraints_of(prompt)
    assert constraint.holds(good) and not constraint.holds(bad)


@pytest.mark.parametrize(
    "prompt", ["Combine these two sentences.", "Use the following 3 words.", "What is JSON?", "List the word problems."]
)
def test_what_is_no_constraint_is_not_found(prompt: str) -> None:
    assert not constraints_of(prompt)


def test_constraint_satisfaction_of_rows_by_hand(tmp_path: Path) -> None:
    """No published value: one of two constraints kept is 0.5; over two exchanges, 2 of 3."""
    rows = answered(
        ('Answer in exactly 3 words. Do not use the word "no".', "no it is not"),
        ('Answer in exactly 2 words. Do not use the word "no".', "yes it"),
        ("Hello", "hi"),
    )
    rows.append(tiny.make_row(tiny.chat("In exactly 1 word.", "yes", 'In exactly 2 words. Do not say "no".', "no")))
    found = ConstraintSatisfaction().score(measured(tmp_path, rows))
    assert found["score"].values[[0, 1, 3]].tolist() == pytest.approx([0, 1, 1 / 3])
    assert found["found"].values.tolist() == [2, 2, 0, 3] and found["broken"].values.tolist() == [2, 0, 0, 2]
    assert found["score"].reasons.tolist() == [0, 0, Reason.NOTHING_TO_CHECK, 0]


# arithmetic and traces


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("$1,200 - $200", 1000),
        ("2^3^2", 512),
        ("-2 + 5", 3),
        ("10 / 4", Fraction(5, 2)),
        ("50 * 20%", 10),
        ("7 x 8 \u00f7 2", 28),
    ],
)
def test_expressions_are_evaluated_exactly(text: str, value: Fraction) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text", ["", "1 +", "(1", "1)", "2 3", "a + 1", "1 / 0", "9^99", "1" * 40, "(" * 50 + "1", "1+" * 150]
)
def test_what_is_no_arithmetic_or_beyond_the_bounds_is_refused(text: str) -> None:
    with pytest.raises(NotArithmetic):
        evaluate(text)


@settings(max_examples=80, deadline=None)
@given(st.text("0123456789+-*/^()=.,% x$\n", max_size=120) | st.text(max_size=120))
def test_no_text_breaks_the_arithmetic_or_the_constraints(text: str) -> None:
    trace = trace_of(text, text)
    assert 0 <= trace.static <= trace.wrong <= trace.steps and 0 <= trace.dynamic <= trace.steps
    for constraint in constraints_of(text):
        constraint.holds(text)
    required_lengths(text)


def test_error_propagation_of_three_texts_by_hand(tmp_path: Path) -> None:
    """No published value. Row 0 is right; in row 1 14 is wrong and unused; in row 2 it is used, and 28 after it."""
    rows = answered(
        ("Add 3 and 4, double it.", "3 + 4 = 7. 7 * 2 = 14."),
        ("Add 3 and 4, double it.", "3 + 4 = 7. 7 * 2 = 15. The answer is 14."),
        ("Add 3 and 4, double it twice.", "3 + 4 = 9. 9 * 2 = 18. 18 * 2 = 36. 5 + 5 = 10."),
        ("Hello", "hi"),
    )
    found = ErrorPropagation().score(measured(tmp_path, rows))
    assert found["score"].values[:3].tolist() == [0, 0, 0.5] and found["steps"].values.tolist() == [2, 2, 4, 0]
    assert found["static"].values[:3].tolist() == [0, 0.5, 0] and found["wrong"].values[:3].tolist() == [0, 0.5, 0.25]
    assert found["score"].reasons[3] == Reason.NOTHING_TO_CHECK


def test_rounded_values_chains_and_annotations_are_read() -> None:
    assert [step.right for step in steps_of("10 / 3 = 3.33, 10 / 3 = 3.34 and 5/20 = 25%")] == [True, False, True]
    assert [int(step.value) for step in steps_of("2 * 3 + 4 = 6 + 4 = 10")] == [10, 10]
    assert len(steps_of("16 - 3 = <<16-3=13>>13 eggs")) == 1 and steps_of("x = 5 and 1.5.2 = 3") == []


def test_noise_is_what_it_is_said_to_be() -> None:
    program = Program((10, 20), (("add", 5),), "sum")
    assert written(program).splitlines() == [
        "Step 1: add 5.",
        "10 + 5 = 15",
        "20 + 5 = 25",
        "The list is now [15, 25].",
        "Last step: the sum.",
        "15 + 25 = 40",
        "Answer: 40",
    ]
    clean, static, dynamic = (
        records(40, "static", rate=0),
        records(40, "static", rate=1),
        records(40, "dynamic", rate=1),
    )
    assert records(40, "static", rate=1) == static and {row["meta"]["noise"] for row in clean} == {""}
    for right, one, other in zip(clean, static, dynamic, strict=True):
        assert right["instruction"] == one["instruction"] == other["instruction"] and right["output"] != one["output"]
        assert trace_of(right["instruction"], right["output"]).wrong == 0
        assert right["output"].endswith(f"Answer: {right['meta']['answer']}")
        lines = zip(right["output"].splitlines(), one["output"].splitlines(), strict=True)
        assert sum(a != b for a, b in lines) <= one["meta"]["changed"], "static noise stays where it is"
        assert other["meta"]["noise"] == "dynamic" and trace_of("", other["output"]).wrong <= other["meta"]["changed"]
    found = [sum(trace_of(row["instruction"], row["output"]).dynamic for row in rows) for rows in (clean, dynamic)]
    assert found[0] == 0 and found[1] > 40


def test_cot_trace_of_rows_by_hand(tmp_path: Path) -> None:
    rows = answered(
        ("Add.", "3 + 4 = 7. The answer is 7."),
        ("Add.", "3 + 4 = 7. The answer is 8."),
        ("Add.", "<think>So the answer is 12. Wait, maybe not.</think>12"),
        ("Add.", "First line.\nFirst line.\nfirst line."),
    )
    view = PoolView(tiny.make_pool(tmp_path / "whole", rows), {"text": [measured(tmp_path, rows).folders["text"]]})
    parts = fitted(CotTrace(), view, tmp_path / "fit")
    assert joined(parts, "contradiction")[:3] == [0, 1, 0] and parts[0]["contradiction"].reasons[3] > 0
    assert joined(parts, "repeated") == pytest.approx([0, 0, 0, 2 / 3])
    assert joined(parts, "hesitation") == pytest.approx([0, 0, 100 * 2 / 11, 0], rel=1e-5)
    assert sum(joined(parts, "length_residual")) == pytest.approx(0, abs=1e-5)


# fitted on the pool


def test_concept_label_golden_pmi() -> None:
    """Golden value: 30 joint among 40 and 50 of 100 is .405465."""
    assert pmi(30, 40, 50, 100) == pytest.approx(0.405465, abs=5e-7)


def test_concept_label_of_one_source_gives_the_golden_value_to_its_rows(tmp_path: Path) -> None:
    counts = {("food", "good"): 30, ("food", "bad"): 10, ("film", "good"): 20, ("film", "bad"): 40}
    kinds = [pair for pair, count in counts.items() for _ in range(count)]
    rows = [
        tiny.make_row(tiny.chat(f"q {place}", label), key=f"k{place}", meta={"tags": [concept]})
        for place, (concept, label) in enumerate(kinds)
    ]
    lengths = {"lengths": {"reason": np.zeros(100, np.uint8)}}
    view = synthetic.view(tmp_path, rows, lengths)
    parts = fitted(ConceptLabel(), view, tmp_path / "fit")
    score, weight, purity = (joined(parts, name) for name in ("score", "weight", "purity"))
    assert score[:30] == pytest.approx([0.405465] * 30, abs=1e-6) and purity[0] == 0.75
    assert weight[0] == pytest.approx(40 * 50 / (100 * 30)) and score[35] == pytest.approx(np.log(10 * 100 / (40 * 50)))
    by_hand = sum(w for w, pair in zip(weight, kinds, strict=True) if pair == ("food", "good"))
    assert by_hand == pytest.approx(40 * 50 / 100), "the quota: as many as if concept and label were independent"
    strict = fitted(ConceptLabel(least=11), view, tmp_path / "strict")
    assert np.isnan(joined(strict, "score")[30:40]).all()
    with pytest.raises(DataError, match=r"has a meta\.nothing"):
        ConceptLabel(concepts="meta.nothing").fit(view)


def test_dataset_complexity_tells_a_repetitive_source_from_a_rich_one(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rich = [" ".join(f"w{number}" for number in draw.integers(0, 5000, 20)) for _ in range(40)]
    rows = [tiny.make_row(tiny.chat("a b", "a b a b"), key=f"p{place}", source="poor") for place in range(40)]
    rows += [tiny.make_row(tiny.chat("a b", text), key=f"r{place}", source="rich") for place, text in enumerate(rich)]
    view = synthetic.view(tmp_path, rows, {})
    parts = fitted(DatasetComplexity(), view, tmp_path / "fit")
    compression, distinct, overlap, spread = (
        joined(parts, name) for name in ("compression", "distinct", "overlap", "spread")
    )
    assert (
        compression[0] < 0.1 < 0.3 < compression[-1]
        and distinct[0] == pytest.approx(2 / (4 * 40))
        and distinct[-1] > 0.9
    )
    assert overlap[0] == 1 and overlap[-1] < 0.1 and spread[0] == 0
    few = fitted(DatasetComplexity(most=5), view, tmp_path / "few")
    assert joined(few, "distinct")[0] == pytest.approx(2 / (4 * 5))


def test_instag_takes_rows_with_most_tags_first_and_begins_anew(tmp_path: Path) -> None:
    """No published value: [a b c] brings 3, [a b] nothing new until round 2, [d] 1, [a] in round 3."""
    tags = [["a", "b"], ["a", "b", "c"], ["d"], ["a"], []]
    rows = [
        tiny.make_row(tiny.chat("q", str(place)), key=f"k{place}", meta={"tags": own}) for place, own in enumerate(tags)
    ]
    view = synthetic.view(tmp_path, rows, {"lengths": {"reason": np.zeros(5, np.uint8)}}, shard_rows=2)
    parts = fitted(InsTag(rounds=3), view, tmp_path / "fit")
    assert joined(parts, "score") == [2, 3, 1, 1, 0] and joined(parts, "coverage") == [2, 3, 1, 1, 0]
    assert joined(parts, "round") == [2, 1, 1, 3, 4]
    with pytest.raises(RecipeError, match="clusters are no tags"):
        InsTag(tags="clusters")


# real data


@pytest.mark.real
def test_no_dirt_of_real_files_breaks_a_rule(real_data: Path, tmp_path: Path) -> None:
    import gzip

    rows = []
    for file in sorted((real_data / "noisy").glob("*.gz")):
        with gzip.open(file, "rt", encoding="utf-8", errors="surrogateescape") as lines:
            for place, line in enumerate(lines):
                if place == 150:
                    break
                text = json.loads(line)["messages"][0]["content"]
                rows.append(tiny.make_row(tiny.chat(text[:400], text), key=f"{file.name}-{place}", source=file.stem))
    have = measured(tmp_path, rows)
    scorers: tuple[Any, ...] = (
        Gopher(),
        C4(),
        FineWeb(),
        Refusal(),
        LanguageScorer(),
        LongOutput(),
        ConstraintSatisfaction(),
        ErrorPropagation(),
    )
    for scorer in scorers:
        for column in scorer.score(have).values():
            assert (np.isfinite(column.values) == (column.reasons == 0)).all()
    view = PoolView(tiny.make_pool(tmp_path / "whole", rows), {"text": [have.folders["text"]]})
    for number, whole in enumerate((CotTrace(), DatasetComplexity())):
        for column in fitted(whole, view, tmp_path / f"fit-{number}")[0].values():
            assert (np.isfinite(column.values) == (column.reasons == 0)).all()
