"""Intact: is what lies in a store entry what was put there?

The manifest holds size and digest of every file, and a digest of itself. Beside them stand the times of the files when
they were last held against their digests: where a file's size and times are still those, it is believed (a look costs
no read of it); where they differ, as after a write from outside or a copy to another disk, it is read and compared.
`TAMIS_VERIFY=always` reads every file at every look, for disks that lose bits without a write.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tamis import digests
from tamis.writing import fsync, temporary, write_text

MANIFEST = "manifest.json"
DAMAGE_LOG = "damage.jsonl"  # in the root of a store
VERIFY = "TAMIS_VERIFY"
_CHECK = ',\n "check": '  # the digest of all that stands before it in a manifest


@dataclass(frozen=True)
class Damage:
    """A store entry that is not what was put there."""

    path: Path
    what: str

    def __str__(self) -> str:
        """The damage as a sentence without its end."""
        return f"{self.path.parent.parent.name} {self.path.name[:8]} is damaged: {self.what}"


def seal(folder: Path, facts: Mapping[str, Any], about: Any, seconds: float) -> str:
    """Digest every file of `folder`, fsync it, and write the manifest last; returns the digest of the entry.

    Temporary files that a killed maker left in a folder which it shares with this one go.
    """
    files: dict[str, dict[str, Any]] = {}
    stamps: dict[str, list[int]] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST):
        if temporary(file):
            file.unlink()
            continue
        fsync(file)
        name = file.relative_to(folder).as_posix()
        files[name] = {"bytes": file.stat().st_size, "digest": digests.of_file(file)}
        stamps[name] = _stamp(file.stat())
    digest = digests.of_json({name: item["digest"] for name, item in files.items()})
    manifest: dict[str, Any] = {
        "digest": digest,
        "facts": facts,
        "files": files,
        "about": digests.canonical(about) if about is not None else None,
        "seconds": seconds,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    said = json.dumps(manifest, indent=1, ensure_ascii=False).removesuffix("\n}")
    _write(folder, said, stamps)
    return digest


def look(folder: Path, *, always: bool = False) -> dict[str, Any] | Damage | None:
    """The manifest of an entry that is whole, what is wrong with it, or None where there is no entry.

    `always`: hold every file against its digest, whatever its times say.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        manifest: dict[str, Any] = json.loads(text)
    except ValueError:
        return Damage(folder, f"its {MANIFEST} is not JSON")
    said, mark, _ = text.partition(_CHECK.encode())
    if not isinstance(manifest, dict) or (mark and manifest.get("check") != digests.of_bytes(said)):
        return Damage(folder, f"its {MANIFEST} is not what was written")
    always = always or os.environ.get(VERIFY) == "always"
    wrong, stamps = _files_of(folder, manifest["files"], manifest.get("stamps", {}), always)
    if wrong:
        return Damage(folder, wrong)
    if stamps and mark:
        with contextlib.suppress(PermissionError):  # a store that can only be read is read whole every time
            _write(folder, said.decode(errors="surrogatepass"), stamps)
    return manifest


def _files_of(
    folder: Path, files: Mapping[str, Any], stamps: Mapping[str, Any], always: bool
) -> tuple[str, dict[str, list[int]]]:
    """What is wrong with the files, if anything, and all stamps where some are new: those that were read and right."""
    fresh = {}
    for name, about in files.items():
        file = folder / name
        try:
            found = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing", {}
        if found.st_size != about["bytes"]:
            return f"{name} has {found.st_size:,} bytes, not {about['bytes']:,}", {}
        stamp = _stamp(found)
        if always or stamps.get(name) != stamp:
            if digests.of_file(file) != about["digest"]:
                return f"{name} has another digest than when it was written", {}
            fresh[name] = stamp
    changed = any(stamps.get(name) != stamp for name, stamp in fresh.items())
    return "", {**stamps, **fresh} if changed else {}


def _stamp(found: os.stat_result) -> list[int]:
    """When content and status of a file last changed; a write cannot leave the second as it was."""
    return [found.st_mtime_ns, found.st_ctime_ns]


def _write(folder: Path, said: str, stamps: Mapping[str, Any]) -> None:
    """Write what a manifest says, the digest of that, and the stamps; what is said stays the same to the byte."""
    check = digests.of_bytes(said.encode("utf-8", "surrogatepass"))
    write_text(folder / MANIFEST, f'{said}{_CHECK}"{check}",\n "stamps": {json.dumps(stamps)}\n}}\n')
