"""Law: on real rows influence is the batch-1 loop and the released formulas; dirt has its reason and no score."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import tamis
from tamis.models import open_model, open_tokenizer
from tamis.pool import Pool
from tamis.rendering import render_all, render_rows
from tamis.scorers.passes.influence import Influence
from tamis.stages.measure import measure
from tamis.stages.workspace import Workspace
from tamis.trainers.lora import Lora
from tamis.training.checkpoints import Checkpoint
from tamis.values import Machine, Reason, Row, Seeds
from tamis.views import ShardSignals

pytestmark = pytest.mark.real
ROWS, PER_FILE = 500, 16
TARGETS = ("gsm8k_test", "mbpp_test_500", "aqua_test")
Vector = torch.Tensor
log = logging.getLogger(__name__)


@dataclasses.dataclass
class World:
    """Rows of every file of the pool, a warm-up of one LoRA on the attention of base-4m, few rows of three targets."""

    work: Workspace
    pool: Pool
    target: Pool
    checkpoints: tuple[Checkpoint, ...]

    def usable(self, count: int) -> list[Row]:
        """Rows with an answer, spread over the files."""
        rows = [
            row
            for row, one in zip(self.pool, render_all(list(self.pool), self.work.model), strict=True)
            if not one.reason
        ]
        return [rows[place] for place in np.linspace(0, len(rows) - 1, count).round().astype(int)]


def heads(files: list[Path], lines: int, folder: Path) -> list[str]:
    """Write the first lines of each file, so that only they are read in."""
    folder.mkdir()
    for file in files:
        with gzip.open(file, "rb") as whole:
            (folder / file.name.removesuffix(".gz")).write_bytes(b"".join(itertools.islice(whole, lines)))
    return sorted(str(file) for file in folder.iterdir())


@pytest.fixture(scope="module")
def world(real_data: Path, real_models: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("real")
    work = tamis.workspace(root, str(real_models / "base-4m"), max_tokens=256, device="cpu", workers=2)
    files = heads(sorted((real_data / "pool").glob("*.jsonl.gz")), PER_FILE, root / "pool")
    targets = heads([real_data / "target" / f"{name}.jsonl.gz" for name in TARGETS], 5, root / "target")
    world = World(work, tamis.open_pool(files, work, shard_rows=128), tamis.open_pool(targets, work), ())
    trainer = Lora(rank=32, alpha=64, epochs=2, keep="every-epoch", learning_rate=1e-3, batch_rows=8)
    rows = render_rows(world.usable(64), work.model)
    world.checkpoints = tuple(trainer.train(work.model, rows, Seeds(), (), root / "warm-up", work.machine))
    return world


class BatchOne:
    """Oracle: gradients of one row at a time by autograd, concatenated, from labels as Hugging Face takes them."""

    def __init__(self, world: World, checkpoint: Checkpoint) -> None:
        self.ref = world.work.model
        self.model: Any = open_model(checkpoint.model(), "cpu", trainable=True)
        self.trained = [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]
        moments = checkpoint.moments()
        self.m, self.v = (torch.cat([moments[name][k].flatten() for name, _ in self.trained]) for k in (0, 1))
        self.step = checkpoint.step

    def gradient(self, row: Row) -> Vector:
        one = render_all([row], self.ref)[0]
        ids = torch.from_numpy(one.ids.astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(one.turn >= 0)[None], ids, -100)
        self.model.zero_grad()
        self.model(input_ids=ids, labels=labels).loss.backward()
        return torch.cat([grad.flatten() for _, weight in self.trained if (grad := weight.grad) is not None])

    def released(self, g: Vector) -> Vector:
        """Γ of the released LESS: ε inside the root, no bias correction, momentum kept."""
        return (0.9 * self.m + 0.1 * g) / torch.sqrt(0.999 * self.v + 0.001 * g * g + 1e-8)

    def recommended(self, g: Vector) -> Vector:
        """Γ of the profile `recommended`: one step of Adam without the momentum that all rows share."""
        t = self.step + 1
        return 0.1 * g / (1 - 0.9**t) / (torch.sqrt((0.999 * self.v + 0.001 * g * g) / (1 - 0.999**t)) + 1e-8)


def plain_scores(world: World, rows: list[Row]) -> dict[str, Any]:
    """(n, K) scores of both profiles, from the same batch-1 gradients."""
    few = list(world.target)
    tasks = sorted({row.source for row in few})
    found = {name: np.zeros((len(rows), len(tasks))) for name in ("less-official", "recommended")}
    rates = [checkpoint.learning_rate for checkpoint in world.checkpoints]
    for checkpoint, rate in zip(world.checkpoints, rates, strict=True):
        one = BatchOne(world, checkpoint)
        g = torch.stack([one.gradient(row) for row in few])
        masks = [torch.tensor([row.source == task for row in few]) for task in tasks]
        unit = torch.nn.functional.normalize(g)
        means = torch.nn.functional.normalize(torch.stack([g[mask].mean(0) for mask in masks]))
        for place, row in enumerate(rows):
            own = one.gradient(row)
            cosines = unit @ torch.nn.functional.normalize(one.released(own), dim=0)
            direction = torch.nn.functional.normalize(one.recommended(own), dim=0)
            found["less-official"][place] += (
                rate / sum(rates) * np.array([float(cosines[mask].mean()) for mask in masks])
            )
            found["recommended"][place] += rate / sum(rates) * (means @ direction).numpy()
    return found


def test_scores_are_those_of_a_batch_1_loop_and_of_the_released_formulas(world: World, tmp_path: Path) -> None:
    import tiny

    rows = world.usable(ROWS)
    assert len({row.source for row in rows}) > 25
    wanted = plain_scores(world, rows)
    cut = tiny.make_pool(tmp_path / "cut", rows, shard_rows=90)
    part = tiny.make_pool(tmp_path / "part", rows[: ROWS // 4])  # as one shard, in other batches
    for profile, plain in wanted.items():
        component = Influence(checkpoints=world.checkpoints, target=world.target, profile=profile)  # type: ignore[arg-type]
        signal = measure(cut, "influence", component, world.work)  # two workers, six shards
        found = np.concatenate([np.load(folder / "scores.npy") for folder in signal.folders])
        shard = part.shards[0]
        again = component.measure(shard, ShardSignals(shard, {}), Machine(tokens_per_batch=700))["scores"]
        apart = float(np.abs(found[: len(again)] - again).max())
        assert apart <= 1e-4 * found.std()
        ranks = min(float(spearmanr(found[:, k], plain[:, k]).statistic) for k in range(plain.shape[1]))
        furthest = float(np.abs(found - plain).max())
        log.info("%s: Spearman %.6f, furthest %.2e, batches %.1e sd", profile, ranks, furthest, apart / found.std())
        assert ranks >= 0.9999 and furthest <= 1e-3


def unanswerable(row: Row, model: Any, limit: int) -> Reason:
    """Oracle: why a row cannot be scored, by whole calls of the chat template, without spans or masks."""
    if row.kind == "text":
        return Reason.NONE
    turns = [place for place, message in enumerate(row.messages) if message["role"] == "assistant"]
    if not turns or not any(str(row.messages[place].get("content") or "").strip() for place in turns):
        return Reason.NEEDS_ANSWER
    tokenizer: Any = open_tokenizer(model.name)
    asked = tokenizer.apply_chat_template(list(row.messages[: turns[0]]), add_generation_prompt=True, tokenize=False)
    return Reason.ALL_MASKED if len(tokenizer(asked, add_special_tokens=False).input_ids) >= limit else Reason.NONE


def test_dirt_gets_the_reason_that_it_deserves_and_no_score(world: World, real_data: Path) -> None:
    work = dataclasses.replace(world.work, model=dataclasses.replace(world.work.model, max_tokens=64))
    sources = [file for folder in ("pool", "noisy") for file in sorted((real_data / folder).glob("*.jsonl.gz"))]
    pool = tamis.open_pool(heads(sources, 12, work.root / "dirt"), work)
    base = dataclasses.asdict(work.model)
    checkpoint = dataclasses.replace(world.checkpoints[1])
    facts = {**checkpoint.facts, "base": base}
    short = work.root / "short"
    short.mkdir()
    for file in checkpoint.path.iterdir():
        (short / file.name).write_bytes(file.read_bytes())
    (short / "tamis_checkpoint.json").write_text(json.dumps(facts))
    component = Influence(checkpoints=(Checkpoint(short),), target=world.target, by="row")
    signal = measure(pool, "influence", component, work)
    reasons = np.concatenate([np.load(folder / "reason.npy") for folder in signal.folders])
    scores = np.concatenate([np.load(folder / "scores.npy") for folder in signal.folders])
    rows = list(pool)
    wanted = [int(unanswerable(row, work.model, 64)) for row in rows]
    differ = [
        (row.file, row.position, int(got), want)
        for row, got, want in zip(rows, reasons, wanted, strict=True)
        if got != want
    ]
    assert not differ, differ
    assert (np.isnan(scores).all(1) == (reasons > 0)).all() and (np.isfinite(scores).all(1) == (reasons == 0)).all()
    log.info("%s", Counter(Reason(reason).name for reason in reasons.tolist()))
    assert {Reason.NONE, Reason.NEEDS_ANSWER, Reason.ALL_MASKED} <= set(reasons.tolist())
    assert len(rows) > 300
