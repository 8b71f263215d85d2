"""Names of input data to local files.

| name | is |
|---|---|
| `data/*.jsonl`, `folder` | files: a path, a pattern, all data files of a folder |
| `saved` | a folder that `datasets` saved, with one split or several |
| `tamis:pool.jsonl.gz` | data that tamis ships |
| `hf://org/set:train` | a split of a dataset of the hub (all without); `hf://org/set@revision/config:train` in full |
| `s3://…`, `https://…`, `memory://…`, `hf://datasets/…` | remote files, through fsspec |
| `dataset_info.json#name`, `axolotl.yaml` | the data list of a trainer, see `configs` |
"""

from __future__ import annotations

import glob
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tamis import digests
from tamis.errors import DataError, RecipeError
from tamis.ingest import configs
from tamis.remote import told

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".txt")
COMPRESSED = (".gz", ".zst", ".zstd")
_HUB = re.compile(
    r"hf://(?P<path>[^/@:]+(?:/[^/@:]+)?)(?:@(?P<revision>[^/:]+))?(?:/(?P<name>[^:]+))?(?::(?P<split>.+))?"
)


@dataclass(frozen=True)
class Source:
    """One input: the name as given, the local file or dataset folder, and the file name rows carry.

    Of a trainer's data list also `mapping`, `label` (the source name of its rows) and `notes` on what was not read.
    """

    name: str
    path: Path
    file: str
    remote: bool = False
    mapping: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    notes: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """File name without its extensions: `pool.jsonl.gz` -> `pool`."""
        stem = self.file
        for suffix in COMPRESSED:
            stem = stem.removesuffix(suffix)
        for suffix in SUFFIXES:
            stem = stem.removesuffix(suffix)
        return stem or self.file

    def facts(self) -> dict[str, Any]:
        """What a pool says of it: `path`, where it lies on this machine (not of remote or shipped data), and notes."""
        place = {} if self.remote else {"path": str(self.path.resolve())}
        return {**place, **({"notes": list(self.notes)} if self.notes else {})}

    def digest(self) -> str:
        """Digest of the file, or of all Arrow files of a dataset folder in order."""
        if self.path.is_dir():
            return digests.of_json([digests.of_file(file) for file in arrow_files(self.path)])
        return digests.of_file(self.path)


def resolve(names: Sequence[str], scratch: Path, *, fetch: bool = True) -> list[Source]:
    """Every input in the order given; remote files are copied into `scratch`. All missing names are one DataError.

    With `fetch=False` nothing remote is touched, and its sources are left out: to check names before a run.
    """
    found: list[Source] = []
    faults: list[str] = []
    for number, name in enumerate(names):
        try:
            found += _one(name, scratch / str(number), fetch=fetch)
        except (DataError, RecipeError) as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    if not found and (fetch or not names):
        raise DataError("no input files were named; give paths, globs, hf:// names or URLs")
    return found


def _one(name: str, scratch: Path, *, fetch: bool) -> list[Source]:
    if name.startswith("tamis:"):
        from tamis.models import shipped

        if not glob.has_magic(name):
            path = shipped(name)
            return [Source(name, path, path.name, remote=True)]
        ours = sorted(shipped("tamis:").glob(name.removeprefix("tamis:")))
        if not ours:
            raise DataError(f"{name}: the pattern matches nothing that tamis ships")
        named = ((f"tamis:{path.relative_to(shipped('tamis:'))}", path) for path in ours)
        return [Source(one, path, path.name, remote=True) for one, path in named]
    if (listed := configs.entries(name)) is not None:
        return _listed(name, listed, scratch, fetch=fetch)
    if "://" in name:
        if not fetch:
            return []
        hub = name.startswith("hf://") and not name.startswith("hf://datasets/")
        return _from_hub(name, scratch) if hub else _remote(name, scratch)
    path = Path(name).expanduser()
    if _exists(path, name):
        return _local(path, name)
    if not glob.has_magic(name):
        raise DataError(f"{name}: there is no such file")
    found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    matches = sorted(str(match) for match in found if not match.name.startswith("."))
    if not matches:
        raise DataError(f"{name}: the pattern matches no file")
    return [source for match in matches for source in _local(Path(match), match)]


def _listed(name: str, listed: Sequence[configs.Entry], scratch: Path, *, fetch: bool) -> list[Source]:
    """Sources of a trainer's data list; remote ones are named so that this entry finds them again."""
    place = name.partition("#")[0]
    found = []
    for number, entry in enumerate(listed):
        for source in resolve(entry.files, scratch / str(number), fetch=fetch):
            label = entry.name.rpartition("/")[2]
            again = f"{place}#{entry.number}" if source.remote and not source.name.startswith("tamis:") else source.name
            found.append(replace(source, name=again, mapping=entry.mapping, label=label, notes=entry.notes))
    return found


def _exists(path: Path, name: str) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # no permission, a loop of links, a name that is too long or holds a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        if glob.has_magic(name):
            return False
        raise DataError(f"{name[:200]!r}: cannot be looked at ({reason})") from error
    return True


def _local(path: Path, name: str) -> list[Source]:
    if not path.is_dir():
        if not path.is_file():
            raise DataError(
                f"{name}: is neither a file nor a folder (a pipe, a socket or a device?); write a file first"
            )
        return [Source(name, path, path.name)]
    if is_dataset(path):
        arrow_files(path)
        return [Source(name, path, path.name)]
    if (path / "dataset_dict.json").is_file():
        splits = _listed_in(path, "dataset_dict.json", lambda found: [str(split) for split in found["splits"]])
        return [Source(f"{name}/{split}", path / split, f"{path.name}/{split}") for split in splits]
    files = sorted(file for file in path.rglob("*") if file.is_file() and _is_data(file))
    for file in files:
        _stays(file, path, name)
    if not files:
        raise DataError(f"{name}: the folder holds no data file ({', '.join(SUFFIXES)}) and is no dataset folder")
    return [Source(str(file), file, file.name) for file in files]


def _is_data(file: Path) -> bool:
    name = file.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return name.endswith(SUFFIXES) and not file.name.startswith(".") and file.name != configs.INFO


def is_dataset(folder: Path) -> bool:
    """Whether `folder` is what `Dataset.save_to_disk` writes."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def arrow_files(folder: Path) -> list[Path]:
    """Arrow files of a dataset folder, in the order of its rows. DataError where its state.json names others."""
    names = _listed_in(folder, "state.json", lambda found: [str(item["filename"]) for item in found["_data_files"]])
    return [folder / name for name in names]


def _listed_in(folder: Path, file: str, names: Callable[[Any], list[str]]) -> list[str]:
    """Names of files or folders beside a list of `datasets`; DataError where one lies elsewhere or is not there."""
    try:
        found = names(json.loads((folder / file).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{folder / file} is not what `datasets` writes ({error!r}); save the data set again"
        ) from error
    for name in found:
        if Path(name).name != name or not (folder / name).exists():
            raise DataError(f"{folder / file} names {name!r}, which does not lie beside it; save the data set again")
    return found


def _stays(file: Path, folder: Path, name: str) -> None:
    """Refuse a file of a named folder that is a link to a place outside; those of the hub's cache lie in its blobs."""
    if file.is_symlink() or folder.is_symlink():
        target, home = file.resolve(), folder.resolve()
        cached = next((above.parent for above in home.parents if above.name == "snapshots"), None)
        if home not in target.parents and not (cached and cached / "blobs" in target.parents):
            raise DataError(
                f"{file}: links to {target}, outside of the folder {name}; name the file itself if it is meant"
            )


def _remote(url: str, scratch: Path) -> list[Source]:
    try:
        with told(url):
            return _copied(url, scratch)
    except FileNotFoundError as error:
        raise DataError(f"{url}: there is no such remote file") from error


def _copied(url: str, scratch: Path) -> list[Source]:
    """Files behind an address or a pattern of addresses, copied into `scratch`."""
    import fsspec  # type: ignore[import-untyped]  # comes with datasets

    opened = fsspec.open_files(url, mode="rb")
    if not opened:
        raise DataError(f"{url}: the pattern matches no file")
    scratch.mkdir(parents=True, exist_ok=True)
    sources = []
    for number, remote in enumerate(opened):
        file = str(remote.path).rstrip("/").rpartition("/")[2] or "remote"
        local = scratch / f"{number}-{file}"
        with remote as stream, local.open("wb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
        name = url if len(opened) == 1 else str(remote.full_name)
        sources.append(Source(name, local, file, remote=True))
    return sources


def _from_hub(name: str, scratch: Path) -> list[Source]:
    """Splits of a dataset of the hub, through datasets and its cache."""
    import datasets

    match = _HUB.fullmatch(name)
    if match is None:
        raise DataError(f"{name}: expected hf://org/set, hf://org/set:split or hf://org/set@revision/config:split")
    more = {key: match[key] for key in ("name", "revision") if match[key]}
    path, split = match["path"], match["split"]
    try:
        loaded = datasets.load_dataset(path, split=split or None, **more)
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: the hub does not give this dataset ({type(error).__name__}: {error})") from error
    parts = {split: loaded} if split else dict(loaded)
    sources = []
    for number, (part, dataset) in enumerate(parts.items()):
        dataset.save_to_disk(str(scratch / str(number)))
        given = name if split else f"{name}:{part}"
        sources.append(Source(given, scratch / str(number), f"{path.rpartition('/')[2]}/{part}", remote=True))
    return sources
