"""What input files would become, from their first records, without a store."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.ingest import formats, mappings, readers, sources
from tamis.ingest.sources import Source
from tamis.ingest.turns import RowFault
from tamis.values import Row

if TYPE_CHECKING:
    from tamis.models import ModelRef
    from tamis.rendering import Rendered


@dataclass(frozen=True)
class Preview:
    """`format`: container and form. `mapping`: canonical name -> field, as detected. `rows`: the first good drafts.

    `faults`: place and reason of every record on the way that would be quarantined. `notes`: what of a trainer's data
    list is not read.
    """

    format: str
    mapping: Mapping[str, str]
    rows: tuple[formats.Draft, ...]
    faults: tuple[str, ...]
    name: str = ""
    notes: tuple[str, ...] = ()


def preview(file: str, rows: int = 5, mapping: Mapping[str, Any] | None = None) -> Preview:
    """Read the first `rows` good rows and the faults among at most 20 * rows records. Raises as `ingest` does."""
    return next(previews([file], rows, mapping))


def previews(files: Sequence[str], rows: int = 5, mapping: Mapping[str, Any] | None = None) -> Iterator[Preview]:
    """Yield a preview of every file that the names stand for. Raises as `ingest` does."""
    entries = mappings.flatten(mapping)
    mappings.check_mapping(entries)
    with tempfile.TemporaryDirectory(prefix="tamis-preview-") as scratch:
        for source in sources.resolve(files, Path(scratch)):
            given = {**source.mapping, **entries}
            mappings.check_mapping(given)
            yield _preview(source, rows, given)


def _preview(source: Source, rows: int, mapping: Mapping[str, str]) -> Preview:
    good: list[formats.Draft] = []
    faults: list[str] = []
    forms: Counter[str] = Counter()
    used: dict[str, str] = {}
    packed = readers.container(source.path, source.file, mapping)
    for record in readers.read(source.path, packed):
        if len(good) >= rows or record.position >= 20 * rows:
            break
        try:
            if record.fault:
                raise RowFault(record.fault)
            found = formats.draft(record.value, mapping)
        except RowFault as fault:
            faults.append(f"record {record.position}: {fault} | {record.excerpt[:80]}")
            continue
        good.append(found)
        forms[found.form] += 1
        used = {**found.used, **used}
    used |= {name: field for name, field in mapping.items() if name not in mappings.CANONICAL}
    form = forms.most_common(1)
    shape = f"{packed}: {form[0][0]}" if form else str(packed)
    return Preview(shape, used, tuple(good), tuple(faults), source.name, source.notes)


def as_row(draft: formats.Draft, source: str = "") -> Row:
    """The row of a draft, without keys: to render it."""
    return Row(
        key="",
        content="",
        kind=draft.kind,
        source=draft.source or source,
        messages=draft.messages,
        tools=draft.tools,
        chosen=draft.chosen,
        rejected=draft.rejected,
        label=draft.label,
        meta=draft.meta,
    )


def marked(row: Row, ref: ModelRef, marks: tuple[str, str] = ("⟦", "⟧")) -> list[tuple[str, str]]:
    """The row as the model reads it, the tokens that are trained between `marks`; [(side, text)], two for a pair.

    Truncated as `ref` says. Where nothing can be trained the text says why. Raises ModelError as rendering does.
    """
    from tamis.rendering import render

    shown = [("chosen" if row.kind == "pair" else "", _marked(render(row, ref), ref, marks))]
    if row.kind == "pair":
        shown.append(("rejected", _marked(render(row, ref, side="rejected"), ref, marks)))
    return shown


def _marked(rendered: Rendered, ref: ModelRef, marks: tuple[str, str]) -> str:
    from itertools import groupby

    from tamis.chat_template import chat_template

    tokenizer: Any = chat_template(ref.name).tokenizer
    parts = []
    for trained, group in groupby(zip(rendered.ids, rendered.turn, strict=True), key=lambda pair: bool(pair[1] >= 0)):
        text = tokenizer.decode([int(token) for token, _ in group], skip_special_tokens=False)
        parts.append(f"{marks[0]}{text}{marks[1]}" if trained else text)
    if rendered.reason:
        parts.append(f" (no token is trained: {rendered.reason.text})")
    elif rendered.full_tokens > len(rendered.ids):
        parts.append(f" (cut from {rendered.full_tokens} tokens to {len(rendered.ids)})")
    return "".join(parts)
