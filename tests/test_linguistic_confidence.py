"""Law: an answer is as sure as its least sure sentence sounds, and says nothing where no word of the lexicon is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny
from tamis.scorers.linguistic_confidence import LEXICON, LinguisticConfidence, confidence
from tamis.values import Reason
from tamis.views import ShardSignals


@pytest.mark.parametrize(
    ("answer", "expected"),
    [  # no value is published; those of the audit's own examples, and longer phrases before the words in them
        ("It is certainly so.", 0.95),
        ("It is likely so.", 0.75),
        ("It might be so.", 0.5),
        ("I doubt it.", 0.25),
        ("It is unlikely.", 0.25),
        ("It is very likely.", 0.85),
        ("I\u2019m not sure.", 0.3),
        ("I am 80% sure of that.", 0.8),
        ("There is a 5 percent chance.", 0.05),
        ("It is certainly red. Perhaps it is large!\nIt is likely old.", 0.5),
        ("It rained on Monday.", None),
        ("Mighty maybes", None),
        ("", None),
    ],
)
def test_confidence_of_an_answer(answer: str, expected: float | None) -> None:
    assert confidence(answer) == expected


def test_no_phrase_has_two_values_and_all_are_confidences() -> None:
    phrases = [phrase for found in LEXICON.values() for phrase in found]
    assert len(phrases) == len(set(phrases)) and all(phrase == phrase.lower() for phrase in phrases)
    assert all(0 <= value <= 1 for value in LEXICON)
    assert all(confidence(f"well, {phrase}, yes") == value for value, found in LEXICON.items() for phrase in found)


def test_the_answer_is_what_the_model_writes(tmp_path: Path) -> None:
    """Of a pair the chosen side, of a text all, of a prompt nothing; words of the user do not count."""
    sure, doubt = ({"role": "assistant", "content": text} for text in ("Certainly.", "I doubt it."))
    rows = [
        tiny.make_row(tiny.chat("Is it likely?", "Certainly it is.")),
        tiny.make_row(tiny.chat("Is it?", "Perhaps.", "Really?", "Certainly.")),
        tiny.make_row(tiny.chat("Is it?"), kind="pair", chosen=(sure,), rejected=(doubt,)),
        tiny.make_row([{"role": "user", "content": "Probably a text."}], kind="text"),
        tiny.make_row(tiny.chat("Is it?", "Perhaps.", "Really?"), kind="prompt"),
        tiny.make_row(tiny.chat("Is it likely?", "It is.")),
    ]
    shard = tiny.make_pool(tmp_path, rows).shards[0]
    (column,) = LinguisticConfidence().score(ShardSignals(shard, {})).values()
    np.testing.assert_allclose(column.values, [0.95, 0.5, 0.95, 0.75, np.nan, np.nan], rtol=1e-6)
    assert column.reasons.tolist() == [0, 0, 0, 0, Reason.NEEDS_ANSWER, Reason.NOT_SAID]
    assert not LinguisticConfidence().needs
