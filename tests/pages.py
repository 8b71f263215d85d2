"""Blocks of code on the pages of the documentation, taken from the files themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, ROOT / "CONTRIBUTING.md", *([ROOT / "README.md"] if (ROOT / "README.md").is_file() else [])]
_BLOCK = re.compile(r"(?:^<!-- test: (?P<mark>\w+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_FENCE = re.compile(r"^[\s>]*(?:```|~~~)", re.M)
# without a remark behind it
_COMMAND = re.compile(r"""(?:"[^"]*"|'[^']*'|(?!\s#\s)[^"'])*""")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page: its language, what a comment before it says, and its text."""

    page: Path
    language: str
    mark: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Lines after a prompt, without prompt and remark: what a reader types."""
        typed = [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]
        return [_COMMAND.match(line)[0].rstrip() for line in typed]  # type: ignore[index]


def blocks(pages: Sequence[Path], language: str | None = None, mark: str | None = None) -> Iterator[Block]:
    """Blocks in the order of the pages, of one language and with one mark where these are given."""
    for page in pages:
        for found in _BLOCK.finditer(page.read_text(encoding="utf-8")):
            block = Block(page, found["language"], found["mark"] or "", found["text"])
            if language in (None, block.language) and mark in (None, block.mark):
                yield block


def stray_fences(page: Path) -> int:
    """Fences that belong to no block as `blocks` reads them: indented, quoted, unclosed or otherwise unusual ones."""
    return len(_FENCE.findall(_BLOCK.sub("", page.read_text(encoding="utf-8"))))


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()
