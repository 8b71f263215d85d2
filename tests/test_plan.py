"""Law: a plan has a line for every stage that costs something, and one it cannot estimate says so."""

from __future__ import annotations

from typing import Any

import pytest

import small
from tamis import recipe as recipes
from tamis.engine import machine
from tamis.stages.estimates import NOT_ESTIMATED
from tamis.stages.plan import plan
from tamis.stages.workspace import Workspace

STAGES = """
near: {select: rds-plus, budget: 25%}
less: {pass: influence, checkpoints: "@warmup"}
part: {pass: influence, checkpoints: "@warmup", only: "@near"}
last: {pass: influence, checkpoints: "@warmup", use: last}
blocks: {pass: influence, checkpoints: "@warmup", layers: last 50%}
tracin: {pass: influence, checkpoints: "@warmup", profile: tracin}
filled: {pass: landmarks, from: "@part"}
stored: {pass: gradients, checkpoints: "@warmup", dim: 64}
asked: {pass: gradient-query, checkpoints: "@warmup", from: "@stored"}
own: {pass: "test_plan:Foreign"}
chosen: {train: lora, on: "@near", epochs: 1, rank: 2, alpha: 4, batch_rows: 4, hooks: {greats: {keep: 50%}}}
plain: {train: lora, on: "@near", epochs: 1, rank: 2, alpha: 4, batch_rows: 4}
"""


def foreign() -> type[Any]:
    from tamis.scorers.passes.lengths import Lengths

    return Lengths


def __getattr__(name: str) -> Any:
    if name == "Foreign":  # a third party's pass, under a name that no catalogue knows
        return foreign()
    raise AttributeError(name)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("plan")
    world = small.make_world(folder / "world")
    head, _, rest = world.recipe.read_text(encoding="utf-8").partition("warmup:")
    warmup = rest.partition("influence:")[0]
    path = folder / "every.yaml"
    path.write_text(f"{head}warmup:{warmup}{STAGES}", encoding="utf-8")
    checked = recipes.load(str(path))
    found = plan(checked, Workspace(folder / "work", machine(workers=1), checked.model))
    assert found["not_estimated"] == ["own"] and found["hours"] > 0
    return {step["stage"]: step for step in found["steps"]}


def test_every_stage_that_measures_or_trains_has_a_line(lines: dict[str, dict[str, Any]]) -> None:
    names = [line.partition(":")[0] for line in STAGES.split("\n") if ": {pass" in line or ": {train" in line]
    assert {*names, "warmup", "passes"} == set(lines)
    assert lines["own"]["minutes"] == NOT_ESTIMATED and NOT_ESTIMATED in lines["own"]["what"]
    assert all(line["minutes"] > 0 for name, line in lines.items() if name not in ("own", "filled", "asked"))


def test_approximations_cost_what_they_leave_out(lines: dict[str, dict[str, Any]]) -> None:
    minutes = {name: line["minutes"] for name, line in lines.items() if name != "own"}
    assert lines["part"]["rows"] == 16 and lines["less"]["rows"] == 64
    assert minutes["part"] < 0.5 * minutes["less"], "a quarter of the rows, and the same target"
    assert minutes["last"] == pytest.approx(minutes["less"] / 2, rel=0.05), "one checkpoint of two"
    assert minutes["blocks"] == pytest.approx(minutes["less"] * 2 / 3, rel=0.05), "a backward half as long"
    assert minutes["tracin"] == minutes["less"]
    assert lines["stored"]["disk_bytes"] == 64 * (2 * (64 * 2 + 4 + 4) + 1), "features, scale, norm; reason"
    assert minutes["asked"] < minutes["less"] and minutes["filled"] < minutes["part"]
    assert minutes["chosen"] > minutes["plain"]
