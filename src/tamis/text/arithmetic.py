"""Arithmetic written out in a text: every `expression = value`, in order, evaluated by a parser of its own.

Nothing is ever handed to `eval`: an expression is read token by token into exact fractions, with bounds on its length,
on the digits of its numbers and on exponents, so that no text can make it dear.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+")
_SIDE = r"(?:[-(\d$€£]|\.(?=\d))(?:[\d \t()+\-*/\u00d7÷·xX^%$€£\u2212]|[.,](?=\d))*"
_EQUATION = re.compile(rf"(?<![\w.])({_SIDE}(?:=[ \t]*{_SIDE})+)")
_ANSWER = re.compile(
    r"(?:\b(?:final |correct )?answer(?: is|:)+ *[:*_ ]*([^\n.;]{1,60}(?:\.\d+)?)"
    r"|^ *(?:####|A:) *([^\n]{1,60})|\\boxed\{([^{}\n]{1,60})\})",
    re.IGNORECASE | re.MULTILINE,
)
_ANNOTATION = re.compile(r"<<[^<>]{0,200}>>")  # GSM8K repeats every step in these
_SAME = str.maketrans({"\u00d7": "*", "x": "*", "X": "*", "·": "*", "÷": "/", "\u2212": "-"})
_LONGEST = 200  # characters of an expression
_MOST_DIGITS = 30
_MOST_POWER = 64
_DEEPEST = 20


class NotArithmetic(ValueError):
    """A text is no arithmetic expression, or one beyond the bounds."""


@dataclass(frozen=True)
class Step:
    """One step `expression = value`: the operands as written, the value as written, and whether it is right.

    A printed value may be rounded: it is right when it differs by at most half a unit of its last digit.
    """

    operands: tuple[Fraction, ...]
    value: Fraction
    right: bool


@dataclass(frozen=True)
class Trace:
    """What became of errors in a text of several steps. Counts: `wrong` = `static` + those that later steps used.

    `dynamic`: later steps of which an operand descends from a wrong value.
    """

    steps: int
    wrong: int
    static: int
    dynamic: int


def evaluate(text: str) -> Fraction:
    """Value of an expression of numbers, + - * / ^, brackets and percent. Raises NotArithmetic for anything else.

    >>> evaluate("2 * (3 + 4) - 10%"), evaluate("2^10 / 4")
    (Fraction(139, 10), Fraction(256, 1))
    """
    tokens = _tokens(text)
    value, rest = _sum(tokens, 0, 0)
    if rest != len(tokens):
        raise NotArithmetic(f"{text!r} goes on after its end")
    return value


def steps_of(text: str) -> list[Step]:
    """Every step of a text, in order; `a + b = c = d` is two. What cannot be read is no step.

    >>> [(int(step.value), step.right) for step in steps_of("He has 3 + 4 = 7 apples, then 7 x 2 = 15.")]
    [(7, True), (15, False)]
    """
    steps = []
    for match in _EQUATION.finditer(_ANNOTATION.sub("", text)):
        sides = [side.strip(" .,;\n\t") for side in match[1].split("=")]
        steps += [step for left, right in itertools.pairwise(sides) if (step := _step(left, right))]
    return steps


def trace_of(prompt: str, text: str) -> Trace:
    """How far the errors of a text spread.

    A value descends from a wrong one where its step is wrong, or an operand of the step equals a value that descends
    from one. A number that stood in the prompt, or came out of a clean step, is taken to be that number: an operand is
    only doubted where nothing but the error can have brought it in.
    """
    clean = set(numbers_of(prompt))
    tainted: dict[Fraction, list[int]] = {}  # value -> wrong steps that it descends from
    used: set[int] = set()
    steps, dynamic, wrong = steps_of(text), 0, 0
    for place, step in enumerate(steps):
        origins = [origin for operand in step.operands for origin in tainted.get(abs(operand), ())]
        used.update(origins)
        dynamic += bool(origins)
        if not step.right:
            wrong += 1
            origins.append(place)
        value = abs(step.value)  # a sign before an operand reads as a minus
        if origins and value not in clean:
            tainted[value] = sorted(set(origins))
        elif not origins:
            clean.add(value)
            tainted.pop(value, None)
    return Trace(len(steps), wrong, wrong - len(used), dynamic)


def numbers_of(text: str) -> list[Fraction]:
    """Every number of a text, in order; commas between thousands are none of the number."""
    return [_fraction(found) for found in _NUMBER.findall(text) if len(found) <= _MOST_DIGITS]


def _step(left: str, right: str) -> Step | None:
    try:
        expected, value = evaluate(left), evaluate(right)
    except NotArithmetic:
        return None
    operands = tuple(numbers_of(left))
    if len(operands) < 2:
        return None  # `x = 5`: nothing is worked out
    return Step(operands, value, abs(expected - value) <= _rounding(right))


def _rounding(printed: str) -> Fraction:
    """Half a unit of the last digit of a printed number; 0 for an expression."""
    number = printed.strip("$€£% -")
    if not _NUMBER.fullmatch(number):
        return Fraction(0)
    decimals = len(number.partition(".")[2]) + (2 if "%" in printed else 0)
    return Fraction(1, 2 * 10**decimals)


def _fraction(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))


def _tokens(text: str) -> list[str | Fraction]:
    """Numbers, operators and brackets of an expression."""
    if len(text) > _LONGEST:
        raise NotArithmetic("too long")
    tokens: list[str | Fraction] = []
    at, plain = 0, text.translate(_SAME)
    while at < len(plain):
        if plain[at].isspace() or plain[at] in "$€£":
            at += 1
        elif match := _NUMBER.match(plain, at):
            if len(match[0]) > _MOST_DIGITS:
                raise NotArithmetic("too many digits")
            tokens.append(_fraction(match[0]))
            at = match.end()
        elif plain[at] in "+-*/^()%":
            tokens.append(plain[at])
            at += 1
        else:
            raise NotArithmetic(f"{plain[at]!r} is no arithmetic")
    return tokens


def _sum(tokens: list[str | Fraction], at: int, depth: int) -> tuple[Fraction, int]:
    value, at = _product(tokens, at, depth)
    while at < len(tokens) and tokens[at] in ("+", "-"):
        other, after = _product(tokens, at + 1, depth)
        value = value + other if tokens[at] == "+" else value - other
        at = after
    return value, at


def _product(tokens: list[str | Fraction], at: int, depth: int) -> tuple[Fraction, int]:
    value, at = _power(tokens, at, depth)
    while at < len(tokens) and tokens[at] in ("*", "/"):
        other, after = _power(tokens, at + 1, depth)
        if tokens[at] == "/" and not other:
            raise NotArithmetic("division by zero")
        value = value * other if tokens[at] == "*" else value / other
        at = after
    return value, at


def _power(tokens: list[str | Fraction], at: int, depth: int) -> tuple[Fraction, int]:
    base, at = _factor(tokens, at, depth)
    if at >= len(tokens) or tokens[at] != "^":
        return base, at
    power, after = _power(tokens, at + 1, depth + 1)
    if power.denominator != 1 or not 0 <= power <= _MOST_POWER or abs(base) > 10**6:
        raise NotArithmetic("a power beyond bounds")
    return base ** int(power), after


def _factor(tokens: list[str | Fraction], at: int, depth: int) -> tuple[Fraction, int]:
    """A number, a bracket or either with a sign before or a percent sign behind it."""
    if at >= len(tokens) or depth > _DEEPEST:
        raise NotArithmetic("it ends too early" if at >= len(tokens) else "too deep")
    token = tokens[at]
    if token in ("+", "-"):
        value, at = _factor(tokens, at + 1, depth + 1)
        return (-value if token == "-" else value), at
    if token == "(":
        value, at = _sum(tokens, at + 1, depth + 1)
        if at >= len(tokens) or tokens[at] != ")":
            raise NotArithmetic("a bracket is open")
        at += 1
    elif isinstance(token, Fraction):
        value, at = token, at + 1
    else:
        raise NotArithmetic(f"{token!r} where a number should stand")
    if at < len(tokens) and tokens[at] == "%":
        return value / 100, at + 1
    return value, at


def final_answers(text: str) -> Iterator[str]:
    """What a text declares to be its answer, in order: "the answer is X", "Answer: X", "A: X", "#### X" and boxes."""
    for match in _ANSWER.finditer(text):
        found = next(group for group in match.groups() if group is not None)
        yield found.strip(" .,;:*_$\n\"'()").lower()
