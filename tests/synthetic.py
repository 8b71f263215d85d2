"""Pools and signals made of numbers, in the shape the passes write them, for tests without a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tamis import digests, pool, store
from tamis.demonstrations.pairing import short_keys
from tamis.gradient.encodings import Encoding, encode
from tamis.gradient.formula import PROFILES
from tamis.gradient.layers import ALL
from tamis.gradient.objective import SFT
from tamis.gradient.projections import Projection
from tamis.gradient.store import Contents
from tamis.pool import Pool, Shard
from tamis.values import Column, Row
from tamis.views import PoolView

Signals = Mapping[str, Mapping[str, NDArray[Any]]]


def rows(count: int, sources: int = 3, seed: int = 0) -> list[Row]:
    """Chat rows with a source each and a skill in meta."""
    rng = np.random.default_rng(seed)
    return [
        Row(
            key=digests.of_json(["file", seed, i]),
            content=digests.of_json(["content", seed, i]),
            kind="chat",
            source=f"source-{rng.integers(sources)}",
            messages=({"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": f"a {i}"}),
            meta={"skill": f"skill-{i % 2}"},
            file="made.jsonl",
            position=i,
        )
        for i in range(count)
    ]


def write(folder: Path, made: Sequence[Row], shard_rows: int = 16) -> Pool:
    """Write a pool to disk of `made`, in shards."""
    shards = []
    for number, start in enumerate(range(0, len(made), shard_rows)):
        part = list(made[start : start + shard_rows])
        path = folder / f"shard-{number}"
        path.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([pool.encode(row) for row in part], schema=pool.schema()), path / pool.ROWS)
        shards.append(Shard(path, digests.of_json([row.key for row in part]), len(part)))
    return Pool(tuple(shards))


def lengths(count: int, seed: int = 0, refused: float = 0.1) -> dict[str, NDArray[Any]]:
    """Make the signal `lengths`; a share of the rows has a reason not to be trained on."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, 40, count)
    response = (tokens * rng.uniform(0.2, 0.9, count)).astype(np.int64).clip(1)
    reason = np.where(rng.random(count) < refused, 2, 0).astype(np.uint8)
    return {"tokens": tokens.astype(np.int32), "response_tokens": response.astype(np.int32), "reason": reason}


def influence(count: int, tasks: int = 3, seed: int = 0, levels: int | None = None) -> dict[str, NDArray[Any]]:
    """Make the signal `influence`; with `levels` scores take few values, so that they tie; some rows have none."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(count, tasks)).astype(np.float32)
    if levels is not None:
        scores = rng.integers(levels, size=(count, tasks)).astype(np.float32)
    reason = np.where(rng.random(count) < 0.1, 2, 0).astype(np.uint8)
    scores[reason > 0] = np.nan
    return {"scores": scores, "reason": reason}


def utility(keys: Sequence[str], source: NDArray[np.int64], seed: int = 4) -> dict[str, NDArray[Any]]:
    """Make the signal `utility` of all pairs; rows of equal `source` are worth the same."""
    count, digest = len(keys), short_keys(keys)
    shown = np.random.default_rng(seed).random((source.max() + 1,) * 2).astype(np.float32)  # [demonstration, query]
    order = [np.array(sorted(set(range(count)) - {row}, key=lambda place: int(digest[place]))) for row in range(count)]
    distance = np.concatenate([shown[source[row], source[others]] for row, others in enumerate(order)])
    offsets = np.arange(count + 1) * (count - 1)
    bare = np.full(count, 0.9, np.float32)
    pairs = {"pair": digest[np.concatenate(order)], "distance": distance, "nll": 5 * distance}
    ragged = {f"{name}_offsets": offsets for name in pairs}
    return {
        "key": digest,
        "reason": np.zeros(count, np.uint8),
        "bare_distance": bare,
        "bare_nll": bare,
        **pairs,
        **ragged,
    }


def gradients(
    vectors: NDArray[np.float32], encoding: Encoding = "float32", checkpoints: int = 1
) -> dict[str, NDArray[Any]]:
    """Make the signal `gradients` that holds (n, checkpoints * d) vectors."""
    import torch

    apart = vectors.reshape(len(vectors), checkpoints, -1)
    norms = np.linalg.norm(apart, axis=2)
    parts = [encode(torch.tensor(apart[:, at] / norms[:, at, None]), encoding) for at in range(checkpoints)]
    about = Contents(
        checkpoints=("made",) * checkpoints,
        formula=PROFILES["tracin"],
        objective=SFT,
        layers=ALL,
        projection=Projection(dim=apart.shape[2]),
        encoding=encoding,
        balanced=False,
    )
    return {
        "features": np.concatenate([stored for stored, _ in parts], axis=1),
        "scales": np.stack([scales for _, scales in parts], axis=1),
        "norms": norms.astype(np.float32),
        "reason": np.zeros(len(vectors), np.uint8),
        "contents": about.packed(),
    }


def view(folder: Path, made: Sequence[Row], signals: Signals, shard_rows: int = 16, **more: Any) -> PoolView:
    """Make a view of `made` with its signals cut into shards and written as the store does."""
    written = write(folder / "pool", made, shard_rows)
    folders: dict[str, list[Path]] = {name: [] for name in signals}
    for name, arrays in signals.items():
        for number in range(len(written.shards)):
            part = folder / "signals" / name / str(number)
            part.mkdir(parents=True)
            store.save_arrays(part, cut(arrays, written.starts[number], written.starts[number + 1]))
            folders[name].append(part)
    return PoolView(written, folders, **more)


def cut(arrays: Mapping[str, NDArray[Any]], start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Rows [start, stop) of a signal: plain arrays by row, ragged ones by their offsets; `contents` is whole."""
    part = {}
    for name, array in arrays.items():
        if name == "contents":
            part[name] = array
        elif name.endswith("_offsets"):
            part[name] = array[start : stop + 1] - array[start]
        elif f"{name}_offsets" in arrays:
            offsets = arrays[f"{name}_offsets"]
            part[name] = array[offsets[start] : offsets[stop]]
        else:
            part[name] = array[start:stop]
    return part


def column(values: NDArray[Any], unit: str = "points") -> Column:
    """Make a column; NaN gets the reason `not measured`."""
    return Column(
        values=values.astype(np.float32), unit=unit, reasons=np.where(np.isnan(values), 6, 0).astype(np.uint8)
    )


def kept(whole: PoolView, mask: NDArray[np.bool_]) -> PoolView:
    """Return the view with only the rows of `mask`."""
    return dataclasses.replace(whole, keep=mask)
