"""Training in several processes by `accelerate launch` gives the checkpoint of one process, up to the order of sums."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import tiny
from tamis.models import ModelRef
from tamis.stages.train import TrainingJob, train_one
from tamis.store import Store
from tamis.values import Machine, Seeds


@pytest.mark.soak
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    pool = tiny.make_pool(tmp_path / "pool", tiny.make_rows(24))
    model = ModelRef(name=str(tiny.make_model(tmp_path / "model")), max_tokens=64, dtype="float32")
    settings = {"epochs": 1, "rank": 4, "alpha": 8, "dropout": 0.0, "batch_rows": 8}
    job = TrainingJob(
        store=Store(tmp_path / "one"),
        trainer="lora",
        settings=settings,
        model=model,
        rows_of=pool,
        positions=tuple(range(len(pool))),
        seeds=Seeds(),
        machine=Machine(tokens_per_batch=256),
    )
    alone = train_one(job)
    two = dataclasses.replace(job.machine, processes=2)
    together = train_one(dataclasses.replace(job, store=Store(tmp_path / "two"), machine=two))
    left, right = (load_file(run.checkpoints[-1].path / "adapter_model.safetensors") for run in (alone, together))
    assert left.keys() == right.keys()
    assert all(abs(left[name] - right[name]).max() < 1e-5 for name in left)
