"""Perplexity, both IFDs, entropy and embeddings of real rows: tamis against the released loop, and against the model.

    python benchmarks/scoring.py [--quick] [--json] [--runs 1]

4,000 rows of eight public sources (needs TAMIS_REAL_DATA and TAMIS_REAL_MODELS), at most 1,024 tokens each, float32,
two threads in all, under base-4m and under a random Llama (hidden 256, 4 layers, vocabulary 32,000). Every contender
runs in a process of its own, warm; contenders take turns, and a ratio is the median over the turns:

tamis     the pool scored through its store, which is written: perplexity of the response, IFD (both formulas), entropy,
          pooled states, and what else the token signal holds; two workers of one thread, their start included
loop      perplexity and IFD as Cherry_LLM's released script computes them, from its description: a row at a time, full
          logits of the whole conversation and of the answer alone, then a loop over their tokens with a log-softmax
          each; on a sample of the rows, scaled by their tokens. Template and token ids are those of tamis; of several
          turns it scores the last only
packed    model(ids), the full head included, on the ids of both views packed to 1,024; on a sample of the packs

loop and packed run twice: one process of two threads, as a user runs them, and one process of one thread (`…_single`).
`speedup_vs_loop` is in rows a second of wall time, tamis on two cores against the loop on two. `flop_share` is FLOPs
that both views need (2 x body parameters x tokens, causal attention, head on scored tokens only) per second of tamis,
over FLOPs per second of packed. `extra_gb_150k` is peak memory beside the model in a process that scores all tokens of
1,000 rows with a random model of 150,000 tokens. Ratios that end in `_cpu` are of CPU seconds, children included,
against the contenders of one thread: what is left of the ratio if two copies of those ran side by side, each as if
alone. On a busy machine they are the steadier ones: two threads of one process wait for each other. The top-level keys
hold the worse of both models.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gzip
import json
import os
import platform
import random
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

SOURCES = (
    *("alpaca_random_9k", "alpaca_longest_1k", "flan_cot_gsm8k", "flan_cot_ecqa"),
    *("gpteacher_roleplay", "gpteacher_codegen", "lima_1k", "evol_instruct_1k_score"),
)
THREADS, LONGEST = 2, 1024
SETTINGS = {"loss": "response", "alone": True, "pooled": True}
MODELS = ("base-4m", "llama-32k")


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is run. `looped`: rows of the loop. `packs`: sequences of the packed contender. `wide`: rows at 150k."""

    rows: int = 4000
    looped: int = 120
    packs: int = 60
    wide: int = 1000


QUICK = Size(rows=320, looped=24, packs=20, wide=100)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; everything but the result goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="320 rows")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--runs", type=int, default=1, help="turns of every contender (default 1)")
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS, metavar=("NAME", "FOLDER"))
    parser.add_argument("--model", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.contender:
        name, folder = given.contender
        sys.stdout.write(json.dumps(CONTENDERS[name](Path(folder), given.model)) + "\n")
        return
    size, runs = QUICK if given.quick else Size(), given.runs
    with tempfile.TemporaryDirectory() as folder:
        found = measure(size, runs, Path(folder))
    lines = json.dumps(found) if given.json else "\n".join(f"{key}: {value}" for key, value in found.items())
    sys.stdout.write(lines + "\n")


def measure(size: Size, runs: int, folder: Path) -> dict[str, Any]:
    """Both models, and memory at a large vocabulary."""
    prepare(size, folder)
    models = {name: compare(name, runs, folder) for name in MODELS}
    wide = _in_a_process("wide", folder, "llama-150k")
    keys = ("speedup_vs_loop", "flop_share", "speedup_vs_loop_cpu", "flop_share_cpu")
    return {
        **{key: min(one[key] for one in models.values()) for key in keys},
        "extra_gb_150k": wide["extra_gb"],
        "ifd_spearman_with_loop": min(one["ifd_spearman"] for one in models.values()),
        "models": models,
        **dataclasses.asdict(size),
        "runs": runs,
        "threads": THREADS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[1], 1),
        "date": time.strftime("%Y-%m-%d"),
    }


def compare(model: str, runs: int, folder: Path) -> dict[str, Any]:
    """All contenders under one model, in turns."""
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS if name != "wide"}
    for turn in range(runs):
        for name in list(turns) if turn % 2 == 0 else reversed(turns):
            turns[name].append(_in_a_process(name, folder, model))
    ours, loop = turns["tamis"], turns["loop"]

    def ratio(work: str, other: str, clock: str) -> float:
        pairs = zip(ours, turns[other], strict=True)
        return round(statistics.median(a[work] / a[clock] / (b[work] / b[clock]) for a, b in pairs), 3)

    return {
        "speedup_vs_loop": ratio("full_tokens", "loop", "seconds"),
        "flop_share": ratio("flops", "packed", "seconds"),
        "speedup_vs_loop_cpu": ratio("full_tokens", "loop_single", "cpu_seconds"),
        "flop_share_cpu": ratio("flops", "packed_single", "cpu_seconds"),
        "ifd_spearman": _agreement(ours[0]["ifd"], loop[0]["ifd"]),
        "contenders": {
            name: {key: statistics.median(one[key] for one in ones) for key in ones[0] if key != "ifd"}
            for name, ones in turns.items()
        },
    }


def _agreement(ours: Sequence[float], loop: dict[str, float]) -> float:
    """Spearman correlation of the same IFD from both, over the rows of the loop."""
    from scipy.stats import spearmanr

    places = [int(place) for place in loop]
    pairs = np.array([(ours[place], loop[str(place)]) for place in places], np.float64)
    return round(float(spearmanr(*pairs[np.isfinite(pairs).all(axis=1)].T).statistic), 4)


def _in_a_process(name: str, folder: Path, model: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--contender", name, str(folder), "--model", model]
    number = str(THREADS if name in ("loop", "packed") else 1)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": number,
        "MKL_NUM_THREADS": number,
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{name} failed")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    shown = {key: round(value, 2) for key, value in found.items() if isinstance(value, float)}
    sys.stderr.write(f"{name} {model}: {shown}\n")
    return found


# what is measured on


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


def _model(folder: Path, name: str) -> Any:
    from tamis.models import ModelRef

    base = json.loads((folder / "size.json").read_text(encoding="utf-8"))["base"]
    return ModelRef(name=base if name == "base-4m" else str(folder / name), max_tokens=LONGEST, dtype="float32")


def _size(folder: Path, key: str) -> int:
    return int(json.loads((folder / "size.json").read_text(encoding="utf-8"))[key])


def _opened(ref: Any, threads: int) -> Any:
    import torch

    from tamis.models import open_model

    torch.set_num_threads(threads)
    return open_model(ref, "cpu")


class _Clock:
    """Wall and CPU seconds, those of child processes included."""

    def __enter__(self) -> _Clock:
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


def _views(folder: Path, ref: Any) -> Iterator[tuple[np.ndarray, int]]:
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


# contenders: (folder, model) to seconds and what was done


def tamis_score(folder: Path, name: str) -> dict[str, Any]:
    """The pool scored as `tamis score` does it, store written."""
    import tamis
    from tamis.catalogue import build
    from tamis.pool import Pool
    from tamis.stages.score import score

    ref = _model(folder, name)
    scorers = {
        "perplexity": build("scorers", "perplexity", {"views": ("response",)}),
        "ifd": build("scorers", "ifd", {}),
        "entropy": build("scorers", "entropy", {}),
    }
    with tempfile.TemporaryDirectory() as place:
        work = tamis.workspace(place, ref, device="cpu", workers=THREADS)
        work = dataclasses.replace(work, settings_of_passes={"tokens": SETTINGS})
        score(Pool.open(folder / "warm"), scorers, work)
        pool = Pool.open(folder / "pool")
        with _Clock() as clock:
            found = score(pool, scorers, work)
    views = list(_views(folder, ref))
    needed = flops([len(ids) for ids, _ in views], sum(count for _, count in views), _opened(ref, 1))
    ifd = next(column for full, column in found.columns.items() if full.startswith("ifd.loss"))
    return {
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "rows": len(pool),
        "full_tokens": _tokens(list(pool), ref),
        "flops": needed,
        "tokens": sum(len(ids) for ids, _ in views),
        "scored": sum(count for _, count in views),
        "ifd": ifd.values.astype(float).tolist(),
    }


def _tokens(rows: Sequence[Any], ref: Any) -> int:
    """Tokens of rows in the full view."""
    from tamis.rendering import render_all

    return sum(len(one.ids) for one in render_all(rows, ref))


def loop(folder: Path, name: str, threads: int = THREADS) -> dict[str, Any]:
    """The released way, on some rows spread over the pool."""
    import torch

    from tamis.chat_template import chat_template
    from tamis.pool import Pool

    ref = _model(folder, name)
    model, template = _opened(ref, threads), chat_template(ref.name)
    pool = Pool.open(folder / "pool")
    places = np.linspace(0, len(pool) - 1, _size(folder, "looped")).astype(int).tolist()
    rows = pool.read(places)
    ifd: dict[str, float] = {}
    with torch.no_grad():
        _scored_by_loop(model, template, rows[0])
        with _Clock() as clock:
            for place, row in zip(places, rows, strict=True):
                ifd[str(place)] = _scored_by_loop(model, template, row)
    work = {"rows": len(rows), "full_tokens": _tokens(rows, ref)}
    return {"seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds, **work, "ifd": ifd}


def _scored_by_loop(model: Any, template: Any, row: Any) -> float:
    """Mean loss of the last answer given the conversation, over that of the answer alone."""
    last = max(place for place, message in enumerate(row.messages) if message["role"] == "assistant")
    prompt = template.prompt(row.messages[:last], row.tools)
    answer = template.lay(row.messages[: last + 1], row.tools).text[len(prompt) :]
    header = template.prompt((), None)
    before = len(template.tokenizer.encode(prompt, add_special_tokens=False))
    alone = _losses_by_loop(model, template.tokenizer, header, answer, LONGEST - before + 4)
    given = _losses_by_loop(model, template.tokenizer, prompt, answer, LONGEST)
    return float(np.mean(given) / np.mean(alone)) if given and alone else float("nan")


def _losses_by_loop(model: Any, tokenizer: Any, prompt: str, answer: str, longest: int) -> list[float]:
    """Losses of the answer's tokens: a forward pass with labels for the perplexity, then every token by itself."""
    import torch

    options = {"return_tensors": "pt", "truncation": True, "max_length": max(1, longest), "add_special_tokens": False}
    ids = tokenizer.encode(prompt + answer, **options)
    start = len(tokenizer.encode(prompt, add_special_tokens=False))
    labels = ids.clone()
    labels[0, :start] = -100
    made = model(ids, labels=labels, output_hidden_states=True)
    float(torch.exp(made.loss))
    losses = []
    for place in range(1, ids.shape[1]):
        scores = torch.nn.functional.log_softmax(made.logits[0, place - 1], dim=-1)
        losses.append(torch.nn.functional.nll_loss(scores[None], ids[0, place][None]).item())
    return losses[start - 1 :]


def packed(folder: Path, name: str, threads: int = THREADS) -> dict[str, Any]:
    """The model itself on full sequences."""
    import torch

    ref = _model(folder, name)
    model = _opened(ref, threads)
    flat = np.concatenate([ids for ids, _ in _views(folder, ref)]).astype(np.int64)
    packs = torch.from_numpy(flat[: len(flat) // LONGEST * LONGEST].reshape(-1, LONGEST))
    packs = packs[np.linspace(0, len(packs) - 1, min(len(packs), _size(folder, "packs"))).astype(int)]
    with torch.inference_mode():
        model(input_ids=packs[:1])
        with _Clock() as clock:
            for ids in packs:
                model(input_ids=ids[None])
    done = flops([LONGEST] * len(packs), LONGEST * len(packs), model)
    return {"seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds, "flops": done, "tokens": packs.numel()}


def wide(folder: Path, name: str) -> dict[str, Any]:
    """Peak memory beside the model while all tokens of a pool are scored."""
    from tamis.models import cached_model
    from tamis.pool import Pool
    from tamis.scorers.passes.tokens import Tokens
    from tamis.values import Machine
    from tamis.views import ShardSignals

    one = Tokens(model=_model(folder, name), loss="all", alone=True, pooled=True)
    cached_model(one.model, "cpu")
    before = _memory("VmRSS")
    with _Clock() as clock:
        for shard in Pool.open(folder / "wide").shards:
            one.measure(shard, ShardSignals(shard, {}), Machine())
    extra = round((_memory("VmHWM") - before) / 1e9, 3)
    return {"extra_gb": extra, "model_gb": round(before / 1e9, 3), "seconds": clock.seconds}


def _memory(key: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith(key)).split()[1]) * 1024


CONTENDERS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "tamis": tamis_score,
    "loop": loop,
    "loop_single": functools.partial(loop, threads=1),
    "packed": packed,
    "packed_single": functools.partial(packed, threads=1),
    "wide": wide,
}

if __name__ == "__main__":
    main()
