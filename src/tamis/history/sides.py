"""One side of a comparison of two runs: what its run folder holds, read when it is asked for."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_LEDGER = ("key", "file", "source", "verdict", "step", "reason", "position", "value", "rank")


@dataclass(frozen=True)
class Side:
    """One run: its folder and its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> Side:
        """A run by its folder. DataError where it did not finish."""
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder} has no manifest.json that can be read: the run did not finish; run it again"
            ) from error
        return cls(folder, manifest)

    @functools.cached_property
    def ledger(self) -> pd.DataFrame:
        """Verdicts of all rows read, by key."""
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self.folder / "ledger.parquet", columns=list(_LEDGER))
        except OSError as error:
            raise DataError(f"{self.folder} holds no ledger.parquet: the run did not finish; run it again") from error
        return by_key(table)

    @property
    def files(self) -> dict[str, Mapping[str, Any]]:
        """Files of the pool, by the names under which they were given."""
        pool = self.manifest.get("pool") or {}
        return {str(file.get("name")): file for file in pool.get("files") or ()}

    @property
    def subset(self) -> Mapping[str, Any]:
        """What the manifest says of the subset; empty where none was selected."""
        return self.manifest.get("subset") or {}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the recipe as it was resolved, flat: `subset.budget`."""
        import yaml

        file = self.folder / "recipe.lock.yaml"
        return dict(_flat(yaml.safe_load(file.read_text(encoding="utf-8")))) if file.is_file() else {}

    @property
    def comparison(self) -> Mapping[str, Any]:
        """The comparison of the run; empty without one."""
        file = self.folder / "comparison.json"
        found: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return found


def by_key(table: pa.Table) -> pd.DataFrame:
    """A table by its column `key`, as plain text: pandas looks those up ten times as fast as Arrow's."""
    frame: pd.DataFrame = table.to_pandas()
    frame["key"] = frame["key"].astype(object)
    return frame.set_index("key")


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
