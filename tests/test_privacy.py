"""Personal data and credentials: what is found, what is left, and that nothing found is written anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny
from tamis.api import clean
from tamis.privacy import credentials, personal
from tamis.privacy.spans import Span, apart, masked

KEY = "AKIA" + "Z7Q2M4X9K1B5T8WD"
LINES = "MIIEowIBAAKCAQEAx4UbaDzY5xjW6hc9jwN0mX33XpTDVh9b\n" * 3 + "Zm9v"
BLOCK = f"-----BEGIN RSA PRIVATE KEY-----\n{LINES}\n-----END RSA PRIVATE KEY-----"


def test_spans_that_overlap_give_way_to_the_surest_and_longest() -> None:
    spans = [Span(0, 4, "A", 0.5), Span(2, 9, "B", 0.5), Span(3, 5, "C", 1.0), Span(20, 22, "D")]
    assert apart(spans) == [Span(3, 5, "C", 1.0), Span(20, 22, "D")]
    assert masked("0123456789", [Span(1, 3, "X"), Span(5, 6, "Y")]) == "0<X>34<Y>6789"
    assert masked("", []) == ""


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"export KEY={KEY}", "export KEY=<AWS_KEY>"),
        (f"twice {KEY} and {KEY}.", "twice <AWS_KEY> and <AWS_KEY>."),
        ("git clone https://me:hunter22@github.com/x", "git clone https://me:<PASSWORD>@github.com/x"),
        (f"so:\n{BLOCK}\nend", "so:\n<PRIVATE_KEY>\nend"),
        (BLOCK.replace("\n", "\\n") + '"}', '<PRIVATE_KEY>"}'),
        (f"cut off: {BLOCK[:120]}", "cut off: <PRIVATE_KEY>"),
        ("it begins with -----BEGIN RSA PRIVATE KEY----- and so on, and ends with -----END RSA PRIVATE KEY-----", None),
        ("password = 'mypassword'", None),
        ("the answer is 42, and https://example.com/a:b", None),
    ],
)
def test_credentials_are_masked_by_their_form(text: str, left: str | None) -> None:
    pytest.importorskip("detect_secrets")
    assert masked(text, credentials.find(text)) == (text if left is None else left)


def test_what_is_found_is_counted_and_written_nowhere(tmp_path: Path) -> None:
    pytest.importorskip("detect_secrets")
    rows = tiny.make_rows(6)
    rows[2] = tiny.make_row(tiny.chat("which?", f"use {KEY}"), key="two", file="tiny.jsonl", position=2)
    pool = tiny.make_pool(tmp_path / "pool", rows, shard_rows=4)
    dropped = clean(pool, "secrets", work=tmp_path / "ws", out=tmp_path / "dropped")
    assert dropped.steps[0]["facts"] == {"rows_with": {"AWS_KEY": 1}} and len(dropped) == 5
    kept = clean(pool, "mask-secrets", work=tmp_path / "ws", out=tmp_path / "masked")
    (row,) = [row for row in kept if row.parent == "two"]
    assert row.messages[-1]["content"] == "use <AWS_KEY>" and kept.steps[0]["facts"] == {"AWS_KEY": 1}
    for folder in (tmp_path / "ws", tmp_path / "dropped", tmp_path / "masked"):
        texts = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
        assert not any(KEY.encode() in text for text in texts)
        assert not any(KEY in json.dumps(list(records)) for records in _tables(folder))


def _tables(folder: Path) -> list[list[dict[str, str]]]:
    import pyarrow.parquet as pq

    return [pq.read_table(file).to_pylist() for file in folder.rglob("*.parquet") if "shard" not in file.parts]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("mail jane.doe@some-corp.com today", "mail <EMAIL> today"),
        ("call +49 30 901820 or (415) 555-2671", "call <PHONE> or <PHONE>"),
        ("card 4111 1111 1111 1111.", "card <CREDIT_CARD>."),
        ("card 4111 1111 1111 1112 fails its checksum", None),
        ("ssn 536-90-4399", "ssn <US_SSN>"),
        ("to DE89370400440532013000 please", "to <IBAN> please"),
        ("ping 8.8.8.8", "ping <IP_ADDRESS>"),
        ("ping 127.0.0.1, 192.168.0.7 or me@example.com", None),
        ("primes 4001 4003 4007 4013 4019 4021 4027 4049 4051", None),
        ("see ISBN 80-7231-006-2, reversed a[1::-1]", None),
        ("npm/popper.js@1.16.1/dist", None),
        ("12 + 3456 = 3468, in 2024-11-05, at 12:30", None),
    ],
)
def test_personal_data_is_masked_by_its_form(text: str, left: str | None) -> None:
    pytest.importorskip("presidio_analyzer")
    assert masked(text, personal.find(text)) == (text if left is None else left)
    assert personal.find(text * 200, ()) == []


@pytest.mark.soak
def test_a_find_does_not_depend_on_where_a_long_line_is_cut() -> None:
    pytest.importorskip("presidio_analyzer")
    for lead in (1, 1790, 1799, 1990, 1999, 3605, 9000):
        text = "x " * lead + "mail jane.doe@some-corp.com today"
        assert masked(text, personal.find(text)).endswith("mail <EMAIL> today") and len(personal.find(text)) == 1
