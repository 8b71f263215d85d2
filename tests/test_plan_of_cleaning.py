"""A plan of a recipe that cleans: steps without a model are carried out, the others are named as left."""

from __future__ import annotations

from pathlib import Path

from tamis import recipe as recipes
from tamis.engine import machine
from tamis.stages.plan import plan
from tamis.stages.workspace import Workspace

RECIPE = """
pool: {files: ["tamis:target/arithmetic.jsonl"]}
clean:
  - where: {keep: "chars > 60"}
  - semantic: {threshold: 0.95}
  - exact: {}
subset: {select: longest, budget: 3}
"""


def test_a_plan_carries_out_the_steps_before_the_first_that_runs_a_model(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    recipe = recipes.load(str(path))
    found = plan(recipe, Workspace(tmp_path / "ws", machine(workers=1), recipe.model))
    steps = {step["stage"]: step["what"] for step in found["steps"] if step["stage"].startswith("clean")}
    assert list(steps) == ["clean: where", "clean: semantic", "clean: exact"]
    assert steps["clean: where"].endswith("rows dropped") and steps["clean: exact"] == "not carried out in a plan"
    assert found["not_estimated"] == ["clean: semantic", "clean: exact"]
    dropped = int(steps["clean: where"].split()[0])
    assert found["rows"] == 8 - dropped
