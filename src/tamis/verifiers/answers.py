"""The answer inside a text in a canonical form: numbers, boxed expressions, or the text itself."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?|[-+]?\.\d+")
DIGITS = 400  # longest fraction that is reduced
_DRESS = re.compile(r"[*_`$]|\\[()\[\]]")
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-"})


def answer_of(text: str, kind: str) -> str | None:
    """The answer in a text by `exact` or `numeric`; None where there is none."""
    return number_of(text) if kind == "numeric" else plain(text)


def plain(text: str) -> str | None:
    """The text in compatibility form (NFKC), without case, emphasis marks, closing point and spare white space.

    None where nothing is left.

    >>> plain("  **The  Answer**. ")
    'the answer'
    """
    dressed = _DRESS.sub("", unicodedata.normalize("NFKC", text)).casefold()
    return " ".join(dressed.split()).rstrip(".").rstrip() or None


def number_of(text: str) -> str | None:
    r"""The number that a text ends with: in the last `\boxed{}`, else behind the last `####`, else the last one.

    Canonical: no separators of thousands, sign of zero or trailing zeros; a fraction in lowest terms. None without one.

    >>> number_of("so #### 1,200.50"), number_of(r"\boxed{4/6} of 9"), number_of("none")
    ('1200.5', '2/3', None)
    """
    said = boxed(text)
    if said is None and "####" in text:
        said = text.rpartition("####")[2]
        found = _NUMBER.search(said.translate(_MINUS))
        return canonical(found[0]) if found else None
    found_all = _NUMBER.findall((text if said is None else _fractions(said)).translate(_MINUS))
    return canonical(found_all[-1]) if found_all else None


def boxed(text: str) -> str | None:
    r"""What stands inside the last `\boxed{…}`, braces balanced; None where there is none or it is not closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, first = 1, start + len("\\boxed{")
    for place in range(first, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[first:place]
    return None


def _fractions(text: str) -> str:
    return re.sub(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}", r"\1/\2", text)


def canonical(number: str) -> str | None:
    """A number as written -> canonical form, exact whatever its length; None where it divides by zero.

    >>> canonical("+1,000.10"), canonical("-0"), canonical(".5"), canonical("6/4")
    ('1000.1', '0', '0.5', '3/2')
    """
    text = "".join(number.split()).replace(",", "")
    if "/" in text:
        top, _, bottom = text.partition("/")
        if len(text) > DIGITS or not int(bottom):
            return None
        value = Fraction(top) / int(bottom)
        return str(value)
    sign, digits = ("-", text[1:]) if text[0] == "-" else ("", text.removeprefix("+"))
    whole, _, part = digits.partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    plain_number = f"{whole}.{part}" if part else whole
    return plain_number if plain_number == "0" else sign + plain_number
