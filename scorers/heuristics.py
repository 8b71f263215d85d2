"""The heuristics of Gopher, C4 and FineWeb as columns: rules for web pages, measured on what was answered or asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.errors import RecipeError
from tamis.text.criteria import Criterion, Field, columns_of, ratio, reasons_of
from tamis.values import Column, Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.views import ShardSignals

_NEEDS = frozenset({Need(kind="signal", name="text")})


@dataclass(frozen=True, kw_only=True)
class Gopher:
    """Gopher's rules of quality and repetition (Rae et al. 2021), each a column, and how many a row meets.

    Made for web pages. For fine-tuning data they are wrong as a filter: short answers, code and languages other than
    English fail. `rules: sft` therefore judges only what is a fault of an answer too: repetition, the upper bound on
    length, broken encoding and an end in mid-sentence; `published` judges Gopher's own. All columns are given either
    way. Thresholds are the published ones, as datatrove has them, and bounds are included. `top_ngrams` are for n = 2,
    3, 4 and `duplicate_ngrams` for n = 5 to 10, as shares of the characters of words (`tamis.text.repetition`).

    No published value. Of 250 rows each of 32 public instruction sets `published` fails 71 % and `sft` 22 %. Where
    faults are known (the shipped pool) `failed` of `sft` finds broken encodings with an AUC of 0.97 and truncated
    answers with 0.84; of wrong answers it knows nothing (0.49).
    """

    of: Field = "response"
    rules: Literal["published", "sft"] = "published"
    min_words: float = 50.0
    max_words: float = 100_000.0
    min_word_length: float = 3.0
    max_word_length: float = 10.0
    max_symbols: float = 0.1
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_alphabetic: float = 0.8
    min_stop_words: float = 2.0
    max_duplicate_lines: float = 0.3
    max_duplicate_paragraphs: float = 0.3
    max_duplicate_line_characters: float = 0.2
    max_duplicate_paragraph_characters: float = 0.2
    top_ngrams: tuple[float, ...] = (0.20, 0.18, 0.16)
    duplicate_ngrams: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if len(self.top_ngrams) != 3 or len(self.duplicate_ngrams) != 6:
            raise RecipeError(
                "gopher: top_ngrams are three thresholds (n = 2 to 4), duplicate_ngrams six (n = 5 to 10)"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """The text signal."""
        return _NEEDS

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """A column for every rule, `passed` (share of the rules judged, in [0, 1]) and `failed` (how many)."""
        table, signal = _Table(have, self.of), have["text"]
        quality, repetition = self._quality(table), self._repetition(table)
        sound = [
            Criterion("broken_characters", table["broken_characters"], "characters", most=0),
            Criterion("ends", table["ends"], "1 where the text does not break off", least=1),
        ]
        judged = {one.name for one in (*quality, *repetition)}
        if self.rules == "sft":
            judged = {one.name for one in (*repetition, *sound)} | {"longest"}
        longest = Criterion("longest", table["words"], "words", most=self.max_words)
        return columns_of([*quality, longest, *repetition, *sound], reasons_of(signal, self.of), judged)

    def _quality(self, table: _Table) -> list[Criterion]:
        words, pieces, lines = table["words"], table["pieces"], table["lines"]
        length = ratio(table["word_characters"], words)
        return [
            Criterion("words", words, "words", self.min_words, self.max_words),
            Criterion("word_length", length, "characters", self.min_word_length, self.max_word_length),
            Criterion("hash_signs", ratio(table["hash_signs"], pieces), "per word", most=self.max_symbols),
            Criterion("ellipses", ratio(table["ellipses"], pieces), "per word", most=self.max_symbols),
            Criterion("bullet_lines", ratio(table["bullet_lines"], lines), "share", most=self.max_bullet_lines),
            Criterion("ellipsis_lines", ratio(table["ellipsis_lines"], lines), "share", most=self.max_ellipsis_lines),
            Criterion("alphabetic", ratio(table["alphabetic_pieces"], pieces), "share", least=self.min_alphabetic),
            Criterion("stop_words", table["gopher_stop_words"], "words", least=self.min_stop_words),
        ]

    def _repetition(self, table: _Table) -> list[Criterion]:
        size = table["characters"]
        lines, paragraphs = table["duplicate_line_characters"], table["duplicate_paragraph_characters"]
        shares = {
            "duplicate_lines": (ratio(table["duplicate_lines"], table["lines"]), self.max_duplicate_lines),
            "duplicate_paragraphs": (
                ratio(table["duplicate_paragraphs"], table["paragraphs"]),
                self.max_duplicate_paragraphs,
            ),
            "duplicate_line_characters": (ratio(lines, size), self.max_duplicate_line_characters),
            "duplicate_paragraph_characters": (ratio(paragraphs, size), self.max_duplicate_paragraph_characters),
        }
        for n, most in enumerate(self.top_ngrams, 2):
            shares[f"top_{n}_gram"] = table[f"top_{n}_share"], most
        for n, most in enumerate(self.duplicate_ngrams, 5):
            shares[f"duplicate_{n}_grams"] = table[f"duplicate_{n}_share"], most
        return [Criterion(name, values, "share", most=most) for name, (values, most) in shares.items()]


@dataclass(frozen=True, kw_only=True)
class C4:
    """C4's rules (Raffel et al. 2020) as columns: lines kept, sentences, placeholders, curly brackets.

    C4 drops lines without terminal punctuation, of fewer than three words, with a word beyond 1,000 characters, or
    that speak of cookies, terms of use or javascript; then texts with fewer than five sentences left, with "lorem
    ipsum" or with a curly bracket. Made for web pages: for fine-tuning data columns, not a filter, for code and short
    answers fail (73 % of 7,775 rows of public instruction sets). No published value.
    """

    of: Field = "response"
    min_sentences: float = 5.0
    max_braces: float = 0.0
    max_lorem_ipsum: float = 0.0
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The text signal."""
        return _NEEDS

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `kept_lines` (share), `sentences`, `braces`, `lorem_ipsum`, `passed` (share) and `failed` (count)."""
        table = _Table(have, self.of)
        criteria = [
            Criterion("kept_lines", ratio(table["c4_lines"], table["lines"]), "share of lines"),
            Criterion("sentences", table["c4_sentences"], "sentences in kept lines", least=self.min_sentences),
            Criterion("braces", table["braces"], "curly brackets", most=self.max_braces),
            Criterion("lorem_ipsum", table["lorem_ipsum"], "occurrences", most=self.max_lorem_ipsum),
        ]
        return columns_of(criteria, reasons_of(have["text"], self.of))


@dataclass(frozen=True, kw_only=True)
class FineWeb:
    """FineWeb's own rules (Penedo et al. 2024) as columns: line ends, short and repeated lines, breaks.

    Drops texts of which fewer than 12 % of the lines end in punctuation, more than 67 % are at most 30 characters long,
    more than 1 % of the characters stand in repeated lines, or that have more than 0.3 line breaks a word. Made for web
    pages: lists and code fail (24 % of 7,775 rows of public instruction sets). No published value.
    """

    of: Field = "response"
    min_terminal_lines: float = 0.12
    max_short_lines: float = 0.67
    max_duplicate_line_characters: float = 0.01
    max_newlines: float = 0.3
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The text signal."""
        return _NEEDS

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Columns `terminal_lines`, `short_lines`, `duplicate_line_characters`, `newlines`, `passed`, `failed`."""
        table = _Table(have, self.of)
        lines, characters = table["lines"], table["characters"] - table["newlines"]
        repeated = ratio(table["duplicate_line_characters"], characters)
        criteria = [
            Criterion("terminal_lines", ratio(table["terminal_lines"], lines), "share", least=self.min_terminal_lines),
            Criterion("short_lines", ratio(table["short_lines"], lines), "share", most=self.max_short_lines),
            Criterion("duplicate_line_characters", repeated, "share", most=self.max_duplicate_line_characters),
            Criterion("newlines", ratio(table["newlines"], table["words"]), "per word", most=self.max_newlines),
        ]
        return columns_of(criteria, reasons_of(have["text"], self.of))


class _Table:
    """Statistics of one field of a shard, by name."""

    def __init__(self, have: ShardSignals, field: Field) -> None:
        import numpy as np

        self._table = np.asarray(have["text"][field])

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        from tamis.text.text_statistics import statistic

        return statistic(self._table, name)
