"""Laws of hooks that prune, weigh and watch: formulas of their papers, exact losses, equal bits after a kill."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import synthetic
from tamis.catalogue import build
from tamis.errors import RecipeError, TrainError
from tamis.models import ModelRef, open_model
from tamis.prediction.current import label_losses
from tamis.prediction.quadrants import kept_tokens, plane
from tamis.protocols import Hook
from tamis.rendering import render_rows
from tamis.trainers.dft import Dft
from tamis.trainers.full import Full
from tamis.trainers.iw_sft import IwSft, sequence_weights
from tamis.trainers.lora import Lora
from tamis.trainers.q_tuning import QTuning
from tamis.training import Candidates, StepRows, TrainingRows
from tamis.values import Budget, Machine, Seeds
from tiny import make_model, make_rows

ON = Machine(tokens_per_batch=96)
LORA = Lora(rank=3, alpha=6, dropout=0.1, batch_rows=5, epochs=2, learning_rate=1e-2, save_steps=2)
FULL = Full(batch_rows=14, epochs=1, learning_rate=1e-3, warmup=0, max_grad_norm=None, keep="every-epoch")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return ModelRef(name=str(make_model(tmp_path_factory.mktemp("hooks") / "base")), max_tokens=64, dtype="float32")


@pytest.fixture(scope="module")
def rows(base: ModelRef) -> TrainingRows:
    return render_rows(make_rows(14, seed=4), base)


@pytest.fixture(scope="module")
def losses(
    base: ModelRef, rows: TrainingRows
) -> list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]]:
    """Oracle: places, losses and entropies of the labels of every row, one row at a time, in float64."""
    model: Any = open_model(base, "cpu")
    found = []
    with torch.no_grad():
        for start, stop in zip(rows.offsets[:-1], rows.offsets[1:], strict=True):
            ids = torch.from_numpy(rows.ids[start:stop].astype(np.int64))
            scores = torch.log_softmax(model(input_ids=ids[None]).logits[0].double(), -1)
            places = np.flatnonzero(rows.trained[start:stop])
            nll = np.array([-float(scores[place - 1, ids[place]]) for place in places])
            entropy = -(scores.exp() * scores).sum(-1).numpy()[places - 1]
            found.append((places, nll, entropy))
    return found


def candidates(base: ModelRef, rows: TrainingRows, model: Any, **more: Any) -> Candidates:
    spans = [slice(start, stop) for start, stop in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)]
    return Candidates(
        step=0,
        examples=[(rows.ids[span], rows.trained[span]) for span in spans],
        numbers=np.arange(len(rows)),
        learning_rate=0.1,
        model=model,
        kind="full",
        base=base,
        on=ON,
        memory={},
        **more,
    )


def test_losses_of_the_model_in_training_are_those_without_dropout_row_by_row(
    base: ModelRef, rows: TrainingRows, losses: Any
) -> None:
    model: Any = open_model(base, "cpu").train()
    nll, entropy = label_losses(candidates(base, rows, model))
    assert all(module.training for module in model.modules())
    for own, wide, (_, expected, doubt) in zip(nll, entropy, losses, strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(wide, doubt, rtol=1e-4, atol=1e-5)


def first_moments(base: ModelRef, rows: TrainingRows, out: Path, hooks: list[Any], trainer: Any = FULL) -> Any:
    return trainer.train(base, rows, Seeds(), hooks, out, ON)[-1]


def test_dft_is_the_loss_weighed_by_the_probability_without_its_gradient(
    base: ModelRef, rows: TrainingRows, losses: Any, tmp_path: Path
) -> None:
    """Oracle: sum of p · nll over the labels, p held fixed, divided by their number, row by row with full logits."""
    checkpoint = first_moments(base, rows, tmp_path / "out", [Dft()])
    model: Any = open_model(base, "cpu")
    total, count = torch.zeros((), dtype=torch.float64), 0
    for number, (places, nll, _) in enumerate(losses):
        ids = torch.from_numpy(rows.ids[rows.offsets[number] : rows.offsets[number + 1]].astype(np.int64))
        scores = torch.log_softmax(model(input_ids=ids[None]).logits[0].double(), -1)
        for place, known in zip(places.tolist(), nll.tolist(), strict=True):
            total = total - math.exp(-known) * scores[place - 1, ids[place]]
        count += len(places)
    (total / count).backward()
    assert checkpoint.facts["loss"] == pytest.approx(float(total.detach()) / count, rel=1e-4)
    for name, (first, _) in checkpoint.moments().items():
        gradient = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(first / 0.1, gradient, rtol=1e-3, atol=1e-6)


def test_golden_iw_sft_weighs_equal_probabilities_by_one_and_a_log_ratio_of_ten_by_sixteen() -> None:
    gains = torch.tensor([0.0, 0.0, 10.0, 1.0, -1.0, 2.0, 2.0])
    row = torch.tensor([0, 0, 1, 2, 2, 3, 3])
    weights = sequence_weights(gains, row, 4, 1.0, 16.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 16.0, 1.0, math.exp(2)]))
    torch.testing.assert_close(sequence_weights(gains, row, 4, 2.0, 16.0)[3], torch.tensor(16.0))


def test_iw_sft_starts_as_plain_training_and_then_weighs_rows_by_the_model_before_it(
    base: ModelRef, rows: TrainingRows, tmp_path: Path
) -> None:
    """The weights of a second step, whatever the micro batches, are those of one row alone."""
    seen: list[tuple[NDArray[np.int64], torch.Tensor, torch.Tensor, torch.Tensor]] = []

    @dataclasses.dataclass(frozen=True)
    class Shown:
        own: IwSft
        revision = 1

        def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
            pass

        def prepare(self, given: Candidates, /) -> None:
            self.own.prepare(given)

        def reweigh(self, tokens: Any, /) -> torch.Tensor:
            factors = self.own.reweigh(tokens)
            seen.append((tokens.numbers, tokens.row, tokens.nll, factors))
            return factors

    trainer = dataclasses.replace(FULL, epochs=2, learning_rate=1e-2)
    plain, one = tmp_path / "plain", tmp_path / "one"
    first_moments(base, rows, plain, [], trainer)
    first_moments(base, rows, one, [Shown(IwSft())], trainer)
    logs = [[json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] for out in (plain, one)]
    assert logs[0][0]["loss"] == pytest.approx(logs[1][0]["loss"], rel=1e-5)
    assert logs[0][1]["loss"] != pytest.approx(logs[1][1]["loss"], rel=1e-3)
    before: dict[int, float] = {}
    after: dict[int, tuple[float, float]] = {}
    for numbers, row, nll, factors in seen:
        for place, number in enumerate(numbers.tolist()):
            mine = row == place
            if number in before:
                after[number] = (float(nll[mine].mean()), float(factors[mine][0]))
                assert bool((factors[mine] == factors[mine][0]).all())
            else:
                before[number] = float(nll[mine].mean())
                assert float(factors[mine][0]) == pytest.approx(1, abs=1e-4)
    assert len(after) == len(rows)
    for number, (mean, factor) in after.items():
        assert factor == pytest.approx(min(16.0, math.exp(before[number] - mean)), rel=1e-4)
    assert len({round(factor, 3) for _, factor in after.values()}) > 3


def test_golden_q_tuning_keeps_the_share_exactly_and_cuts_independent_values_at_0354() -> None:
    """Two corners of a · a each hold a quarter of independent data at a = sqrt(1/8); correlated data is topped up."""
    draw = np.random.default_rng(0)
    error, doubt = draw.normal(size=(2, 40_000))
    found = plane(error, doubt, 0.25)
    assert found.cut == pytest.approx(math.sqrt(1 / 8), abs=0.005)
    assert 0.24 < found.corners / 40_000 <= 0.25
    for correlation, most in ((0.6, 0.30), (0.8, 0.20), (0.9, 0.13)):
        both = correlation * error + math.sqrt(1 - correlation**2) * doubt
        for share in (0.125, 0.25, 0.5):
            found = plane(error, both, share)
            assert len(found.order[: round(share * 40_000)]) == round(share * 40_000)
            assert found.corners <= most * 40_000
    assert len(plane(error, error, 0.25).order) == 40_000, "no corner at all"


def test_rows_by_hand_on_the_plane_of_q_tuning() -> None:
    """Wrong and sure, right and unsure first; then by the distance of the scaled values; a row without one never."""
    error = np.array([9.0, 1.0, 9.0, 1.0, 5.0, np.nan, 6.0])
    doubt = np.array([0.1, 3.0, 3.0, 0.1, 1.5, 1.0, 0.2])
    found = plane(error, doubt, 0.4)
    assert found.order.tolist()[:2] == [0, 1] and found.corners == 2
    assert found.order.tolist() == [0, 1, 6, 4, 2, 3], "ties go to the lower place, and row 5 is not there"
    assert found.misconception.tolist() == [True, False, False, False, True, False, True]
    same = plane(np.ones(4), np.ones(4), 0.5)
    assert same.order.tolist() == [0, 1, 2, 3]


def test_tokens_of_high_perplexity_smoothed_by_their_neighbours_go() -> None:
    """By hand: perplexities 1, 8, 1, 2 smoothed by a half are 4.5, 4.5, 3, 1.5; three of them at a share of 0.7."""
    nll = np.log([1.0, 8.0, 1.0, 2.0])
    assert kept_tokens(nll, 0.7, 0.5).tolist() == [True, False, True, True]
    assert kept_tokens(nll, 0.25, 0.5).tolist() == [False, False, False, True]
    assert kept_tokens(nll, 0.75, 0.0).tolist() == [True, False, True, True]
    assert kept_tokens(np.array([3.0]), 0.1, 0.5).tolist() == [True]
    assert kept_tokens(np.zeros(10), 0.5, 0.5).sum() == 5


def test_q_tuning_prunes_the_batch_as_the_plane_says(base: ModelRef, rows: TrainingRows, losses: Any) -> None:
    model: Any = open_model(base, "cpu")
    masks = QTuning(rows=0.5, tokens=0.6).prune(candidates(base, rows, model))
    error = np.array([math.exp(nll.mean()) for _, nll, _ in losses])
    doubt = np.array([entropy.mean() for _, _, entropy in losses])
    found = plane(error, doubt, 0.5)
    kept = set(found.order[:7].tolist())
    assert {row for row, mask in enumerate(masks) if mask.any()} == kept and found.misconception[sorted(kept)].any()
    for row in kept:
        places, nll, _ = losses[row]
        expected = places[kept_tokens(nll, 0.6, 0.5)] if found.misconception[row] else places
        assert np.flatnonzero(masks[row]).tolist() == expected.tolist()


def test_what_is_pruned_leaves_loss_and_divisor(base: ModelRef, rows: TrainingRows, tmp_path: Path) -> None:
    """Training on masks of a hook is training on the same masks as token weights."""

    @dataclasses.dataclass(frozen=True)
    class Third:
        revision = 1

        def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
            pass

        def prune(self, given: Candidates, /) -> list[NDArray[np.bool_]]:
            return [
                np.arange(len(ids)) % 3 == number % 3
                for number, (ids, _) in zip(given.numbers, given.examples, strict=True)
            ]

    weights = np.concatenate([np.arange(length) % 3 == row % 3 for row, length in enumerate(np.diff(rows.offsets))])
    given = dataclasses.replace(rows, token_weights=weights.astype(np.float32))
    pruned = first_moments(base, rows, tmp_path / "pruned", [Third()])
    masked = first_moments(base, given, tmp_path / "masked", [])
    assert pruned.facts["loss"] == pytest.approx(masked.facts["loss"], rel=1e-6)
    assert pruned.facts["trained_tokens"] == masked.facts["trained_tokens"] == given.trained_tokens
    line = json.loads((tmp_path / "pruned" / "log.jsonl").read_text())
    assert line["labels"] == given.trained_tokens and len(line["kept"]) == len(rows)


class Stop(Exception):
    """As a kill would."""


@dataclasses.dataclass(frozen=True)
class Breaks:
    at: int

    def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
        if step == self.at:
            raise Stop


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts how often a row was seen, and sums its losses."""

    revision = 1
    keeps = "counts"

    def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
        pass

    def watch(self, seen: StepRows, /) -> None:
        for name in ("seen", "nll"):
            seen.record.setdefault(name, np.zeros(14))
        seen.record["seen"][seen.numbers] += seen.labels
        seen.record["nll"][seen.numbers] += seen.nll


def test_a_killed_run_with_hooks_that_weigh_prune_and_watch_goes_on_to_the_same_bits(
    base: ModelRef, rows: TrainingRows, tmp_path: Path
) -> None:
    hooks: list[Hook] = [IwSft(), QTuning(rows=0.6), Dft(), Counts()]
    whole = LORA.train(base, rows, Seeds(), hooks, tmp_path / "whole", ON)[-1]
    with pytest.raises(Stop):
        LORA.train(base, rows, Seeds(), [*hooks, Breaks(5)], tmp_path / "broken", ON)
    assert (tmp_path / "broken" / "resume").is_dir()
    again = LORA.train(base, rows, Seeds(), [*hooks, Breaks(0)], tmp_path / "broken", ON)[-1]
    assert again.digest == whole.digest
    logs = [(tmp_path / name / "log.jsonl").read_bytes() for name in ("whole", "broken")]
    assert logs[0] == logs[1]
    for name in ("seen", "nll"):
        files = [tmp_path / out / "records" / "counts" / f"{name}.npy" for out in ("whole", "broken")]
        assert files[0].read_bytes() == files[1].read_bytes() and np.load(files[0]).any()


def test_a_watcher_sees_the_losses_of_every_row_whatever_the_micro_batches(
    base: ModelRef, rows: TrainingRows, losses: Any, tmp_path: Path
) -> None:
    seen: list[StepRows] = []

    @dataclasses.dataclass(frozen=True)
    class Watches:
        revision = 1

        def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
            pass

        def watch(self, given: StepRows, /) -> None:
            seen.append(given)

    first_moments(base, rows, tmp_path / "out", [Watches()])
    (one,) = seen
    assert one.numbers.tolist() == list(range(14)) and one.step == one.epoch == 0
    assert one.labels.tolist() == [len(places) for places, _, _ in losses]
    np.testing.assert_allclose(one.nll, [nll.sum() for _, nll, _ in losses], rtol=1e-4)
    assert (one.hits <= one.labels).all() and one.hits.dtype == np.int64
    assert not (tmp_path / "out" / "records").exists(), "a hook without `keeps` leaves nothing"


def test_wrong_weights_masks_and_settings_of_hooks_are_refused(
    base: ModelRef, rows: TrainingRows, tmp_path: Path
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Weighs:
        revision = 1

        def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
            pass

        def reweigh(self, tokens: Any, /) -> torch.Tensor:
            return -tokens.nll  # type: ignore[no-any-return]

    @dataclasses.dataclass(frozen=True)
    class Prunes:
        rows: int
        revision = 1

        def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
            pass

        def prune(self, given: Candidates, /) -> list[NDArray[np.bool_]]:
            return [np.zeros(len(ids), np.bool_) for ids, _ in given.examples[: self.rows]]

    for hook, message in (
        (Weighs(), "not one finite number of at least 0"),
        (Prunes(0), "masks that do not fit"),
        (Prunes(99), "left no label"),
    ):
        with pytest.raises(TrainError, match=message):
            FULL.train(base, rows, Seeds(), [hook], tmp_path / "out", ON)
    for name, settings, message in (
        (
            "q-tuning",
            {"rows": 0, "tokens": 1.5, "steps": 0, "smoothing": 2},
            "rows is 0.*tokens is 1.5.*smoothing.*steps",
        ),
        ("iw-sft", {"clip": 0}, "clip above 0"),
        ("iw-sft", {"low": 3}, "low <= high"),
    ):
        with pytest.raises(RecipeError, match=f"(?s){message}"):
            build("hooks", name, settings)


def test_the_selector_of_the_plane_says_how_much_its_corners_hold(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    error, doubt = draw.normal(size=(2, 200))
    doubt[3] = np.nan
    columns = {"perplexity.response@x": synthetic.column(error), "entropy.response@x": synthetic.column(doubt)}
    view = synthetic.view(tmp_path, synthetic.rows(200), {"lengths": synthetic.lengths(200)}, columns=columns)
    subset = build("selectors", "q-tuning", {}).select(view, Budget(share=0.25), ON)
    assert len(subset.positions) == round(int(view.usable.sum()) * 0.25) and 3 not in subset.positions
    usable = np.where(view.usable, error, np.nan)
    expected = plane(usable, np.where(view.usable, doubt, np.nan), 0.25).order[: len(subset.positions)]
    assert subset.positions.tolist() == expected.tolist()
    assert "of them" in subset.notes[0] and "topped up" in subset.notes[0]
