"""Which language a text is in: py3langid, a small model that ships in its wheel (139 languages, BSD-3)."""

from __future__ import annotations

import functools
from typing import Any

from tamis.errors import RecipeError
from tamis.text.words import raw_bytes

READ = 600  # characters of a text that are looked at; more does not change the answer and costs time
NO_LANGUAGE = 0


def detect(text: str) -> tuple[str, float]:
    """ISO 639 code and probability in (0, 1] of the likeliest language; ("", 0.0) for a text without any letter.

    Reads the first 600 characters. RecipeError where py3langid is not installed.
    """
    start = text[:READ]
    if not any(map(str.isalpha, start)):
        return "", 0.0
    name, probability = _identifier().classify(raw_bytes(start))
    return name, float(probability)


def code_of(name: str) -> int:
    """A language as the number that signals store: the bytes of its ISO code, big-endian; 0 for none.

    >>> name_of(code_of("en")), code_of("")
    ('en', 0)
    """
    return int.from_bytes(name.encode("ascii"), "big")


def name_of(code: int) -> str:
    """The ISO code behind a number; "" for 0."""
    return code.to_bytes((code.bit_length() + 7) // 8, "big").decode("ascii")


def known() -> tuple[str, ...]:
    """ISO codes of all languages that can be found, sorted."""
    return tuple(sorted(_identifier().labels))


@functools.cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ModuleNotFoundError as error:
        raise RecipeError("languages are told apart by py3langid, which is missing: pip install py3langid") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
