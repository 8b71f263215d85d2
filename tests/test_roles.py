"""Law: a second model measures what needs it, under its own name, and is asked for before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import tamis
import tiny
from tamis import recipe as recipes
from tamis.errors import RecipeError
from tamis.prediction.forward import Forward
from tamis.stages.measure import richest
from tamis.stages.score import score
from tamis.stages.workspace import Workspace
from tamis.values import Column, Need
from tamis.views import ShardSignals

RESPONSE = (("loss", "response"),)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Difference of two models' losses of the response."""

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset(Need(kind="signal", name="tokens", settings=RESPONSE, by=by) for by in ("model", "judge"))

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        own, judge = (have[key]["response_nll_sum"] for key in ("tokens", "tokens@judge"))
        reasons = np.asarray(have["tokens"]["reason"])
        values = np.where(reasons > 0, np.nan, own - judge).astype(np.float32)
        return {"score": Column(values=values, unit="nats", reasons=reasons)}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The judge's loss."""

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need(kind="signal", name="tokens", settings=RESPONSE, by="judge")})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        reasons = np.asarray(have["tokens@judge"]["reason"])
        values = np.where(reasons > 0, np.nan, have["tokens@judge"]["response_nll_sum"]).astype(np.float32)
        return {"score": Column(values=values, unit="nats", reasons=reasons)}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("roles")
    models = [str(tiny.make_model(folder / name, seed=seed)) for seed, name in enumerate(("own", "second"))]
    return tamis.workspace(folder / "ws", models[0], judge=models[1], workers=1, device="cpu")


def test_a_judge_measures_beside_the_model(work: Workspace) -> None:
    pool = tiny.make_pool(work.root.parent / "pool", tiny.make_rows(8))
    found = score(pool, {"tests:Gap": Gap(), "tests:Judged": Judged()}, work)
    assert set(found.columns) == {"Gap.score@own", "Judged.score@second"}
    assert {"tokens", "tokens@judge"} <= set(found.signals)
    own = found.signals["tokens"].folders[0], found.signals["tokens@judge"].folders[0]
    losses = [np.load(folder / "response_nll_sum.npy") for folder in own]
    np.testing.assert_allclose(found.columns["Gap.score@own"].values, losses[0] - losses[1], rtol=1e-4)
    np.testing.assert_allclose(found.columns["Judged.score@second"].values, losses[1], rtol=1e-6)


def test_settings_are_merged_for_each_model_by_itself() -> None:
    needs = [
        Need(kind="signal", name="tokens", settings=RESPONSE),
        Need(kind="signal", name="tokens", settings=(("loss", "all"),), by="judge"),
        Need(kind="signal", name="tokens", settings=(("pooled", True),)),
    ]
    merged = richest(needs)
    assert set(merged) == {"tokens", "tokens@judge"}
    assert (merged["tokens"]["loss"], merged["tokens"]["pooled"]) == ("response", True)
    assert (merged["tokens@judge"]["loss"], merged["tokens@judge"]["pooled"]) == ("all", False)


def test_without_a_judge_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a model ran")

    monkeypatch.setattr(Forward, "hidden", never)
    alone = tamis.workspace(tmp_path, "tamis:tiny-lm", workers=1, device="cpu")
    pool = tiny.make_pool(tmp_path / "pool", tiny.make_rows(3))
    with pytest.raises(RecipeError, match=r"tests:Gap needs a judge model: give `judge: \{name: …\}` .* or --judge"):
        score(pool, {"tests:Gap": Gap()}, alone)
    with pytest.raises(RecipeError, match="needs a judge model"):
        tamis.score(pool, f"{__name__}:Gap", work=alone)
    with pytest.raises(RecipeError, match="needs a judge model"):
        tamis.select(pool, "top", 2, by=f"{__name__}:Judged", work=alone)


def test_a_recipe_without_its_judge_is_a_fault_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    file = tmp_path / "judged.yaml"
    file.write_text(
        f"pool: {{files: [{tmp_path}/rows.jsonl]}}\nscores:\n  score: {{'{__name__}:Judged': {{}}}}\n", encoding="utf-8"
    )
    with pytest.raises(RecipeError) as error:
        recipes.load(str(file))
    wanted = f"{file}:3: scores.score: {__name__}:Judged needs a judge"
    assert any(fault.startswith(wanted) for fault in error.value.faults)
    named = recipes.load(str(file), ["judge.name=tamis:tiny-lm"])
    assert named.judge is not None and named.judge.name == "tamis:tiny-lm" and named.reference is None
    with pytest.raises(RecipeError, match=r"reference\.max_tokens: expected a whole number of at least 2"):
        recipes.load(str(file), ["judge=tamis:tiny-lm", "reference={name: 'tamis:tiny-lm', max_tokens: 1}"])
