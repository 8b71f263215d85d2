"""Laws of scorers over sampled answers: golden values, worked examples, and a simulated sampler with known rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synthetic
import tiny
from tamis import draws
from tamis.answers.sampling import Drawn, Sample, stream
from tamis.ragged import Ragged
from tamis.scorers.pass_rates import Dart, PassRate, ThinkPruneTrain, Vps, wilson
from tamis.scorers.passes.verdicts import Verdicts
from tamis.scorers.sampling import (
    Form,
    SampledEntropy,
    SemanticEntropy,
    VariationRatio,
    grouped,
    semantic,
    variation,
)
from tamis.store import save_arrays
from tamis.text.similarity import bleu, distinct, jaccard, self_bleu
from tamis.values import Column, Machine, Reason
from tamis.verifiers import Verify
from tamis.views import PoolView


def world(
    folder: Path, texts: Sequence[Sequence[str]], gold: Sequence[str], greedy: Sequence[str] | None = None
) -> PoolView:
    """A pool of questions with these sampled answers (of one token a word, a nat each), and the verdicts on them."""
    made = [[Sample(text, len(text.split()), float(len(text.split())), 1) for text in row] for row in texts]
    best: list[Sample | None] = [Sample(text, 1, 1.0, 1) for text in greedy or [""] * len(texts)]
    reason = np.array([0 if row else int(Reason.CUT) for row in texts], np.uint8)
    signal = Drawn(made, best, reason).arrays(greedy=greedy is not None)
    rows = [tiny.make_row(tiny.chat("what?", answer), key=str(place)) for place, answer in enumerate(gold)]
    view = synthetic.view(folder / "drawn", rows, {"generations": signal})
    verdicts = [Verdicts().measure(part.shard, part, Machine()) for part in view.shards()]
    return synthetic.view(folder / "judged", rows, {"generations": signal, "verdicts": dict(verdicts[0])})


def scored(scorer: Any, view: PoolView, folder: Path) -> Mapping[str, Column]:
    if hasattr(scorer, "fit"):
        folder.mkdir(parents=True)
        save_arrays(folder, scorer.fit(view)[0])
        view = PoolView(view.pool, {**view.signal_folders, "fit": [folder]})
    (part,) = view.shards()
    columns: Mapping[str, Column] = scorer.score(part)
    return columns


def values(column: Column) -> list[float | None]:
    return [None if math.isnan(value) else round(float(value), 6) for value in column.values]


RATES = [["4", "4", "5", "4"], ["7"] * 4, ["1", "2", "3", "9"], [], ["2", "2"]]
GOLD = ["4", "8", "is 3", "3", "no number"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> PoolView:
    return world(tmp_path_factory.mktemp("judged"), RATES, GOLD)


def test_verdicts_and_pass_rates_of_a_worked_example(judged: PoolView, tmp_path: Path) -> None:
    columns = scored(PassRate(), judged, tmp_path)
    assert values(columns["score"]) == [0.75, 0.0, 0.25, None, None]
    assert values(columns["n"]) == [4, 4, 4, None, None]
    assert columns["score"].reasons.tolist() == [0, 0, 0, Reason.CUT, Reason.NEEDS_ANSWER]
    # Wilson at 3 of 4, by hand: (0.75 + 0.480182 ± 1.959964 sqrt(0.046875 + 0.060023)) / 1.960365
    assert values(columns["low"])[0] == pytest.approx(0.300636, abs=2e-5)
    assert values(columns["high"])[0] == pytest.approx(0.954413, abs=2e-5)
    assert values(columns["low"])[1] == 0 and 0.4 < float(columns["high"].values[1]) < 0.5


def test_wilson_covers_known_rates_of_a_simulated_sampler() -> None:
    bits = np.array([[stream(0, str(row), number) for number in range(20)] for row in range(400)], np.uint64)
    for rate in (0.1, 0.5, 0.9):
        right = (draws.uniform(bits) < rate).sum(1).astype(np.float64)
        low, high = wilson(right, np.full(400, 20.0))
        assert ((low <= rate) & (rate <= high)).mean() > 0.92 and abs(right.mean() / 20 - rate) < 0.02


def test_golden_of_vps(tmp_path: Path) -> None:
    view = world(tmp_path / "w", [["1"] * 4, ["2"] * 4, ["1", "1", "2", "2"]], ["1", "1", "1"])
    columns = scored(Vps(), view, tmp_path / "fit")
    assert values(columns["score"]) == [0, 0, 0.25], "p in {0, 1} -> 0, one half -> 1/4"
    assert values(columns["weight"]) == [0, 0, 1]


def test_vps_rewards_different_answers_and_the_released_form_equal_ones(tmp_path: Path) -> None:
    alike, other = ["it is a 1"] * 2, ["it is a 1", "we find then 1"]
    view = world(tmp_path / "w", [alike, other], ["1", "1"])
    for form, sign in (("distinct-3", 1), ("1-self-bleu", 1), ("self-bleu", -1)):
        column = scored(Vps(alpha=0.8, beta=0.2, diversity=form), view, tmp_path / form)["score"]  # type: ignore[arg-type]
        assert sign * (column.values[1] - column.values[0]) > 0.05, form


def test_golden_of_dars(tmp_path: Path) -> None:
    view = world(tmp_path / "w", [["2"] * 8, ["1"] * 8, ["1"] * 3 + ["2"] * 5, ["1"] * 7 + ["2"]], ["1"] * 4)
    columns = scored(Dart(k_p=192, k_u=40, max_trials=1000), view, tmp_path / "fit")
    # hardest -> k_p; p = 1 -> 1 by "at least one"; ceil(192 x 5/8) = 120; ceil(192 / 8) = 24
    assert values(columns["prop2diff"]) == [192, 1, 120, 24]
    assert values(columns["uniform"]) == [40, 40, 40, 40]
    assert values(columns["trials_uniform"]) == [1000, 40, 107, 46], "40 / (3/8) = 106.7, 40 / (7/8) = 45.7"
    assert values(columns["trials_prop2diff"]) == [1000, 1, 320, 28], "never right: the cap"
    released = scored(Dart(released=True), view, tmp_path / "released")
    assert values(released["trials_uniform"])[1] == 41, "the released loop wants one more than it is asked for"
    assert (columns["prop2diff"].values >= 1).all()


def test_dart_of_a_pool_that_is_always_right_wants_one_each(tmp_path: Path) -> None:
    view = world(tmp_path / "w", [["1"], ["1"]], ["1", "1"])
    assert values(scored(Dart(), view, tmp_path / "fit")["prop2diff"]) == [1, 1]


def test_think_prune_train_keeps_one_right_answer_a_question(tmp_path: Path) -> None:
    texts = [["2", "it is 1", "1", "1"], ["2"], ["1", "so 1"]]
    view = world(tmp_path / "w", texts, ["1", "1", "1"])
    any_, first = (scored(ThinkPruneTrain(first=given), view, tmp_path) for given in (False, True))
    assert values(any_["score"]) == [1, 0, 1] and values(first["score"]) == [0, 0, 1]
    assert values(any_["sample"]) == [1, -1, 0] and values(any_["distinct"]) == [2, 0, 2]
    assert values(scored(ThinkPruneTrain(keep="shortest"), view, tmp_path)["sample"]) == [2, -1, 0]


# golden_uncertainty_1.py, item 1: token probabilities of four samples, groups 0 0 1 2
TOKENS = [[0.5, 0.8], [0.6, 0.7, 0.9], [0.3, 0.4], [0.2]]
GROUPS = np.array([0, 0, 1, 2])
TOTAL = np.array([sum(map(math.log, one)) for one in TOKENS])
MEAN = np.array([sum(map(math.log, one)) / len(one) for one in TOKENS])


def test_golden_1_entropies_over_samples(tmp_path: Path) -> None:
    assert -TOTAL.mean() == pytest.approx(1.404713, abs=1e-6) and -MEAN.mean() == pytest.approx(0.863001, abs=1e-6)
    golden: dict[Form, float] = {"rao": 0.788410, "mc": 1.057940, "kuhn": 5.788467, "discrete": 1.039721}
    for form, expected in golden.items():
        assert semantic(form, TOTAL, MEAN, GROUPS) == pytest.approx(expected, abs=1e-6), form
    texts = ["it is 4", "4", "5", "6"]
    row = [
        Sample(text, len(tokens), -total, 1) for text, tokens, total in zip(texts, TOKENS, TOTAL, strict=True)
    ]  # fmt: skip
    arrays = Drawn([row], [None], np.zeros(1, np.uint8)).arrays(greedy=False)
    view = synthetic.view(tmp_path, [tiny.make_row(tiny.chat("what?", "4"))], {"generations": arrays})
    sampled = scored(SampledEntropy(), view, tmp_path)
    assert values(sampled["sequence"]) == [1.404713] and values(sampled["token"]) == [0.863001]
    found = scored(SemanticEntropy(forms=("discrete", "rao", "mc", "kuhn")), view, tmp_path)
    assert [values(found[form])[0] for form in found] == pytest.approx([1.039721, 0.78841, 1.05794, 5.788467], abs=1e-6)


def test_a_constant_shift_of_log_probabilities_leaves_rao_alone_and_order_nothing() -> None:
    assert semantic("rao", TOTAL + 3, MEAN + 3, GROUPS) == pytest.approx(semantic("rao", TOTAL, MEAN, GROUPS))
    order = np.array([3, 1, 0, 2])
    moved = np.array([0, 1, 1, 2])
    for form in ("rao", "mc", "kuhn", "discrete"):
        one = semantic(form, TOTAL[order], MEAN[order], moved)
        assert one == pytest.approx(semantic(form, TOTAL, MEAN, GROUPS)), form
    assert grouped(["b", "a", "b"]).tolist() == [0, 1, 0]


def test_golden_18_variation_ratios() -> None:
    assert variation([0.8, 0.6, 0.7]) == pytest.approx(0.3) and variation([0.9, 0.7, 0.5]) == pytest.approx(0.3)
    assert math.isnan(variation([]))


def test_variation_of_consistent_answers_is_none_and_of_one_answer_unknown(tmp_path: Path) -> None:
    view = world(tmp_path, [["a b", "a b"], ["a b c", "b c d"], ["a"]], ["x"] * 3, greedy=["a b", "a b c", "b"])
    from tamis.answers.sampling import Sampling

    columns = scored(VariationRatio(sampling=Sampling(greedy=True)), view, tmp_path)
    assert values(columns["samples"]) == [0, 0.5, None] and values(columns["greedy"]) == [0, 0.25, 1]
    assert columns["samples"].reasons.tolist() == [0, 0, Reason.NOT_MEASURED]
    same = scored(VariationRatio(similarity="answer"), view, tmp_path)
    assert values(same["samples"]) == [0, 1, None] and set(same) == {"samples"}


def test_similarities_of_worked_examples() -> None:
    assert jaccard([], []) == 1 and jaccard(["a"], []) == 0
    assert distinct([["a", "b", "c"], ["a", "b", "c", "d"]], 3) == pytest.approx(2 / 3)
    assert math.isnan(distinct([["a"]], 3)) and math.isnan(self_bleu([["a"]], 3))
    # of "a b b": 1-grams 2 of 3 (b is clipped to one), 2-grams 1 of 2 -> sqrt(1/3)
    assert bleu(["a", "b", "b"], [["a", "b", "c"]], 2) == pytest.approx(math.sqrt(1 / 3))
    assert self_bleu([list("abcd")] * 3, 3) == pytest.approx(1) and self_bleu([list("abc"), list("xyz")], 3) == 0


def test_verdicts_by_a_pattern_and_of_greedy_answers(tmp_path: Path) -> None:
    view = world(tmp_path, [["Answer: x", "Answer: y"], ["Answer: z"]], ["Answer: x", "z"], greedy=["Answer: x", ""])
    pattern = Verdicts(verify=Verify(by="regex", pattern="Answer: (.)"))
    (part,) = view.shards()
    arrays = pattern.measure(part.shard, part, Machine())
    assert arrays["right"].tolist() == [1, 0] and arrays["right_offsets"].tolist() == [0, 2, 2]
    assert arrays["greedy_right"].tolist() == [1, 0] and arrays["reason"].tolist() == [0, Reason.NEEDS_ANSWER]
    assert (
        pattern.in_process and not Verdicts(verify=Verify(by="python", gold="meta.t", allow_execution=True)).in_process
    )
    assert Ragged(arrays["right"], arrays["right_offsets"]).lengths.tolist() == arrays["count"].tolist()
