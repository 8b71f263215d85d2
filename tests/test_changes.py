"""What changed between two runs: every row that entered or left the subset has its reason, and the counts add up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tamis.api.changing import diff
from tamis.cli.changing import text
from tamis.errors import DataError
from tamis.history.changes import changes, previous, summary
from tamis.history.sides import Side

Row = tuple[str, str, int, str, str, float]  # key, file, position, verdict, step, value


def run(
    folder: Path,
    name: str,
    rows: Sequence[Row],
    *,
    files: Mapping[str, tuple[str, str]],
    recipe: str = "subset: {budget: 2}",
    verdict: str = "",
    fits: Sequence[Mapping[str, Any]] = (),
) -> Side:
    """A run folder with a ledger, a column and a manifest; `files` maps names to (digest, origin)."""
    place = folder / name
    place.mkdir(parents=True)
    chosen = [row for row in rows if row[3] == "selected"]
    ledger = {
        "key": [row[0] for row in rows],
        "file": [row[1] for row in rows],
        "source": ["s"] * len(rows),
        "verdict": [row[3] for row in rows],
        "step": [row[4] for row in rows],
        "reason": ["" if row[3] == "selected" else f"{row[4]} says no" for row in rows],
        "position": [row[2] for row in rows],
        "value": pa.array([row[5] for row in rows], pa.float32()),
        "rank": pa.array([chosen.index(row) if row in chosen else -1 for row in rows], pa.int32()),
    }
    pq.write_table(pa.table(ledger), place / "ledger.parquet")
    inside = [row for row in rows if row[3] != "quarantined"]
    pq.write_table(
        pa.table({"key": [row[0] for row in inside], "ifd": [row[5] for row in inside]}), place / "columns.parquet"
    )
    (place / "recipe.lock.yaml").write_text(recipe, encoding="utf-8")
    if verdict:
        arms = [{"name": "less", "mean": 1.0 + len(rows)}]
        about = {"verdict": verdict, "arms": arms, "metric": "held-out loss", "unit": "nats per token"}
        (place / "comparison.json").write_text(json.dumps(about), encoding="utf-8")
    counts = {file: sum(row[1] == file for row in rows) for file in files}
    manifest = {
        "name": "less",
        "pool": {"files": [{"name": f, "rows": counts[f], "digest": d, "origin": o} for f, (d, o) in files.items()]},
        "subset": {"selector": "less"},
        "fits": list(fits),
    }
    (place / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return Side.of(place)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Side, Side]:
    before = run(
        tmp_path,
        "1",
        [
            ("a", "one.jsonl", 0, "selected", "less", 0.9),
            ("b", "one.jsonl", 1, "selected", "less", 0.8),
            ("c", "one.jsonl", 2, "selected", "less", 0.7),
            ("d", "one.jsonl", 3, "dropped", "less", 0.1),
            ("e", "one.jsonl", 4, "dropped", "near", float("nan")),
            ("f", "two.jsonl", 0, "selected", "less", 0.6),
            ("g", "two.jsonl", 1, "quarantined", "ingest", float("nan")),
            ("h", "one.jsonl", 5, "selected", "less", 0.5),
            ("i", "one.jsonl", 6, "selected", "less", 0.4),
        ],
        files={"one.jsonl": ("1", "o"), "two.jsonl": ("2", "t")},
        verdict="less is not told apart from random.",
    )
    after = run(
        tmp_path,
        "2",
        [
            ("a", "one.jsonl", 0, "selected", "less", 0.9),
            ("b", "one.jsonl", 1, "dropped", "less", 0.2),  # its score fell
            ("c", "one.jsonl", 2, "dropped", "less", 0.7),  # others came before it
            ("d", "one.jsonl", 3, "selected", "less", 0.95),  # its score rose
            ("e", "one.jsonl", 4, "selected", "less", 0.85),  # near let it through
            ("hh", "one.jsonl", 5, "selected", "less", 0.75),  # the text of h was edited
            ("i", "one.jsonl", 6, "dropped", "near", 0.4),
            ("n", "new.jsonl", 0, "selected", "less", 0.99),
        ],
        files={"one.jsonl": ("1b", "o"), "new.jsonl": ("3", "n")},
        recipe="subset: {budget: 3}\nrefit: always",
        verdict="less beats random.",
        fits=[
            {"name": "warmup", "how": "refitted", "why": "it has not seen 30 % of the pool", "age": None, "since": ""}
        ],
    )
    return before, after


def test_every_move_has_its_reason(sides: tuple[Side, Side]) -> None:
    subset = changes(*sides)["subset"]
    why = {row["key"]: (row["why"], row["how"]) for row in subset["entered"]["first"] + subset["left"]["first"]}
    assert why == {
        "n": ("new row", ""),
        "hh": ("changed row", ""),
        "d": ("its score changed", "0.1 -> 0.95 (warmup fitted anew)"),
        "e": ("no longer dropped by near", "near says no"),
        "b": ("its score changed", "0.8 -> 0.2 (warmup fitted anew)"),
        "c": ("evicted by other rows", "its score is the same, 0.7"),
        "f": ("its file is gone", "two.jsonl"),
        "h": ("changed row", ""),
        "i": ("dropped by near", "near says no"),
    }
    assert (subset["stayed"], subset["entered"]["rows"], subset["left"]["rows"]) == (1, 4, 5)
    assert sum(subset["left"]["reasons"].values()) == 5


def test_files_rows_settings_scores_and_verdicts_are_compared(sides: tuple[Side, Side]) -> None:
    found = changes(*sides)
    assert [one["name"] for one in found["files"]["added"]] == ["new.jsonl"]
    assert [one["name"] for one in found["files"]["removed"]] == ["two.jsonl"]
    assert [(one["name"], one["grew"]) for one in found["files"]["changed"]] == [("one.jsonl", False)]
    rows = {one["what"]: (one["before"], one["after"]) for one in found["rows"]}
    assert rows["read"] == (9, 8) and rows["selected"] == (6, 5) and rows["dropped by near"] == (1, 1)
    assert rows["new rows"] == (0, 2) and rows["rows gone"] == (0, 3)
    assert {one["setting"]: (one["before"], one["after"]) for one in found["settings"]} == {
        "subset.budget": (2, 3),
        "refit": (None, "always"),
    }
    column = found["columns"][0]
    assert (column["rows_in_both"], column["rows_changed"]) == (6, 3)
    assert column["before"]["p50"] == pytest.approx(0.6)
    assert found["comparison"]["arms"] == [{"arm": "less", "before": 10.0, "after": 9.0}]
    told = "\n".join(text(found))
    for part in (
        "+ new.jsonl",
        "- two.jsonl",
        "subset.budget: 2 -> 3",
        "evicted by other rows",
        "fitted anew: it has not",
    ):
        assert part in told
    assert any("4 rows entered" in line for line in summary(found))


def test_a_run_is_no_different_from_itself(sides: tuple[Side, Side]) -> None:
    found = changes(sides[0], sides[0])
    assert found["subset"]["entered"]["rows"] == found["subset"]["left"]["rows"] == 0
    assert not found["settings"] and not found["fits"] and found["columns"][0]["rows_changed"] == 0
    told = list(text(found))
    assert {"Files: no change", "Subset: no change", "Settings: no change"} <= set(told)


def test_previous_is_the_last_finished_run_of_the_same_recipe(sides: tuple[Side, Side], tmp_path: Path) -> None:
    (tmp_path / "1-stopped").mkdir()
    found = previous(tmp_path, sides[1].folder, sides[1].manifest)
    assert found is not None and found.folder == sides[0].folder
    assert previous(tmp_path, sides[0].folder, sides[0].manifest) is None
    assert previous(tmp_path, sides[1].folder, {"name": "other"}) is None
    with pytest.raises(DataError, match="did not finish"):
        Side.of(tmp_path / "1-stopped")


def test_runs_are_found_by_name_and_by_order(tmp_path: Path, sides: tuple[Side, Side]) -> None:
    runs = tmp_path / "ws" / "runs"
    runs.mkdir(parents=True)
    for side in sides:
        side.folder.rename(runs / side.folder.name)
    (runs / "3-running").mkdir()
    found = diff(work=tmp_path / "ws")
    assert (found["before"]["run"], found["after"]["run"]) == ("1", "2")
    assert diff("1", runs / "2", work=tmp_path / "ws")["subset"] == found["subset"]
    assert diff("2", "1", work=tmp_path / "ws")["subset"]["stayed"] == 1
    with pytest.raises(DataError, match="no finished run of less before 1"):
        diff("previous", "1", work=tmp_path / "ws")
