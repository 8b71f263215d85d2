"""Broken texts mended by ftfy, outside code: mojibake, control characters, line ends, and more where asked for."""

from __future__ import annotations

import functools
import re
from typing import Any

from tamis.errors import RecipeError

LACKING = "texts are mended by ftfy, which is missing: pip install ftfy"
_CODE = re.compile(r"(```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`)", re.DOTALL)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_BREAKS = str.maketrans({"\v": "\n", "\f": "\n"})  # ftfy would leave nothing between two words
# what ftfy's steps are called in counts; all other steps are its repair of encodings
_STEPS = {
    "unescape_html": "html entities",
    "uncurl_quotes": "quotes",
    "fix_character_width": "widths",
    "fix_latin_ligatures": "ligatures",
    "fix_line_breaks": "line ends",
    "remove_control_chars": "control characters",
    "remove_terminal_escapes": "control characters",
    "fix_surrogates": "surrogates",
    "NFC": "normalization",
    "NFKC": "normalization",
}


def mended(text: str, config: tuple[tuple[str, Any], ...], code: bool) -> str:
    """The text mended with these settings of ftfy; what stands in backquotes or in fences is left, unless `code`."""
    if not _may_change(text, dict(config)):
        return text
    parts = [text] if code else _CODE.split(text)
    return "".join(part if place % 2 else _fixed(part, config) for place, part in enumerate(parts))


def steps_of(text: str, config: tuple[tuple[str, Any], ...], code: bool) -> set[str]:
    """What ftfy did to a text, in words."""
    found: set[str] = set()
    for part in [text] if code else _CODE.split(text)[::2]:
        plain = part.translate(_BREAKS)
        found |= {"control characters"} if plain != part else set()
        for step in _ftfy().fix_and_explain(plain, _config(config)).explanation or ():
            found.add(_STEPS.get(str(step.parameter), "encoding"))
    return found


def _may_change(text: str, config: dict[str, Any]) -> bool:
    """Whether there is anything in a text that ftfy could change: most texts are plain, and ftfy is slow."""
    return not text.isascii() or _CONTROLS.search(text) is not None or ("&" in text and bool(config["unescape_html"]))


def _fixed(text: str, config: tuple[tuple[str, Any], ...]) -> str:
    return str(_ftfy().fix_text(text.translate(_BREAKS), _config(config)))


@functools.cache
def _config(settings: tuple[tuple[str, Any], ...]) -> Any:
    return _ftfy().TextFixerConfig(**dict(settings))


def _ftfy() -> Any:
    try:
        import ftfy
    except ModuleNotFoundError as error:
        raise RecipeError(LACKING) from error
    return ftfy
