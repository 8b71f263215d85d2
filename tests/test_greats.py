"""Law: GREATS picks what a dense brute force in float64 picks; hooks that choose change nothing else of a training."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray

import tamis
import tiny
from tamis import catalogue, recipe
from tamis.errors import DataError, RecipeError, TrainError
from tamis.models import ModelRef, open_model
from tamis.pool import Pool
from tamis.rendering import render_rows
from tamis.trainers.full import Full
from tamis.trainers.greats import Greats, greedy
from tamis.trainers.lora import Lora
from tamis.training import Candidates, TrainingRows
from tamis.values import Machine, Seeds

ON = Machine(tokens_per_batch=256)
LORA = Lora(rank=3, alpha=6, batch_rows=4, epochs=2, learning_rate=1e-3, save_steps=3)
FULL = Full(batch_rows=4, epochs=1, learning_rate=1e-3, save_steps=3, keep="every-epoch")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return ModelRef(
        name=str(tiny.make_model(tmp_path_factory.mktemp("greats") / "base")), max_tokens=64, dtype="float32"
    )


@pytest.fixture(scope="module")
def rows(base: ModelRef) -> TrainingRows:
    return render_rows(tiny.make_rows(14, seed=4), base)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return tiny.make_pool(tmp_path_factory.mktemp("greats") / "target", tiny.make_rows(5, seed=8))


def examples(rows: TrainingRows) -> list[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
    spans = [slice(start, end) for start, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)]
    return [(rows.ids[span], rows.trained[span]) for span in spans]


def dense(model: Any, names: list[str], given: list[tuple[Any, Any]]) -> torch.Tensor:
    """Oracle: gradients (n, p) of each row's mean loss, one plain backward pass a row, full logits."""
    found = []
    parameters = [dict(model.named_parameters())[name] for name in names]
    for ids, labels in given:
        tokens = torch.from_numpy(ids.astype(np.int64))
        nll = functional.cross_entropy(model(input_ids=tokens[None]).logits[0, :-1], tokens[1:], reduction="none")
        loss = nll[torch.from_numpy(labels[1:])].mean()
        found.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]))
    return torch.stack(found)


def by_definition(gradients: torch.Tensor, wanted: torch.Tensor, rate: float, keep: int) -> list[int]:
    """Greedy, from the definition: after moving by -rate * Σ of the kept gradients, what row i adds."""
    moved, kept = torch.zeros_like(wanted), []
    for _ in range(keep):
        gains = [
            float(rate * row @ wanted - rate**2 * row @ moved) if place not in kept else -np.inf
            for place, row in enumerate(gradients)
        ]
        kept.append(int(np.argmax(gains)))
        moved = moved + gradients[kept[-1]]
    return sorted(kept)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("tokens", [64, 100_000], ids=["many batches", "one batch"])
def test_the_choice_is_that_of_a_dense_brute_force_in_float64(
    base: ModelRef, rows: TrainingRows, target: Pool, tmp_path: Path, kind: Any, tokens: int
) -> None:
    if kind == "lora":
        adapter = tiny.make_adapter(Path(base.name), tmp_path / "adapter")
        model: Any = open_model(dataclasses.replace(base, adapter=str(adapter)), "cpu").double().train()
        names = [name for name, _ in model.named_parameters() if ".lora_" in name]
        model.requires_grad_(False)
        for name, value in model.named_parameters():
            value.requires_grad_(name in names)
    else:
        model = open_model(base, "cpu").double().train()
        names = [name for name, value in model.named_parameters() if name.endswith("proj.weight") and value.dim() == 2]
    before = {name: (value.clone(), value.requires_grad) for name, value in model.named_parameters()}
    wanted = examples(render_rows(list(target), base))
    given = examples(rows)
    gradients = dense(copy.deepcopy(model).eval().requires_grad_(True), names, [*given, *wanted])
    memory: dict[str, Any] = {}
    different = set()
    for rate in (1e-6, 0.05, 0.5, 5.0):
        candidates = Candidates(
            step=3,
            examples=given,
            numbers=np.arange(len(rows)),
            learning_rate=rate,
            model=model,
            kind=kind,
            base=base,
            on=Machine(tokens_per_batch=tokens),
            memory=memory,
        )
        kept = Greats(target=target, keep=0.36, rows=5).choose(candidates).tolist()
        assert kept == by_definition(gradients[: len(given)], gradients[len(given) :].mean(0), rate, 5)
        different.add(tuple(kept))
    assert len(different) > 1, "the second term matters at large rates"
    assert model.training and all(module.training for module in model.modules())
    for name, value in model.named_parameters():
        assert value.grad is None and value.requires_grad == before[name][1] and torch.equal(value, before[name][0])


def test_rows_that_are_not_finite_come_last_and_ties_go_to_the_lower_place() -> None:
    gram = np.eye(4)
    gram[1, 1] = np.nan
    assert greedy(np.array([1.0, 9.0, 1.0, -5.0]), gram, 0.1, 4).tolist() == [0, 2, 3, 1]
    assert greedy(np.array([np.nan, 1.0]), np.ones((2, 2)), 0.1, 1).tolist() == [1]


def train(trainer: Any, base: ModelRef, rows: TrainingRows, out: Path, hooks: list[Any]) -> Any:
    return trainer.train(base, rows, Seeds(), hooks, out, ON)[-1]


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("trainer", [LORA, FULL], ids=["lora", "full"])
def test_a_hook_that_keeps_everything_trains_to_the_same_bits(
    base: ModelRef, rows: TrainingRows, target: Pool, tmp_path: Path, trainer: Any
) -> None:
    plain = train(trainer, base, rows, tmp_path / "plain", [])
    hooked = train(trainer, base, rows, tmp_path / "hooked", [Greats(target=target, keep="100%", rows=2)])
    assert hooked.digest == plain.digest and hooked.facts == plain.facts
    assert [{**one, "kept": None} for one in log_of(tmp_path / "plain")] == [
        {**one, "kept": None} for one in log_of(tmp_path / "hooked")
    ]


class Stop(Exception):
    pass


@dataclasses.dataclass
class Breaks:
    """Ends the training after a step, as a kill would."""

    at: int

    def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
        if step == self.at:
            raise Stop


def test_a_killed_run_goes_on_to_the_same_bits(
    base: ModelRef, rows: TrainingRows, target: Pool, tmp_path: Path
) -> None:
    greats = Greats(target=target, keep=0.5, every=4, rows=3, seed=2)
    whole = train(LORA, base, rows, tmp_path / "whole", [greats])
    kept = [one["kept"] for one in log_of(tmp_path / "whole")]
    assert [len(one) for one in kept] == [2, 2, 2, 1] * 2, "the last batch of an epoch has two rows"
    for at in (2, 4, 7):
        with pytest.raises(Stop):
            train(LORA, base, rows, tmp_path / "cut", [greats, Breaks(at)])
    assert train(LORA, base, rows, tmp_path / "cut", [greats]).digest == whole.digest
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")
    spans = {place: int(rows.offsets[place + 1] - rows.offsets[place]) for place in range(len(rows))}
    assert whole.facts["tokens"] == sum(spans[place] for one in kept[4:] for place in one), "tokens trained on"
    other = train(LORA, base, rows, tmp_path / "other", [dataclasses.replace(greats, keep=0.25)])
    assert other.digest != whole.digest


def test_the_target_is_looked_at_every_so_many_steps_and_after_every_save(
    base: ModelRef, rows: TrainingRows, target: Pool, tmp_path: Path
) -> None:
    made: list[tuple[int, int]] = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Watch:
        revision: ClassVar[int] = 1
        greats: Greats

        def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
            """See nothing."""

        def choose(self, candidates: Candidates, /) -> NDArray[np.int64]:
            kept = self.greats.choose(candidates)
            made.append((candidates.step, candidates.memory["made"]))
            return kept

    trainer = dataclasses.replace(LORA, save_steps=5)
    train(trainer, base, rows, tmp_path, [Watch(greats=Greats(target=target, every=2, rows=2))])
    assert made == [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (5, 5), (6, 5), (7, 7)]  # epochs end after 4 and 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nothing:
    """Keeps no row."""

    revision: ClassVar[int] = 1

    def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
        """See nothing."""

    def choose(self, candidates: Candidates, /) -> NDArray[np.int64]:
        return np.array([], np.int64)


def test_what_cannot_work_is_refused(base: ModelRef, rows: TrainingRows, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"Nothing kept \[\] of 4 rows in step 1"):
        train(LORA, base, rows, tmp_path, [Nothing()])
    empty = tiny.make_pool(tmp_path / "cut", [tiny.make_row(tiny.chat("add " * 200, "cut off"))])
    with pytest.raises(DataError, match="none of the 1 target rows"):
        train(LORA, base, rows, tmp_path / "empty", [Greats(target=empty)])
    for settings, what in (
        ({"keep": "0%"}, "keep '0%'"),
        ({"keep": "half"}, "write 50%"),
        ({"every": 0}, "every is 0"),
    ):
        with pytest.raises(RecipeError, match=what):
            catalogue.build("hooks", "greats", {"target": empty, **settings})


RECIPE = """
model: {{name: {model}, max_tokens: 64, dtype: float32}}
pool: {{files: [{pool}]}}
target: {{files: [{pool}]}}
subset: {{select: random, budget: 100%}}
final: {{train: lora, on: "@subset", rank: 2, epochs: 1, batch_rows: 4, hooks: {{greats: {{keep: 50%, rows: 2}}}}}}
"""


@pytest.fixture
def written(base: ModelRef, tmp_path: Path) -> Path:
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps({"messages": list(row.messages)}) + "\n" for row in tiny.make_rows(8, seed=5)))
    file = tmp_path / "mine.yaml"
    file.write_text(RECIPE.format(model=base.name, pool=pool), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("final.hooks={great: {}}", "no hook named 'great'; did you mean 'greats'"),
        ("final.hooks={greats: {kep: 1}}", "greats has no setting 'kep'; did you mean 'keep'"),
        ("final.hooks={greats: {keep: 120%}}", "no share of a batch"),
        ("final={train: trl-sft, on: '@subset', hooks: greats}", "greats chooses the rows.*use lora or full"),
        ("proof={compare: '@subset', evaluate: {files: [POOL]}}", "arms are trained without hooks, final with"),
    ],
)
def test_a_recipe_is_checked_before_it_runs(written: Path, override: str, what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        recipe.load(str(written), [override.replace("POOL", str(written.parent / "pool.jsonl"))])


def test_a_recipe_without_a_target_is_told_so(written: Path) -> None:
    text = "".join(line for line in written.read_text().splitlines(True) if not line.startswith("target"))
    written.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match="greats needs a target"):
        recipe.load(str(written))


def test_a_recipe_and_python_train_with_it(written: Path) -> None:
    from tamis.engine import machine
    from tamis.stages.conduct import Conductor
    from tamis.stages.workspace import Workspace

    checked = recipe.load(str(written))
    work = Workspace(written.parent / "work", machine(workers=1), checked.model)
    conductor = Conductor.of(checked, work)
    conductor.ingest()
    for stage in checked.stages:
        conductor.carry_out(stage)
    done = conductor.outcomes["final"]
    assert [len(one["kept"]) for one in log_of(done.checkpoints[-1].path.parent)] == [2, 2]
    pool = str(written.parent / "pool.jsonl")
    settings = {"rank": 2, "epochs": 1, "batch_rows": 4}
    chosen = tamis.select(pool, "random", "100%", work=work)
    again = tamis.train(
        chosen, "lora", hooks={"greats": {"keep": "50%", "rows": 2}}, target=pool, work=work, settings=settings
    )
    assert again.training.digest == done.digest and not again.training.made
    assert tamis.train(chosen, "lora", work=work, settings=settings).training.digest != done.digest
    several = dataclasses.replace(work, machine=dataclasses.replace(work.machine, processes=2))
    with pytest.raises(RecipeError, match="one process only"):
        tamis.train(chosen, "lora", hooks={"greats": {}}, target=pool, work=several, settings=settings)
