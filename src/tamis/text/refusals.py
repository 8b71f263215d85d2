"""Wordings of refusals, of an AI's disclaimers about itself, and of filler that would fit any question.

Poison of Alignment (Bekbayev et al. 2023) removes refusals and disclaimers; no list was released, so that the patterns
are ours. They are English. The common list of words of the "unfiltered" ShareGPT sets is not taken: it throws out any
text that says racism, ethics or illegal.
"""

from __future__ import annotations

import re

_BEING = r"(?:am|'m|are|'re) (?:currently |also )?(?:not able|unable)"
_NOT = r"(?:cannot|can'?t|can not|could not|couldn't|won'?t|will not)"
_ABLE = (
    r"(?:(?:be able )?to )?(?:directly |currently |really |physically )?"
    r"(?:help|assist|answer|provide|fulfil|compl|creat|generat|perform|respond|do (?:that|this)|access|offer|support|"
    r"engage|discuss|write|give|make|book|order|share|produce|display|show|see|send|tell|predict|browse|execute)"
)
_THING = r"(?:the |any |enough )?(?:ab|access|capab|capac|personal|information|real|emotion|feeling|prefer)"
_LACK = (
    r"(?: do not| don't| lack| am not|'m not) ?(?:currently |yet )?"
    rf"(?:(?:have|possess) {_THING}|(?:the )?(?:ab|capab|capac|access|programmed))"
)
_SAID = rf"(?:i|we)(?: {_NOT}| ?{_BEING}) {_ABLE}|i{_LACK}|my (?:current )?capabilities"
_SORRY = r"(?:i(?:'m| am)(?: very| really| so)? sorry|sorry|i apologi[sz]e|(?:my )?apologies|unfortunately|regret)"

REFUSED = re.compile(
    rf"""^[\s"'“*#>-]*(?:
        {_SORRY.replace(" ", r"[ ]")}\b[^.?!\n]{{0,120}}?\b(?:{_SAID.replace(" ", r"[ ]")})
      | (?:as[ ]an?[ ](?:ai|artificial|large|language)\b[^.?!\n]{{0,60}}?)?(?:{_SAID.replace(" ", r"[ ]")})
    )""",
    re.IGNORECASE | re.VERBOSE,
)
DISCLAIMER = re.compile(
    r"\b(?:as an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|i(?:'m| am) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|against my programming|i(?:'m| am) not programmed to|my knowledge cut-?off|my training data"
    r"|(?:would|is) not (?:be )?(?:appropriate|ethical) for me to)",
    re.IGNORECASE,
)
BOILERPLATE = (
    *("great question", "good question", "excellent question", "i hope this helps", "i hope that helps"),
    *("thank you for reaching out", "thank you for asking", "let me know if you have", "let me know if you need"),
    *("is there anything else i can", "is there anything else that i can", "subscribe to our newsletter"),
    *("in today's fast-paced", "in today's digital", "in today's modern", "many factors to consider"),
    *("it is important to note that", "it is important to remember that", "it is important to keep in mind that"),
)
_OPENING = re.compile(r"\s*(?:sure|certainly|of course|absolutely)[,!.:]")
_HINTS = (  # without any of these no disclaimer matches: they are found much faster
    *("an ai", "artificial intelligence", "language model", "programm", "cutoff", "cut-off", "my training data"),
    *("not appropriate", "not ethical", "not be appropriate", "not be ethical"),
)
_READ = 500  # a refusal stands at the beginning


def refuses(text: str) -> bool:
    """Whether a text begins by saying that it will not or cannot answer.

    >>> refuses("I'm sorry, but I cannot help with that."), refuses("I can't wait to see you!")
    (True, False)
    """
    return REFUSED.match(_straight(text[:_READ])) is not None


def disclaimers(text: str) -> int:
    """How often a text speaks of itself as an AI, of its programming or of its training.

    >>> disclaimers("As an AI language model, I have no taste. I am only an AI.")
    2
    """
    low = _straight(text).lower()
    return len(DISCLAIMER.findall(low)) if any(hint in low for hint in _HINTS) else 0


def boilerplate(text: str) -> int:
    """How many phrases of a text are filler.

    >>> boilerplate("Great question! Please let me know if you have any further questions.")
    2
    """
    low = _straight(text).lower()
    return sum(low.count(phrase) for phrase in BOILERPLATE) + (_OPENING.match(low) is not None)


def _straight(text: str) -> str:
    return text.replace("\u2019", "'")
