"""Writing: the one way in which files of the store, of run folders and of trainings come to lie on a disk.

A file is written under a name of its own beside its place, fsynced and renamed, so that it is there whole or not at
all. A full disk is one message, whoever meets it. The temporary names hold host and process, so that what a dead
process left can be told from what a living one is writing.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from numpy.typing import NDArray

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# numpy tells how much was written and no number of an error; safetensors hands on the text of Rust's
_SAID_IN_WORDS = re.compile(r"\d+ requested and \d+ written|os error (28|122|27)\b|[Nn]o space left|disk is full")
_HOST = re.sub(r"[^A-Za-z0-9]", "", platform.node())[:32]
_TEMPORARY = re.compile(r"^\..+\.(?P<host>[A-Za-z0-9]*)-(?P<pid>\d+)\.tmp$")
SCRATCH = "scratch-"
_SCRATCH = re.compile(r"^scratch-(?P<host>[A-Za-z0-9]*)-(?P<pid>\d+)-")
_STARTED = time.time()  # of this process, as far as its files go
STRANGERS_SECONDS = 86400.0  # what another machine began to write is left alone for a day


def no_space(error: BaseException) -> bool:
    """Whether an error says that a disk, a quota or the largest size of a file is exhausted."""
    number = error.errno if isinstance(error, OSError) else None
    return number in FULL or (number is None and _SAID_IN_WORDS.search(str(error)) is not None)


def full(what: object) -> StoreError:
    """The one message of a full disk."""
    return StoreError(
        f"no space left while writing {what}: free some, or point --workspace at another disk; the same command goes "
        "on where this one stopped"
    )


@contextmanager
def saying_no_space(what: object) -> Iterator[None]:
    """Inside, a full disk is the StoreError that names `what`; other errors pass."""
    try:
        yield
    except OSError as error:
        if no_space(error):
            raise full(what) from error
        raise


@contextmanager
def writing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield the place where a file is to be written that appears as `path`, whole, when the block ends well.

    `durable`: fsync it too; files of a store entry are synced where the entry is sealed. Raises StoreError where the
    disk is full; whatever goes wrong, nothing half-written stays.
    """
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.tmp")
    try:
        with saying_no_space(path):
            yield temporary
            put(temporary, path, durable=durable)
    finally:
        temporary.unlink(missing_ok=True)


def put(temporary: Path, path: Path, *, durable: bool) -> None:
    """Give a finished file its name."""
    if durable:
        fsync(temporary)
    temporary.replace(path)


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogatepass", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all, keys in the order given."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def append_line(path: Path, line: str) -> None:
    """Add one line to a log; a reader sees it whole or not at all, for it is one write."""
    with saying_no_space(path), path.open("a", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        file.write(line + "\n")


def write_table(table: pa.Table, path: Path, *, compression: str = "snappy", durable: bool = True) -> None:
    """Write a table as Parquet whole or not at all."""
    import pyarrow.parquet as pq

    with writing(path, durable=durable) as temporary:
        pq.write_table(table, temporary, compression=compression)


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None, *, durable: bool = True
) -> None:
    """Write tensors as safetensors whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with writing(path, durable=durable) as temporary:
        try:
            save_file(dict(tensors), str(temporary), metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:
            if no_space(error):
                raise full(path) from error
            raise


def save_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """One `.npy` per array, never pickled."""
    import numpy as np

    for name, array in arrays.items():
        with writing(folder / f"{name}.npy", durable=False) as temporary, temporary.open("wb") as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)


def left_behind(path: Path) -> bool:
    """Whether a temporary file or folder is that of a dead process, or one of another machine that is a day old."""
    found = _TEMPORARY.match(path.name) or _SCRATCH.match(path.name)
    if found is None:
        return False
    pid = int(found["pid"])
    try:
        changed = path.stat().st_mtime
    except FileNotFoundError:
        return False
    if found["host"] != _HOST:
        return time.time() - changed > STRANGERS_SECONDS
    return changed < _STARTED if pid == os.getpid() else not alive(pid)  # numbers come again, in containers soon


def temporary(file: Path) -> bool:
    """Whether a file bears a temporary name."""
    return _TEMPORARY.match(file.name) is not None


@contextmanager
def scratch(under: Path) -> Iterator[Path]:
    """Yield a folder for files that are needed for a moment; `left_behind` knows one that a dead process left."""
    under.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{_HOST}-{os.getpid()}-", dir=under) as folder:
        yield Path(folder)


def alive(pid: int) -> bool:
    """Whether a process of this number is running on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
