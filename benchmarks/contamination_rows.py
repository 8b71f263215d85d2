"""Rows of the real data as the contamination benchmark sees them: their texts, and pools made of them."""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tamis
from tamis.pool import Pool

DATA = Path(os.environ.get("TAMIS_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))


def records(name: str) -> Iterator[dict[str, Any]]:
    """Rows of a file of the real data."""
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def plain(text: str) -> str:
    """Letters and digits of a text, in order, by way of `unicodedata` alone."""
    apart = unicodedata.normalize("NFKD", text).casefold()
    return "".join(
        one
        for one in apart
        if one.isalnum() or (unicodedata.category(one)[0] == "M" and not unicodedata.combining(one))
    )


def tokens(text: str) -> int:
    """Words of a text as people count them; Chinese by the character."""
    return len(re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+", text))


def prompt_of(record: Mapping[str, Any]) -> str:
    """What an item asks."""
    return "\n".join(one["content"] for one in record["messages"] if one["role"] != "assistant")


def texts_of(record: Mapping[str, Any]) -> list[str]:
    """Every text of a row in tamis's own form."""
    return [one["content"] for field in ("messages", "chosen", "rejected") for one in record.get(field, ())]


def write(path: Path, rows: Sequence[Mapping[str, Any]], place: Path) -> Pool:
    """The pool of these rows, every one of which must have been read."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            kept = {name: row[name] for name in ("messages", "chosen", "rejected") if name in row}
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")
    pool = tamis.open_pool([str(path)], work=place)
    print(f"{path.name}: {pool!r} of {len(rows):,}", file=sys.stderr)
    return pool
