"""Laws of sampling: when enough is drawn, what a draw depends on, how settings of several scorers become one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tamis import draws
from tamis.answers.sampling import Drawing, Sample, Sampling, Server, Wanted, drawn_until, enough, leads, stream
from tamis.errors import RecipeError
from tamis.values import Row


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ((1, 0), 0.75),
        ((2, 0), 0.875),
        ((3, 0), 0.9375),
        ((4, 0), 0.96875),
        ((4, 1), 0.890625),
        ((6, 2), 0.910156),
        ((3, 3), 0.5),
    ],
)
def test_golden_of_the_beta_stop(votes: tuple[int, int], expected: float) -> None:
    assert leads(*votes) == pytest.approx(expected, abs=5e-7)


def test_sampling_stops_where_the_first_answer_leads_and_not_before() -> None:
    assert not enough(["4"] * 3, 0.95) and enough(["4"] * 4, 0.95)
    assert not enough(["4", "4", "4", "4", "5"], 0.95) and not enough([], 0.5) and not enough([None] * 9, 0.95)
    sampling = Sampling(samples=6, stop="beta")
    assert drawn_until(["4"] * 6, sampling) == 4, "what came after the decision is not kept"
    assert drawn_until(["4", "5", "4", "5"], sampling) is None and drawn_until(list("123456"), sampling) == 6
    assert drawn_until(["4"] * 6, Sampling(samples=6)) == 6


def _rows(count: int) -> list[Row]:
    return [Row(key=f"k{place}", content="", kind="prompt", source="") for place in range(count)]


def _canned(rows: list[Row]) -> tuple[list[list[Wanted]], object]:
    """A sampler with known rates: row i answers 1 with probability i / 4, else 0 or 2."""
    calls: list[list[Wanted]] = []

    def ask(wanted: list[Wanted]) -> list[Sample]:
        calls.append(list(wanted))
        drawn = draws.uniform(np.array([one.bits for one in wanted], np.uint64))
        answers = ["1" if u < one.row / 4 else ("0", "2")[one.bits % 2] for u, one in zip(drawn, wanted, strict=True)]
        return [Sample(answer, 1, 1.0, 1) for answer in answers]

    return calls, ask


def test_what_is_kept_by_early_stopping_is_the_beginning_of_what_is_drawn_without() -> None:
    rows = _rows(5)
    _, ask = _canned(rows)
    whole = Drawing(rows, Sampling(samples=11), ask, np.zeros(5, np.uint8)).draw().samples  # type: ignore[arg-type]
    calls, ask = _canned(rows)
    sampling = Sampling(samples=11, stop="beta", confidence=0.9)
    drawing = Drawing(rows, sampling, ask, np.zeros(5, np.uint8))  # type: ignore[arg-type]
    some = drawing.draw().samples
    counts = [len(kept) for kept in some]
    assert [kept[:count] for kept, count in zip(whole, counts, strict=True)] == some
    assert counts[4] == 3 < max(counts), "the sure row stops first"
    assert sum(len(call) for call in calls) < 5 * 11
    texts = [[sample.text for sample in kept] for kept in whole]
    assert [drawn_until(answers, sampling) for answers in texts] == counts


def test_a_row_that_is_refused_has_no_sample_and_a_reason() -> None:
    reason = np.array([0, 4, 0], np.uint8)

    def ask(wanted: list[Wanted]) -> list[Sample | None]:
        assert all(one.row != 1 for one in wanted), "a row without a prompt is never asked"
        return [None if (one.row, one.number) == (2, 1) else Sample("x", 1, 0.5, 1) for one in wanted]

    drawn = Drawing(_rows(3), Sampling(samples=2, greedy=True), ask, reason).draw()  # type: ignore[arg-type]
    assert [len(kept) for kept in drawn.samples] == [2, 0, 0] and reason.tolist() == [0, 4, 14]
    arrays = drawn.arrays(greedy=True)
    assert arrays["greedy_text_offsets"].tolist() == [0, 1, 1, 1] and arrays["greedy_tokens"].tolist() == [1, 0, 0]


def test_streams_differ_by_seed_row_and_sample_and_by_nothing_else() -> None:
    bits = {stream(seed, key, sample) for seed in (0, 1) for key in ("a", "b") for sample in range(50)}
    assert len(bits) == 200 and stream(0, "a", 3) == stream(0, "a", 3) and max(bits) < 2**64


def test_settings_of_two_scorers_are_merged_and_contradictions_refused() -> None:
    one, two = Sampling(samples=4, temperature=0.7), Sampling(greedy=True, max_tokens=32)
    both = Sampling(samples=4, temperature=0.7, greedy=True, max_tokens=32)
    assert one.merge(Sampling(samples=16)).samples == 16 == Sampling(samples=16).merge(one).samples
    assert one.merge(two) == both == two.merge(one) and both.merge(both) == both
    with pytest.raises(RecipeError, match=r"temperature 0\.7 and 0\.8"):
        one.merge(Sampling(temperature=0.8))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"samples": 0}, "at least 1"),
        ({"temperature": 0.0}, "greedy"),
        ({"top_p": 0.0}, "share"),
        ({"confidence": 1.0}, "0.5"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        dataclasses.replace(Sampling(), **wrong)
    with pytest.raises(RecipeError, match="http://"):
        Server(url="localhost:8000", model="m")


def test_how_a_server_is_asked_is_no_part_of_its_identity_but_its_name_is() -> None:
    one = Server(url="http://h/v1/", model="m", concurrency=2, retries=0, timeout_seconds=3, key="K")
    assert one.digest == Server(url="http://h/v1", model="m").digest != Server(url="http://h/v1", model="n").digest
