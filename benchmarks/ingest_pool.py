"""A dirty pool of any size from a seed: JSON lines with planted exact and near duplicates and bad rows, all counted."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

EXACT, NEAR, BAD = 0.05, 0.05, 0.005  # shares of the rows
WORDS = (8, 112)  # least and most words of an answer
VOCABULARY = 20_000
BLOCK = 10_000  # rows that are drawn at once, and the window from which duplicates copy
SOURCES = ("web", "forum", "books", "code")
BROKEN = (
    b'{"instruction": "add seven", "output":',
    b'{"instruction": "name a river", "output": ""}',
    b'{"instruction": 7, "output": "x"}',
    b'["a", "list"]',
    b'{"instruction": "caf\xe9", "output": "y"}',
)


@dataclass
class Planted:
    """What a file holds: rows, and of them the copies, the changed copies and the rows that cannot be used."""

    rows: int = 0
    exact: int = 0
    near: int = 0
    bad: int = 0
    sources: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0))


def write(file: Path, rows: int, seed: int = 0) -> Planted:
    """Write `rows` rows of about 500 bytes; the same bytes for the same seed, and a file of fewer rows begins alike."""
    planted = Planted(rows=rows)
    with file.open("wb") as out:
        for block in range(0, rows, BLOCK):
            lines = _block(seed, block // BLOCK, planted, min(BLOCK, rows - block))
            out.writelines(line + b"\n" for line in lines)
    return planted


def _block(seed: int, number: int, planted: Planted, size: int) -> Iterator[bytes]:
    """Rows of one block; duplicates are of rows of the same block, so that any block can be made alone."""
    draw = random.Random(f"{seed}:{number}")
    words = _vocabulary(seed)
    chance = np.random.default_rng([seed, number])
    lengths = chance.integers(*WORDS, BLOCK)
    ranks = np.minimum(chance.zipf(1.3, int(lengths.sum()) + 10 * BLOCK), VOCABULARY) - 1
    drawn = [words[rank] for rank in ranks.tolist()]
    place = 0
    fresh: list[tuple[str, list[str]]] = []
    for row in range(size):
        asked, said = drawn[place : place + 10], drawn[place + 10 : place + 10 + int(lengths[row])]
        place += 10 + int(lengths[row])
        dice = draw.random()
        if dice < BAD:
            planted.bad += 1
            yield BROKEN[row % len(BROKEN)]
            continue
        text, answer = f"{' '.join(asked)} {number} {row}?", said
        if fresh and dice < BAD + EXACT:
            planted.exact += 1
            text, answer = draw.choice(fresh)
        elif fresh and dice < BAD + EXACT + NEAR:
            planted.near += 1
            text, answer = draw.choice(fresh)
            answer = [*answer, f"changed{number}x{row}"]
        else:
            fresh.append((text, answer))
        source = SOURCES[row % len(SOURCES)]
        planted.sources[source] += 1
        record: dict[str, Any] = {"instruction": text, "input": "", "output": f"{' '.join(answer)}.", "source": source}
        yield json.dumps({**record, "id": number * BLOCK + row}).encode()


def _vocabulary(seed: int) -> list[str]:
    """Made-up words of two to four syllables; the first ones are the most frequent."""
    draw = random.Random(seed)
    starts, ends = "b c d f g h j k l m n p r s t v w st tr pl".split(), "a e i o u ai ea ou on er".split()
    made: dict[str, None] = {}
    while len(made) < VOCABULARY:
        made["".join(draw.choice(starts) + draw.choice(ends) for _ in range(draw.randint(2, 4)))] = None
    return list(made)
