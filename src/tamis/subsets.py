"""Subset files: the picks of a selector as one Parquet file that names the pool it chose from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError
from tamis.pool import Pool
from tamis.values import Subset, TokenWeights

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SubsetFile:
    """A subset on disk: `positions` (k,) places in `pool`, in the order picked, with gains and weights.

    `tokens`: weights of response tokens, or None.
    """

    path: Path
    pool: Pool
    pool_path: Path
    positions: NDArray[np.int64]
    gains: NDArray[np.float32]
    weights: NDArray[np.float32]
    tokens: TokenWeights | None = None


def save(path: Path, pool: Pool, pool_path: Path, subset: Subset) -> None:
    """Write rank, key, place, file, position, source, gain and weight; the pool goes into the file's metadata.

    Where response tokens are weighed, `token_weights` is a list a row and `token_check` tells the tokens.
    """
    import numpy as np
    import pyarrow as pa

    from tamis.store import write_table

    places = np.asarray(subset.positions, np.int64)
    rows = pool.table(["key", "file", "position", "source"]).take(places)  # never the texts: a filter may keep them all
    weights = np.ones(len(places), np.float32) if subset.weights is None else subset.weights
    columns: dict[str, Any] = {
        "rank": np.arange(len(places), dtype=np.int32),
        "key": rows.column("key"),
        "place": places,
        "file": rows.column("file"),
        "position": rows.column("position"),
        "source": rows.column("source"),
        "gain": np.asarray(subset.gains, np.float32),
        "weight": np.asarray(weights, np.float32),
    }
    columns |= token_columns(subset.tokens)
    table = pa.table(columns).replace_schema_metadata({"tamis.pool": str(pool_path), "tamis.digest": pool.digest})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(table, path)


def read(path: Path) -> SubsetFile:
    """Read a subset file, or the subset of a run folder; refuses one whose pool has changed since."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = path / "subset.parquet" if path.is_dir() else path
    try:
        if file.exists() and not file.is_file():
            raise OSError("no file")
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} is not a subset: expected a file that `tamis select` wrote, or a run folder"
        ) from error
    metadata = (table.schema.metadata or {}).items()
    about = {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in metadata}
    if not {"tamis.pool", "tamis.digest"} <= set(about):
        raise DataError(f"{file} does not name its pool; make it with `tamis select` or `tamis run`")
    pool = Pool.open(Path(about["tamis.pool"]))
    if pool.digest != about["tamis.digest"]:
        raise DataError(f"the pool {about['tamis.pool']} has changed since {file} was chosen from it; select again")
    arrays = _arrays(table, len(pool), file)
    tokens = _tokens(table)
    return SubsetFile(file, pool, Path(about["tamis.pool"]), arrays["place"], arrays["gain"], arrays["weight"], tokens)


def _arrays(table: pa.Table, rows: int, file: Path) -> dict[str, NDArray[Any]]:
    """Places, gains and weights. DataError where they are not what `save` writes."""
    import numpy as np
    import pyarrow as pa

    types = {"place": pa.int64(), "gain": pa.float32(), "weight": pa.float32()}
    for name, kind in types.items():
        if name not in table.column_names or table.schema.field(name).type != kind or table.column(name).null_count:
            raise DataError(f"{file} has no column {name} of {kind}: it was changed since it was written; select again")
    arrays = {name: table.column(name).to_numpy() for name in types}
    places = arrays["place"]
    if len(places) and (places.min() < 0 or places.max() >= rows):
        raise DataError(f"{file} names rows that the pool of {rows} rows does not have; select again")
    if not (np.isfinite(arrays["weight"]).all() and (arrays["weight"] >= 0).all()):
        raise DataError(f"{file} holds weights that are not finite or below 0; select again")
    return arrays


def token_columns(tokens: TokenWeights | None) -> dict[str, Any]:
    """The columns `token_weights` and `token_check` of a subset file; none where tokens are not weighed."""
    import numpy as np
    import pyarrow as pa

    if tokens is None:
        return {}
    values = pa.array(np.asarray(tokens.values, np.float32))
    return {
        "token_weights": pa.LargeListArray.from_arrays(pa.array(np.asarray(tokens.offsets)), values),
        "token_check": pa.array(np.asarray(tokens.checks, np.uint32)),
    }


def _tokens(table: pa.Table) -> TokenWeights | None:
    import numpy as np

    if not {"token_weights", "token_check"} <= set(table.column_names):
        return None
    lists = table.column("token_weights").combine_chunks()
    lengths = np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False), np.int64)
    return TokenWeights(
        values=lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        checks=table.column("token_check").to_numpy().astype(np.uint32),
    )
