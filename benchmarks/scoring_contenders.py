"""The contenders of the scoring benchmark: (folder, model) to seconds, and what was done in them."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scoring_rows import LONGEST, Clock, flops, model_of, opened, size_of, views_of

THREADS = 2
SETTINGS = {"loss": "response", "alone": True, "pooled": True}


def tamis_score(folder: Path, name: str) -> dict[str, Any]:
    """The pool scored as `tamis score` does it, store written."""
    import tamis
    from tamis.catalogue import build
    from tamis.pool import Pool
    from tamis.stages.score import score

    ref = model_of(folder, name)
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
        with Clock() as clock:
            found = score(pool, scorers, work)
    views = list(views_of(folder, ref))
    needed = flops([len(ids) for ids, _ in views], sum(count for _, count in views), opened(ref, 1))
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

    ref = model_of(folder, name)
    model, template = opened(ref, threads), chat_template(ref.name)
    pool = Pool.open(folder / "pool")
    places = np.linspace(0, len(pool) - 1, size_of(folder, "looped")).astype(int).tolist()
    rows = pool.read(places)
    ifd: dict[str, float] = {}
    with torch.no_grad():
        _scored_by_loop(model, template, rows[0])
        with Clock() as clock:
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

    ref = model_of(folder, name)
    model = opened(ref, threads)
    flat = np.concatenate([ids for ids, _ in views_of(folder, ref)]).astype(np.int64)
    packs = torch.from_numpy(flat[: len(flat) // LONGEST * LONGEST].reshape(-1, LONGEST))
    packs = packs[np.linspace(0, len(packs) - 1, min(len(packs), size_of(folder, "packs"))).astype(int)]
    with torch.inference_mode():
        model(input_ids=packs[:1])
        with Clock() as clock:
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

    one = Tokens(model=model_of(folder, name), loss="all", alone=True, pooled=True)
    cached_model(one.model, "cpu")
    before = _memory("VmRSS")
    with Clock() as clock:
        for shard in Pool.open(folder / "wide").shards:
            one.measure(shard, ShardSignals(shard, {}), Machine())
    extra = round((_memory("VmHWM") - before) / 1e9, 3)
    return {"extra_gb": extra, "model_gb": round(before / 1e9, 3), "seconds": clock.seconds}


def _memory(key: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith(key)).split()[1]) * 1024
