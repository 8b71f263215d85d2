"""The pages tell the truth: commands and Python on them run or at least parse, recipes are sound, links hold.

A block after the comment `test: run` is run, in the order of its page and in a folder of its own, on a sample of the
shipped data under the names that the pages use; `test: recipe` is checked as a recipe, `test: component` is loaded.
All other blocks are carried out by test_docs_commands.py (soak tier).
"""

from __future__ import annotations

import ast
import gzip
import importlib.util
import json
import os
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pages import DOCS, PAGES, ROOT, Block, blocks, named
from tamis import catalogue, recipe
from tamis.cli import main

SAMPLE = 60
# names on the pages -> what the tests put in their place
SMALL = {"tamis:pool.jsonl.gz": "data.jsonl", "tamis:eval/": "tamis:target/"}


def commands(block: Block) -> list[list[str]]:
    """Words of every command of tamis in a block; other commands (make, pip) are not ours to check."""
    lines = [shlex.split(line) for line in block.lines]
    return [words[1 : words.index(">") if ">" in words else None] for words in lines if words[0] == "tamis"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small files under the names that the pages use; one worker, so that nothing is spawned."""
    with gzip.open(ROOT / "data" / "pool.jsonl.gz", "rb") as file:
        lines = [line for line, _ in zip(file, range(SAMPLE), strict=False)]
    (tmp_path / "data.jsonl").write_bytes(b"".join(lines))
    for name in ("target", "few_shot", "held_out"):
        text = (ROOT / "data" / "target" / "arithmetic.jsonl").read_text(encoding="utf-8")
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    ratings = "".join(f"{place},{place % 5}\n" for place in range(SAMPLE))
    (tmp_path / "my_ratings.csv").write_text("position,rating\n" + ratings, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TAMIS_WORKSPACE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    return tmp_path


def small(text: str) -> str:
    for name, other in SMALL.items():
        text = text.replace(name, other)
    return text


def carry_out(block: Block) -> None:
    """Run a block: commands one by one through `main`, Python as a script."""
    if block.language == "python":
        exec(compile(small(block.text), named(block.page), "exec"), {"__name__": "block"})
        return
    for words in commands(block):
        try:
            main([small(word) for word in words])
        except SystemExit as stop:
            assert stop.code in (0, None), f"{named(block.page)}: tamis {shlex.join(words)} ended with {stop.code}"


RUN = [page for page in DOCS if any(blocks([page], mark="run"))]


@pytest.mark.parametrize("page", RUN, ids=named)
def test_the_blocks_that_say_so_run(page: Path, folder: Path) -> None:
    for block in blocks([page], mark="run"):
        carry_out(block)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_on_a_page_has_a_verb_and_options_that_exist(page: Path) -> None:
    import typer

    from tamis.cli.app import app

    group = typer.main.get_command(app)
    for block in blocks([page], language="console"):
        for words in commands(block):
            context = group.make_context("tamis", list(words))
            name, verb, rest = group.resolve_command(context, [*context._protected_args, *context.args])  # type: ignore[attr-defined]
            assert verb is not None, words
            with verb.make_context(name, rest, parent=context) as inner:
                assert inner.params, words


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_on_a_page_parses_and_names_verbs_that_exist(page: Path) -> None:
    import tamis

    for block in blocks([page], language="python"):
        tree = ast.parse(block.text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tamis":
                assert node.attr in dir(tamis), f"{named(page)}: tamis.{node.attr}"


def test_recipes_on_the_pages_are_sound(folder: Path) -> None:
    found = [block for block in blocks(PAGES, language="yaml") if block.mark == "recipe"]
    assert len(found) >= 4
    for number, block in enumerate(found):
        file = folder / f"recipe{number}.yaml"
        file.write_text(block.text, encoding="utf-8")
        assert recipe.load(str(file)).stages, block


def test_the_component_of_the_guide_keeps_its_word(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scorer of CONTRIBUTING.md, loaded by module and class as the guide says, against the columns behind it."""
    import numpy as np

    import tamis

    (block,) = blocks([ROOT / "CONTRIBUTING.md"], language="python", mark="component")
    (folder / "surprising.py").write_text(block.text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    work = tamis.workspace("ws", "tamis:tiny-lm", max_tokens=256)
    scored = tamis.score("data.jsonl", "surprising:Surprise,perplexity", work=work)
    (mine,) = (column.values for name, column in scored.columns.items() if "Surprise" in name)
    loss = {side: np.log(scored[f"perplexity.{side}"]) for side in ("prompt", "response")}
    assert np.isfinite(mine).sum() > SAMPLE / 2
    np.testing.assert_allclose(mine, loss["response"] - loss["prompt"], rtol=1e-3, atol=1e-4)


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_hooks"] = module
    spec.loader.exec_module(module)
    return module


def test_every_component_has_its_place_on_a_page_and_links_lead_somewhere() -> None:
    made = hooks().pages()
    for kind, table in catalogue.CATALOGUE.items():
        headings = re.findall(r"^## (.+)$", made[f"components/{kind}.md"], re.M)
        assert headings == sorted(table), kind
    import tamis

    assert re.findall(r"^## tamis\.(\w+)$", made["functions.md"], re.M) == [
        name for name in dir(tamis) if name[0] != "_"
    ]
    known = {page.name for page in DOCS} | set(made)
    for page in DOCS:
        for link in re.findall(r"\]\(([^)#:]+\.md)", page.read_text(encoding="utf-8")):
            assert link in known, f"{named(page)} links to {link}"
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert not [name for name in known if name not in navigation], "a page is not in the navigation of mkdocs.yml"


def test_numbers_of_the_pages_are_those_of_the_data() -> None:
    with gzip.open(ROOT / "data" / "pool.jsonl.gz", "rb") as file:
        rows = sum(1 for _ in file)
    assert f"{rows:,} rows" in (ROOT / "docs" / "first.md").read_text(encoding="utf-8")
    weights = ROOT / "data" / "tiny-lm" / "model.safetensors"
    with weights.open("rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    sizes = [tensor["shape"] for name, tensor in head.items() if name != "__metadata__"]
    count = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in sizes)
    assert f"{count / 1e6:.2f}M parameters" in (ROOT / "docs" / "first.md").read_text(encoding="utf-8")
