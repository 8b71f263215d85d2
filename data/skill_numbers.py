"""Skills about numbers: arithmetic with worked steps, units, dates, Roman numerals, comparison.

Every function makes one task from a random source; with ``slip`` the answer ends in a wrong result.
"""

from __future__ import annotations

import datetime
import random
from dataclasses import dataclass

from tamis.data.vocabulary import MONTHS, NAMES, WEEKDAYS


@dataclass(frozen=True)
class Task:
    """One task: `fields` fill the phrasing of the instruction, `input` is its text, `answer` the response."""

    fields: dict[str, str]
    answer: str
    input: str = ""

    @property
    def identity(self) -> str:
        """What makes two tasks the same, whatever the phrasing."""
        return repr((sorted(self.fields.items()), self.input))


def off(rng: random.Random, value: int, slip: bool) -> int:
    """Return the value, or with `slip` one near it that is wrong and not negative."""
    if not slip:
        return value
    return value + rng.choice([step for step in (-10, -3, -2, -1, 1, 2, 3, 10) if value + step >= 0])


def steps(lines: list[str], result: int, unit: str = "") -> str:
    """Write numbered steps and the answer on a line of its own."""
    worked = [f"Step {number}: {line}." for number, line in enumerate(lines, 1)]
    return "\n".join([*worked, f"Answer: {result}{unit}"])


def _product(rng: random.Random, slip: bool) -> Task:
    a, b = rng.randint(12, 99), rng.randint(12, 99)
    tens, ones = b // 10 * 10, b % 10
    result = off(rng, a * b, slip)
    lines = [f"split {b} into {tens} + {ones}", f"{a} * {tens} = {a * tens}", f"{a} * {ones} = {a * ones}"]
    return Task({"expr": f"{a} * {b}"}, steps([*lines, f"{a * tens} + {a * ones} = {result}"], result))


def _mixed(rng: random.Random, slip: bool) -> Task:
    a, b, c = rng.randint(5, 90), rng.randint(3, 40), rng.randint(2, 9)
    result = off(rng, a + b * c, slip)
    lines = [f"multiply first, {b} * {c} = {b * c}", f"{a} + {b * c} = {result}"]
    return Task({"expr": f"{a} + {b} * {c}"}, steps(lines, result))


def _bracket(rng: random.Random, slip: bool) -> Task:
    a, b, c = rng.randint(20, 90), rng.randint(3, 19), rng.randint(2, 9)
    result = off(rng, (a - b) * c, slip)
    lines = [f"the bracket first, {a} - {b} = {a - b}", f"{a - b} * {c} = {result}"]
    return Task({"expr": f"({a} - {b}) * {c}"}, steps(lines, result))


def _sum(rng: random.Random, slip: bool) -> Task:
    a, b, c = (rng.randint(11, 400) for _ in range(3))
    result = off(rng, a + b + c, slip)
    return Task({"expr": f"{a} + {b} + {c}"}, steps([f"{a} + {b} = {a + b}", f"{a + b} + {c} = {result}"], result))


def _shopping(rng: random.Random, slip: bool) -> Task:
    thing = rng.choice(("pens", "books", "plates", "tickets", "lamps", "cups", "shirts", "chairs"))
    count, price, extra = rng.randint(3, 12), rng.randint(4, 45), rng.randint(5, 60)
    result = off(rng, count * price + extra, slip)
    lines = [
        f"the {thing} cost {count} * {price} = {count * price}",
        f"with delivery {count * price} + {extra} = {result}",
    ]
    expr = f"the total price of {count} {thing} at {price} euros each plus {extra} euros for delivery"
    return Task({"expr": expr}, steps(lines, result, " euros"))


def arithmetic(rng: random.Random, slip: bool) -> Task:
    """Make a calculation in numbered steps."""
    return rng.choice((_product, _mixed, _bracket, _sum, _shopping))(rng, slip)


_UNITS = (
    ("kilometre", "metre", 1000), ("metre", "centimetre", 100), ("kilogram", "gram", 1000), ("hour", "minute", 60),
    ("minute", "second", 60), ("litre", "millilitre", 1000), ("day", "hour", 24), ("week", "day", 7),
    ("foot", "inch", 12), ("tonne", "kilogram", 1000), ("centimetre", "millimetre", 10), ("pound", "ounce", 16),
    ("year", "month", 12),
)  # fmt: skip
_PLURAL = {"foot": "feet", "inch": "inches"}


def _many(unit: str) -> str:
    return _PLURAL.get(unit, unit + "s")


def units(rng: random.Random, slip: bool) -> Task:
    """Make a conversion between two units, downwards or upwards."""
    big, small, factor = rng.choice(_UNITS)
    count = rng.randint(2, 240)
    if rng.random() < 0.5:
        result = off(rng, count * factor, slip)
        fields = {"amount": f"{count} {_many(big)}", "unit": _many(small)}
        how = f"Going to the smaller unit means multiplying by {factor}"
    else:
        result = off(rng, count, slip)
        fields = {"amount": f"{count * factor} {_many(small)}", "unit": _many(big)}
        how = f"Going to the larger unit means dividing by {factor}"
    end = f"so {fields['amount']} equal {result} {fields['unit']}."
    return Task(fields, f"One {big} holds {factor} {_many(small)}. {how}, {end}")


def _written(day: datetime.date) -> str:
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def _shifted(rng: random.Random, day: datetime.date, slip: bool) -> Task:
    shift, back = rng.randint(3, 45), rng.random() < 0.4
    result = day + datetime.timedelta(days=-shift if back else shift)
    shown = result + datetime.timedelta(days=off(rng, 0, slip))
    way = "before" if back else "after"
    last = f"Counting {shift} days {'back' if back else 'on'} from day {day.day} of {MONTHS[day.month - 1]}"
    full = (datetime.date(day.year + day.month // 12, day.month % 12 + 1, 1) - datetime.timedelta(days=1)).day
    answer = f"{MONTHS[day.month - 1]} {day.year} has {full} days. {last}, we reach {_written(shown)}."
    return Task({"question": f"the date {shift} days {way} {_written(day)}"}, answer)


def dates(rng: random.Random, slip: bool) -> Task:
    """Ask for a date some days away, or the weekday of a date."""
    day = datetime.date(1950, 1, 1) + datetime.timedelta(days=rng.randrange(31_000))
    if rng.random() < 0.6:
        return _shifted(rng, day, slip)
    first = day.replace(day=1)
    place = (day.weekday() + (rng.randint(1, 6) if slip else 0)) % 7
    answer = (
        f"The first of {MONTHS[day.month - 1]} {day.year} was a {WEEKDAYS[first.weekday()]}. "
        f"Day {day.day} comes {day.day - 1} days later, which makes it a {WEEKDAYS[place]}."
    )
    return Task({"question": f"the weekday of {_written(day)}"}, answer)


_ROMAN = (("M", 1000), ("D", 500), ("C", 100), ("L", 50), ("X", 10), ("V", 5), ("I", 1))
_DIGITS = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")


def _numeral(digit: int, place: int) -> str:
    ones, fives, tens = (("I", "V", "X"), ("X", "L", "C"), ("C", "D", "M"), ("M", "", ""))[place]
    return _DIGITS[digit].translate({ord("I"): ones, ord("V"): fives, ord("X"): tens})


def roman(rng: random.Random, slip: bool) -> Task:
    """Ask for a number in Roman numerals, part by part, either way round."""
    number = rng.randint(11, 3999)
    digits = [(int(digit), len(str(number)) - 1 - place) for place, digit in enumerate(str(number))]
    pairs = [(digit * 10**place, _numeral(digit, place)) for digit, place in digits if digit]
    whole = "".join(numeral for _, numeral in pairs)
    if rng.random() < 0.6:
        shown = whole[:-1] + rng.choice([letter for letter, _ in _ROMAN if letter != whole[-1]]) if slip else whole
        parts = "; ".join(f"{value} is {numeral}" for value, numeral in pairs)
        return Task(
            {"what": f"{number} as a Roman numeral"}, f"Part by part: {parts}. Joined together this gives {shown}."
        )
    parts = "; ".join(f"{numeral} stands for {value}" for value, numeral in pairs)
    answer = f"Part by part: {parts}. Added up this gives {off(rng, number, slip)}."
    return Task({"what": f"the Roman numeral {whole} as an ordinary number"}, answer)


def comparison(rng: random.Random, slip: bool) -> Task:
    """Ask for the larger of two decimal numbers, by the first digit that differs, told about two people."""
    first, second = rng.sample(NAMES, 2)
    whole = rng.randint(1, 40)
    a, b = rng.sample(range(100, 999), 2)
    thing = rng.choice(("jump in metres", "time in minutes", "parcel in kilograms", "score", "walk in kilometres"))
    place = next(i for i, (x, y) in enumerate(zip(str(a), str(b), strict=True)) if x != y)
    digit = ("tenths", "hundredths", "thousandths")[place]
    winner, loser = (first, second) if (a > b) != slip else (second, first)
    answer = (
        f"Both begin with {whole}, so look behind the point. The numbers first differ in the {digit}: "
        f"{str(a)[place]} against {str(b)[place]}. Therefore {winner} has more than {loser}."
    )
    return Task({"a": f"{first} {whole}.{a}", "b": f"{second} {whole}.{b}", "thing": thing}, answer)
