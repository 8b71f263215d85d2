"""The faults planted in the shipped pool. Each is labelled in ``meta.fault``; visible ones can be seen in the text."""

from __future__ import annotations

import json
import random
from typing import Any

Record = dict[str, Any]
VISIBLE = ("truncated", "mojibake", "refusal", "boilerplate")
# Share of the rows of every skill, the target's too. Together 22 %.
RATES = {
    "wrong_answer": 0.06,
    "truncated": 0.02,
    "mojibake": 0.02,
    "refusal": 0.03,
    "boilerplate": 0.03,
    "exact_duplicate": 0.025,
    "near_duplicate": 0.025,
    "empty_answer": 0.01,
}
_REFUSALS = (
    "I'm sorry, but as an AI language model I cannot help with that request.",
    "As an AI assistant, I am not able to answer this question. Please consult a qualified professional.",
    "I apologise, but I can't assist with this. It would not be appropriate for me to give an answer.",
    "Unfortunately I do not have access to the information that is needed to respond to this request.",
    "I'm sorry, I cannot fulfil this request. Is there anything else that I can do for you?",
)
_BOILERPLATE = (
    "Great question! There are many factors to consider here, and the answer depends on your particular situation.",
    "Thank you for reaching out! We value your feedback. Subscribe to our newsletter to learn more about this topic.",
    "In today's fast-paced world, this is an important topic that has attracted a lot of attention in recent years.",
    "In conclusion, it is important to keep in mind that every case is different and that practice makes perfect.",
    "Sure! Here is a helpful response. Please feel free to let me know if you have any further questions.",
)
_TYPOGRAPHIC = str.maketrans({" ": "\u00a0", "'": "\u2019", '"': "\u201d", "-": "\u2013"})


def truncated(text: str, rng: random.Random) -> str:
    """Keep the first quarter to half of the characters: it stops before its result, often within a word."""
    return text[: max(1, int(len(text) * rng.uniform(0.25, 0.55)))].rstrip()


def mojibake(text: str, rng: random.Random) -> str:
    """Read UTF-8 with typographic spaces and quotes as Latin-1, once or twice: a wrongly declared encoding."""
    wrapped = text.translate(_TYPOGRAPHIC)
    for _ in range(rng.choice((1, 1, 2))):
        wrapped = wrapped.encode("utf-8").decode("latin-1")
    return wrapped


def refusal(text: str, rng: random.Random) -> str:
    """Refuse to answer, though the task is harmless."""
    return rng.choice(_REFUSALS)


def boilerplate(text: str, rng: random.Random) -> str:
    """Answer with filler that would fit any question."""
    return rng.choice(_BOILERPLATE)


def empty_answer(text: str, rng: random.Random) -> str:
    """Answer nothing, or white space only."""
    return rng.choice(("", " ", "\n"))


REWRITES = {
    "truncated": truncated,
    "mojibake": mojibake,
    "refusal": refusal,
    "boilerplate": boilerplate,
    "empty_answer": empty_answer,
}


def near_duplicate(record: Record, rng: random.Random) -> Record:
    """Copy with a few characters of the instruction changed: case, a courtesy, spaces, a missing full stop."""
    text = str(record["instruction"])
    changed = rng.choice(
        (
            "Please answer: " + text,
            text + " Thanks!",
            text[0].lower() + text[1:],
            text.rstrip(".?!:") + " ...",
            text.replace(" ", "  ", 2),
        )
    )
    return {**record, "instruction": changed}


def broken_lines(records: list[Record], rng: random.Random) -> list[bytes]:
    """Spoil records into lines that are no rows: cut JSON, lists, wrong types, unknown fields, invalid UTF-8."""
    lines: list[bytes] = []
    for number, record in enumerate(records):
        line = json.dumps(record, ensure_ascii=False).encode()
        kinds = (
            line[: rng.randint(10, len(line) - 10)],
            json.dumps([record["instruction"], record["output"]]).encode(),
            json.dumps({**record, "output": 42, "instruction": None}).encode(),
            json.dumps({"title": record["instruction"], "views": rng.randint(1, 999)}).encode(),
            line.replace(b'"output": "', b'"output": "\xff\xfe', 1),
        )
        lines.append(kinds[number % len(kinds)])
    return lines
