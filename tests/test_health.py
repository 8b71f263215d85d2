"""What a monitor reads: health of a workspace, metrics as Prometheus parses them, logs as one object a line."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tamis.errors import GateError
from tamis.operations import endings, metering, metrics, run_state
from tamis.operations.health import check_workspace
from tamis.stages.workspace import Work
from tamis.store import Store

STAGES: list[dict[str, Any]] = [
    {"name": "ingest", "kind": "ingest", "seconds": 2.0, "detail": "", "peak_memory_mb": 100.5},
    {"name": 'a "b"', "kind": "score", "seconds": 4.0, "detail": "", **metering.rates(50, 400, 2.0)},
]
MANIFEST = {"funnel": [{"step": "read", "rows": 60}, {"step": "selected", "rows": 5}], "stages": STAGES}


def start(root: Path, recipe: str = "nightly", name: str = "1") -> Path:
    folder = root / "runs" / f"{name}-{recipe}-abcdef"
    folder.mkdir(parents=True)
    run_state.begin(folder, recipe)
    return folder


def found(root: Path, **options: Any) -> dict[str, tuple[bool, str]]:
    return {one["what"]: (one["ok"], one["found"]) for one in check_workspace(root, free_gb=0, **options)}


def test_metrics_are_what_prometheus_reads(tmp_path: Path) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    endings.finished(start(tmp_path), tmp_path, MANIFEST, "better")
    text = (tmp_path / metrics.FOLDER / "nightly.prom").read_text()
    assert text == (tmp_path / "runs" / "1-nightly-abcdef" / metrics.METRICS).read_text()
    values = {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in parser.text_string_to_metric_families(text)
        for one in family.samples
    }
    nightly, stage = ("recipe", "nightly"), ("stage", 'a "b"')
    assert values["tamis_stage_rows_per_second", (nightly, stage)] == 25
    assert values["tamis_stage_tokens_per_second", (nightly, stage)] == 200
    assert values["tamis_stage_peak_memory_bytes", (nightly, ("stage", "ingest"))] == 100.5e6
    assert values["tamis_run_rows", (nightly, ("step", "selected"))] == 5
    assert values["tamis_run_outcome", (("outcome", "finished"), nightly)] == 1
    assert values["tamis_run_outcome", (("outcome", "failed"), nightly)] == 0
    assert abs(values["tamis_run_ended_timestamp_seconds", (nightly,)] - time.time()) < 100


def test_a_run_that_fails_is_seen_by_health_and_metrics_with_its_message(tmp_path: Path) -> None:
    folder = start(tmp_path)
    with pytest.raises(GateError), endings.Watched(folder, tmp_path):
        raise GateError("9 of 10 rows were quarantined")
    assert 'outcome="refused"} 1' in (tmp_path / metrics.FOLDER / "nightly.prom").read_text()
    ok, said = found(tmp_path)["run nightly"]
    assert not ok and "refused" in said and "9 of 10 rows" in said
    endings.finished(start(tmp_path, name="2"), tmp_path, MANIFEST, None)
    assert found(tmp_path)["run nightly"][0]


def test_a_run_that_has_not_finished_for_too_long_is_late(tmp_path: Path) -> None:
    folder = start(tmp_path)
    run_state.end(folder, "finished")
    state = json.loads((folder / run_state.STATE).read_text())
    (folder / run_state.STATE).write_text(json.dumps(state | {"ended": time.time() - 30 * 3600}))
    assert found(tmp_path)["run nightly"][0]
    ok, said = found(tmp_path, max_age_hours=26)["run nightly"]
    assert not ok and "30 h ago" in said


def test_a_damaged_file_is_found_by_verify_and_a_missing_workspace_said(tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, int]:
        (folder / "values.bin").write_bytes(b"x" * 1000)
        return {"rows": 1}

    entry = Store(tmp_path / "store").get_or_make("signal", "a" * 32, make)
    assert found(tmp_path, verify=True)["store"][0]
    (entry.path / "values.bin").write_bytes(b"x" * 999 + b"y")
    ok, said = found(tmp_path, verify=True)["store"]
    assert not ok and "values.bin" in said
    assert not found(tmp_path / "none")["workspace"][0]


def test_logs_for_machines_are_one_object_a_line_with_run_stage_event_and_numbers() -> None:
    code = """
import logging, warnings
from tamis.operations import logs
from tamis.stages.workspace import Work
logs.to_json()
with logs.within(run="r1", recipe="nightly"), logs.within(stage="scores"):
    logging.getLogger("tamis.stages.measure").info("pass %s: %d shards", "tokens", 3)
    Work().event("shard", signal="tokens", number=1, of=3)
warnings.warn("of a library")
logging.getLogger("other").error("broken")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    said, event, warning, other = lines
    assert said["message"] == "pass tokens: 3 shards" and said["level"] == "info" and said["time"].endswith("Z")
    assert {"run": "r1", "recipe": "nightly", "stage": "scores"}.items() <= said.items()
    assert {"event": "shard", "signal": "tokens", "number": 1, "of": 3, "run": "r1"}.items() <= event.items()
    assert "of a library" in warning["message"] and other["logger"] == "other" and "run" not in other


def test_people_are_not_shown_events(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = io.StringIO()
    own = logging.getLogger("tamis")
    monkeypatch.setattr(own, "handlers", [logging.StreamHandler(lines)])
    monkeypatch.setattr(own, "level", logging.INFO)
    Work().event("shard", number=1)
    assert not lines.getvalue()


def test_memory_of_a_stage_counts_its_workers() -> None:
    before = metering.resident()
    assert before > 10e6
    code = "block = bytearray(150_000_000); print('there', flush=True); input()"
    with metering.Meter() as meter:
        worker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert worker.stdout is not None and worker.stdout.readline() == b"there\n"
        meter.look()
        worker.communicate(b"\n")
    assert 150e6 < meter.peak - before < 400e6
