"""Paraphrases of evaluation items: what of them is found by words, as other numbers, and by hidden states.

GSM8K's problems with other numbers (gsm_hard), one task of the shipped generator in two phrasings, and answers that a
model wrote anew.
"""

from __future__ import annotations

import os
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contamination_rows import DATA, prompt_of, records, write

import tamis
from tamis.contamination.items import Rules, items_of
from tamis.contamination.looking import look_for
from tamis.contamination.search import search
from tamis.pool import Pool

SEED = 8


def paraphrases(place: Path, quick: bool, most: int) -> dict[str, Any]:
    """What of three kinds of paraphrase is found by words, and by hidden states of a small model."""
    return {
        "paraphrases": {name: paraphrase(place, name, *pairs) for name, pairs in kinds_of_paraphrase(quick).items()}
    }


def kinds_of_paraphrase(quick: bool) -> dict[str, tuple[list[str], list[str], list[str]]]:
    """Items, their paraphrases in the same order, and unrelated texts of the same kind."""
    most = 200 if quick else 1000
    gsm, hard = (side[:most] for side in other_numbers())
    train = [prompt_of(one) for one in records("target/gsm8k_train")][: 2 * most]
    first, again, others = phrasings(most)
    long, refined = (
        [one["messages"][-1]["content"] for one in records(f"pool/alpaca_{name}")][:most]
        for name in ("longest_1k", "refined_1k_longest")
    )
    said = [one["messages"][-1]["content"] for one in records("pool/alpaca_random_9k")]
    unlike = [text for text in said if len(text) > 400][: 2 * most]
    return {
        "gsm_hard: other numbers": (gsm, hard, train),
        "shipped generator: another phrasing": (first, again, others),
        "alpaca_refined_1k_longest: answers rewritten": (long, refined, unlike),
    }


def other_numbers() -> tuple[list[str], list[str]]:
    """Problems of GSM8K and the same ones of gsm_hard, which has them in another order: those of one wording."""
    asked = [prompt_of(one) for one in records("target/gsm8k_test")]
    same: dict[str, list[str]] = defaultdict(list)
    for text in asked:
        same[_wording(text)].append(text)
    made = [prompt_of(one) for one in records("target/gsm_hard")]
    pairs = [(same[_wording(text)][0], text) for text in made if len(same.get(_wording(text), ())) == 1]
    return [first for first, _ in pairs], [second for _, second in pairs]


def _wording(text: str) -> str:
    """Letters of a text, without what is a number."""
    return re.sub(r"[^a-z]+", "", re.sub(r"\d[\d,.]*", "", text.casefold()))


def phrasings(most: int) -> tuple[list[str], list[str], list[str]]:
    """Tasks of the shipped generator in one phrasing, the same in another, and other tasks in the first."""
    from tamis.data.skills import SKILLS, instruction

    draw = random.Random(SEED)
    made: tuple[list[str], list[str], list[str]] = ([], [], [])
    while len(made[0]) < most:
        for name, skill in SKILLS.items():
            one, other = (skill.make(draw, False) for _ in range(2))
            first, second = draw.sample(range(len(skill.phrasings)), 2)
            for texts, number, task in ((made[0], first, one), (made[1], second, one), (made[2], first, other)):
                texts.append(f"{instruction(name, number, task)}\n{task.input}".strip())
    return made


def paraphrase(
    place: Path, name: str, items: Sequence[str], others: Sequence[str], unlike: Sequence[str]
) -> dict[str, Any]:
    """Share of paraphrases found: by words, as other numbers, mostly; and by embeddings where 1 % of others are."""
    stem = re.sub(r"\W+", "_", name)
    rows = [
        [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "ok"}]} for text in texts]
        for texts in (items, others, unlike)
    ]
    pools = [write(place / f"{stem}_{number}.jsonl", one, place) for number, one in enumerate(rows)]
    table = search(pools[1], look_for(items_of(pools[:1], "prompt"), Rules()), 0.95)
    found: dict[str, Any] = {"pairs": len(others)}
    for label in ("words", "numbers", "most"):
        own = {
            line["place"] for line in table.to_pylist() if line["kind"] == label and line["position"] == line["place"]
        }
        found[label] = round(len(own) / len(others), 4)
    return found | embedded(pools, place)


def embedded(pools: Sequence[Pool], place: Path) -> dict[str, Any]:
    """Share of paraphrases whose cosine to their own item is above that of all but 1 % of unrelated texts to any."""
    from tamis.stages.measure import measure_needs
    from tamis.stages.signals import view_of
    from tamis.values import Need

    model = Path(os.environ.get("TAMIS_REAL_MODELS", DATA.parent / "models")) / "base-4m"
    work = tamis.workspace(place, str(model), max_tokens=512)
    need = Need(kind="signal", name="tokens", settings=(("loss", "none"), ("pooled", True)))
    items, others, unlike = (
        np.asarray(view_of(pool, measure_needs(pool, [need], work)).signal("tokens", "pooled"), np.float32)
        for pool in pools
    )
    limits = {share: float(np.quantile((unlike @ items.T).max(axis=1), 1 - share)) for share in (0.01, 0.001)}
    own = (items[: len(others)] * others).sum(axis=1)
    first = float(((others @ items.T).argmax(axis=1) == np.arange(len(others))).mean())
    return {
        "embedding_nearest_is_its_own": round(first, 4),
        **{
            f"embedding_at_{share:.1%}_of_others": round(float((own > limit).mean()), 4)
            for share, limit in limits.items()
        },
        **{f"cosine_at_{share:.1%}": round(limit, 5) for share, limit in limits.items()},
    }
