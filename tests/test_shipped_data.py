"""Laws of the shipped data: size and mix, planted faults, disjoint parts, same bytes from the same seed, tiny-lm."""

from __future__ import annotations

import collections
import gzip
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tamis.data import faults, make_pool, make_tiny_lm
from tamis.data.skills import SKILLS, instruction

DATA = Path(__file__).parents[1] / "data"
Record = dict[str, Any]


def read_lines(content: bytes) -> tuple[list[Record], int]:
    """Rows, and the number of lines that are none."""
    rows: list[Record] = []
    broken = 0
    for line in content.split(b"\n")[:-1]:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("output"), str) and isinstance(row.get("instruction"), str):
            rows.append(row)
        else:
            broken += 1
    return rows, broken


@pytest.fixture(scope="module")
def pool() -> list[Record]:
    return read_lines(gzip.decompress((DATA / "pool.jsonl.gz").read_bytes()))[0]


def shipped(part: str) -> dict[str, list[Record]]:
    return {name: read_lines((DATA / part / f"{name}.jsonl").read_bytes())[0] for name in SKILLS}


def task_of(row: Record) -> tuple[str, str]:
    return row["instruction"].strip(), row["input"].strip()


def test_pool_has_its_size_and_no_skill_dominates(pool: list[Record]) -> None:
    broken = read_lines(gzip.decompress((DATA / "pool.jsonl.gz").read_bytes()))[1]
    counts = collections.Counter(row["meta"]["skill"] for row in pool)
    assert 5800 <= len(pool) + broken <= 6200
    assert broken == make_pool.BROKEN
    assert len(counts) == len(SKILLS) >= 10
    assert max(counts.values()) / len(pool) <= 0.12
    assert all(row["source"] == row["meta"]["skill"] for row in pool)


def test_every_skill_has_six_phrasings_two_of_them_only_in_evaluation(pool: list[Record]) -> None:
    seen = collections.defaultdict(set)
    for row in [*pool, *[row for rows in shipped("target").values() for row in rows]]:
        seen[row["meta"]["skill"]].add(row["meta"]["phrasing"])
    for name, rows in shipped("eval").items():
        skill = SKILLS[name]
        assert len(set(skill.phrasings)) == len(skill.phrasings) >= 6
        assert seen[name] == set(skill.pool_phrasings)
        assert len(skill.held_out_phrasings) == 2
        in_eval = [row["meta"]["phrasing"] for row in rows]
        assert set(skill.held_out_phrasings) <= set(in_eval)
        assert sum(number in skill.held_out_phrasings for number in in_eval) == len(rows) // 2


def test_pool_target_and_evaluation_share_no_task(pool: list[Record]) -> None:
    target, held_out = shipped("target"), shipped("eval")
    assert all(len(rows) == 8 for rows in target.values())
    assert all(len(rows) == 100 for rows in held_out.values())
    parts = [pool, [r for rows in target.values() for r in rows], [r for rows in held_out.values() for r in rows]]
    tasks = [{task_of(row) for row in part} for part in parts]
    assert not tasks[0] & tasks[1]
    assert not tasks[0] & tasks[2]
    assert not tasks[1] & tasks[2]
    assert len(tasks[2]) == len(parts[2])


def test_tasks_differ_in_substance_whatever_the_phrasing() -> None:
    seen: set[str] = set()
    parts = [make_pool.make_eval(seen), make_pool.make_target(seen)]
    assert len(seen) == sum(len(rows) for part in parts for rows in part.values())
    before = len(seen)
    make_pool.make_pool(seen)
    copies = sum(rate for fault, rate in faults.RATES.items() if fault.endswith("_duplicate"))
    assert len(seen) - before == pytest.approx((make_pool.ROWS - make_pool.BROKEN) * (1 - copies), abs=20)


def test_faults_are_labelled_and_hit_every_skill_at_the_same_rate(pool: list[Record]) -> None:
    share = sum(bool(row["meta"]["fault"]) for row in pool) / len(pool)
    assert 0.20 <= share <= 0.24
    for name in SKILLS:
        rows = [row for row in pool if row["meta"]["skill"] == name]
        counts = collections.Counter(row["meta"]["fault"] for row in rows)
        for fault, rate in faults.RATES.items():
            assert counts[fault] == pytest.approx(rate * len(rows), abs=1), (name, fault)


def test_faults_are_what_their_label_says(pool: list[Record]) -> None:
    clean = collections.Counter((*task_of(row), row["output"]) for row in pool if not row["meta"]["fault"])
    by_fault = collections.defaultdict(list)
    for row in pool:
        by_fault[row["meta"]["fault"]].append(row)
    assert all((*task_of(row), row["output"]) in clean for row in by_fault["exact_duplicate"])
    outputs = {row["output"] for row in by_fault[""]}
    assert all(row["output"] in outputs for row in by_fault["near_duplicate"])
    assert not any(task_of(row) in {key[:2] for key in clean} for row in by_fault["near_duplicate"])
    assert not any(row["output"].strip() for row in by_fault["empty_answer"])
    assert all("\u00c2" in row["output"] for row in by_fault["mojibake"])
    assert all(row["output"].isascii() for row in by_fault[""])
    assert len({row["output"] for row in by_fault["refusal"]}) >= 4


def test_wrong_answers_differ_from_right_ones_only_in_the_result() -> None:
    for name, skill in SKILLS.items():
        for number in range(40):
            right = skill.make(random.Random(f"{name} {number}"), False)
            wrong = skill.make(random.Random(f"{name} {number}"), True)
            if instruction(name, 0, right) == instruction(name, 0, wrong) and right.input == wrong.input:
                assert right.answer != wrong.answer, (name, right)


def test_same_seed_gives_the_shipped_bytes(tmp_path: Path) -> None:
    make_pool.write(tmp_path)
    made = {file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file()}
    kept = {file.relative_to(DATA) for part in ("eval", "target") for file in (DATA / part).iterdir()}
    assert made == kept | {Path("pool.jsonl.gz")}
    for name in sorted(kept):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes(), name
    # What is in the gzip file: another build of zlib may pack the same bytes otherwise.
    files = [(folder / "pool.jsonl.gz").read_bytes() for folder in (tmp_path, DATA)]
    assert gzip.decompress(files[0]) == gzip.decompress(files[1])
    assert files[1][4:8] == b"\0\0\0\0", "the gzip header holds a time"


def test_data_stay_small() -> None:
    files = [f for f in DATA.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert sum(file.stat().st_size for file in files) < 4_000_000


@pytest.fixture(scope="module")
def tiny_lm() -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    folder = DATA / "tiny-lm"
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def encoded(tokenizer: Any, row: Record) -> tuple[list[int], list[int]]:
    messages = [
        {"role": "user", "content": make_tiny_lm.prompt(row)},
        {"role": "assistant", "content": row["output"]},
    ]
    out = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    return out["input_ids"], out["assistant_masks"]


def loss(tiny_lm: tuple[Any, Any], rows: list[Record]) -> float:
    """Mean nats a response token, row by row."""
    import torch

    model, tokenizer = tiny_lm
    total = count = 0.0
    for row in rows:
        ids, mask = encoded(tokenizer, row)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        for place in range(1, len(ids)):
            if mask[place]:
                total -= float(logits[place - 1, ids[place]])
                count += 1
    return total / count


def test_tiny_lm_is_small_and_its_template_marks_the_answer(tiny_lm: tuple[Any, Any]) -> None:
    model, tokenizer = tiny_lm
    assert model.config.model_type == "llama"
    assert sum(parameter.numel() for parameter in model.parameters()) <= 1_000_000
    assert len(tokenizer) == model.config.vocab_size
    ids, mask = encoded(tokenizer, {"instruction": "Find it.", "input": "a, b", "output": "It is b \u00e9\u4e2d 17."})
    answer = [token for token, marked in zip(ids, mask, strict=True) if marked]
    assert tokenizer.decode(answer) == "It is b \u00e9\u4e2d 17.<|end|>"
    assert [tokenizer.convert_tokens_to_ids(token) for token in make_tiny_lm.SPECIAL] == list(range(6))


def test_tiny_lm_offsets_cover_the_text(tiny_lm: tuple[Any, Any]) -> None:
    text = "Step 1:  23 * 40 = 920.\n\n\u201cna\u00efve\u201d  end "
    out = tiny_lm[1](text, return_offsets_mapping=True, add_special_tokens=False)
    spans = [span for span in out["offset_mapping"] if span[0] < span[1]]
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    assert all(a[1] >= b[0] for a, b in itertools.pairwise(spans))


def test_tiny_lm_template_takes_tools_and_calls(tiny_lm: tuple[Any, Any]) -> None:
    tool = {"type": "function", "function": {"name": "add", "description": "Adds", "parameters": {"type": "object"}}}
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "add", "content": "2"},
        {"role": "assistant", "content": "It is 2."},
    ]
    text = tiny_lm[1].apply_chat_template(messages, tools=[tool], tokenize=False)
    assert '"description": "Adds"' in text
    assert '"arguments": {"a": 1}' in text
    assert text.endswith("<|assistant|>\nIt is 2.<|end|>")


def test_tiny_lm_is_weaker_in_the_target_skills(tiny_lm: tuple[Any, Any]) -> None:
    losses = {name: loss(tiny_lm, rows[::10]) for name, rows in shipped("eval").items()}
    target = min(losses.pop(name) for name in make_tiny_lm.TARGET_SKILLS)
    assert target > max(losses.values()), losses
