"""What the scoring benchmark is measured on: rows, models, sequences, and a clock for both kinds of seconds."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import random
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SOURCES = (
    *("alpaca_random_9k", "alpaca_longest_1k", "flan_cot_gsm8k", "flan_cot_ecqa"),
    *("gpteacher_roleplay", "gpteacher_codegen", "lima_1k", "evol_instruct_1k_score"),
)
LONGEST = 1024


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is run. `looped`: rows of the loop. `packs`: sequences of the packed contender. `wide`: rows at 150k."""

    rows: int = 4000
    looped: int = 120
    packs: int = 60
    wide: int = 1000


QUICK = Size(rows=320, looped=24, packs=20, wide=100)


def prepare(size: Size, folder: Path) -> None:
    """Pools, the random models, and how much is run of each contender."""
    import tamis

    data = Path(os.environ.get("TAMIS_REAL_DATA", "../shared/data")).resolve()
    base = Path(os.environ.get("TAMIS_REAL_MODELS", "../shared/models")).resolve() / "base-4m"
    (folder / "size.json").write_text(json.dumps({**dataclasses.asdict(size), "base": str(base)}), encoding="utf-8")
    work = tamis.workspace(folder / "pools", str(base), device="cpu", workers=1)
    long = size.wide // 20
    drawn = {
        "pool": dict.fromkeys(SOURCES, -(-size.rows // len(SOURCES))),
        "warm": dict.fromkeys(SOURCES, 2),
        "wide": {SOURCES[0]: size.wide - long, "lima_1k": long},
    }
    for name, rows in drawn.items():
        tamis.open_pool(_sampled(data / "pool", rows, folder / f"{name}-files"), work, out=folder / name)
    _random_llama(folder / "llama-32k", base, 32_000, 256)
    _random_llama(folder / "llama-150k", base, 150_000, 64)


def _sampled(data: Path, counts: dict[str, int], folder: Path) -> list[str]:
    """Files with so many rows of every source, drawn by a seed."""
    folder.mkdir()
    files = []
    for name, rows in counts.items():
        with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            lines = file.readlines()
        file = folder / f"{name}.jsonl"
        file.write_text("".join(random.Random(7).sample(lines, min(rows, len(lines)))), encoding="utf-8")
        files.append(str(file))
    return files


def _random_llama(folder: Path, base: Path, vocabulary: int, width: int) -> None:
    """A random model with the tokenizer of base-4m and more output tokens than it has."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 43 // 16,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base / file, folder / file)


def model_of(folder: Path, name: str) -> Any:
    """The reference of a model that is measured."""
    from tamis.models import ModelRef

    base = json.loads((folder / "size.json").read_text(encoding="utf-8"))["base"]
    return ModelRef(name=base if name == "base-4m" else str(folder / name), max_tokens=LONGEST, dtype="float32")


def size_of(folder: Path, key: str) -> int:
    """A number of the size that was prepared for."""
    return int(json.loads((folder / "size.json").read_text(encoding="utf-8"))[key])


def opened(ref: Any, threads: int) -> Any:
    """The model itself, with so many threads."""
    import torch

    from tamis.models import open_model

    torch.set_num_threads(threads)
    return open_model(ref, "cpu")


class Clock:
    """Wall and CPU seconds, those of child processes included."""

    def __enter__(self) -> Clock:
        self.started = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.cpu_seconds = (b - a for a, b in zip(self.started, self._now(), strict=True))

    @staticmethod
    def _now() -> tuple[float, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


def flops(sequences: Sequence[int], scored: int, model: Any) -> float:
    """2 x body parameters x tokens, 4 x width x tokens seen in attention of each layer, and the head on `scored`."""
    config = model.config
    head = model.get_output_embeddings().weight.numel()
    shared = head if config.tie_word_embeddings else head + model.get_input_embeddings().weight.numel()
    body = sum(one.numel() for one in model.parameters()) - shared
    lengths = np.array(sequences, np.float64)
    width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    return float(2 * body * lengths.sum() + 2 * width * (lengths * (lengths + 1)).sum() + 2 * head * scored)


def views_of(folder: Path, ref: Any) -> Iterator[tuple[np.ndarray, int]]:
    """Ids of both views of every row of the pool, and how many of them are scored."""
    from tamis.pool import Pool
    from tamis.rendering import render_all

    for one in render_all(list(Pool.open(folder / "pool")), ref):
        if one.reason:
            continue
        yield one.ids, int((one.turn >= 0).sum())
        for turn in np.unique(one.turn[one.turn >= 0]):
            at = np.flatnonzero(one.turn == turn)
            header = np.asarray(one.headers[turn], np.int32)
            yield np.concatenate([header, one.ids[at[0] : at[-1] + 1]])[:LONGEST], len(at)
