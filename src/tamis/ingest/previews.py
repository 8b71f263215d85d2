"""What an input file would become, from its first records, without a store."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tamis.ingest import fields, formats, readers, sources
from tamis.ingest.turns import RowFault


@dataclass(frozen=True)
class Preview:
    """`format`: container and form. `mapping`: canonical name -> field, as detected. `rows`: the first good drafts.

    `faults`: place and reason of every record on the way that would be quarantined.
    """

    format: str
    mapping: Mapping[str, str]
    rows: tuple[formats.Draft, ...]
    faults: tuple[str, ...]


def preview(file: str, rows: int = 5, mapping: Mapping[str, str] | None = None) -> Preview:
    """Read the first `rows` good rows and the faults among at most 20 * rows records. Raises as `ingest` does."""
    fields.check_mapping(mapping or {})
    good: list[formats.Draft] = []
    faults: list[str] = []
    forms: Counter[str] = Counter()
    used: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="tamis-preview-") as scratch:
        source = sources.resolve([file], Path(scratch))[0]
        packed = readers.container(source.path, source.file)
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
    form = forms.most_common(1)
    return Preview(f"{packed}: {form[0][0]}" if form else str(packed), used, tuple(good), tuple(faults))
