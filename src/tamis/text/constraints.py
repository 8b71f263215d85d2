"""Constraints that a prompt puts on its answer and that a program can check: lengths, formats, words, languages.

Found by English patterns in the manner of IFEval (Zhou et al. 2023). What is not understood is not found: a constraint
that is reported is meant to be one, and most prompts have none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tamis.text.words import words_of

_NUMBERS = {word: place for place, word in enumerate("zero one two three four five six seven eight nine ten".split())}
_NUMBERS |= {"a single": 1, "twelve": 12, "fifteen": 15, "twenty": 20, "a hundred": 100}
_HIGH = r"(?:\s*(?:-|\u2013|to|or)\s*(?P<high>\d{1,6}|[a-z]{3,5}))?"
_COUNT = rf"(?P<low>\d{{1,6}}(?:,\d{{3}})?|{'|'.join(_NUMBERS)}){_HIGH}"
_AFTER = r"(?P<after> or (?:less|fewer|more))?"
_HOW = (
    r"(?P<most>at most|up to|no more than|not more than|fewer than|less than|under|a maximum of|maximum|within)"
    r"|(?P<least>at least|no fewer than|no less than|not less than|more than|over|a minimum of|minimum)"
    r"|(?P<exact>exactly|precisely)"
    r"|(?P<near>about|around|approximately|roughly|in|with|using|of|write|create|generate|provide|give|list)"
)
_UNITS = {
    "words": r"words?\b(?! (?:problem|order|search|list|that|which))",
    "sentences": r"(?:\w+ )?sentences?\b",
    "paragraphs": r"(?:\w+ )?paragraphs?\b",
    "bullets": r"bullet(?:ed)?(?:[- ]points?| items?)?s?\b",
}
_COUNTED = {
    unit: re.compile(
        rf"\b(?:{_HOW})(?: (?:a|an|the|no more than|only))?(?: list of)? {_COUNT}[ -]{named}{_AFTER}",
        re.IGNORECASE,
    )
    for unit, named in _UNITS.items()
}
_COMPOUND = re.compile(r"\b(?:an? )(?P<low>\d{2,6})-word\b", re.IGNORECASE)
_QUOTED = r"[\"'\u201c\u2018`](?P<text>[^\"\u201c\u201d`\n]{1,80}?)[\"'\u201d\u2019`]"
_NAMED = r"(?:the |these |this )?(?:exact )?(?:words?|keywords?|phrases?|sentence|term|letters?)?:? ?"
_FORBIDDEN = re.compile(
    rf"\b(?:without (?:using|including|mentioning|saying)|(?:do not|don't|must not|should not|never|avoid)"
    rf" (?:use|using|include|including|mention|mentioning|say|saying)) {_NAMED}{_QUOTED}",
    re.IGNORECASE,
)
_REQUIRED = re.compile(
    r"(?<!not )(?<!n't )(?<!without )\b(?:(?:must|should) (?:include|contain|mention|use)"
    rf"|(?:make sure to|be sure to|please) (?:include|mention|use)|(?:include|mention)) {_NAMED}{_QUOTED}",
    re.IGNORECASE,
)
_IT = r"(?: (?:your|the) (?:\w+ )?(?:response|answer|reply|text|sentence|poem|story|letter|essay|email))?"
_BEGIN = re.compile(
    rf"\b(?:start|begin|starting|beginning)s?{_IT} with {_NAMED}{_QUOTED}",
    re.IGNORECASE,
)
_END = re.compile(
    rf"\b(?:end|finish|conclude|ending|finishing)s?{_IT} with {_NAMED}{_QUOTED}",
    re.IGNORECASE,
)
_LANGUAGES = {
    **{"english": "en", "french": "fr", "spanish": "es", "german": "de", "italian": "it", "portuguese": "pt"},
    **{"dutch": "nl", "russian": "ru", "chinese": "zh", "japanese": "ja", "korean": "ko", "arabic": "ar"},
    **{"hindi": "hi", "turkish": "tr", "polish": "pl", "swedish": "sv", "greek": "el", "hebrew": "he"},
}
_LANGUAGE = re.compile(
    rf"\b(?:(?:write|answer|respond|reply|say)\b[^.?!\n]{{0,60}}? in|translate\b[^?!\n]{{0,200}}? (?:in)?to) "
    rf"(?P<name>{'|'.join(_LANGUAGES)})\b",
    re.IGNORECASE,
)
_FLAGS: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
    (
        "lower case",
        r"\b(?:in|use|using) (?:all |only )?lower[- ]?case(?: letters)?(?: only)?\b|\bno capital letters\b",
        str.islower,
    ),
    ("upper case", r"\b(?:in|use|using) (?:all |only )(?:caps\b|upper[- ]?case|capital letters)", str.isupper),
    (
        "no commas",
        r"\b(?:no|without(?: using)?(?: any)?|(?:not|n't) use any) commas\b",
        lambda answer: "," not in answer,
    ),
    (
        "JSON",
        r"\b(?:(?:in|as|valid) (?:a )?(?:valid )?json\b(?! (?:file|document|schema|data))|json (?:format|output)\b)",
        lambda answer: is_json(answer),
    ),
    (
        "quoted",
        r"\bwrap your (?:entire |whole )?(?:response|answer|reply) (?:in|with) double quot",
        lambda answer: len(answer) > 1 and answer[0] == answer[-1] == '"',
    ),
    (
        "title",
        r"\b(?:title|heading),? wrapped in double angular brackets",
        lambda answer: bool(re.search(r"<<[^\n]+>>", answer)),
    ),
    ("postscript", r"\b(?:add|include|with) a postscript\b", lambda answer: bool(re.search(r"P\.? ?S\.?", answer))),
)
_ALL_FLAGS = tuple((name, re.compile(pattern, re.IGNORECASE), holds) for name, pattern, holds in _FLAGS)
_SENTENCE_END = re.compile(r"[.?!\u3002\uff1f\uff01]+[\"'\u201d\u2019)]*(?:\s+|$)")
_BULLET = re.compile(r"^\s*(?:[-*+\u2022\u25e6\u25cf]|\d{1,3}[.)])\s+\S", re.MULTILINE)
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_LEAST_BARE = 10  # "three words" is as a rule something else than a length


@dataclass(frozen=True)
class Constraint:
    """What an answer must be. `kind` names it, `said` is how the prompt said it; `holds(answer)` checks."""

    kind: str
    said: str
    holds: Callable[[str], bool]


def constraints_of(prompt: str, tolerance: float = 0.1) -> list[Constraint]:
    """The constraints that a prompt states, in no particular order.

    `tolerance`: how far an answer may be from a length that is stated without "exactly", "at least" or "at most", as a
    share of it.
    """
    straight = prompt.replace("\u2019", "'")
    found = [*_counts(straight, tolerance), *_phrases(straight)]
    for name, pattern, holds in _ALL_FLAGS:
        if match := pattern.search(straight):
            found.append(Constraint(name, match[0], lambda answer, holds=holds: holds(answer.strip())))  # type: ignore[misc]
    if match := _LANGUAGE.search(straight):
        code = _LANGUAGES[match["name"].lower()]
        found.append(Constraint("language", match[0], lambda answer: _is_in(answer, code)))
    return found


def count_of(unit: str, text: str) -> int:
    r"""How many `words`, `sentences`, `paragraphs` or `bullets` a text has.

    >>> count_of("sentences", "One. And two!"), count_of("bullets", "- a\n- b\n"), count_of("paragraphs", "a\n\nb")
    (2, 2, 2)
    """
    if unit == "words":
        return len(words_of(text))
    if unit == "sentences":
        return len([part for part in _SENTENCE_END.split(text.strip()) if words_of(part)])
    if unit == "bullets":
        return len(_BULLET.findall(text))
    return len([part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()])


def is_json(text: str) -> bool:
    """Whether a text, or the fenced block in it, is JSON; a bare word or number is not meant."""
    fenced = _FENCE.search(text)
    inner = (fenced[1] if fenced else text).strip()
    if not inner.startswith(("{", "[")):
        return False
    try:
        json.loads(inner)
    except (ValueError, RecursionError):
        return False
    return True


def _counts(prompt: str, tolerance: float) -> Iterator[Constraint]:
    matches = [(unit, match) for unit, pattern in _COUNTED.items() for match in pattern.finditer(prompt)]
    for unit, match in matches:
        low, high = _number(match["low"]), _number(match["high"] or match["low"])
        if low is None or high is None:
            continue
        after = match["after"] or ""
        bounds: tuple[float, float] = (low, high)
        if match["most"] or after.endswith(("less", "fewer")):
            bounds = (0, high)
        elif match["least"] or after.endswith("more"):
            bounds = (low, float("inf"))
        elif not match["exact"] and unit == "words":
            if low < _LEAST_BARE:
                continue
            bounds = (low * (1 - tolerance), high * (1 + tolerance))
        yield Constraint(unit, match[0], _within(unit, *bounds))
    taken = [match.span() for _, match in matches]
    for match in _COMPOUND.finditer(prompt):
        if any(start < match.end() and match.start() < stop for start, stop in taken):
            continue
        size = int(match["low"])
        yield Constraint("words", match[0], _within("words", size * (1 - tolerance), size * (1 + tolerance)))


def _within(unit: str, low: float, high: float) -> Callable[[str], bool]:
    return lambda answer: low <= count_of(unit, answer) <= high


def _number(text: str) -> int | None:
    text = text.lower().replace(",", "")
    return int(text) if text.isdecimal() else _NUMBERS.get(text)


def _phrases(prompt: str) -> Iterator[Constraint]:
    for match in _FORBIDDEN.finditer(prompt):
        there = _with(match["text"], match[0])
        yield Constraint("forbidden", match[0], lambda answer, there=there: not there(answer))  # type: ignore[misc]
    for match in _REQUIRED.finditer(prompt):
        yield Constraint("required", match[0], _with(match["text"], match[0]))
    for match in _BEGIN.finditer(prompt):
        yield Constraint("beginning", match[0], _edge(match["text"], str.startswith))
    for match in _END.finditer(prompt):
        yield Constraint("end", match[0], _edge(match["text"], str.endswith))


def _with(text: str, said: str) -> Callable[[str], bool]:
    """Whether an answer has a text: as words of their own, or anywhere where the prompt speaks of letters."""
    if re.search(r"\bletters?\b", said, re.IGNORECASE):
        return lambda answer: text.lower() in answer.lower()
    whole = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)
    return lambda answer: whole.search(answer) is not None


def _edge(text: str, has: Callable[[str, str], bool]) -> Callable[[str], bool]:
    """Whether an answer begins or ends with a text, quotes and full stops around either aside."""
    marks = " \n\t\"'.*_`\u201c\u201d"
    return lambda answer: has(answer.strip(marks).lower(), text.strip(marks).lower())


def _is_in(answer: str, code: str) -> bool:
    from tamis.text.languages import detect

    return detect(answer)[0] == code
