"""Data lists of trainers, read as they are: LLaMA-Factory's `dataset_info.json` and Axolotl's `datasets:`.

An input name on the command line and in a recipe's `files` alike:

| name | reads |
|---|---|
| `data/dataset_info.json#alpaca_en,mine` | these entries; without `#`, all of them |
| `llama_factory:data#mine` | the same from the folder, or from a file of another name |
| `train.yaml`, `train.yml#0` | Axolotl's `datasets:`, or its entries by number or path |
| `axolotl:config#org/set` | the same from a file of another name |

A key that is not read is named in a note: with the pool's files, in the preview and in what `ingest` prints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tamis.catalogue import nearest
from tamis.errors import DataError

LLAMA_FACTORY, AXOLOTL = "llama_factory:", "axolotl:"
INFO = "dataset_info.json"


@dataclass(frozen=True)
class Entry:
    """One data set of a list: the inputs it names, the mapping it states, and what of it is not read.

    `number`: its place in the list, which tells two entries of one name apart.
    """

    name: str
    files: tuple[str, ...]
    mapping: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    number: int = 0


def entries(name: str) -> list[Entry] | None:
    """The entries that an input name asks for; None where the name is no list of a trainer.

    Raises DataError for a list that cannot be read, or an entry it does not have.
    """
    from tamis.ingest import axolotl, llama_factory

    place, _, wanted = name.partition("#")
    bare = place.removeprefix(LLAMA_FACTORY).removeprefix(AXOLOTL)
    path = Path(bare).expanduser()
    if place.startswith(LLAMA_FACTORY):
        path = path / INFO if path.is_dir() else path
        return _asked(name, wanted, llama_factory.read(_loaded(path, json.loads), path))
    if place.startswith(AXOLOTL) or (path.suffix in (".yaml", ".yml") and path.is_file()):
        return _asked(name, wanted, axolotl.read(_loaded(path, _yaml), path))
    if path.name == INFO and path.is_file() and llama_factory.describes(found := _loaded(path, json.loads)):
        return _asked(name, wanted, llama_factory.read(found, path))
    return None


def _loaded(path: Path, parse: Callable[[str], Any]) -> Any:
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: is no file, so no list of data sets")
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as a list of data sets ({error})") from error


def _yaml(text: str) -> Any:
    from tamis.recipe.marked import safe_load

    return safe_load(text, "the list of data sets")


def _asked(name: str, wanted: str, found: Sequence[Entry]) -> list[Entry]:
    found = [replace(entry, number=number) for number, entry in enumerate(found)]
    if not wanted:
        return found
    asked = []
    for part in (part.strip() for part in wanted.split(",")):
        matches = [one for one in found if part in (one.name, str(one.number))]
        if not matches:
            names = [one.name for one in found]
            raise DataError(f"{name}: there is no entry {part!r}{nearest(part, names)} Known: {', '.join(names)}")
        asked.append(matches[0])
    return asked


def not_read(entry: Mapping[str, Any], known: Mapping[str, str], name: str) -> list[str]:
    """Notes on the keys of an entry; `known`: key -> "" if it is read, else what to do instead."""
    notes = []
    for key, value in entry.items():
        if key not in known:
            notes.append(f"{name}: the key {key!r} is not known and was not read")
        elif known[key] and value not in (None, False, [], {}):
            notes.append(f"{name}: {key} is not read; {known[key]}")
    return notes
