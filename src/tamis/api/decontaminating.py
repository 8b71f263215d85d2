"""The verb that holds data against evaluation sets: which items stand in which rows, and a pool without those."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tamis.api.handles import Chosen
from tamis.api.places import Model, Place, Rows, open_pool, pool_of, reads_rows, work_of
from tamis.errors import GateError, RecipeError
from tamis.ingest.mappings import QUESTIONS
from tamis.pool import Pool

if TYPE_CHECKING:
    import pyarrow as pa

Action = Literal["report", "drop", "fail"]
SUBSET = "subset.parquet"


@dataclass(frozen=True)
class Decontaminated:
    """What was found. `pool`: the rows that are left (all, where nothing was dropped), `rows` how many were searched.

    `spans`: one line a span, with the row's key, where in which message, and the evaluation item. `items`: one line an
    evaluation item that was found: how many rows hold it, and how much. `facts`: counts, by set too, and examples.
    """

    pool: Pool
    rows: int
    spans: pa.Table
    items: pa.Table
    facts: dict[str, Any] = field(default_factory=dict)


def decontaminate(
    data: Rows | Chosen | Path,
    against: Any,
    *,
    action: Action = "report",
    out: str | Path | None = None,
    model: Model = None,
    work: Place = None,
    **settings: Any,
) -> Decontaminated:
    """Evaluation items in a pool or a subset; `action: drop` makes a pool without the rows that hold one.

    `data`: a pool, its folder, data files; a subset, its file, or a run folder, of which the selected rows are looked
    at. `against`: evaluation files, a list of them, or pools. `settings`: those of the cleaner `contamination` (`of`,
    `n`, `coverage`, `numbers`, `shared`, `header`, `embed`, …). `out`: folder for the pool that is left. `model`: whose
    hidden states `embed` compares. Raises GateError (exit code 3) with `action="fail"` where anything is found,
    RecipeError for wrong settings.
    """
    at = work_of(work)
    cleaner = _checked(action, against, settings)
    at = work_of(at, model, why="contamination with embed" if reads_rows(list(cleaner.needs)) else "")
    chosen = _subset_of(data, at)
    if action == "drop":
        if chosen is not None:
            raise RecipeError("a subset is not changed: drop the rows from the pool, and select from what is left")
        return _dropped(pool_of(data, at), _listed(against), out, at, settings)  # type: ignore[arg-type]
    from tamis.cleaning.written import keep
    from tamis.stages.contamination import find

    pool = chosen.pool if chosen is not None else pool_of(data, at)  # type: ignore[arg-type]
    places = None if chosen is None else chosen.subset.positions
    sets = [one if isinstance(one, Pool) else open_pool(one, at, mapping=QUESTIONS) for one in _listed(against)]
    found = find(pool, sets, at, places=places, **settings)
    if action == "fail" and found.facts["rows"]:
        raise GateError(found.refusal())
    left = pool if out is None or chosen is not None else keep(pool, Path(out))
    return Decontaminated(left, found.rows, found.spans, found.items, found.facts)


def _dropped(pool: Pool, against: list[Any], out: Any, work: Any, settings: dict[str, Any]) -> Decontaminated:
    """As the step `contamination` of a cleaning does it, so that the rows are among the rejects with their reasons."""
    import pyarrow.parquet as pq

    from tamis.api.cleaning import clean
    from tamis.cleaning.written import keep
    from tamis.stages.clean import Done
    from tamis.stages.contamination import ITEMS, SPANS

    if any(isinstance(one, Pool) for one in against):
        raise RecipeError("action drop: give the evaluation sets as files; the step is part of the pool's history")
    done: list[Done] = []
    step = {"contamination": {"against": [str(one) for one in against], "action": "drop", **settings}}
    left = clean(pool, [step], work=work, say=done.append)
    spans, items = (pq.read_table(left.rejects[done[0].place or 0].with_name(name)) for name in (SPANS, ITEMS))
    kept = left if out is None else keep(left, Path(out))
    return Decontaminated(kept, len(pool), spans, items, dict(done[0].facts))


def _checked(action: str, against: Any, settings: dict[str, Any]) -> Any:
    """The cleaner with these settings: faults come before anything is read."""
    from tamis.catalogue import build

    names = ["-"] if len(_listed(against)) else []
    return build("cleaners", "contamination", {"against": names, "action": action, **settings})


def _listed(against: Any) -> list[Any]:
    return [against] if isinstance(against, (str, Path, Pool)) else list(against)


def _subset_of(data: Any, work: Any) -> Chosen | None:
    """The subset, where the data are one."""
    from tamis.api.choosing import open_subset

    if isinstance(data, Chosen):
        return data
    if isinstance(data, (str, Path)) and ((Path(data) / SUBSET).is_file() or _is_subset(Path(data))):
        return open_subset(data, work=work)
    return None


def _is_subset(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix != ".parquet" or not path.is_file():
        return False
    try:
        return b"tamis.pool" in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowInvalid):
        return False
