"""LESS: exact scores by tamis against the released way, and against the floor of a plain forward and backward.

    python benchmarks/less.py [--quick] [--json] [--models base-4m random-llama]

LoRA r = 128 on q, k, v, o of `base-4m` (under TAMIS_REAL_MODELS) and of a Llama of random weights (hidden 512, 8
layers, vocabulary 32,000), on real rows (pool files under TAMIS_REAL_DATA), float32. Contenders, each in a process of
its own, on one thread unless `--threads` says otherwise:

released   batch 1, autograd on the weights, gradients put in one vector, Adam with ε inside the root, and a dense
           Rademacher matrix to 8192 dimensions, drawn anew in blocks of 128 columns for 16 rows at a time; measured on
           16 rows. Where only some of the 64 blocks are computed, their seconds are scaled, and the JSON says so.
plain      what a step of training does: all logits, cross-entropy, gradients of the LoRA weights; same batches as tamis
plain-short  the same with the head on response tokens only, as tamis has it
tamis      exact cosines with three tasks, formulas of `less-official`, no projection

The rows are dealt into parts, and the contenders work on them in turns; a ratio is the median over the parts. Seconds
are CPU seconds, which other work on the machine disturbs least. `spearman_vs_batch1`: scores of tamis against those of
the released formulas at batch 1 without the projection. Top-level keys hold the worst of the models.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

import tamis
from tamis.batching import batches
from tamis.gradient.directions import Direction
from tamis.gradient.formula import PROFILES
from tamis.gradient.influence import cosines, inner_products, task_vectors
from tamis.gradient.per_example import example_losses, pad
from tamis.gradient.source import open_checkpoint
from tamis.models import open_model
from tamis.rendering import render_all, render_rows
from tamis.trainers.lora import Lora
from tamis.training.checkpoints import Checkpoint
from tamis.values import Machine, Row, Seeds

RANK, WIDTH, BLOCK, TOKENS, MAX_TOKENS, TOGETHER = 128, 8192, 128, 1024, 256, 16
TARGETS = ("gsm8k_test", "mbpp_test_500", "aqua_test")
Tokens = tuple[Any, Any]


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured: rows in all, parts, rows checked against batch 1, blocks projected; by model."""

    rows: int
    parts: int
    checked: dict[str, int]
    blocks: dict[str, int]


FULL = Size(1000, 5, {"base-4m": 500, "random-llama": 100}, {"base-4m": 16, "random-llama": 4})
QUICK = Size(60, 3, {"base-4m": 40, "random-llama": 16}, {"base-4m": 2, "random-llama": 1})


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="60 rows instead of 1,000")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--models", nargs="+", choices=sorted(FULL.blocks), default=sorted(FULL.blocks))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contender", nargs=4, help=argparse.SUPPRESS, metavar=("NAME", "FOLDER", "PART", "BLOCKS"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    if given.contender:
        name, folder, part, blocks = given.contender
        sys.stdout.write(json.dumps(CONTENDERS[name](Path(folder), int(part), int(blocks))) + "\n")
        return
    found = measure(given.models, QUICK if given.quick else FULL, given.threads)
    lines = json.dumps(found) if given.json else "\n".join(f"{key}: {value}" for key, value in found.items())
    sys.stdout.write(lines + "\n")


def measure(models: Sequence[str], size: Size, threads: int) -> dict[str, Any]:
    """Ratios of every model, the worst of them on top."""
    notes: list[str] = []
    by_model: dict[str, dict[str, Any]] = {}
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            if prepare(model, size, Path(folder), notes):
                by_model[model] = _compare(model, size, Path(folder), threads)
    worst = {"speedup_vs_released": min, "time_vs_forward_backward": max, "spearman_vs_batch1": min}
    return {
        **{key: pick(one[key] for one in by_model.values()) for key, pick in worst.items()},
        "models": by_model,
        "rank": RANK,
        "tokens_per_batch": TOKENS,
        "max_tokens": MAX_TOKENS,
        "threads": threads,
        "seconds": "CPU",
        "dtype": "float32",
        "notes": notes,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[1], 1),
        "date": time.strftime("%Y-%m-%d"),
    }


def _compare(model: str, size: Size, folder: Path, threads: int) -> dict[str, Any]:
    def run(name: str, part: int, blocks: int = 0) -> dict[str, Any]:
        started = time.monotonic()
        command = [sys.executable, __file__, "--threads", str(threads), "--contender", name]
        command += [str(folder), str(part), str(blocks)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        sys.stderr.write(f"{model} {name} {part}: {found.get('seconds', 0):.1f} s CPU, ")
        sys.stderr.write(f"{time.monotonic() - started:.0f} s in all\n")
        return found

    released = run("released", 0, size.blocks[model])
    turns: dict[str, list[dict[str, Any]]] = {"plain": [], "tamis": [], "plain-short": []}
    for part in range(size.parts):
        for name in ("plain", "tamis") if part % 2 == 0 else ("tamis", "plain"):
            turns[name].append(run(name, part))
    turns["plain-short"].append(run("plain-short", 0))
    rows = sum(one["rows"] for one in turns["tamis"])
    per_row = {name: statistics.median(one["seconds"] / one["rows"] for one in ones) for name, ones in turns.items()}
    scores = np.full((rows, len(TARGETS)), np.nan)
    for part, one in enumerate(turns["tamis"]):
        scores[part :: size.parts] = one["scores"]
    checked = len(released["scores"])
    return {
        "speedup_vs_released": round(released["seconds_per_row"] / per_row["tamis"], 1),
        "speedup_vs_released_without_projection": round(released["gradient_seconds"] / per_row["tamis"], 2),
        "time_vs_forward_backward": round(_ratio(turns["tamis"], turns["plain"]), 3),
        "time_vs_forward_backward_short_head": round(_ratio(turns["tamis"][:1], turns["plain-short"]), 3),
        "spearman_vs_batch1": min(_spearman(scores[:checked, k], released["scores"], k) for k in range(len(TARGETS))),
        "rows": rows,
        "rows_checked": checked,
        "tokens_per_row": round(sum(one["tokens"] for one in turns["tamis"]) / rows, 1),
        "labels_per_row": round(sum(one["labels"] for one in turns["tamis"]) / rows, 1),
        "rows_per_second": round(1 / per_row["tamis"], 2),
        "parameters": turns["tamis"][0]["parameters"],
        "peak_mb": max(one["peak_mb"] for one in turns["tamis"]),
        "released": {key: value for key, value in released.items() if key != "scores"},
    }


def _ratio(ours: list[dict[str, Any]], floor: list[dict[str, Any]]) -> float:
    return statistics.median(one["seconds"] / other["seconds"] for one, other in zip(ours, floor, strict=True))


def _spearman(ours: Any, released: list[list[float]], task: int) -> float:
    def ranks(values: Any) -> Any:
        return np.argsort(np.argsort(values, kind="stable"), kind="stable")

    return float(np.corrcoef(ranks(ours), ranks(np.array(released)[:, task]))[0, 1])


def prepare(model: str, size: Size, folder: Path, notes: list[str]) -> bool:
    """Lay out a checkpoint, the rows and the targets, tokenised, in `folder`; False where there is no such model."""
    real = _folder("TAMIS_REAL_MODELS", "models")
    base = real / "base-4m" if real else None
    if model == "base-4m" and base is None:
        notes.append("base-4m is not here (TAMIS_REAL_MODELS): only the random Llama was measured")
        return False
    name = str(base) if model == "base-4m" else str(_random_llama(folder / "model", str(base or "tamis:tiny-lm")))
    work = tamis.workspace(folder / "work", name, max_tokens=MAX_TOKENS, device="cpu", workers=1)
    data = _folder("TAMIS_REAL_DATA", "data")
    if data is None:
        notes.append("no real rows (TAMIS_REAL_DATA): the shipped pool was measured")
    files = sorted(map(str, (data / "pool").glob("*.gz"))) if data else ["tamis:pool.jsonl.gz"]
    each = math.ceil(1.5 * (size.rows + 32) / len(files))
    drawn = list(tamis.open_pool(files, work, sample={"rows": each, "seed": 0}))
    usable = _usable(drawn, work.model)
    order = np.random.default_rng(0).permutation(len(usable))
    rows = [usable[place] for place in order[: size.rows]]
    warm_up = [usable[place] for place in order[-32:]]
    few = _targets(data, work, [usable[place] for place in order[-32 - 8 * len(TARGETS) : -32]])
    trainer = Lora(rank=RANK, epochs=1, keep="every-epoch")
    kept = trainer.train(work.model, render_rows(warm_up, work.model), Seeds(), (), folder / "warm-up", work.machine)
    _save(folder / "rows.npz", rows, work.model, parts=size.parts, checked=size.checked[model])
    _save(folder / "target.npz", few, work.model, parts=1, checked=0)
    (folder / "checkpoint.txt").write_text(str(kept[-1].path))
    return True


def _folder(variable: str, default: str) -> Path | None:
    folder = Path(os.environ.get(variable, Path(__file__).parents[1] / ".." / "shared" / default)).resolve()
    return folder if folder.is_dir() else None


def _random_llama(folder: Path, tokenizer: str) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    from tamis.models import open_tokenizer

    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(str(folder))
    open_tokenizer(tokenizer).save_pretrained(str(folder))
    return folder


def _usable(rows: list[Row], ref: Any) -> list[Row]:
    return [row for row, one in zip(rows, render_all(rows, ref), strict=True) if not one.reason]


def _targets(data: Path | None, work: Any, instead: list[Row]) -> list[Row]:
    if data is None:
        return instead
    few = []
    for name in TARGETS:
        pool = tamis.open_pool([str(data / "target" / f"{name}.jsonl.gz")], work, sample={"rows": 40, "seed": 0})
        few += _usable(list(pool), work.model)[:8]
    return few


def _save(file: Path, rows: list[Row], ref: Any, **facts: int) -> None:
    rendered = render_all(rows, ref)
    np.savez(
        file,
        ids=np.concatenate([one.ids for one in rendered]),
        labels=np.concatenate([one.turn >= 0 for one in rendered]),
        offsets=np.cumsum([0, *(len(one.ids) for one in rendered)]),
        **facts,  # type: ignore[arg-type]
    )


def _load(file: Path) -> tuple[list[Tokens], int, int]:
    with np.load(file, allow_pickle=False) as saved:
        ids, labels, offsets = saved["ids"], saved["labels"], saved["offsets"]
        parts, checked = int(saved["parts"]), int(saved["checked"])
    spans = itertools.pairwise(offsets.tolist())
    return [(ids[start:stop], labels[start:stop]) for start, stop in spans], parts, checked


def _checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(Path((folder / "checkpoint.txt").read_text()))


def _part(folder: Path, part: int) -> list[Tokens]:
    rows, parts, _ = _load(folder / "rows.npz")
    return rows[part::parts]


def _timed(run: Callable[[list[Tokens]], Any], rows: list[Tokens]) -> dict[str, Any]:
    run(rows[:4])  # buffers and kernels of the first call
    started = time.process_time()
    run(rows)
    return {
        "seconds": time.process_time() - started,
        "rows": len(rows),
        "tokens": sum(len(ids) for ids, _ in rows),
        "labels": int(sum(labels[1:].sum() for _, labels in rows)),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def by_tamis(folder: Path, part: int, _: int) -> dict[str, Any]:
    """Exact scores; the target's vectors are made before the clock starts."""
    checkpoint = _checkpoint(folder)
    opened = open_checkpoint(checkpoint, "cpu")
    on = Machine(tokens_per_batch=TOKENS)
    few, _, _ = _load(folder / "target.npz")
    formula = PROFILES["less-official"]
    vectors, _ = task_vectors(opened, few, np.repeat(np.arange(len(TARGETS)), 8), formula.subtask_agg, on)
    direction = Direction(formula, checkpoint, "cpu", opened.layers)
    scores: list[Any] = []

    def run(rows: list[Tokens]) -> None:
        scores[:] = cosines(*inner_products(opened, rows, direction, vectors, on)).tolist()

    return {**_timed(run, _part(folder, part)), "parameters": opened.parameters, "scores": scores}


def by_training(folder: Path, part: int, short: bool) -> dict[str, Any]:
    """Plain steps of training over the same tokens in the same batches."""
    model: Any = open_model(_checkpoint(folder).model(), "cpu", trainable=True)

    def loss(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if short:
            return example_losses(model, ids, labels).sum()
        wanted = torch.where(labels, ids, -100)[:, 1:].flatten()
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        return functional.cross_entropy(logits, wanted, ignore_index=-100)

    def run(rows: list[Tokens]) -> None:
        for batch in batches(np.array([len(ids) for ids, _ in rows]), TOKENS):
            loss(*pad([rows[place] for place in batch], "cpu")).backward()
            model.zero_grad()

    return _timed(run, _part(folder, part))


def by_released(folder: Path, _: int, blocks: int) -> dict[str, Any]:
    """Batch 1 and a dense projection: seconds per row, and the scores without the projection."""
    checkpoint = _checkpoint(folder)
    model: Any = open_model(checkpoint.model(), "cpu", trainable=True)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    moments = checkpoint.moments()
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    first, second = (torch.cat([moments[name][k].flatten() for name in names]) for k in (0, 1))
    few, _, _ = _load(folder / "target.npz")
    units = torch.stack([functional.normalize(one, dim=0) for one in _gradients(model, weights, few)])
    vectors = units.reshape(len(TARGETS), -1, units.shape[1]).mean(1)
    rows, _, checked = _load(folder / "rows.npz")
    scores: list[list[float]] = []
    full: list[torch.Tensor] = []
    seconds: list[float] = []
    found = _gradients(model, weights, rows[: max(checked, TOGETHER)])
    for _ in range(max(checked, TOGETHER)):
        started = time.process_time()
        gradient = next(found)
        direction = (0.9 * first + 0.1 * gradient) / torch.sqrt(0.999 * second + 0.001 * gradient**2 + 1e-8)
        seconds.append(time.process_time() - started)
        scores.append((vectors @ direction / direction.norm()).tolist())
        if len(full) < TOGETHER:
            full.append(direction)
    projection = _project(torch.stack(full), blocks) / len(full)
    gradient_seconds = statistics.mean(seconds[:TOGETHER])
    return {
        "seconds_per_row": gradient_seconds + projection,
        "gradient_seconds": gradient_seconds,
        "projection_seconds": projection,
        "rows": len(full),
        "blocks_computed": f"{blocks} of {WIDTH // BLOCK}",
        "scores": scores[:checked] if checked else [],
    }


def _gradients(model: Any, weights: list[Any], rows: list[Tokens]) -> Iterator[torch.Tensor]:
    for ids, labels in rows:
        tokens = torch.from_numpy(ids.astype(np.int64))[None]
        wanted = torch.where(torch.from_numpy(labels)[None], tokens, -100)
        model(input_ids=tokens, labels=wanted).loss.backward()
        yield torch.cat([weight.grad.flatten() for weight in weights])
        model.zero_grad()


def _project(full: torch.Tensor, blocks: int) -> float:
    """CPU seconds of a dense Rademacher projection of all rows (n, p), scaled from `blocks` blocks to all."""
    draw = torch.Generator().manual_seed(0)
    started = time.process_time()
    for _ in range(blocks):
        signs = torch.empty(full.shape[1], BLOCK).bernoulli_(0.5, generator=draw).mul_(2).sub_(1)
        full @ signs
    return (time.process_time() - started) * (WIDTH / BLOCK) / blocks


CONTENDERS: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
    "tamis": by_tamis,
    "plain": lambda folder, part, _: by_training(folder, part, short=False),
    "plain-short": lambda folder, part, _: by_training(folder, part, short=True),
    "released": by_released,
}


if __name__ == "__main__":
    main()
