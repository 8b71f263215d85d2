"""Personal data in a text, by the pattern recognisers of Presidio: no language model, no names of people, no places."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tamis.errors import RecipeError
from tamis.privacy.spans import Span, apart

# kind, as the placeholder names it -> entity of Presidio
ENTITIES = {
    "EMAIL": "EMAIL_ADDRESS",
    "PHONE": "PHONE_NUMBER",
    "CREDIT_CARD": "CREDIT_CARD",
    "IBAN": "IBAN_CODE",
    "IP_ADDRESS": "IP_ADDRESS",
    "US_SSN": "US_SSN",
    "CRYPTO_WALLET": "CRYPTO",
}
KINDS = tuple(ENTITIES)
LONGEST = 2000  # characters of a line that are looked at together: the patterns are quadratic in the worst case
OVERLAP = 200
LACKING = "personal data is found by Presidio, which is missing: pip install 'tamis[pii]'"
_DIGIT = re.compile(r"\d")
_IBAN = re.compile(r"[A-Za-z]{2}\d{2}")
_IP = re.compile(r"\d\.\d|[0-9A-Fa-f:]:[0-9A-Fa-f:]")
_RESERVED = re.compile(r"(^|[.@])(example\.(com|org|net|edu)|example|test|invalid|localhost|local)$", re.IGNORECASE)

_MORE_BEFORE, _MORE_AFTER = re.compile(r"\d[ .-]?$"), re.compile(r"[ .-]?\d")
_BOOK = re.compile(r"\b(ISBN|ISSN|LCCN|DOI)\b", re.IGNORECASE)


def _digits(least: int) -> Callable[[str], bool]:
    return lambda text: len(_DIGIT.findall(text)) >= least


# what a text must hold for a kind to be possible: most lines hold none of it, and are not looked at further
_POSSIBLE: dict[str, Callable[[str], bool]] = {
    "EMAIL": lambda text: "@" in text,
    "PHONE": _digits(7),
    "CREDIT_CARD": _digits(12),
    "IBAN": lambda text: _IBAN.search(text) is not None,
    "IP_ADDRESS": lambda text: _IP.search(text) is not None,
    "US_SSN": _digits(9),
    "CRYPTO_WALLET": lambda text: len(text) >= 26,
}


def find(
    text: str,
    kinds: Sequence[str] = KINDS,
    *,
    least: float = 0.4,
    regions: Sequence[str] = ("US",),
    reserved: bool = False,
) -> list[Span]:
    """Personal data of these kinds in a text, in order and without overlaps.

    `least`: score of Presidio from which a find counts; what has a checksum (cards, IBAN, wallets) has 1 where that is
    right and is no find where it is wrong. `regions`: countries whose national forms of telephone numbers are known;
    international ones (+…) always are. Without `reserved`, addresses that nobody can have are left: 127.0.0.1,
    192.168.…, …@example.com. RecipeError where Presidio is not installed.
    """
    found = []
    for start, part in _parts(text):
        for kind in kinds:
            if _POSSIBLE[kind](part):
                for one in _recognisers(tuple(regions))[kind].analyze(part, [ENTITIES[kind]], None):
                    span = Span(one.start, one.end, kind, one.score)
                    if one.score >= least and is_whole(part, span) and (reserved or not is_reserved(part, span)):
                        found.append(Span(start + one.start, start + one.end, kind, one.score))
    return apart(found)


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their places; long ones in pieces that overlap."""
    start = 0
    for line in text.splitlines(keepends=True):
        for begun in range(0, max(1, len(line) - OVERLAP), LONGEST - OVERLAP):
            yield start + begun, line[begun : begun + LONGEST]
        start += len(line)


def is_whole(text: str, span: Span) -> bool:
    """Whether a find is no piece of something else: of a list of numbers, of an ISBN, of `a[1::-1]`."""
    found = text[span.start : span.end]
    if span.kind in ("CREDIT_CARD", "PHONE", "US_SSN"):
        listed = _MORE_BEFORE.search(text[: span.start]) or _MORE_AFTER.match(text[span.end :])
        return listed is None and _BOOK.search(text[max(0, span.start - 16) : span.start]) is None
    if span.kind == "IP_ADDRESS" and ":" in found:
        return len([part for part in found.split(":") if part]) >= 3
    return True


def is_reserved(text: str, span: Span) -> bool:
    """Whether an address is one that standards keep for examples and for networks of one's own (RFC 2606, 6890)."""
    found = text[span.start : span.end]
    if span.kind == "EMAIL":
        return _RESERVED.search(found) is not None
    if span.kind == "IP_ADDRESS":
        try:
            return not ipaddress.ip_interface(found).ip.is_global
        except ValueError:
            return False
    return False


@functools.cache
def _recognisers(regions: tuple[str, ...]) -> dict[str, Any]:
    """One recogniser a kind."""
    try:
        from presidio_analyzer import predefined_recognizers as presidio
    except ModuleNotFoundError as error:
        raise RecipeError(LACKING) from error
    return {
        "EMAIL": _email(presidio),
        "PHONE": presidio.PhoneRecognizer(supported_regions=regions),
        "CREDIT_CARD": presidio.CreditCardRecognizer(),
        "IBAN": presidio.IbanRecognizer(),
        "IP_ADDRESS": presidio.IpRecognizer(),
        "US_SSN": presidio.UsSsnRecognizer(),
        "CRYPTO_WALLET": presidio.CryptoRecognizer(),
    }


def _email(presidio: Any) -> Any:
    """Presidio's pattern of addresses, with the list of public suffixes that tldextract brings along.

    Its own recogniser asks the network for a newer list: what is found would depend on the day and on the network.
    """
    import tldextract

    recogniser = presidio.EmailRecognizer()
    extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    def is_there(text: str) -> bool:
        domain = extract(text.rpartition("@")[2])
        return domain.suffix != "" and domain.domain != ""

    recogniser.validate_result = is_there
    return recogniser
