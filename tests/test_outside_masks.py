"""Axolotl and LLaMA-Factory, run on what tamis writes for them, train the tokens that tamis trains, one by one.

Their packages and tamis's pin other versions, so each runs its own preprocessing and collator under an interpreter of
its own, named by TAMIS_AXOLOTL_PYTHON and TAMIS_LLAMA_FACTORY_PYTHON (`make outside-masks` makes both).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from tamis.exporting import Export, export
from tamis.exporting.chosen import Item, labels
from tamis.models import ModelRef
from tamis.rendering import render_all
from tamis.values import Row

SCRIPTS = Path(__file__).parent / "outside"
HARD = (
    *(
        " between spaces ",
        "[in brackets]",
        '{"a": [1, 2]}',
        "two\nlines\n\n",
        "\n\nlate",
        "naïve 😀 日本語",
        "\ttab",
        "a",
    ),
    *(
        "### code\n```py\nx = [1]\n```\n",
        "<|end|> inside",
        "[[dummy_message]]",
        "</think> no",
        "a\u2028b",
        "'\"",
        "  ",
        "0",
    ),
)
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"b": 1, "a": None}}}
TOOLS = (
    [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}],
    [{"function": {"parameters": {"b": 1, "a": None}, "name": "take"}, "type": "function"}],
    [{"type": "function", "function": {"name": "x", "strict": True, "description": None}}],
    [{"name": "flat", "parameters": {"type": "object", "properties": {"n": {"type": ["number", "null"]}}}}],
)
_OTHERS = "{% else %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '\n' }}{% endif %}{% endfor %}"
_OTHERS += "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
_OPEN = "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|assistant|>\n' }}"
TEMPLATES = {
    # the closing has a line end in front of the end token
    "line-ends": _OPEN + "{% generation %}{{ m['content'] + '\n<|end|>' }}{% endgeneration %}" + _OTHERS,
    # the last answer alone is trained
    "last": _OPEN + "{% if loop.last %}{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}{% else %}"
    "{{ m['content'] + '<|end|>' }}{% endif %}" + _OTHERS,
    # turns end with another token than a text does
    "end-of-turn": _OPEN + "{% generation %}{{ m['content'] + '<|tool|>' }}{% endgeneration %}{{ '\n' }}" + _OTHERS,
    # answers are trimmed
    "trimmed": _OPEN + "{% generation %}{{ m['content'] | trim + '<|end|>' }}{% endgeneration %}{{ '\n' }}" + _OTHERS,
    # thoughts are not trained
    "parts": _OPEN + "{% set said = m['content'].split('</think>') %}{{ (said[0] + '</think>') if said | length > 1 }}"
    "{% generation %}{{ said[-1] + '<|end|>' }}{% endgeneration %}" + _OTHERS,
    # a field beside role and content
    "fields": _OPEN + "{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}"
    "{% elif m.get('name') %}{{ '<|' + m['role'] + '|>\n' + m.get('name') + ': ' + m['content'] + '\n' }}" + _OTHERS,
}


@dataclass
class Case:
    """Rows in the way of one trainer: `reads` is what its block reads, messages or token ids; `got` what it trained."""

    model: ModelRef
    rows: list[Row]
    reads: str = "ids"
    written: Export | None = None
    got: list[dict[str, list[int]]] = field(default_factory=list)

    def wanted(self) -> list[dict[str, list[int]]]:
        """Ids and labels as tamis trains on them."""
        rendered = zip(self.rows, render_all(self.rows, self.model), strict=True)
        made = [labels(Item(0, row, None, one)) for row, one in rendered if not one.reason]
        return [{"ids": one["input_ids"], "labels": one["labels"]} for one in made]


def chats(n: int, seed: int, hard: float = 0.0, **fields: Any) -> list[Row]:
    """Conversations of one to four exchanges, a third with a system turn; a share of `hard` texts."""
    draw = random.Random(seed)

    def say() -> str:
        plain = " ".join(draw.choices(tiny.WORDS, k=draw.randint(1, 15))) + "."
        return draw.choice((draw.choice(HARD), plain + draw.choice(HARD))) if draw.random() < hard else plain

    rows = []
    for place in range(n):
        texts = [say() for _ in range(2 * draw.choice((1, 1, 2, 3, 4)))]
        messages = tiny.chat(*texts, system=say() if place % 3 == 0 else None)
        given = {name: draw.choice(value) for name, value in fields.items()}
        rows.append(tiny.make_row(messages, key=f"{seed}-{place}", meta={"place": place}, **given))
    return rows


def with_calls(n: int) -> list[Row]:
    call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    result = {"role": "tool", "content": "2", "tool_call_id": "1"}
    ask, *_, answer = tiny.chat("Which?", "This.")
    return [
        tiny.make_row([ask, call, result, answer], key=f"call-{place}", tools=json.dumps(TOOLS[place % 4]))
        for place in range(n)
    ]


def named(rows: list[Row]) -> list[Row]:
    return [
        tiny.make_row([{**one, "name": "Ada"} if one["role"] == "user" else one for one in row.messages], key=row.key)
        for row in rows
    ]


def model(folder: Path, template: str, max_tokens: int = 400) -> ModelRef:
    """A tokenizer with one of the templates here or in tiny, and the configuration that Axolotl wants beside it."""
    tiny.make_tokenizer(folder, template=template if template in tiny.TEMPLATES else "marks")
    if template in TEMPLATES:
        (folder / "chat_template.jinja").write_text(TEMPLATES[template], encoding="utf-8")
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return ModelRef(name=str(folder), max_tokens=max_tokens)


def interpreter(variable: str) -> str:
    found = os.environ.get(variable, "")
    if not found:
        pytest.skip(f"{variable} names no interpreter (make outside-masks)")
    return found


def run(python: str, script: str, work: Path, configs: list[Path]) -> list[list[dict[str, Any]]]:
    """The rows of every config, as the trainer's own code makes them under its own interpreter."""
    out = work / "out.json"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_", "TAMIS_"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "hub"), "CUDA_VISIBLE_DEVICES": ""}
    command = [python, str(SCRIPTS / script), str(out), *map(str, configs)]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    print(found["versions"])
    rows: list[list[dict[str, Any]]] = found["rows"]
    return rows


def written(case: Case, work: Path, form: str) -> Export:
    pool = tiny.make_pool(work / "pool", case.rows)
    out = work / ("made.jsonl" if form == "axolotl" else "made.json")
    case.written = export(pool, range(len(case.rows)), out, form, model=case.model)
    return case.written


# ---- Axolotl


def axolotl_config(case: Case, work: Path) -> Path:
    """The block that tamis writes, and what Axolotl wants to know besides."""
    (path,) = [file for file in map(Path, written(case, work, "axolotl").files) if file.suffix == ".yaml"]
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert config["datasets"][0]["type"] == ("chat_template" if case.reads == "messages" else None)
    folder = case.model.name if Path(case.model.name).is_dir() else "data/tiny-lm"
    config |= {"base_model": str(Path(folder).resolve()), "micro_batch_size": 1, "gradient_accumulation_steps": 1}
    config |= {"num_epochs": 1, "learning_rate": 1e-4, "shuffle_merged_datasets": False, "dataset_num_proc": 1}
    config |= {"dataset_prepared_path": str(work / "prepared"), "output_dir": str(work / "trained")}
    (work / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return work / "config.yaml"


def axolotl_cases(folder: Path) -> dict[str, Case]:
    shipped = ModelRef(name="tamis:tiny-lm", max_tokens=400)

    def own(template: str, **given: int) -> ModelRef:
        return model(folder / "models" / template, template, **given)

    return {
        "shipped": Case(shipped, chats(120, 1), "messages"),
        "tools": Case(shipped, chats(60, 2, tools=[json.dumps(one) for one in TOOLS]), "messages"),
        "calls": Case(shipped, with_calls(12)),
        "hard": Case(shipped, chats(120, 3, hard=0.6)),
        "texts": Case(shipped, [tiny.make_row([{"role": "document", "content": one}], kind="text") for one in HARD]),
        "marks": Case(own("marks"), chats(60, 4), "messages"),
        "cut": Case(own("plain", max_tokens=60), chats(60, 5, hard=0.3)),
        "none": Case(own("none"), chats(30, 6)),
        "line-ends": Case(own("line-ends"), chats(60, 7, hard=0.3)),
        "last": Case(own("last"), chats(60, 8), "messages"),
        "end-of-turn": Case(own("end-of-turn"), chats(60, 9), "messages"),
        "trimmed": Case(own("trimmed"), [row for row in chats(60, 10, hard=0.3) if told_apart(row)], "messages"),
        "parts": Case(own("parts"), chats(60, 11, hard=0.6)),
        "fields": Case(own("fields"), named(chats(30, 12))),
    }


def told_apart(row: Row) -> bool:
    """Whether no answer of the row begins or ends with a bracket, or is blank."""
    said = [str(one["content"]).strip() for one in row.messages if one["role"] == "assistant"]
    return all(text and text[0] not in "[]" and text[-1] not in "[]" for text in said)


@pytest.fixture(scope="module")
def axolotl(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    python = interpreter("TAMIS_AXOLOTL_PYTHON")
    work = tmp_path_factory.mktemp("axolotl")
    cases = axolotl_cases(work)
    configs = [axolotl_config(case, work / name) for name, case in cases.items()]
    for case, rows in zip(cases.values(), run(python, "axolotl_masks.py", work, configs), strict=True):
        case.got = rows
    return cases


AXOLOTL = tuple("shipped tools calls hard texts marks cut none line-ends last end-of-turn trimmed parts fields".split())


@pytest.mark.parametrize("name", AXOLOTL)
def test_axolotl_itself_trains_tamis_tokens(axolotl: dict[str, Case], name: str) -> None:
    case = axolotl[name]
    assert case.got == case.wanted()
    print(f"axolotl, {name}: {len(case.got)} rows, {sum(len(one['ids']) for one in case.got)} tokens as tamis")


# ---- LLaMA-Factory


def factory_cases(folder: Path) -> dict[str, Case]:
    shipped = ModelRef(name="tamis:tiny-lm", max_tokens=400)
    return {
        "shipped": Case(shipped, chats(120, 1)),
        "hard": Case(shipped, chats(120, 3, hard=0.6)),
        "plain": Case(model(folder / "models" / "plain", "plain"), chats(60, 5)),
        "line-ends": Case(model(folder / "models" / "line-ends", "line-ends"), chats(60, 7, hard=0.3)),
    }


def factory_config(case: Case, work: Path) -> Path:
    out = Path(written(case, work, "llama-factory").path)
    folder = case.model.name if Path(case.model.name).is_dir() else "data/tiny-lm"
    config = {"model": str(Path(folder).resolve()), "dataset_dir": str(out.parent), "dataset": out.stem}
    (work / "config.json").write_text(json.dumps(config | {"stage": "sft", "cutoff_len": 2048}), encoding="utf-8")
    return work / "config.json"


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    python = interpreter("TAMIS_LLAMA_FACTORY_PYTHON")
    work = tmp_path_factory.mktemp("factory")
    cases = factory_cases(work)
    configs = [factory_config(case, work / name) for name, case in cases.items()]
    for case, rows in zip(cases.values(), run(python, "llama_factory_masks.py", work, configs), strict=True):
        case.got = rows
    return cases


def not_carried(made: Export | None, what: str) -> int:
    """How many rows the notes of an export name."""
    found = [note for note in (made.notes if made else ()) if note.startswith(what)]
    return int(found[0].split(" of ")[-1].split()[0]) if found else 0


@pytest.mark.parametrize("name", ("shipped", "hard", "plain", "line-ends"))
def test_llama_factory_itself_trains_tamis_tokens_but_where_the_notes_say_so(
    factory: dict[str, Case], name: str
) -> None:
    case = factory[name]
    wanted = case.wanted()
    assert len(case.got) == len(wanted)
    other = [place for place, (a, b) in enumerate(zip(case.got, wanted, strict=True)) if a != b]
    assert len(other) == not_carried(case.written, "the token across the start of an answer")
    same = sum(len(one["ids"]) for place, one in enumerate(case.got) if place not in other)
    print(f"llama-factory, {name}: {len(wanted) - len(other)} of {len(wanted)} rows, {same} tokens as tamis")
