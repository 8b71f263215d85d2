"""Remote storage through fsspec, both ways: s3://, gs://, az://, https:// and what else has a driver.

Credentials, regions and endpoints are those of the drivers' own environment (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`,
`AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, …). What goes out is written here first, then sent file by file,
each whole; where a file cannot be sent, those that were sent before it are taken back.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tamis.errors import DataError

log = logging.getLogger(__name__)
EXTRAS = {"s3": "tamis[s3]", "s3a": "tamis[s3]", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
FOLDERS = frozenset({"file", "local", "memory", "sftp", "ssh", "smb", "hdfs", "ftp"})  # where a folder must be made
MANIFEST = "manifest.json"  # sent last: its presence means that the run is there whole
LOCAL = frozenset({"pool.json", "entries.txt", "state.json"})  # of a run: what only means something on this machine
_DRIVERS = (  # what drivers raise beside OSError; only those that are installed can be raised
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)


def is_remote(name: object) -> bool:
    """Whether a name is an address (`s3://bucket/file`) and no path."""
    return "://" in str(name)


def check(url: str) -> None:
    """DataError where an address cannot be written to whatever the network says: no driver, or nothing behind it."""
    with _told(url):
        _, place = _at(url)
    if not place.strip("/"):
        raise DataError(f"{url}: name a place in it, for example {url.partition('://')[0]}://bucket/results")


@contextmanager
def writable(out: str | Path) -> Iterator[Path]:
    """A path of this machine to write to. Where `out` is remote, all that lies beside it is sent at the end.

    Nothing is sent where the block ends by an error. Raises DataError where `out` cannot be written.
    """
    if not is_remote(out):
        yield Path(out)
        return
    folder, _, name = str(out).rstrip("/").rpartition("/")
    check(f"{folder}/{name}")
    with tempfile.TemporaryDirectory(prefix="tamis-") as scratch:
        local = Path(scratch) / name
        yield local
        send(Path(scratch), sorted(path for path in Path(scratch).rglob("*") if path.is_file()), folder)


def publish(run: Path, to: str) -> list[str]:
    """Send the files of a run folder, but for its checkpoints, to `to`/<name of the run>; returns their addresses.

    `manifest.json` goes last. Raises DataError where the run is not finished or the address cannot be written.
    """
    if not (run / MANIFEST).is_file():
        raise DataError(f"{run} has no {MANIFEST}: the run is not finished, so there is nothing to publish")
    check(to)
    files = [path for path in run.rglob("*") if path.is_file() and not path.is_symlink()]
    inside = [path for path in files if path.name not in LOCAL and not path.name.startswith(".")]
    ordered = sorted(inside, key=lambda path: (path == run / MANIFEST, path))
    return send(run, ordered, f"{to.rstrip('/')}/{run.name}")


def send(folder: Path, files: Sequence[Path], to: str) -> list[str]:
    """Copy files of a folder to an address, in order, under their names in the folder; returns their addresses.

    Raises DataError, and takes back what was sent, where one cannot be written.
    """
    sent: list[str] = []
    with _told(to):
        system, place = _at(to)
        with ExitStack() as unless_all:
            unless_all.callback(_take_back, system, sent)
            for file in files:
                target = f"{place.rstrip('/')}/{file.relative_to(folder).as_posix()}"
                if FOLDERS & set(_protocols(system)):
                    system.makedirs(target.rpartition("/")[0], exist_ok=True)  # of an object store: makes a bucket
                sent.append(target)
                system.put_file(str(file), target)
            unless_all.pop_all()
    return [f"{to.rstrip('/')}/{file.relative_to(folder).as_posix()}" for file in files]


def _take_back(system: Any, sent: Sequence[str]) -> None:
    for target in sent:
        with suppress(OSError, NotImplementedError, *_errors()):  # the error that matters is on its way
            system.rm_file(target)


def _at(url: str) -> tuple[Any, str]:
    """The file system of an address, and the place in it."""
    import fsspec  # type: ignore[import-untyped]  # comes with datasets

    system, place = fsspec.core.url_to_fs(url)
    return system, str(place)


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


@contextmanager
def told(url: str) -> Iterator[None]:
    """What drivers raise inside becomes a DataError that says what to do; a missing file passes as it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (ImportError, ValueError) as error:
        driver = EXTRAS.get(url.partition("://")[0])
        todo = f"pip install '{driver}'" if driver else "install the fsspec driver of its protocol, or mend the address"
        raise DataError(f"{url}: this protocol cannot be read or written ({error}): {todo}") from error
    except NotImplementedError as error:
        raise DataError(f"{url}: this protocol cannot be written to") from error
    except PermissionError as error:
        raise DataError(f"{url}: access denied ({_first(error)}); check the credentials in the environment") from error
    except _errors() as error:
        raise DataError(f"{url}: {type(error).__name__}: {_first(error)}") from error


@contextmanager
def _told(url: str) -> Iterator[None]:
    try:
        with told(url):
            yield
    except FileNotFoundError as error:
        raise DataError(f"{url}: there is no such bucket or folder ({_first(error)})") from error


def _errors() -> tuple[type[Exception], ...]:
    """OSError, and classes of errors of the drivers that are loaded."""
    import sys

    found = [getattr(sys.modules[module], name) for module, name in _DRIVERS if module in sys.modules]
    return (OSError, *found)


def _first(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]
