"""Which entries of the store a run or a verb has used, so that `tamis gc` knows what nothing refers to any more.

Every entry that is found or made is noted as one line `<day> <kind>/<identity>`: of a run in `entries.txt` of its
folder, of a verb in `entries.txt` of the workspace. Workers append to the same file: a line is one write.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamis.operations import locks
from tamis.store import Entry, Make, Store
from tamis.writing import saying_no_space, write_text

ENTRIES = "entries.txt"
_LINE = re.compile(r"^(?P<day>\d{4}-\d{2}-\d{2}) (?P<kind>[a-z-]+)/(?P<identity>[0-9a-f]{32})$")
_NOTED: set[tuple[Path, str, str]] = set()


@dataclass(frozen=True)
class NotedStore(Store):
    """A store that notes in `notes` what is taken out of it. Its workspace is in use as long as this process lives."""

    notes: Path | None = None

    def get(self, kind: str, identity: str) -> Entry | None:
        """The complete entry of `identity`, or None; one that is found is noted."""
        if not self.root.is_dir():
            return None
        self._share()
        found = super().get(kind, identity)
        if found is not None:
            self.note(kind, identity)
        return found

    def get_or_make(self, kind: str, identity: str, make: Make, *, about: Any = None, resumable: bool = False) -> Entry:
        """The entry of `identity`, made if it is not there yet; noted either way."""
        self._share()
        entry = super().get_or_make(kind, identity, make, about=about, resumable=resumable)
        self.note(kind, identity)
        return entry

    def entries(self, kind: str) -> Iterator[Entry]:
        """Every complete entry of a kind; who lists them has not used them."""
        yield from Store(self.root).entries(kind)

    def _share(self) -> None:
        with _unless_read_only():
            locks.share(self.root.parent)

    def note(self, kind: str, identity: str) -> None:
        """Note a use of something that lies outside of the store, too: `pools`, columns registered for a pool."""
        if self.notes is None or not self.root.is_dir() or (self.notes, kind, identity) in _NOTED:
            return
        # the line break comes first too: what another process could not write to its end spoils no line of ours
        line = f"\n{time.strftime('%Y-%m-%d')} {kind}/{identity}\n".encode()
        with _unless_read_only(), saying_no_space(self.notes):
            descriptor = os.open(self.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                if os.write(descriptor, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.notes))
            finally:
                os.close(descriptor)
            _NOTED.add((self.notes, kind, identity))


@contextmanager
def _unless_read_only() -> Iterator[None]:
    """A store that may only be read is read all the same: who cannot write there cannot remove things either."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise


def forget() -> None:
    """Note everything anew: what was noted may have been removed."""
    _NOTED.clear()


def read(file: Path) -> dict[tuple[str, str], str]:
    """The last day of use by (kind, identity); a line that was cut off by a full disk is left out."""
    if not file.is_file():
        return {}
    found: dict[tuple[str, str], str] = {}
    for line in map(_LINE.match, file.read_text(encoding="utf-8", errors="replace").splitlines()):
        if line is not None:
            key = (line["kind"], line["identity"])
            found[key] = max(line["day"], found.get(key, ""))
    return found


def write(file: Path, used: Mapping[tuple[str, str], str]) -> None:
    """Write a file of uses anew, without what was removed; nobody may be noting meanwhile."""
    write_text(file, "".join(f"{day} {kind}/{identity}\n" for (kind, identity), day in sorted(used.items())))
