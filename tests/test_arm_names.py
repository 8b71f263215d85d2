"""Law of comparisons: the arm of the method never bears the name of a baseline, whose figures it would be given."""

from __future__ import annotations

import pytest

from tamis.stages.compare import UNTOUCHED, Design, method_name


@pytest.mark.parametrize("selector", ["random", "longest", "full", "plain", UNTOUCHED])
def test_a_method_named_like_a_baseline_is_told_apart(selector: str) -> None:
    design = Design(
        method=method_name(selector, None, None),
        trainer="lora",
        settings={},
        baselines=("plain", "random", "longest", "full"),
    )
    assert design.method == f"chosen {selector}"


def test_any_other_method_keeps_its_name() -> None:
    for name in ("less", "random+stm", "top"):
        assert Design(method=name, trainer="lora", settings={}).method == name
