"""Repair of texts: what is broken is mended, what is not stays, and code is not touched."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from tamis.api import clean, open_pool
from tamis.catalogue import build

BROKEN, WHOLE = "it\u00e2\u20ac\u2122s", "it\u2019s"


def repaired(tmp_path: Path, text: str, **settings: object) -> str:
    pool = tiny.make_pool(tmp_path, [tiny.make_row(tiny.chat("say", text))])
    patch = build("cleaners", "repair-text", settings).apply(pool.shards[0])
    return str(patch.rows[0].messages[-1]["content"]) if patch.rows else text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (BROKEN, WHOLE),
        (f"{BROKEN} `{BROKEN}`", f"{WHOLE} `{BROKEN}`"),
        (f"{BROKEN}\n```\nprint('{BROKEN}')\n```\n{BROKEN}", f"{WHOLE}\n```\nprint('{BROKEN}')\n```\n{WHOLE}"),
        (f"```\n{BROKEN} and no end", None),
        ("a\x0bb\x07c\r\nd", "a\nbc\nd"),
        ("x &lt; y &amp; \u201cz\u201d \ufb01ne \uff21", None),  # not broken
        ("caf\u00e9 \u4f60\u597d \u2260 \u03c0", None),
        ("if a < b && c: print('\\x07')", None),
    ],
)
def test_what_is_broken_is_mended_and_nothing_else(tmp_path: Path, text: str, left: str | None) -> None:
    assert repaired(tmp_path, text) == (text if left is None else left)


def test_more_is_done_where_it_is_asked_for(tmp_path: Path) -> None:
    text = "x &lt; y \u201cz\u201d \ufb01ne \uff21"
    assert repaired(tmp_path, text, html=True, quotes=True, ligatures=True, widths=True) == 'x < y "z" fine A'
    assert repaired(tmp_path, f"`{BROKEN}`", code=True) == f"`{WHOLE}`"
    assert repaired(tmp_path, BROKEN, encoding=False) == BROKEN


@pytest.mark.real
def test_mojibake_found_in_the_wild_is_mended(real_data: Path, tmp_path: Path) -> None:
    pool = open_pool(str(real_data / "noisy" / "ftfy_in_the_wild.jsonl.gz"), tmp_path / "ws")
    texts = {row.position: row for row in clean(pool, "repair-text", work=tmp_path / "ws")}
    right = [row.meta["fixed"] == row.messages[-1]["content"] for row in texts.values()]
    assert len(right) == len(pool) and sum(right) / len(right) >= 0.6


@pytest.mark.real
def test_rows_of_code_stay_as_they_are(real_data: Path, tmp_path: Path) -> None:
    pool = open_pool(str(real_data / "pool" / "code_alpaca_2k.jsonl.gz"), tmp_path / "ws")
    left = clean(pool, "repair-text", work=tmp_path / "ws")
    assert left.digest == pool.digest
