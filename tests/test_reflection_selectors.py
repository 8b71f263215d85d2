"""Law: Superfiltering.D covers what its filter lets through; Selective Reflection accepts what its rules accept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import synthetic
from tamis.errors import DataError, RecipeError
from tamis.selectors.selective_reflection import SelectiveReflection
from tamis.selectors.superfiltering import SuperfilteringD
from tamis.values import Budget, Machine
from tamis.views import PoolView

ON = Machine()


def test_superfiltering_d_is_facility_location_among_the_highest_below_one(tmp_path: Path) -> None:
    """The oracle: rows below 1, the 12 highest of them, and greedy facility location over their own cosines."""
    count, rng = 40, np.random.default_rng(2)
    ifd = rng.uniform(0.3, 1.4, count).astype(np.float32)
    ifd[[3, 20]] = np.nan
    pooled = rng.normal(size=(count, 5)).astype(np.float32)
    lengths = synthetic.lengths(count)
    view = synthetic.view(
        tmp_path,
        synthetic.rows(count),
        {"lengths": lengths, "tokens": {"pooled": pooled, "reason": lengths["reason"]}},
        columns={"ifd.ppl@tiny": synthetic.column(ifd)},
    )
    subset = SuperfilteringD(share=12 / int(view.usable.sum())).select(view, Budget(rows=5), ON)
    fit = [place for place in np.argsort(-ifd, kind="stable") if view.usable[place] and ifd[place] < 1][:12]
    unit = pooled[fit].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    near = np.maximum(unit @ unit.T, 0)
    best = np.zeros(len(fit))
    chosen: list[int] = []
    for _ in range(5):
        gains = np.maximum(near - best[:, None], 0).sum(axis=0)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        best = np.maximum(best, near[:, chosen[-1]])
    assert subset.positions.tolist() == [fit[place] for place in chosen]
    assert any("12 of" in note for note in subset.notes) and subset.values is not None
    np.testing.assert_array_equal(subset.values, ifd)
    with pytest.raises(DataError, match="below"):
        SuperfilteringD(below=0.1).select(view, Budget(rows=5), ON)
    with pytest.raises(RecipeError, match=r"\(0, 1\]"):
        SuperfilteringD(share=0)


# sample: variant -> (IFD, r-IFD); each line ends at the row that is marked
CASES = {
    "neither": {"original": (0.8, 0.5), "instruction": (0.7, 0.1), "answer": (0.9, 0.6), "both": (0.9, 0.1)},
    "question": {"original": (0.6, 0.5), "instruction": (0.7, 0.4), "answer": (0.9, 0.1), "both": (0.9, 0.4)},
    "answer": {"original": (0.8, 0.5), "instruction": (0.7, 0.1), "answer": (0.9, 0.3), "both": (0.9, 0.1)},
    "both": {"original": (0.6, 0.5), "instruction": (0.7, 0.4), "answer": (0.9, 0.1), "both": (0.9, 0.2)},
    "no-use": {"original": (1.2, 0.5)},
    "misfit": {"original": (0.8, 1.1), "answer": (0.9, 1.05)},
    "mended": {"original": (0.8, 1.1), "answer": (0.9, 0.9)},
    "unknown": {"original": (0.8, 0.55), "instruction": (np.nan, 0.1), "answer": (0.9, np.nan)},
    "orphan": {"instruction": (0.7, 0.1), "both": (0.7, 0.1)},
}
ENDS = {"neither": "original", "question": "instruction", "answer": "answer", "both": "both", "mended": "answer"}


def reflected(folder: Path) -> tuple[PoolView, list[tuple[str, str]]]:
    names = [(sample, variant) for sample, variants in CASES.items() for variant in variants]
    ratios = np.array([CASES[sample][variant] for sample, variant in names] + [(0.5, 0.95), (1.5, 0.1)])
    metas = [{"sample": sample, "variant": variant} for sample, variant in names] + [{}, {}]
    made = [dataclasses.replace(row, meta=meta) for row, meta in zip(synthetic.rows(len(metas)), metas, strict=True)]
    columns = {"ifd.ppl@tiny": synthetic.column(ratios[:, 0]), "r-ifd.ppl@tiny": synthetic.column(ratios[:, 1])}
    lengths = synthetic.lengths(len(metas), refused=0)
    return synthetic.view(folder, made, {"lengths": lengths}, columns=columns), [*names, ("", "alone"), ("", "worse")]


def test_the_accept_rule_on_every_way_that_a_sample_can_go(tmp_path: Path) -> None:
    """No value is published: the cases are by hand. The lowest r-IFD comes first; rows of no sample stand alone."""
    view, names = reflected(tmp_path)
    subset = SelectiveReflection().select(view, Budget(share=1.0), ON)
    got = [names[place] for place in subset.positions]
    want = {*ENDS.items(), ("unknown", "original"), ("", "alone")}
    assert set(got) == want and len(got) == len(want)
    assert np.all(np.diff(subset.gains) >= 0) and got[0] == ("both", "both")
    assert subset.notes[-1].endswith("3 original, 1 instruction, 2 answer, 1 both")


def test_the_released_code_keeps_only_rows_with_a_new_answer(tmp_path: Path) -> None:
    view, names = reflected(tmp_path)
    subset = SelectiveReflection(keep="answers").select(view, Budget(share=1.0), ON)
    assert {names[place] for place in subset.positions} == {
        ("answer", "answer"),
        ("both", "both"),
        ("mended", "answer"),
    }


def test_variants_are_named_and_each_is_there_once(tmp_path: Path) -> None:
    view, _ = reflected(tmp_path)
    with pytest.raises(DataError, match="variant 'original'"):
        SelectiveReflection(variants=("o", "instruction", "answer", "both")).select(view, Budget(rows=2), ON)
    with pytest.raises(DataError, match="two rows"):
        SelectiveReflection(sample="source", variant="kind", variants=("chat", "q", "a", "qa")).select(
            view, Budget(rows=2), ON
        )
    with pytest.raises(RecipeError, match="differ"):
        SelectiveReflection(variants=("a", "a", "b", "c"))
