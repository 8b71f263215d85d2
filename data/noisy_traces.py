"""Worked programs over lists, with noise of known kind, place and amount: what scorers of traces are tried on.

After "Understanding the Effect of Noise in LLM Training Data with Algorithmic Chains of Thought" (Havrilla and Iyer,
2024): *static* noise changes printed numbers after the trace is written, so that later steps do not know of it;
*dynamic* noise changes the state itself, so that every later step works on with the wrong value, rightly. `rate` is the
share of rows that have noise, `intensity` the share of the numbers in such a row that are changed (one at least).

    python -c "from tamis.data.noisy_traces import records; print(records(1, 'dynamic', rate=1)[0]['output'])"
"""

from __future__ import annotations

import operator
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Noise = Literal["static", "dynamic"]
Change = Callable[[int], int]
_MAPS: dict[str, tuple[str, Callable[[int, int], int], tuple[int, int]]] = {
    "add": ("+", operator.add, (11, 99)),
    "subtract": ("-", operator.sub, (3, 30)),
    "multiply by": ("*", operator.mul, (2, 9)),
}
_FOLDS = ("sum", "alternating sum")
_PRINTED = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Program:
    """Numbers to start from, steps (name and operand) over the whole list, and a fold that makes one number of it."""

    numbers: tuple[int, ...]
    steps: tuple[tuple[str, int], ...]
    fold: str


def records(
    count: int, noise: Noise, *, rate: float = 0.5, intensity: float = 0.2, seed: int = 0
) -> list[dict[str, Any]]:
    """`count` alpaca records of programs worked out line by line.

    `meta`: `noise` ("" for a clean row), `changed` (numbers that were changed), `answer` (what the program really
    gives). Rows are the same for the same seed; those that stay clean do not depend on `noise`.
    """
    return [_record(place, noise, rate, intensity, seed) for place in range(count)]


def written(program: Program, change: Change = lambda value: value) -> str:
    """The program worked out: every operation on its own line, the list after every step, the answer at the end.

    `change` is applied to every number as it is computed; what follows works on with what it gives.
    """
    numbers, lines = list(program.numbers), []
    for place, (name, operand) in enumerate(program.steps, 1):
        lines.append(f"Step {place}: {name} {operand}.")
        if name == "keep above":
            numbers = [number for number in numbers if number > operand] or numbers[:1]
        else:
            sign, work, _ = _MAPS[name]
            results = [change(work(number, operand)) for number in numbers]
            lines += [f"{old} {sign} {operand} = {new}" for old, new in zip(numbers, results, strict=True)]
            numbers = results
        lines.append(f"The list is now {numbers}.")
    lines.append(f"Last step: the {program.fold}.")
    total = numbers[0]
    for place, number in enumerate(numbers[1:]):
        sign = "-" if program.fold == "alternating sum" and place % 2 == 0 else "+"
        after = change(total - number if sign == "-" else total + number)
        lines.append(f"{total} {sign} {number} = {after}")
        total = after
    return "\n".join([*lines, f"Answer: {total}"])


def _record(place: int, noise: Noise, rate: float, intensity: float, seed: int) -> dict[str, Any]:
    draw = random.Random(f"{seed} {place}")
    program = _program(draw)
    clean = written(program)
    noisy = draw.random() < rate
    text, changed = (clean, 0) if not noisy else _noised(program, clean, noise, intensity, draw)
    answer = int(_PRINTED.findall(clean)[-1])
    task = ", then ".join([*(f"{name} {operand}" for name, operand in program.steps), f"take the {program.fold}"])
    return {
        "instruction": f"Work out this program for the list {list(program.numbers)}: {task}.",
        "input": "",
        "output": text,
        "source": "noisy-traces",
        "meta": {"noise": noise if changed else "", "changed": changed, "answer": answer},
    }


def _program(draw: random.Random) -> Program:
    numbers = tuple(draw.randint(12, 99) for _ in range(draw.randint(3, 5)))
    steps = []
    for place in range(draw.randint(2, 3)):
        name = draw.choice([*_MAPS, *_MAPS, "keep above"] if place else [*_MAPS])
        least, most = (20, 60) if name == "keep above" else _MAPS[name][2]
        steps.append((name, draw.randint(least, most)))
    return Program(numbers, tuple(steps), draw.choice(_FOLDS))


def _noised(program: Program, clean: str, noise: Noise, intensity: float, draw: random.Random) -> tuple[str, int]:
    """The trace with at least one number changed, and how many were."""
    size = len(_PRINTED.findall(clean)) if noise == "static" else clean.count(" = ")
    chosen = {place for place in range(size) if draw.random() < intensity} or {draw.randrange(size)}
    seen = iter(range(size))

    def change(value: int) -> int:
        return _other(value, draw) if next(seen) in chosen else value

    if noise == "dynamic":  # a filter may let another number of values through than in the clean trace
        seen = iter(range(10 * size))
        return written(program, change), len(chosen)
    return _PRINTED.sub(lambda match: str(change(int(match[0]))), clean), len(chosen)


def _other(value: int, draw: random.Random) -> int:
    return value + draw.choice((-1, 1)) * draw.randint(1, 17)
