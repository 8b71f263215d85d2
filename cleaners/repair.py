"""Repair of texts that an encoding has broken."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.privacy.rows import row_rewritten
from tamis.text.mending import mended, steps_of
from tamis.values import Need, Patch, Row

if TYPE_CHECKING:
    from tamis.pool import Shard


@dataclass(frozen=True, kw_only=True)
class RepairText:
    r"""Mends texts that a wrong encoding has broken (`itâ€™s`), by ftfy, outside of code.

    Settings are ftfy's (Speer, 2019, version 6): `encoding` undoes mojibake, `controls` removes control characters and
    escapes of terminals (vertical tabs and form feeds become line ends), `line_breaks` makes all line ends \n. What
    changes texts that are not broken is off: `html` (entities), `quotes` (curled to straight), `ligatures`, `widths`
    (of East Asian forms), and `normalization`. `code`: mend what stands in backquotes or in fences too. Each changed
    row names the row that it was.
    """

    revision: ClassVar[int] = 1
    encoding: bool = True
    controls: bool = True
    line_breaks: bool = True
    html: bool = False
    quotes: bool = False
    ligatures: bool = False
    widths: bool = False
    normalization: Literal["none", "NFC", "NFKC"] = "none"
    code: bool = False

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    @property
    def _config(self) -> tuple[tuple[str, Any], ...]:
        of_encoding = ("restore_byte_a0", "replace_lossy_sequences", "decode_inconsistent_utf8", "fix_c1_controls")
        settings: dict[str, Any] = dict.fromkeys(("fix_encoding", *of_encoding), self.encoding)
        settings |= dict.fromkeys(("remove_control_chars", "remove_terminal_escapes", "fix_surrogates"), self.controls)
        settings |= {"fix_line_breaks": self.line_breaks, "unescape_html": self.html, "uncurl_quotes": self.quotes}
        settings |= {"fix_latin_ligatures": self.ligatures, "fix_character_width": self.widths}
        settings["normalization"] = None if self.normalization == "none" else self.normalization
        return tuple(settings.items())

    def apply(self, shard: Shard, /) -> Patch:
        """Rows whose text changes. Facts: rows by what was done to them."""
        config, changed, counts = self._config, {}, Counter[str]()
        for place, row in enumerate(shard.read()):
            before: list[str] = []

            def mend(text: str, before: list[str] = before) -> str:
                new = mended(text, config, self.code)
                if new != text:
                    before.append(text)
                return new

            new: Row = row_rewritten(row, mend)
            if before:
                changed[place] = new
                counts.update({step for text in before for step in steps_of(text, config, self.code)})
        return Patch(rows=changed, facts=dict(sorted(counts.items())))
