"""One row of cheap settings for every component, and a small world in which all of them run."""

from __future__ import annotations

import dataclasses
import functools
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import synthetic
import tiny
import tiny_encoder
from tamis import catalogue, store
from tamis.answers.rating_prompts import Of, Per, RatingSet
from tamis.models import ModelRef
from tamis.pool import Pool
from tamis.scorers.passes.tokens import Tokens
from tamis.stages.train import rows_for
from tamis.training.checkpoints import Checkpoint
from tamis.values import Machine, Row, Seeds
from tamis.vectors.encoders import EncoderRef
from tamis.views import PoolView, ShardSignals

ON = Machine()
TRAINING = {"epochs": 1, "batch_rows": 4, "learning_rate": 1e-3}
NUDGE = (
    f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).with_name('outside_trainer.py')))} --do nudge "
    "--data {subset} --model {model} --out {out} --seed {seed}"
)
# questions short enough for the tiny model's context; the second is asked of turns, the third of a generated answer
ABOUT: tuple[tuple[Per, Of], ...] = (("row", "row"), ("turn", "row"), ("row", "generated"))
ASKED = tuple(
    RatingSet(name="short", templates=("{instruction} {response}",) * 2, labels=("1", "2", "3"), per=per, of=of)
    for per, of in ABOUT
)
# `{model}`, `{checkpoints}` and `{target}` are filled in by the world
CHEAP: dict[tuple[str, str], dict[str, Any]] = {
    ("cleaners", "contamination"): {"against": ["@target"]},
    ("cleaners", "exact"): {"of": "text", "normalise": "words", "keep": "longest"},
    ("cleaners", "licences"): {"allow": ["mit"]},
    ("cleaners", "near"): {"threshold": 0.4, "shingle": 2, "keep": "-meta.rating"},
    ("cleaners", "semantic"): {"threshold": 0.9},
    ("cleaners", "sources"): {"deny": ["words"]},
    ("cleaners", "mask-pii"): {},
    ("cleaners", "mask-secrets"): {},
    ("cleaners", "pii"): {},
    ("cleaners", "repair-text"): {},
    ("cleaners", "secrets"): {},
    ("cleaners", "where"): {"keep": "chars > 40 and meta.rating < 2 and source != 'talk'"},
    ("passes", "lengths"): {"model": "{model}"},
    ("passes", "hashes"): {"ngrams": [3]},
    ("passes", "minhash"): {"of": "response", "permutations": 8, "shingle": 2},
    ("passes", "language"): {},
    ("passes", "text"): {},
    ("passes", "tokens"): {"model": "{model}", "loss": "all", "alone": True, "pooled": True},
    ("passes", "influence"): {"checkpoints": "{checkpoints}", "target": "{target}"},
    ("passes", "attention"): {"model": "{model}"},
    ("passes", "gradient-norms"): {"model": "{model}"},
    ("passes", "in-context"): {"model": "{model}", "anchors": "drawn", "count": 4},
    ("passes", "recorded"): {"checkpoints": "{recorded}"},
    ("passes", "pairs"): {"model": "{model}"},
    ("passes", "reversed"): {"model": "{model}"},
    ("passes", "generations"): {"model": "{model}", "sampling": {"samples": 2, "max_tokens": 4, "greedy": True}},
    ("passes", "verdicts"): {"verify": {"by": "exact"}},
    ("passes", "ratings"): {"model": "{model}", "sets": ASKED},
    ("passes", "sentence-embeddings"): {"encoder": "{encoder}"},
    ("passes", "landmarks"): {},
    ("passes", "utility"): {"model": "{model}", "per_row": 2},
    ("passes", "trajectories"): {"checkpoints": "{checkpoints}", "start": True},
    ("passes", "gradients"): {"checkpoints": "{checkpoints}", "dim": 64},
    ("passes", "gradient-query"): {"checkpoints": "{checkpoints}", "target": "{target}"},
    ("scorers", "blend"): {"columns": {"meta.rating": 1.0}, "normalise": "z", "per": "source"},
    ("scorers", "c4"): {},
    ("scorers", "cascades"): {"quantiles": [0.5, 0.8, 1.0]},
    ("scorers", "cge"): {},
    ("scorers", "dart"): {},
    ("scorers", "deconfound"): {"column": "meta.rating", "on": ["source", "kind"], "folds": 3},
    ("scorers", "el2n"): {},
    ("scorers", "fineweb"): {},
    ("scorers", "gopher"): {},
    ("scorers", "concept-label"): {"concepts": "source", "label": "kind", "least": 1},
    ("scorers", "constraint-satisfaction"): {},
    ("scorers", "cot-trace"): {},
    ("scorers", "dataset-complexity"): {},
    ("scorers", "error-propagation"): {},
    ("scorers", "instag"): {"tags": "source"},
    ("scorers", "language"): {},
    ("scorers", "least-confidence"): {},
    ("scorers", "linguistic-confidence"): {},
    ("scorers", "long-output"): {},
    ("scorers", "look-before-you-leap"): {},
    ("scorers", "margin"): {},
    ("scorers", "massive-sft"): {},
    ("scorers", "predictive-entropy"): {},
    ("scorers", "r-ifd"): {},
    ("scorers", "refusal"): {},
    ("scorers", "alpagasus"): {"prompts": ASKED[0]},
    ("scorers", "deita"): {"complexity": ASKED[1], "quality": ASKED[1]},
    ("scorers", "deita-complexity"): {"prompts": ASKED[1]},
    ("scorers", "deita-quality"): {"prompts": ASKED[1]},
    ("scorers", "ds2"): {"rating": "meta.rating"},
    ("scorers", "mods-necessity"): {"prompts": ASKED[0]},
    ("scorers", "rating"): {"prompts": ASKED[1], "turns": "last"},
    ("scorers", "selectit"): {"prompts": ASKED[0]},
    ("scorers", "entropy"): {},
    ("scorers", "gradient-similarity"): {},
    ("scorers", "ifd"): {},
    ("scorers", "length"): {},
    ("scorers", "context-dependency"): {},
    ("scorers", "forgetting"): {"by": "loss", "threshold": 9.0},
    ("scorers", "grand"): {},
    ("scorers", "nuggets"): {},
    ("scorers", "pair-margin"): {},
    ("scorers", "pair-uncertainty"): {},
    ("scorers", "pair-length"): {},
    ("scorers", "pair-perplexity"): {},
    ("scorers", "pass-rate"): {},
    ("scorers", "perplexity"): {},
    ("scorers", "sampled-entropy"): {},
    ("scorers", "semantic-entropy"): {"forms": ["discrete", "rao", "mc", "kuhn"]},
    ("scorers", "think-prune-train"): {},
    ("scorers", "variation-ratio"): {"sampling": {"greedy": True}},
    ("scorers", "vps"): {},
    ("scorers", "token-shift"): {},
    ("scorers", "uit-denoising"): {"task": "source", "candidate": "kind"},
    ("weighers", "dft"): {},
    ("weighers", "entropy-weights"): {},
    ("weighers", "iw-sft"): {},
    ("weighers", "stm"): {"mode": "random"},
    ("weighers", "token-shift"): {},
    ("selectors", "badge"): {},
    ("selectors", "band"): {"by": "made.score", "low": -1, "high": 1.5, "scale": "value"},
    ("selectors", "bm25"): {},
    ("selectors", "bottom"): {"by": "made.score"},
    ("selectors", "cabs-dm"): {"concepts": "meta.tags"},
    ("selectors", "cabs-fm"): {"concepts": "meta.tags"},
    ("selectors", "ccs"): {"by": "made.score", "drop": 0, "strata": 4},
    ("selectors", "d-optimal"): {},
    ("selectors", "deita"): {"threshold": 0.995},
    ("selectors", "coverage-gap"): {"k": 2},
    ("selectors", "disparity-min"): {},
    ("selectors", "disparity-sum"): {},
    ("selectors", "dpp"): {"by": "made.score"},
    ("selectors", "dsir"): {"laplace": 0.1},
    ("selectors", "facility-location"): {},
    ("selectors", "feature-based"): {},
    ("selectors", "graph-cut"): {},
    ("selectors", "k-center"): {},
    ("selectors", "feddca"): {"centres": 3},
    ("selectors", "got-d"): {"resolve": 5},
    ("selectors", "k-means-balanced"): {"clusters": 5},
    ("selectors", "delift"): {},
    ("selectors", "delift-se"): {},
    ("selectors", "knn-uniform"): {"alpha": 0.5},
    ("selectors", "less"): {},
    ("selectors", "longest"): {},
    ("selectors", "mig"): {"by": "made.quality"},
    ("selectors", "q-tuning"): {"error": "made.score", "doubt": "made.quality"},
    ("selectors", "random"): {"seed": 3},
    ("selectors", "rds-plus"): {},
    ("selectors", "s2l"): {"clusters": 3},
    ("selectors", "saturated-coverage"): {"alpha": 0.5},
    ("selectors", "selective-reflection"): {"ifd": "made.score", "reversed_ifd": "made.score"},
    ("selectors", "set-cover"): {"concepts": "meta.tags"},
    ("selectors", "smart"): {"by": "clusters:2", "tasks": 1},
    ("selectors", "submodular-mixture"): {"by": "made.score", "quality": 0.5, "graph_cut": 0.5},
    ("selectors", "superfiltering-d"): {"by": "made.score", "share": 0.9},
    ("selectors", "top"): {"by": "made.score"},
    ("selectors", "tsds"): {"by": "rds", "alpha": 0.5},
    ("selectors", "uot"): {},
    ("mixers", "equal"): {},
    ("mixers", "prompts-first"): {"by": "made.score", "cap": 2},
    ("mixers", "proportional"): {},
    ("mixers", "smart"): {"by": "clusters:4", "tasks": 3},
    ("mixers", "task-embeddings"): {"by": "meta.skill", "keep": 1},
    ("mixers", "temperature"): {},
    ("trainers", "command"): {"command": NUDGE, "checkpoint": "{out}/checkpoint-*"},
    ("trainers", "full"): TRAINING,
    ("trainers", "lora"): {**TRAINING, "rank": 2, "alpha": 4, "keep": "every-epoch"},
    ("trainers", "trl-dpo"): {**TRAINING, "rank": 2, "alpha": 4},
    ("trainers", "trl-sft"): {**TRAINING, "rank": 2, "alpha": 4},
    ("hooks", "dft"): {},
    ("hooks", "iw-sft"): {},
    ("hooks", "q-tuning"): {},
    ("hooks", "greats"): {"target": "{target}", "rows": 2},
    ("hooks", "record-losses"): {},
    ("evaluators", "exact-match"): {"extract": "whole", "max_new_tokens": 3},
    ("evaluators", "held-out-loss"): {},
    ("evaluators", "preference-margin"): {},
}
# keyed draws by row key: twins differ in key, so they do not tie
WITHOUT_TIES = {"badge", "ccs", "dsir", "random", "s2l"}


def messy_rows(count: int = 18) -> list[Row]:
    """Rows of every kind, of which some cannot be scored or trained on."""
    rows = tiny.make_rows(count, seed=2)
    rows = [dataclasses.replace(row, meta={"rating": place % 3}) for place, row in enumerate(rows)]
    rows[1] = dataclasses.replace(rows[1], kind="prompt", messages=rows[1].messages[:-1])
    rows[4] = dataclasses.replace(
        rows[4], kind="text", messages=({"role": "user", "content": "sort the seven apples"},)
    )
    rows[6] = dataclasses.replace(
        rows[6],
        kind="pair",
        messages=tiny.chat("which price?"),
        chosen=({"role": "assistant", "content": "eleven"},),
        rejected=({"role": "assistant", "content": "seven"},),
    )
    worked = tiny.chat("add 3 and 4 in exactly 12 words", "first 3 + 4 = 7 apples. therefore the answer is 7.")
    rows[12] = dataclasses.replace(rows[12], messages=worked)
    rows[9] = dataclasses.replace(rows[9], messages=tiny.chat("add " * 120, "the answer is likely cut off"))
    return rows


def dirty_rows() -> list[Row]:
    """Messy rows with something for every cleaner to find, and some for none; licences in `meta`."""
    rows = [dataclasses.replace(row, meta={**row.meta, "license": "mit"}) for row in messy_rows()]
    rows[3] = dataclasses.replace(rows[3], meta={"license": "gpl-3.0"})
    copy, close = (dataclasses.replace(rows[place], key=f"again-{place}", position=18 + place) for place in (0, 2))
    texts = [message["content"] for message in close.messages]
    changed = [*close.messages[:-1], {**close.messages[-1], "content": f"{texts[-1]} apple"}]
    leak = tiny.make_rows(4, seed=8)[1]
    broken = tiny.chat("who said itâ€™s sunny?", "write to jane.doe@some-corp.com or call +1 415 555 2671 today.")
    secret = tiny.chat("which key?", "export AWS_ACCESS_KEY_ID=" + "AKIA" + "Z7Q2M4X9K1B5T8WD" + " in your shell.")
    return [
        *rows,
        copy,
        dataclasses.replace(close, messages=tuple(changed), content="close"),
        dataclasses.replace(leak, key="leak", position=40),
        tiny.make_row(broken, key="broken", file="tiny.jsonl", position=41),
        tiny.make_row(secret, key="secret", file="tiny.jsonl", position=42),
    ]


def pair_rows(count: int, seed: int = 0) -> list[Row]:
    """Preference pairs of one exchange, answers of different lengths."""

    def answer(text: str) -> tuple[dict[str, Any], ...]:
        return ({"role": "assistant", "content": text},)

    rows = []
    for place, (chosen, rejected) in enumerate(
        zip(tiny.make_rows(count, seed=seed), tiny.make_rows(count, seed=seed + 100), strict=True)
    ):
        prompt = tiny.chat(f"which {tiny.WORDS[place % len(tiny.WORDS)]} {seed}?")
        sides = [next(m["content"] for m in row.messages if m["role"] == "assistant") for row in (chosen, rejected)]
        rows.append(
            tiny.make_row(
                prompt,
                kind="pair",
                key=f"pair-{seed}-{place}",
                source=("sums", "words")[place % 2],
                chosen=answer(sides[0]),
                rejected=answer(sides[1]),
            )
        )
    return rows


@dataclasses.dataclass
class World:
    """A tiny model, a warm-up of it, a pool of messy rows, a target, and every signal, measured for real."""

    folder: Path
    model: ModelRef
    rows: list[Row]
    pool: Pool
    target: Pool
    checkpoints: tuple[Checkpoint, ...] = ()

    @classmethod
    def make(cls, folder: Path) -> World:
        """Build it under `folder`."""
        model = ModelRef(name=str(tiny.make_model(folder / "model")), max_tokens=96, dtype="float32")
        rows = messy_rows()
        pool = tiny.make_pool(folder / "pool", rows, shard_rows=len(rows))
        world = cls(folder, model, rows, pool, tiny.make_pool(folder / "target", tiny.make_rows(4, seed=8)))
        world.checkpoints = tuple(world.train("lora", folder / "warmup"))
        return world

    def component(self, kind: str, name: str) -> Any:
        """Build the component with its cheap settings."""
        given = {"{model}": self.model, "{checkpoints}": self.checkpoints, "{target}": self.target}
        if "{encoder}" in CHEAP[kind, name].values():
            given["{encoder}"] = self.encoder
        if "{recorded}" in CHEAP[kind, name].values():
            given["{recorded}"] = self.recorded
        filled = {
            key: given.get(value, value) if isinstance(value, str) else value
            for key, value in CHEAP[kind, name].items()
        }
        return catalogue.build(kind, name, filled)

    @functools.cached_property
    def encoder(self) -> EncoderRef:
        """A tiny sentence encoder."""
        return EncoderRef(name=str(tiny_encoder.make_encoder(self.folder / "encoder")))

    @functools.cached_property
    def recorded(self) -> tuple[Checkpoint, ...]:
        """Checkpoints of a training on rows of the pool that recorded their losses."""
        trainer, hook = self.component("trainers", "lora"), self.component("hooks", "record-losses")
        rows = rows_for(trainer, self.pool, [0, 2, 3, 5, 7, 8], self.model)
        out = self.folder / "recorded"
        out.mkdir()
        return tuple(trainer.train(self.model, rows, Seeds(), (hook,), out, ON))

    def training_rows(self, name: str = "lora") -> Any:
        """Six rows for a trainer, in the shape that it takes."""
        trainer = self.component("trainers", name)
        pairs = trainer.takes == "pairs"
        rows = pair_rows(6) if pairs else tiny.make_rows(6, seed=5)
        return rows_for(
            trainer, tiny.make_pool(self.folder / ("pairs" if pairs else "six"), rows), range(6), self.model
        )

    def train(self, name: str, out: Path) -> Sequence[Checkpoint]:
        """Train with the cheap settings of a trainer."""
        out.mkdir(parents=True, exist_ok=True)
        trained: Sequence[Checkpoint] = self.component("trainers", name).train(
            self.model, self.training_rows(name), Seeds(), (), out, ON
        )
        return trained

    def measure(self, name: str, pool: Pool, on: Machine = ON) -> list[Mapping[str, NDArray[Any]]]:
        """Arrays of a pass, shard by shard; the signals of other passes that it reads are measured first."""
        if name == "sentence-embeddings" and tiny_encoder.ABSENT:
            pytest.skip(tiny_encoder.REASON)
        component = self.component("passes", name)
        read = {need.name: self.written(need.name, pool) for need in component.needs if need.side == "pool"}
        if hasattr(component, "fit"):
            fitted = self.folder / "fitted" / name / pool.digest
            fitted.mkdir(parents=True, exist_ok=True)
            store.save_arrays(fitted, component.fit(PoolView(pool, read), on)[0])
            read["fit"] = [fitted] * len(pool.shards)
        have = [{key: folders[number] for key, folders in read.items()} for number in range(len(pool.shards))]
        return [
            component.measure(shard, ShardSignals(shard, one), on) for shard, one in zip(pool.shards, have, strict=True)
        ]

    def written(self, name: str, pool: Pool) -> list[Path]:
        """Folders of a pass over a pool, shard by shard, measured once."""
        root = self.folder / "written" / name / pool.digest
        folders = [root / str(number) for number in range(len(pool.shards))]
        if not root.exists():
            for folder, arrays in zip(folders, self.measure(name, pool), strict=True):
                folder.mkdir(parents=True)
                store.save_arrays(folder, arrays)
        return folders

    def signals(self, pool: Pool, folder: Path, without: Sequence[str] = ()) -> dict[str, list[Path]]:
        """Every signal of a pool, written as the store writes it."""
        folders: dict[str, list[Path]] = {}
        without = [*without, *(["sentence-embeddings"] if tiny_encoder.ABSENT else [])]
        for name in (name for name in catalogue.PASSES if name not in without):
            for number, arrays in enumerate(self.measure(name, pool)):
                part = folder / name / str(number)
                part.mkdir(parents=True)
                store.save_arrays(part, arrays)
                folders.setdefault(name, []).append(part)
        others = [need for name in catalogue.SCORERS for need in self.component("scorers", name).needs]
        for need in others:  # what a judge or a reference measures has the same shape
            if need.kind == "signal" and need.by != "model" and need.name in folders:
                folders[need.key] = folders[need.name]
        return folders


def rowwise(arrays: Mapping[str, NDArray[Any]], rows: int) -> dict[str, list[Any]]:
    """Arrays as one entry per row; arrays that are not by row (names of tasks, what a store holds) left out."""
    done: dict[str, list[Any]] = {}
    for name, array in arrays.items():
        offsets = _offsets(name, arrays)
        if name.endswith("_offsets"):
            continue
        if offsets is not None:
            done[name] = [array[offsets[i] : offsets[i + 1]] for i in range(rows)]
        elif len(array) == rows and name not in ("tasks", "contents"):
            done[name] = list(array)
    return done


def _offsets(name: str, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.int64] | None:
    """Offsets of a ragged array: its own, or those of the array beside which it was scored."""
    if f"{name}_offsets" in arrays:
        return arrays[f"{name}_offsets"]
    ragged = {stem: arrays[f"{stem}_offsets"] for stem in ("nll", "alone") if f"{stem}_offsets" in arrays}
    if name in Tokens.unaligned and name != "alone_nll" and "nll" in ragged:
        return ragged["nll"]
    return ragged.get("alone") if name == "alone_nll" else None


def is_ragged(name: str, arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether an array is one of lists of different lengths."""
    return _offsets(name, arrays) is not None


def worded(rows: Sequence[Row], seeds: NDArray[np.int64]) -> list[Row]:
    """Give rows prompts of words and tags, the same for the same seed; below 48 all differ in their number of tags."""
    drawn = [np.random.default_rng(seed) for seed in seeds.tolist()]
    prompts = [" ".join(rng.choice(tiny.WORDS, rng.integers(4, 20))) for rng in drawn]
    tags = [np.random.default_rng(seed).permutation(96)[: seed * 29 % 48 + 1].tolist() for seed in seeds.tolist()]
    return [
        dataclasses.replace(row, messages=tiny.chat(prompt, f"answer {place}"), meta={**row.meta, "tags": own})
        for place, (row, prompt, own) in enumerate(zip(rows, prompts, tags, strict=True))
    ]


def numbers_view(
    folder: Path, order: Sequence[int] | None = None, *, twins: bool = False, shard_rows: int = 16
) -> PoolView:
    """Make a view of numbers for selectors: distinct values, or every row beside its twin of equal values.

    `order` shuffles rows and signals alike.
    """
    count = 48
    made = worded(synthetic.rows(count), np.arange(count) // 2 if twins else np.arange(count))
    lengths, influence = synthetic.lengths(count), synthetic.influence(count)
    lengths["response_tokens"] = np.random.default_rng(1).permutation(count).astype(np.int32) + 1
    pooled = np.random.default_rng(5).normal(size=(count, 4)).astype(np.float32)
    scores = np.random.default_rng(3).normal(size=count)
    scores[7] = np.nan
    whole = {"lengths": lengths, "influence": influence, "tokens": {"pooled": pooled, "reason": lengths["reason"]}}
    whole["trajectories"] = {
        "losses": np.random.default_rng(9).gamma(2, size=(count, 3)).astype(np.float32),
        "reason": lengths["reason"],
    }
    source = np.arange(count) // 2 if twins else np.arange(count)
    source = source if order is None else source[np.asarray(order)]
    signals = {name: {key: array[source] for key, array in arrays.items()} for name, arrays in whole.items()}
    rows = made if twins else [made[place] for place in source]
    signals["utility"] = synthetic.utility([row.key for row in rows], source)
    signals["gradients"] = synthetic.gradients(
        np.random.default_rng(7).normal(size=(count, 6)).astype(np.float32)[source]
    )
    target = synthetic.view(
        folder / "target",
        worded(synthetic.rows(5, seed=1), np.arange(5) + 1000),
        {"tokens": {"pooled": np.random.default_rng(6).normal(size=(5, 4)).astype(np.float32)}},
    )
    columns = {"made.score@tiny": synthetic.column(scores[source])}
    columns["made.quality@tiny"] = synthetic.column(np.exp(scores[source]))
    return synthetic.view(folder, rows, signals, shard_rows, target=target, columns=columns)
