"""Scorers that need more than a model and rows: a training, a second model, pairs or tags; where the truth is known.

* `forgetting`, `gradient-similarity` and `cge` on the shipped pool's planted faults: tiny-lm is tuned on them, a hook
  records their losses, influence is that on the shipped targets, and tiny-lm before tuning is the reference.
* `pair-*` on pairs that the shipped generator made: one answer right, the other with a slip; pairs are turned round
  by lot. The policy is tiny-lm tuned on other right answers.
* `instag` and `concept-label` on generated tags: of tasks that a row is made of, as a tagger that errs sees them, and a
  tag that goes with one label.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scorer_truths
from numpy.typing import NDArray
from scorer_truths import Truth

import tamis
from tamis import recipe as recipes
from tamis.data.skills import SKILLS, instruction
from tamis.engine import machine
from tamis.recipe.graph import Recipe
from tamis.stages.conduct import Conductor
from tamis.stages.workspace import Workspace

SEED = 17
MODEL = "tamis:tiny-lm"
PAIRED, TUNED = ("sentiment", "counting", "comparison", "odd_one_out"), 400  # rows on which the policy is tuned
MISSED, INVENTED = 0.2, 0.1  # how the tagger errs
SHORTCUT = 0.9  # share of rows with the planted tag that have the label it goes with
RECIPE = """\
model: {{name: "tamis:tiny-lm", max_tokens: 256}}
pool: {{files: ["{rows}"]}}
target: {{files: ["tamis:target/*.jsonl"]}}
warmup: {{train: lora, on: "@pool", hooks: [record-losses], epochs: 4, keep: every-epoch, rank: 16, alpha: 32,
  learning_rate: 2e-3, batch_rows: 16}}
trajectories: {{pass: recorded, checkpoints: "@warmup"}}
influence: {{pass: influence, checkpoints: "@warmup"}}
known: {{score: {{forgetting: {{by: loss}}}}, from: "@trajectories"}}
near: {{score: [gradient-similarity], from: "@influence"}}
"""
Columns = Mapping[str, NDArray[np.float64]]


def measured(most: int, workspace: Path) -> Iterator[tuple[Truth, Columns]]:
    """Every truth with the columns that are held against it, one a scorer."""
    for visible in (True, False):
        truth = scorer_truths.faults(most, visible)
        yield truth, _after_training(truth, workspace / truth.name.replace(" ", "-") / "trained")
    yield from _pairs(most, workspace / "pairs")
    yield _tasks(most, workspace / "tags")
    yield _shortcut(most, workspace / "tags")


def _after_training(truth: Truth, place: Path) -> Columns:
    """A training on the rows, and what it tells of each: events, likeness to the targets, what tuning added."""
    rows = _written(truth.rows, place / "rows.jsonl")
    path = place / "trained.yaml"
    path.write_text(RECIPE.format(rows=rows), encoding="utf-8")
    recipe: Recipe = recipes.load(str(path))
    conductor = Conductor.of(recipe, Workspace(place / "work", machine(device="cpu"), recipe.model))
    conductor.ingest()
    for stage in recipe.stages:
        conductor.carry_out(stage)
    found = {name: column.values.astype(np.float64) for name, column in conductor.columns.items()}
    tasks = [values for name, values in found.items() if name.startswith("gradient-similarity.")]
    tuned = conductor.outcomes["warmup"].model
    work = tamis.workspace(place / "work", tuned, reference=MODEL, max_tokens=256, device="cpu", workers=2)
    novelty = tamis.score(tamis.open_pool([str(rows)], work), ["cge"], work=work)["cge.token"]
    return {
        "forgetting.score": found["forgetting.score"],
        "gradient-similarity (best task)": np.max(tasks, axis=0),
        "cge.token": np.asarray(novelty, np.float64),
    }


def _pairs(most: int, place: Path) -> Iterator[tuple[Truth, Columns]]:
    """Pairs of a right answer and a slip: is the right one chosen, and does the model order them rightly?"""
    draw = random.Random(SEED)
    made = [(name, draw.randrange(len(SKILLS[name].pool_phrasings)), draw.random()) for name in PAIRED * (most + TUNED)]
    tasks = [(name, number, *_both(name, seed)) for name, number, seed in made[: most + TUNED]]
    taught = [
        {"messages": [_said("user", _asked(name, number, right)), _said("assistant", right.answer)]}
        for name, number, right, _ in tasks[:TUNED]
    ]
    rows, turned = [], []
    for name, number, right, slip in tasks[TUNED:]:
        answers = (right.answer, slip.answer)
        if answers[0] == answers[1]:
            continue
        turned.append(draw.random() < 0.5)  # by lot: every other one would be always the same skills
        chosen, rejected = answers[::-1] if turned[-1] else answers
        prompt = [_said("user", _asked(name, number, right))]
        rows.append(
            {"messages": prompt, "chosen": [_said("assistant", chosen)], "rejected": [_said("assistant", rejected)]}
        )
    base = tamis.workspace(place / "tuning", MODEL, max_tokens=256, device="cpu", workers=2)
    pool = tamis.open_pool([str(_written(taught, place / "taught.jsonl"))], base)
    training = {"epochs": 2, "batch_rows": 8, "learning_rate": 2e-3}
    policy = str(tamis.train(pool, trainer="full", settings=training, work=base).model.name)
    work = tamis.workspace(place / "work", policy, reference=MODEL, max_tokens=256, device="cpu", workers=2)
    pairs = tamis.open_pool([str(_written(rows, place / "pairs.jsonl"))], work)
    names = ["pair-margin", "pair-perplexity", "pair-length", "pair-uncertainty"]
    scores = tamis.score(pairs, names, work=work)
    columns = {name.partition("@")[0]: np.asarray(scores[name], np.float64) for name in scores.columns}
    right = (~np.asarray(turned)).astype(np.float64)
    what = "the right answer is the chosen one"
    wanted = ("pair-margin.score", "pair-perplexity.chosen", "pair-length.difference")
    yield _truth("pairs", what, rows, right), {name: columns[name] for name in wanted}
    ordered = ((columns["pair-margin.score"] > 0) == (right > 0)).astype(np.float64)
    certain = _truth("order of pairs", "the model orders the pair rightly", rows, ordered)
    yield certain, {"pair-uncertainty.score": columns["pair-uncertainty.score"]}


def _both(name: str, seed: float) -> tuple[Any, Any]:
    """One task, answered rightly and with a slip."""
    right, slip = (SKILLS[name].make(random.Random(seed), wrong) for wrong in (False, True))
    return right, slip


def _tasks(most: int, place: Path) -> tuple[Truth, Columns]:
    """Rows made of one to four tasks of different skills, tagged by somebody who errs; complexity is their number."""
    draw = random.Random(SEED)
    rows, count = [], []
    for _ in range(most):
        names = draw.sample(list(SKILLS), draw.randint(1, 4))
        done = [(_asked(name, 0, task), task.answer) for name in names for task in [SKILLS[name].make(draw, False)]]
        tags = [name for name in SKILLS if draw.random() < ((1 - MISSED) if name in names else INVENTED / len(SKILLS))]
        asked, answered = ("\n\n".join(texts) for texts in zip(*done, strict=True))
        rows.append({"messages": [_said("user", asked), _said("assistant", answered)], "meta": {"tags": tags}})
        count.append(len(names))
    truth = _truth("tasks of a row", "made of more tasks", rows, np.asarray(count, np.float64), binary=False)
    return truth, _scored(rows, {"instag": {}}, "instag.score", place / "tasks")


def _shortcut(most: int, place: Path) -> tuple[Truth, Columns]:
    """Reviews with tags of which one nearly always stands with one label: rows where tag and label agree."""
    draw = random.Random(SEED)
    rows, planted = [], []
    for _ in range(most):
        task = SKILLS["sentiment"].make(draw, False)
        label = draw.choice(("positive", "negative"))
        tags = draw.sample(("service", "price", "place", "staff", "food", "noise", "queue"), 3)
        if draw.random() < 0.3:
            tags.append("music")
            label = "positive" if draw.random() < SHORTCUT else "negative"
        asked = _asked("sentiment", 0, task)
        rows.append({"messages": [_said("user", asked), _said("assistant", label)], "meta": {"tags": tags}})
        planted.append("music" in tags and label == "positive")
    truth = _truth("shortcut", "its label could be read off a tag", rows, np.asarray(planted, np.float64))
    return truth, _scored(rows, {"concept-label": {}}, "concept-label.score", place / "shortcut")


def _scored(rows: Sequence[Mapping[str, Any]], scorers: dict[str, Any], column: str, place: Path) -> Columns:
    work = tamis.workspace(place / "work", MODEL, max_tokens=512, device="cpu", workers=2)
    scores = tamis.score(tamis.open_pool([str(_written(rows, place / "rows.jsonl"))], work), scorers, work=work)
    return {column: np.asarray(scores[column], np.float64)}


def _truth(
    name: str, what: str, rows: Sequence[Mapping[str, Any]], truth: NDArray[np.float64], *, binary: bool = True
) -> Truth:
    return Truth(name, what, rows, truth, np.arange(len(rows)), binary, {})


def _asked(name: str, number: int, task: Any) -> str:
    return f"{instruction(name, number, task)}\n\n{task.input}".strip()


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _written(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
