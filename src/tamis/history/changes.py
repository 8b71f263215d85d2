"""What changed between two runs: files, rows, the subset and why rows entered or left it, settings, scores, verdict.

Rows are the same where their keys are (a key outlives growth of its file). Everything is read from the two run folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError
from tamis.history.moves import SAME, moved, stayed, summed
from tamis.history.sides import Side, by_key

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

SHARES = ("mean", "p5", "p50", "p95")


def changes(before: Side, after: Side) -> dict[str, Any]:
    """Everything that changed from one run to another, as plain JSON; sections where nothing did are empty."""
    entered, left = moved(before, after)
    return {
        "before": _named(before),
        "after": _named(after),
        "files": _files(before, after),
        "rows": _rows(before, after),
        "subset": {"stayed": stayed(before, after), "entered": summed(entered), "left": summed(left)},
        "settings": _settings(before, after),
        "columns": list(_columns(before, after)),
        "comparison": _compared(before, after),
        "fits": [fit for fit in after.manifest.get("fits") or () if fit["how"] != "made" and _has_aged(fit)],
    }


def finished(runs: Path) -> Iterator[Side]:
    """Finished runs, the last first."""
    for folder in sorted(runs.glob("*"), reverse=True):
        try:
            side = Side.of(folder)
        except DataError:
            continue
        if (folder / "ledger.parquet").is_file():
            yield side


def previous(runs: Path, folder: Path, manifest: Mapping[str, Any]) -> Side | None:
    """The last finished run of the same recipe before that in `folder`, or None."""
    earlier = (side for side in finished(runs) if side.folder.name < folder.name)
    return next((side for side in earlier if side.manifest.get("name") == manifest.get("name")), None)


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
        for step in sorted({str(step) for one in steps for step in one}) if verdict == "dropped" else ():
            line = {"before": int(steps[0].get(step, 0)), "after": int(steps[1].get(step, 0))}
            lines.append({"what": f"dropped by {step}", **line})
    known = after.ledger.index.isin(before.ledger.index)
    again = before.ledger.index.isin(after.ledger.index)
    came = [{"what": "new rows", "before": 0, "after": int((~known).sum())}]
    return [*lines, *came, {"what": "rows gone", "before": 0, "after": int((~again).sum())}]


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
    return by_key(pq.read_table(file)) if file.is_file() else None


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


def counted(rows: int) -> str:
    """1 row, 2 rows."""
    return f"{rows:,} row{'s' * (rows != 1)}"


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
        lines.append(f"{counted(moved[verb]['rows'])} {verb} the subset{f' ({reasons})' if reasons else ''}.")
    lines.append(f"{counted(moved['stayed'])} stayed in it.")
    if found["settings"]:
        lines.append(f"Settings changed: {', '.join(one['setting'] for one in found['settings'])}.")
    verdict = found["comparison"].get("verdict", {})
    if verdict and verdict["before"] != verdict["after"]:
        lines.append(f"Verdict before: {verdict['before'] or 'none'}")
    return lines
