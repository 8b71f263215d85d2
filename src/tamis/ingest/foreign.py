"""Files that are no data, known by their first bytes: one line of the quarantine says what each is, and what to do."""

from __future__ import annotations

_UNPACK = "unpack it and name what is inside"
_TEXT = "turn it into UTF-8 (iconv -t UTF-8)"
_NEVER = "it may run code and is never opened; write its rows as JSON lines or Parquet"
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe\x00\x00", "UTF-32 text", _TEXT),
    (b"\x00\x00\xfe\xff", "UTF-32 text", _TEXT),
    (b"\xff\xfe", "UTF-16 text", _TEXT),
    (b"\xfe\xff", "UTF-16 text", _TEXT),
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"PK\x05\x06", "an empty zip archive", _UNPACK),
    (b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (b"\x04\x22\x4d\x18", "an lz4 archive", _UNPACK),
    (b"\x1f\x8b", "a gzip file inside a gzip file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file inside a compressed file", _UNPACK),
    (b"\x80\x02", "a pickle", _NEVER),
    (b"\x80\x03", "a pickle", _NEVER),
    (b"\x80\x04\x95", "a pickle", _NEVER),
    (b"\x80\x05\x95", "a pickle", _NEVER),
    (b"\x93NUMPY", "a NumPy array", "only records can be read; write its rows as JSON lines or Parquet"),
    (b"SQLite format 3\x00", "an SQLite database", "write its rows as JSON lines or Parquet"),
    (b"\x89HDF\r\n", "an HDF5 file", "write its rows as JSON lines or Parquet"),
    (b"PARE", "an encrypted Parquet file", "decrypt it first"),
    (b"%PDF-", "a PDF document", "take its text out first"),
    (b"\x7fELF", "a program", "only records can be read"),
    (b"\x89PNG\r\n", "a picture", "only records can be read"),
)
_TAR = (257, b"ustar")


def name_of(head: bytes) -> str:
    r"""What the file is that begins so; "" where it may be data.

    >>> name_of(b"PK\x03\x04..."), name_of(b"{}")
    ('a zip archive', '')
    """
    return _found(head)[0]


def fault(head: bytes) -> str:
    """The reason for which its one record is quarantined."""
    name, advice = _found(head)
    return f"the file is {name}: {advice}"


def _found(head: bytes) -> tuple[str, str]:
    for magic, name, advice in _MAGIC:
        if head.startswith(magic):
            return name, advice
    start, magic = _TAR
    return ("a tar archive", _UNPACK) if head[start : start + len(magic)] == magic else ("", "")
