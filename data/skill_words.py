"""Skills about words: strings, sorting, counting, tables, rewriting, odd one out, sentiment, order of heights.

Every function makes one task from a random source; with ``slip`` the answer ends in a wrong result.
"""

from __future__ import annotations

import itertools
import random

from tamis.data.skill_numbers import Task, off
from tamis.data.vocabulary import ACTIONS, BAD, CATEGORIES, CITIES, GOOD, NAMES, REVIEWED, WORDS

_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def listed(items: list[str]) -> str:
    """Join items as English does: a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _swap(rng: random.Random, items: list[str], slip: bool) -> list[str]:
    """Copy, with `slip` two neighbours that differ exchanged."""
    copy = list(items)
    if slip:
        place = rng.choice([i for i in range(len(copy) - 1) if copy[i] != copy[i + 1]])
        copy[place], copy[place + 1] = copy[place + 1], copy[place]
    return copy


def strings(rng: random.Random, slip: bool) -> Task:
    """Ask about the letters of two words: written backwards, vowels counted, or initials capitalised."""
    words = rng.sample(WORDS, 2)
    text = " ".join(words)
    spelled = f"Letter by letter it reads {' - '.join(words[0])} and {' - '.join(words[1])}."
    kind = rng.randrange(3)
    if kind == 0:
        back = ["".join(_swap(rng, list(word[::-1]), slip)) for word in words]
        return Task({"task": f'spell each word of "{text}" backwards'}, f'{spelled} Backwards: "{" ".join(back)}".')
    if kind == 1:
        vowels = [letter for letter in text if letter in "aeiou"]
        answer = f"{spelled} The vowels are {', '.join(vowels)}: {off(rng, len(vowels), slip)} in all."
        return Task({"task": f'count the vowels in "{text}"'}, answer)
    ends = [word[0] + word[-1] for word in words]
    shown = "".join(_swap(rng, list("".join(ends)), slip))
    return Task({"task": f'join the first and last letters of the words "{text}"'}, f'{spelled} Joined: "{shown}".')


def sorting(rng: random.Random, slip: bool) -> Task:
    """Ask for words in alphabetical order or numbers in size, the ends named first."""
    if rng.random() < 0.5:
        items = rng.sample(WORDS, rng.randint(4, 6))
        order, rule = sorted(items), "in alphabetical order"
    else:
        numbers = rng.sample(range(1, 500), rng.randint(5, 7))
        items, order, rule = [str(n) for n in numbers], [str(n) for n in sorted(numbers)], "from smallest to largest"
    shown = ", ".join(_swap(rng, order, slip))
    answer = f"The list must begin with {order[0]} and end with {order[-1]}. Putting the rest between them: {shown}."
    return Task({"rule": rule}, answer, input=", ".join(items))


def counting(rng: random.Random, slip: bool) -> Task:
    """Ask how many things of one category a list holds."""
    wanted, other, third = rng.sample(sorted(CATEGORIES), 3)
    hits = rng.sample(CATEGORIES[wanted], rng.randint(2, 5))
    rest = rng.sample(CATEGORIES[other], rng.randint(1, 3)) + rng.sample(CATEGORIES[third], rng.randint(1, 3))
    items = hits + rest
    rng.shuffle(items)
    ordered = [item for item in items if item in hits]
    number = off(rng, len(hits), slip)
    answer = f"Going through the list, I find {listed(ordered)}. That makes {_COUNTED[min(number, 12)]} {wanted}."
    return Task({"category": wanted}, answer, input=", ".join(items))


def tables(rng: random.Random, slip: bool) -> Task:
    """Ask for a look-up in a small table: one cell, or the row with the highest value."""
    cities = rng.sample(CITIES, 4)
    heads = rng.sample(("visitors", "rainfall", "schools", "bridges", "parks"), 2)
    cells = {city: dict(zip(heads, rng.sample(range(10, 99), 2), strict=True)) for city in cities}
    rows = [f"{city} | {cells[city][heads[0]]} | {cells[city][heads[1]]}" for city in cities]
    table = "\n".join([f"city | {heads[0]} | {heads[1]}", *rows])
    head = rng.choice(heads)
    if rng.random() < 0.5:
        city = rng.choice(cities)
        value = off(rng, cells[city][head], slip)
        question = f"the value of {head} for {city}"
        answer = f"Find the row that starts with {city}, then the column named {head}. The cell there says {value}."
        return Task({"question": question}, answer, input=table)
    order = sorted(cities, key=lambda name: cells[name][head], reverse=True)
    best = order[1] if slip else order[0]
    column = ", ".join(str(cells[city][head]) for city in cities)
    answer = f"The column named {head} holds {column}. Its highest cell belongs to the row of {best}."
    return Task({"question": f"the city with the highest {head}"}, answer, input=table)


def rewriting(rng: random.Random, slip: bool) -> Task:
    """Ask for an active sentence in the passive voice or in a formal style."""
    name, helper = rng.sample(NAMES, 2)
    verb, participle, thing = rng.choice(ACTIONS)
    when = rng.choice(("yesterday", "last week", "on Sunday", "this morning", "in the spring", "before lunch"))
    be = "were" if thing in ("the boxes", "the roses") else "was"
    doer, other = (helper, name) if slip else (name, helper)
    text = f"{name} {verb} {thing} {when}, and {helper} watched."
    if rng.random() < 0.5:
        answer = f"{thing[0].upper()}{thing[1:]} {be} {participle} by {doer} {when}, while {other} was watching."
        return Task({"style": "in the passive voice"}, f"In the passive voice: {answer}", input=text)
    answer = f"We wish to inform you that {thing} {be} {participle} by {doer} {when} in the presence of {other}."
    return Task({"style": "in a formal style"}, f"In a formal style: {answer}", input=text)


def odd_one_out(rng: random.Random, slip: bool) -> Task:
    """Ask for the one thing in a list that is of another category."""
    category, other = rng.sample(sorted(CATEGORIES), 2)
    common, odd = rng.sample(CATEGORIES[category], rng.randint(3, 4)), rng.choice(CATEGORIES[other])
    items = [*common, odd]
    rng.shuffle(items)
    shown = rng.choice(common) if slip else odd
    others = [item for item in items if item != shown]
    answer = (
        f"{listed(others).capitalize()} all belong to the {category}, but {shown} does not. The odd one is {shown}."
    )
    return Task({"items": ", ".join(items)}, answer)


def sentiment(rng: random.Random, slip: bool) -> Task:
    """Ask whether a review is positive, negative or mixed, with the words that show it."""
    thing, name = rng.choice(REVIEWED), rng.choice(NAMES)
    mood = rng.choice(("positive", "negative", "mixed"))
    words = {
        "positive": rng.sample(GOOD, 2),
        "negative": rng.sample(BAD, 2),
        "mixed": [rng.choice(GOOD), rng.choice(BAD)],
    }
    first, second = words[mood]
    link = "but" if mood == "mixed" else "and"
    frame = rng.choice(
        ("{n} thought the {t} was {a} {l} {b}.", "The {t} seemed {a} {l} {b} to {n}.", "{n}: {a} {l} {b} {t}.")
    )
    shown = rng.choice([label for label in words if label != mood]) if slip else mood
    answer = f'The reviewer uses the words "{first}" and "{second}" about the {thing}. Overall the opinion is {shown}.'
    return Task({"kind": "review"}, answer, input=frame.format(n=name, t=thing, a=first, b=second, l=link))


def ordering(rng: random.Random, slip: bool) -> Task:
    """Ask who comes first or last among four people, from three comparisons in mixed order."""
    people = rng.sample(NAMES, 4)
    more, most, least = rng.choice(
        (("taller", "tallest", "shortest"), ("older", "oldest", "youngest"), ("faster", "fastest", "slowest"))
    )
    facts = [f"{a} is {more} than {b}." for a, b in itertools.pairwise(people)]
    rng.shuffle(facts)
    top = rng.random() < 0.5
    true, wrong = (people[0], people[1]) if top else (people[-1], people[-2])
    chain = " > ".join(people)
    asked = most if top else least
    answer = f"Chaining the facts gives {chain}. So the {asked} of the four is {wrong if slip else true}."
    return Task({"asked": asked}, answer, input=" ".join(facts))
