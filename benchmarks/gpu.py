"""LESS scores on one device: rows a second against the released way, and the share of a plain forward and backward.

    PYTHONPATH=src python benchmarks/gpu.py [--quick] [--json] [--device cuda|cpu]

From a checkout, with torch, transformers, peft, safetensors, numpy and pyarrow and what those need; no network. A Llama
of random weights (about 1 billion), LoRA r = 128 on q, k, v, o, sequences of 512 random tokens whose second half are
labels, bfloat16 on a GPU. `released`: batch 1, gradients in one vector, Adam with ε inside the root, a dense Rademacher
projection to 8192 dimensions in blocks of 128 columns for 16 rows at a time; some of the 64 blocks are computed and
their seconds scaled. `plain`: all logits, gradients of the LoRA weights, in the batches of tamis. With `--quick` on a
CPU the model is tiny: that shows that everything runs, not how fast.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from tamis.batching import batches
from tamis.gradient.directions import Direction
from tamis.gradient.formula import PROFILES
from tamis.gradient.influence import cosines, inner_products, task_vectors
from tamis.gradient.objective import Opened
from tamis.gradient.per_example import lora_layers, pad
from tamis.training.checkpoints import FACTS, MOMENTS, Checkpoint
from tamis.values import Machine

WIDTH, BLOCK, TOGETHER, TASKS = 8192, 128, 16, 3
Tokens = tuple[Any, Any]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of model and data."""

    hidden: int = 2048
    inner: int = 5632
    layers: int = 20
    heads: int = 16
    vocabulary: int = 32_000
    rank: int = 128
    tokens: int = 512
    rows: int = 256
    tokens_per_batch: int = 8192
    blocks: int = 4
    repeats: int = 3


TINY = Shape(32, 64, 2, 2, 384, 4, 24, 16, 96, 1, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 rows; on a CPU a tiny model")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)
    shape = Shape()
    if given.quick:
        shape = TINY if given.device == "cpu" else dataclasses.replace(shape, rows=64, blocks=2)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(shape, given.device, Path(folder))
    lines = json.dumps(found) if given.json else "\n".join(f"{key}: {value}" for key, value in found.items())
    sys.stdout.write(lines + "\n")


def measure(shape: Shape, device: str, folder: Path) -> dict[str, Any]:
    """Rows a second of the three ways, their ratios, and peak memory."""
    model = build(shape, device)
    layers = lora_layers(model)
    checkpoint = _checkpoint(layers, folder)
    draw = np.random.default_rng(0)
    rows = [_row(draw, shape) for _ in range(shape.rows)]
    few = [_row(draw, shape) for _ in range(2 * TASKS)]
    ways: dict[str, tuple[Callable[[list[Tokens]], float], list[Tokens]]] = {
        "tamis": (_by_tamis(Opened(model, layers, device), checkpoint, few, shape), rows),
        "plain": (_by_training(model, layers, shape, device), rows),
        "released": (_by_released(model, layers, checkpoint, shape, device), rows[:TOGETHER]),
    }
    seconds: dict[str, float] = {}
    peak: dict[str, int] = {}
    for name, (run, some) in ways.items():
        run(some[:2])
        if device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        repeats = 1 if name == "released" else shape.repeats
        seconds[name] = statistics.median(run(some) for _ in range(repeats)) / len(some)
        peak[name] = 0 if device == "cpu" else torch.cuda.max_memory_allocated() >> 20
    return {
        "speedup_vs_released": round(seconds["released"] / seconds["tamis"], 2),
        "time_vs_forward_backward": round(seconds["tamis"] / seconds["plain"], 3),
        "rows_per_second": {name: round(1 / one, 2) for name, one in seconds.items()},
        "peak_mb": peak if device != "cpu" else None,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "gradient": sum(layer.weight.numel() for layer in layers.values()),
        **dataclasses.asdict(shape),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if device != "cpu" else f"{platform.machine()} CPU",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def build(shape: Shape, device: str) -> Any:
    """Build the model of random weights with a LoRA adapter that is not zero, frozen, in eval mode."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        use_cache=False,
    )
    torch.manual_seed(0)
    with torch.device(device), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        base: Any = LlamaForCausalLM(config).to(torch.float32 if device == "cpu" else torch.bfloat16)
        lora = LoraConfig(
            r=shape.rank, lora_alpha=4 * shape.rank, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]
        )
        model: Any = get_peft_model(base, lora, autocast_adapter_dtype=False)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.01)
    return model.to(device).requires_grad_(False).eval()


def _checkpoint(layers: Any, folder: Path) -> Checkpoint:
    """Facts and random moments of a warm-up that nobody ran."""
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(1)
    moments = {}
    for name, layer in layers.items():
        noise = torch.randn(layer.weight.shape, generator=draw) * 1e-5
        moments[f"exp_avg.{name}"], moments[f"exp_avg_sq.{name}"] = noise, noise.square() + 1e-12
    save_file(moments, str(folder / MOMENTS))
    facts = {"kind": "lora", "base": {}, "step": 100, "learning_rate": 1e-5, "betas": [0.9, 0.999], "eps": 1e-8}
    (folder / FACTS).write_text(json.dumps(facts))
    return Checkpoint(folder)


def _row(draw: np.random.Generator, shape: Shape) -> Tokens:
    return draw.integers(0, shape.vocabulary, shape.tokens).astype(np.int32), np.arange(
        shape.tokens
    ) >= shape.tokens / 2


def _seconds(device: str, run: Callable[[], None]) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _by_tamis(
    opened: Opened, checkpoint: Checkpoint, few: list[Tokens], shape: Shape
) -> Callable[[list[Tokens]], float]:
    on = Machine(device=opened.device, tokens_per_batch=shape.tokens_per_batch)
    formula = PROFILES["less-official"]
    vectors, _ = task_vectors(opened, few, np.arange(len(few)) % TASKS, formula.subtask_agg, on)
    direction = Direction(formula, checkpoint, opened.device, opened.layers)

    def run(rows: list[Tokens]) -> None:
        scores = cosines(*inner_products(opened, rows, direction, vectors, on))
        if not np.isfinite(scores).all():
            raise SystemExit("scores that are not finite")

    return lambda rows: _seconds(opened.device, lambda: run(rows))


def _by_training(model: Any, layers: Any, shape: Shape, device: str) -> Callable[[list[Tokens]], float]:
    def run(rows: list[Tokens]) -> None:
        for batch in batches(np.array([len(ids) for ids, _ in rows]), shape.tokens_per_batch):
            _loss(model, *pad([rows[place] for place in batch], device)).backward()
            model.zero_grad()

    return _trainable(layers, device, run)


def _by_released(
    model: Any, layers: Any, checkpoint: Checkpoint, shape: Shape, device: str
) -> Callable[[list[Tokens]], float]:
    moments = checkpoint.moments()
    first, second = (torch.cat([moments[name][k].flatten() for name in layers]).to(device) for k in (0, 1))

    def direction(row: Tokens) -> torch.Tensor:
        _loss(model, *pad([row], device)).backward()
        gradient = torch.cat([layer.weight.grad.flatten() for layer in layers.values()]).float()
        model.zero_grad()
        return (0.9 * first + 0.1 * gradient) / torch.sqrt(0.999 * second + 0.001 * gradient**2 + 1e-8)

    def project(full: torch.Tensor) -> None:
        draw = torch.Generator(device).manual_seed(0)
        for _ in range(shape.blocks):
            signs = torch.empty(full.shape[1], BLOCK, dtype=full.dtype, device=device)
            full @ signs.bernoulli_(0.5, generator=draw).mul_(2).sub_(1)

    def run(rows: list[Tokens]) -> float:
        half = torch.float32 if device == "cpu" else torch.float16
        full: list[torch.Tensor] = []
        spent = _trainable(layers, device, lambda some: full.extend(direction(row).to(half) for row in some))(rows)
        stacked = torch.stack(full)
        return spent + _seconds(device, lambda: project(stacked)) * (WIDTH / BLOCK) / shape.blocks

    return run


def _trainable(layers: Any, device: str, run: Callable[[list[Tokens]], None]) -> Callable[[list[Tokens]], float]:
    """Time `run` while the LoRA weights want gradients, as in training."""

    def timed(rows: list[Tokens]) -> float:
        for layer in layers.values():
            layer.weight.requires_grad_(True)
        try:
            return _seconds(device, lambda: run(rows))
        finally:
            for layer in layers.values():
                layer.weight.requires_grad_(False)
                layer.weight.grad = None

    return timed


def _loss(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    wanted = torch.where(labels, ids, -100)[:, 1:].flatten()
    logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
    return functional.cross_entropy(logits.float(), wanted, ignore_index=-100)


if __name__ == "__main__":
    main()
