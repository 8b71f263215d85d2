"""SQL over what a run left: its ledger, scores, subset, quarantine, the text of its rows, tables of its cleaning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tamis.errors import DataError, RecipeError
from tamis.pool import MANIFEST, ROWS, Pool

if TYPE_CHECKING:
    import polars as pl

SUMMARY = (
    "SELECT verdict, step, reason, COUNT(*) AS rows FROM ledger GROUP BY verdict, step, reason ORDER BY rows DESC, step"
)
WRITERS = (".parquet", ".csv", ".jsonl")


def tables(run: Path) -> dict[str, Path | list[Path]]:
    """Names of the tables of a run and the files behind each: `rows` is the text of the pool, by shard."""
    if not (run / "ledger.parquet").is_file():
        raise DataError(f"{run} holds no ledger.parquet: the run did not finish; run it again")
    found: dict[str, Path | list[Path]] = {file.stem: file for file in sorted(run.glob("*.parquet"))}
    for file in sorted((run / "cleaned").glob("*/*.parquet")):
        name = file.stem if file.stem not in found else f"{file.parent.name}_{file.stem}"
        found[name.replace("-", "_")] = file
    if (run / MANIFEST).is_file():
        shards = [shard.path / ROWS for shard in Pool.open(run / MANIFEST).shards]
        if shards:
            found["rows"] = shards
    return found


def query(run: Path, sql: str = SUMMARY) -> pl.DataFrame:
    """The answer to a query in polars' SQL, over `tables`; files are read as far as the query needs.

    Raises RecipeError for SQL that cannot be carried out, with the tables and their columns.
    """
    import polars as pl

    known = tables(run)
    context = pl.SQLContext({name: pl.scan_parquet(files) for name, files in known.items()})
    try:
        answer = context.execute(sql, eager=True)
    except pl.exceptions.PolarsError as error:
        shown = "; ".join(f"{name} ({', '.join(pl.read_parquet_schema(_first(of)))})" for name, of in known.items())
        said = str(error).partition("\n")[0].rstrip(".")
        raise RecipeError(f"--sql cannot be carried out: {said}. Tables of this run: {shown}") from error
    return answer


def _first(files: Path | list[Path]) -> Path:
    return files[0] if isinstance(files, list) else files


def save(answer: pl.DataFrame, to: Path) -> None:
    """Write an answer as .parquet, .csv or .jsonl. RecipeError for another ending."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.suffix == ".parquet":
        answer.write_parquet(to)
    elif to.suffix == ".csv":
        answer.write_csv(to)
    elif to.suffix == ".jsonl":
        answer.write_ndjson(to)
    else:
        raise RecipeError(f"--to {to}: expected a file that ends in {', '.join(WRITERS)}")
