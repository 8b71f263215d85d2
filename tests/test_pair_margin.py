"""Implicit reward margins by hand, APL's golden values, and the pair signal of a reference model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cheap
import tiny
from tamis import catalogue
from tamis.models import ModelRef
from tamis.scorers.passes.pairs import Pairs
from tamis.scorers.preference import uncertainty
from tamis.values import Column, Machine, Need, Reason
from tamis.views import ShardSignals


def signal(chosen: list[float], rejected: list[float], reason: list[int]) -> dict[str, Any]:
    return {
        "chosen_nll_sum": np.array(chosen),
        "rejected_nll_sum": np.array(rejected),
        "chosen_count": np.array([4, 2, 0]),
        "rejected_count": np.array([2, 5, 0]),
        "reason": np.array(reason, np.uint8),
    }


def score(name: str, signals: dict[str, Any], **fields: Any) -> dict[str, Column]:
    columns: dict[str, Column] = catalogue.build("scorers", name, fields).score(signals)
    return columns


WRONG = int(Reason.WRONG_KIND)
SIGNALS = {
    "pairs": signal([8, 6, 0], [5, 10, 0], [0, 0, WRONG]),
    "pairs@reference": signal([12, 6, 0], [4, 5, 0], [0, 0, WRONG]),
}


def test_margins_by_hand() -> None:
    """Row 0: chosen 4 nats likelier than under the reference, rejected 1 less likely; row 1: 0 and 5 less likely."""
    found = score("pair-margin", SIGNALS)
    assert found["chosen"].values[:2].tolist() == pytest.approx([0.4, 0.0])
    assert found["rejected"].values[:2].tolist() == pytest.approx([-0.1, -0.5])
    assert found["score"].values[:2].tolist() == pytest.approx([0.5, 0.5])
    assert found["policy"].values[:2].tolist() == pytest.approx([-3, 4])
    assert found["reference"].values[:2].tolist() == pytest.approx([-8, -1])
    assert all(column.reasons.tolist() == [0, 0, WRONG] and np.isnan(column.values[2]) for column in found.values())
    mean = score("pair-margin", SIGNALS, average=True, beta=1)["score"].values[:2]
    assert mean.tolist() == pytest.approx([4 / 4 - -1 / 2, 0 / 2 - -5 / 5])
    broken = {**SIGNALS, "pairs@reference": signal([12, 6, 0], [4, 5, 0], [0, int(Reason.CUT), WRONG])}
    assert score("pair-margin", broken)["score"].reasons.tolist() == [0, int(Reason.CUT), WRONG]


def test_uncertainty_of_apl_golden_values() -> None:
    assert uncertainty(np.array([0, 0.5, 3.0])).tolist() == pytest.approx([1, 0.755081, 0.094852], abs=5e-7)
    found = score("pair-uncertainty", SIGNALS)["score"].values[:2]  # margins of 5 and 5 nats at beta 0.2
    assert found.tolist() == pytest.approx([1 - 2 * abs(1 / (1 + np.exp(-1)) - 0.5)] * 2)
    same = {"pairs": SIGNALS["pairs"], "pairs@reference": SIGNALS["pairs"]}
    assert score("pair-uncertainty", same)["score"].values[:2].tolist() == [1, 1]


def test_both_models_measure_the_pair_signal(tmp_path: Path) -> None:
    needs = catalogue.build("scorers", "pair-margin", {}).needs
    assert {need.key for need in needs} == {"pairs", "pairs@reference"}
    assert Need(kind="signal", name="pairs", by="reference") in needs
    shard = tiny.make_pool(tmp_path / "pool", cheap.pair_rows(3)).shards[0]
    signals = {
        key: Pairs(model=ModelRef(name=str(tiny.make_model(tmp_path / key, seed=seed)), dtype="float32")).measure(
            shard, ShardSignals(shard, {}), Machine()
        )
        for seed, key in enumerate(("pairs", "pairs@reference"))
    }
    turned = {"pairs": signals["pairs@reference"], "pairs@reference": signals["pairs"]}
    margins, other = (score("pair-margin", one)["score"].values for one in (dict(signals), turned))
    assert np.isfinite(margins).all() and (margins != 0).all()
    assert np.allclose(margins, -other)
