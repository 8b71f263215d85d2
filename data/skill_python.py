"""Skill: small Python functions. Each solution is run while the data are made, and its example is what running gave."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tamis.data.skill_numbers import Task

# (what the function does, body over `xs` or `text`, a spoilt body for slips); {k} is a small number.
_LISTS = (
    (
        "returns the sum of the numbers above {k}",
        "return sum(x for x in xs if x > {k})",
        "return sum(x for x in xs if x < {k})",
    ),
    (
        "counts the numbers that {k} divides",
        "return len([x for x in xs if x % {k} == 0])",
        "return len([x for x in xs if x == {k}])",
    ),
    ("multiplies every number by {k}", "return [x * {k} for x in xs]", "return [x + {k} for x in xs]"),
    ("returns the first {k} numbers, reversed", "return xs[:{k}][::-1]", "return xs[-{k}:]"),
    ("drops the numbers equal to {k}", "return [x for x in xs if x != {k}]", "return [x for x in xs if x == {k}]"),
    ("returns the largest number plus {k}", "return max(xs) + {k}", "return min(xs) + {k}"),
    ("tells whether some number is below {k}", "return any(x < {k} for x in xs)", "return all(x > {k} for x in xs)"),
    ("returns every number's remainder by {k}", "return [x % {k} for x in xs]", "return [x // {k} for x in xs]"),
)
_TEXTS = (
    ("repeats the text {k} times", "return text * {k}", "return text + '{k}'"),
    ("returns the first {k} letters in capitals", "return text[:{k}].upper()", "return text[{k}:].upper()"),
    ("returns the text without its first {k} letters", "return text[{k}:]", "return text[:{k}]"),
    ("returns the last {k} letters reversed", "return text[-{k}:][::-1]", "return text[:{k}]"),
    ("tells whether the text has more than {k} letters", "return len(text) > {k}", "return len(text) < {k}"),
)
_NAMES = (
    "solve",
    "compute",
    "process",
    "transform",
    "answer",
    "work",
    "handle",
    "apply",
    "build",
    "run",
    "make",
    "get",
)


def _call(code: str, name: str, argument: Any) -> Any:
    """Return what the written function gives for the argument."""
    space: dict[str, Any] = {}
    exec(compile(code, "<shipped data>", "exec"), space)  # our own templates only
    function: Callable[[Any], Any] = space[name]
    return function(argument)


def python(rng: random.Random, slip: bool) -> Task:
    """Ask for a function of one line with an example that was obtained by running it."""
    name, k = rng.choice(_NAMES), rng.randint(2, 9)
    about_list = rng.random() < 0.6
    what, body, spoilt = rng.choice(_LISTS if about_list else _TEXTS)
    argument: Any = (
        rng.sample(range(1, 20), 4) if about_list else rng.choice(("stone", "river", "cloud", "maple", "ember"))
    )
    variable = "xs" if about_list else "text"
    code = f"def {name}({variable}):\n    {body.format(k=k)}"
    result = _call(code, name, argument)
    shown = code if not slip else f"def {name}({variable}):\n    {spoilt.format(k=k)}"
    answer = f"{shown}\n# {name}({argument!r}) -> {result!r}"
    return Task({"name": name, "what": what.format(k=k), "kind": "list" if about_list else "text"}, answer)
