"""Rows that hold items of evaluation sets: found by runs of words, and by embeddings where asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.contamination.items import SHORT, Of
from tamis.contamination.search import MOST, Numbers
from tamis.errors import DataError, GateError, RecipeError
from tamis.values import Dropped, Machine, Need
from tamis.vectors.encoders import EncoderRef

if TYPE_CHECKING:
    import pyarrow as pa

    from tamis.contamination.items import Item
    from tamis.views import PoolView

Against = str | tuple[str | dict[str, Any], ...]
LONGEST = 13


@dataclass(frozen=True, kw_only=True)
class Contamination:
    """Finds evaluation items in a pool by runs of words (and embeddings), and reports, drops or fails.

    `against`: files of evaluation sets, or `@target`. `action`: `drop` takes the rows out, `report` leaves them in,
    `fail` stops with exit code 3 where there is any. Every message of a row is searched, chosen and rejected answers
    too; `of` says what of an evaluation item is looked for: its `prompt`, its `answer`, or `both`.

    Texts are compared without case, diacritics, punctuation and white space; numbers stay. An item is found in a row
    that holds at least the share `coverage` of those of its words that count, each in a run of `n` words (8 to 13; of a
    shorter item all); or that share of its question, where choices follow it. A run that more than `shared` items of
    the set have (a tenth of a small set) is not looked for, and words in a run of `header` that a tenth of the items
    have do not count: instructions, examples in front of every question. Items of which fewer than 8 words count are
    compared whole: with a message, a line, a sentence, what follows a colon; so is a question of 5 to 7 words in front
    of choices, unless many items share it. Items whose answer is left empty are looked for too. With `numbers: keep`, a
    row that has another number in the place of one of the item's does not hold it, and is counted apart.

    `embed: true` also takes rows whose embedding has at least the cosine `cosine` with that of an item: the pooled
    hidden states of the run's model, or of a sentence encoder (`encoder: {name: …}`).
    """

    against: Against = field(metadata={"science": False})  # its content is an input
    action: Literal["drop", "report", "fail"] = "drop"
    of: Of = "prompt"
    n: int = SHORT
    coverage: float = 0.95
    numbers: Numbers = "keep"
    shared: int = 10
    header: int = 4
    embed: bool = False
    cosine: float = 0.95
    encoder: EncoderRef | None = None
    revision: ClassVar[int] = 2

    def __post_init__(self) -> None:
        faults = [] if self.against else ["against: names no evaluation set"]
        faults += [] if SHORT <= self.n <= LONGEST else [f"n: {self.n} is not in {SHORT} to {LONGEST}"]
        faults += [
            f"{name}: {value} is no share in (0, 1]"
            for name, value in (("coverage", self.coverage), ("cosine", self.cosine))
            if not 0 < value <= 1
        ]
        faults += [
            f"{name}: {value} is not at least {least}"
            for name, value, least in (("shared", self.shared, 1), ("header", self.header, 2))
            if value < least
        ]
        faults += ["encoder: is read where `embed: true` is set"] if self.encoder is not None and not self.embed else []
        if faults:
            raise RecipeError([f"contamination: {fault}" for fault in faults])

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of both sides where embeddings of the run's model are asked for."""
        if not self.embed or self.encoder is not None:
            return frozenset()
        settings = (("loss", "none"), ("pooled", True))
        return frozenset(
            Need(kind="signal", name="tokens", side=side, settings=settings) for side in ("pool", "against")
        )

    def sources(self) -> tuple[Any, ...]:
        """The evaluation sets, as a recipe names files."""
        return (self.against,) if isinstance(self.against, str) else self.against

    def clean(self, view: PoolView, on: Machine, /) -> Dropped:
        """Rows that hold an evaluation item; `contamination.parquet` has the spans, `contaminated_items.parquet` items.

        `facts`: `rows` and `items` found, `looked_for`, `other_numbers`, `most`, `sets`, `examples`. GateError with
        `action: fail` where a row is found.
        """
        import numpy as np

        from tamis.contamination import tables

        table, items = self._searched(view, on)
        refused = sum(int(file.get("quarantined", 0)) for one in view.against for file in one.pool.files)
        if refused and not items:
            raise DataError(
                f"contamination: all {refused:,} rows of the evaluation sets are quarantined: mend the files"
            )
        held = tables.of_kinds(table, tables.COUNTED)
        facts = tables.summary(table, items)
        if self.action == "fail" and facts["rows"]:
            raise GateError(tables.refusal(facts, len(view)))
        best = tables.by_row(held) if self.action == "drop" else {}
        times = tables.items_a_row(held)
        rows = np.zeros(len(view), np.bool_)
        rows[list(best)] = True
        reasons = tuple(tables.reason(best[place], times[place]) for place in sorted(best))
        found = {"contamination.parquet": table, "contaminated_items.parquet": tables.by_item(held, items)}
        return Dropped(rows=rows, reasons=reasons, facts=facts, notes=self._notes(facts, refused), tables=found)

    def _searched(self, view: PoolView, on: Machine) -> tuple[pa.Table, list[Item]]:
        import pyarrow as pa

        from tamis.contamination.embedded import near
        from tamis.contamination.items import Rules, items_of
        from tamis.contamination.looking import look_for
        from tamis.contamination.search import search

        items = items_of((one.pool for one in view.against), self.of)
        rules = Rules(n=self.n, of=self.of, shared=self.shared, header=self.header)
        table = search(view.pool, look_for(items, rules), self.coverage, self.numbers)
        if self.embed:
            table = pa.concat_tables([table, near(view, self.cosine, self.encoder, on)])
        return table, items

    def _notes(self, facts: Mapping[str, Any], refused: int) -> tuple[str, ...]:
        said = []
        if refused:
            said.append(f"{refused:,} rows of the evaluation sets are quarantined, and were not looked for")
        if self.action == "report" and facts["rows"]:
            said.append(f"{facts['rows']:,} rows hold {facts['items']:,} evaluation items, and stay")
        if facts["other_numbers"]:
            said.append(f"{facts['other_numbers']:,} rows hold an evaluation item with other numbers, and stay")
        if facts["most"]:
            said.append(f"{facts['most']:,} rows hold most of an evaluation item ({MOST:.0%} or more), and stay")
        return tuple(said)
