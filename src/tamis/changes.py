"""What changed between two runs: files, rows, the subset and why rows entered or left it, settings, scores, verdict.

Rows are the same where their keys are (a key outlives growth of its file). Everything is read from the two run folders.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

SHOWN = 10  # rows of each direction that are shown one by one
SAME = 1e-6  # a value that moves less, relative to its size, has not changed
SHARES = ("mean", "p5", "p50", "p95")
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
        return table.to_pandas().set_index("key")

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


def changes(before: Side, after: Side) -> dict[str, Any]:
    """Everything that changed from one run to another, as plain JSON; sections where nothing did are empty."""
    entered, left = _moved(before, after)
    return {
        "before": _named(before),
        "after": _named(after),
        "files": _files(before, after),
        "rows": _rows(before, after),
        "subset": {"stayed": _stayed(before, after), "entered": _summed(entered), "left": _summed(left)},
        "settings": _settings(before, after),
        "columns": list(_columns(before, after)),
        "comparison": _compared(before, after),
        "fits": [fit for fit in after.manifest.get("fits") or () if fit["how"] != "made" and _has_aged(fit)],
    }


def previous(runs: Path, folder: Path, manifest: Mapping[str, Any]) -> Side | None:
    """The last finished run of the same recipe before that in `folder`, or None."""
    for other in sorted((path for path in runs.glob("*") if path.name < folder.name), reverse=True):
        try:
            side = Side.of(other)
        except DataError:
            continue
        if side.manifest.get("name") == manifest.get("name") and (other / "ledger.parquet").is_file():
            return side
    return None


def _named(side: Side) -> dict[str, Any]:
    return {key: side.manifest.get(key) for key in ("name", "started", "finished")} | {"run": side.folder.name}


def _has_aged(fit: Mapping[str, Any]) -> bool:
    return fit["how"] == "refitted" or bool((fit.get("age") or {}).get("share"))


def _files(before: Side, after: Side) -> dict[str, Any]:
    """Files that came, went and changed, with their rows; `grew`: the earlier rows are all there, at their places."""
    old, new = before.files, after.files
    changed = [
        {
            "name": name,
            "rows_before": old[name]["rows"],
            "rows": new[name]["rows"],
            "grew": old[name].get("origin") == new[name].get("origin") and new[name]["rows"] > old[name]["rows"],
        }
        for name in new
        if name in old and new[name].get("digest") != old[name].get("digest")
    ]
    return {
        "added": [{"name": name, "rows": new[name]["rows"]} for name in new if name not in old],
        "removed": [{"name": name, "rows": old[name]["rows"]} for name in old if name not in new],
        "changed": changed,
        "unchanged": len(set(old) & set(new)) - len(changed),
    }


def _rows(before: Side, after: Side) -> list[dict[str, Any]]:
    """Rows read and what became of them, before and after; dropped rows by the step that dropped them."""
    sides = [side.ledger for side in (before, after)]
    lines = [{"what": "read", "before": len(sides[0]), "after": len(sides[1])}]
    counts = [ledger.groupby("verdict").size().to_dict() for ledger in sides]
    steps = [ledger[ledger.verdict == "dropped"].groupby("step").size().to_dict() for ledger in sides]
    for verdict in ("quarantined", "dropped", "selected"):
        lines.append(
            {"what": verdict, "before": int(counts[0].get(verdict, 0)), "after": int(counts[1].get(verdict, 0))}
        )
        for step in sorted(set(steps[0]) | set(steps[1])) if verdict == "dropped" else ():
            line = {"before": int(steps[0].get(step, 0)), "after": int(steps[1].get(step, 0))}
            lines.append({"what": f"dropped by {step}", **line})
    known = after.ledger.index.isin(before.ledger.index)
    again = before.ledger.index.isin(after.ledger.index)
    came = [{"what": "new rows", "before": 0, "after": int((~known).sum())}]
    return [*lines, *came, {"what": "rows gone", "before": 0, "after": int((~again).sum())}]


def _chosen(side: Side) -> pd.DataFrame:
    return side.ledger[side.ledger.verdict == "selected"].sort_values("rank")


def _stayed(before: Side, after: Side) -> int:
    return int(_chosen(before).index.isin(_chosen(after).index).sum())


def _moved(before: Side, after: Side) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows that entered the subset, by rank now, and that left it, by the rank that they had, each with why."""
    old, new = _chosen(before), _chosen(after)
    entered = [
        _row(key, row, before.ledger, functools.partial(_why_in, before, after))
        for key, row in new[~new.index.isin(old.index)].iterrows()
    ]
    left = [
        _row(key, row, after.ledger, functools.partial(_why_out, before, after))
        for key, row in old[~old.index.isin(new.index)].iterrows()
    ]
    return entered, left


def _row(key: Any, row: Any, other: pd.DataFrame, why: Any) -> dict[str, Any]:
    counterpart = other.loc[key] if key in other.index else None
    kind, detail = why(row, counterpart)
    place = {"key": str(key), "file": row.file, "position": int(row.position), "source": row.source}
    value = None if counterpart is None else _number(counterpart.value)
    return {**place, "rank": int(row["rank"]), "value": _number(row.value), "other": value, "why": kind, "how": detail}


def _why_in(before: Side, after: Side, row: Any, then: Any) -> tuple[str, str]:
    """(kind, detail) of why a row is chosen that was not chosen before."""
    if then is None:
        return ("changed row", "") if _was_there(before, row) else ("new row", "")
    if then.verdict == "quarantined" or then.step != before.subset.get("selector"):
        return f"no longer {then.verdict} by {then.step}", str(then.reason)
    if _moved_value(then.value, row.value):
        return "its score changed", f"{then.value:.4g} -> {row.value:.4g}"
    return "room for it", "its score is the same"


def _why_out(before: Side, after: Side, row: Any, now: Any) -> tuple[str, str]:
    """(kind, detail) of why a row that was chosen is chosen no longer."""
    if now is None:
        if not any(file in after.files for file in _names_of(before, row.file)):
            return "its file is gone", str(row.file)
        return ("changed row", "") if _was_there(after, row) else ("no longer in its file", str(row.file))
    if now.verdict == "quarantined" or now.step != after.subset.get("selector"):
        return f"{now.verdict} by {now.step}", str(now.reason)
    if _moved_value(row.value, now.value):
        return "its score changed", f"{row.value:.4g} -> {now.value:.4g}"
    return "evicted by other rows", f"its score is the same, {row.value:.4g}" if _number(row.value) is not None else ""


def _names_of(side: Side, file: str) -> list[str]:
    """Names as given of the files that rows call `file`."""
    return [name for name in side.files if Path(name).name == file or name.endswith(file)]


def _was_there(side: Side, row: Any) -> bool:
    """Whether the other run had another row at this place of this file."""
    return (row.file, int(row.position)) in _places(side)


@functools.lru_cache(maxsize=4)
def _places_of(folder: Path) -> frozenset[tuple[str, int]]:
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "ledger.parquet", columns=["file", "position"])
    return frozenset(zip(table.column("file").to_pylist(), table.column("position").to_pylist(), strict=True))


def _places(side: Side) -> frozenset[tuple[str, int]]:
    return _places_of(side.folder)


def _number(value: float) -> float | None:
    return float(value) if value == value else None


def _moved_value(one: float, other: float) -> bool:
    if one != one or other != other:
        return (one == one) != (other == other)
    return abs(one - other) > SAME * max(1e-12, abs(one), abs(other))


def _summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows in all, counts of the reasons, most first, and the first rows."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["why"]] = counts.get(row["why"], 0) + 1
    reasons = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return {"rows": len(rows), "reasons": reasons, "first": rows[:SHOWN]}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _settings(before: Side, after: Side) -> list[dict[str, Any]]:
    """Settings that differ; None for one that is not written there. Versions of packages and the model count too."""
    old, new = before.settings, after.settings
    for name, side in (("tamis", "tamis"), ("model digest", "model")):
        for settings, manifest in ((old, before.manifest), (new, after.manifest)):
            value = manifest.get(side)
            settings[name] = value.get("digest") if isinstance(value, Mapping) else value
    names = [*new, *(name for name in old if name not in new)]
    return [
        {"setting": name, "before": old.get(name), "after": new.get(name)}
        for name in names
        if old.get(name) != new.get(name)
    ]


def _columns(before: Side, after: Side) -> Iterator[dict[str, Any]]:
    """Mean, p5, p50 and p95 of every column before and after, and how many rows in both have another value now."""
    import numpy as np

    from tamis.stages.score import statistics

    old, new = _column_table(before), _column_table(after)
    if old is None or new is None:
        return
    places = old.index.get_indexer(new.index)
    both = places >= 0
    for name in [name for name in new.columns if name in old.columns]:
        was, now = (np.asarray(table[name], np.float64) for table in (old, new))
        moved = int(_differ(was[places[both]], now[both]).sum())
        sides = {side: statistics(values.astype(np.float32)) for side, values in (("before", was), ("after", now))}
        figures = {side: {key: one.get(key) for key in SHARES} for side, one in sides.items()}
        yield {"name": name, **figures, "rows_in_both": int(both.sum()), "rows_changed": moved}


def _differ(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
    import numpy as np

    same = np.isclose(one, other, rtol=SAME, atol=1e-12, equal_nan=True)
    return np.asarray(~same)


def _column_table(side: Side) -> pd.DataFrame | None:
    import pyarrow.parquet as pq

    file = side.folder / "columns.parquet"
    return pq.read_table(file).to_pandas().set_index("key") if file.is_file() else None


def _compared(before: Side, after: Side) -> dict[str, Any]:
    """Verdicts, and the mean of every arm; empty where neither run compared."""
    old, new = before.comparison, after.comparison
    if not old and not new:
        return {}
    means = [{arm["name"]: arm.get("mean") for arm in side.get("arms") or ()} for side in (old, new)]
    arms = [
        {"arm": name, "before": means[0].get(name), "after": means[1].get(name)}
        for name in [*means[1], *(name for name in means[0] if name not in means[1])]
    ]
    about = {key: new.get(key, old.get(key)) for key in ("metric", "unit", "lower_is_better")}
    return {"verdict": {"before": old.get("verdict"), "after": new.get("verdict")}, "arms": arms, **about}


def summary(found: Mapping[str, Any]) -> list[str]:
    """What changed in a few sentences, for reports and manifests."""
    files, moved = found["files"], found["subset"]
    told = [f"{len(files[kind])} {kind}" for kind in ("added", "removed", "changed") if files[kind]]
    lines = [f"Files: {', '.join(told) or 'none changed'}."]
    rows = {line["what"]: line for line in found["rows"]}
    read = rows["read"]
    lines.append(
        f"Rows read: {read['before']:,} before, {read['after']:,} now; {rows['new rows']['after']:,} are new, "
        f"{rows['rows gone']['after']:,} are gone."
    )
    for verb in ("entered", "left"):
        reasons = "; ".join(f"{why}: {count:,}" for why, count in moved[verb]["reasons"].items())
        lines.append(f"{moved[verb]['rows']:,} rows {verb} the subset{f' ({reasons})' if reasons else ''}.")
    lines.append(f"{moved['stayed']:,} rows stayed in it.")
    if found["settings"]:
        lines.append(f"Settings changed: {', '.join(one['setting'] for one in found['settings'])}.")
    verdict = found["comparison"].get("verdict", {})
    if verdict and verdict["before"] != verdict["after"]:
        lines.append(f"Verdict before: {verdict['before'] or 'none'}")
    return lines
