"""Prefect is real: what it records can be read back, reading is retried, a model pass is not (issue 3, 8)."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import small
from small import World
from tamis.stages.conduct import Conductor

pytestmark = pytest.mark.flow

RECIPE = """\
name: recorded
model: {{name: {model}, max_tokens: 96, dtype: float32}}
pool: {{files: [{folder}/pool/*.jsonl]}}
scores: {{score: [perplexity]}}
subset: {{select: top, by: perplexity.response, budget: 5}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = small.make_world(tmp_path_factory.mktemp("world"))
    recipe = world.folder / "recorded.yaml"
    recipe.write_text(RECIPE.format(model=world.folder / "model", folder=world.folder), encoding="utf-8")
    return World(world.folder, recipe, world.rows)


@pytest.fixture
def here(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run flows of this process against the server of the session, without the second that its heartbeat takes."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_api, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield prefect_api


def run_flow(world: World, place: Path) -> dict[str, Any]:
    from tamis.flows.curate import run_here

    return run_here(str(world.recipe), place, (), {"workers": 1})


@pytest.mark.soak  # a whole run more; the flow itself runs in the tests below
def test_flow_run_task_runs_and_the_report_are_read_back_from_the_server(
    world: World, here: str, tmp_path: Path
) -> None:
    run = small.tamis("run", world.recipe, "--workspace", tmp_path, "--workers", 1, "--json")
    out, err = run.communicate(timeout=240)
    assert run.returncode == 0, err[-3000:]
    assert len(out.splitlines()) == 1, "one object and nothing else"
    report = json.loads(out)["report"]
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters

    with get_client(sync_client=True) as client:
        named = filters.FlowRunFilter(name=filters.FlowRunFilterName(any_=[str(world.recipe)]))
        runs = [one for one in client.read_flow_runs(flow_run_filter=named) if str(tmp_path) in str(one.parameters)]
        assert [one.state_type.value for one in runs if one.state_type] == ["COMPLETED"]
        of_run = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[runs[0].id]))
        tasks = client.read_task_runs(flow_run_filter=of_run)
        states = {task.name.rpartition("-")[0]: task.state_type.value for task in tasks if task.state_type}
        assert states == dict.fromkeys(("ingest", "scores", "subset", "report"), "COMPLETED")
        artifacts = client.read_artifacts(flow_run_filter=of_run)
        assert [one.type for one in artifacts] == ["markdown"] and report in str(artifacts[0].data)


def test_reading_is_tried_again_when_the_network_fails(
    world: World, here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []
    read = Conductor.ingest

    def unreliable(conductor: Conductor) -> None:
        tries.append(len(tries))
        if len(tries) < 3:
            raise ConnectionError("the other side hung up")
        read(conductor)

    monkeypatch.setattr(Conductor, "ingest", unreliable)
    from tamis.flows import curate

    monkeypatch.setattr(curate.read_sources, "retry_delay_seconds", [0, 0, 0])
    assert run_flow(world, tmp_path)["rows"] == 5 and len(tries) == 3


def test_a_file_that_is_not_there_is_not_asked_for_again(
    world: World, here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def missing(conductor: Conductor) -> None:
        tries.append(1)
        Path("no/such/file").read_text(encoding="utf-8")

    monkeypatch.setattr(Conductor, "ingest", missing)
    with pytest.raises(FileNotFoundError):
        run_flow(world, tmp_path)
    assert len(tries) == 1


def test_a_model_pass_that_fails_is_not_tried_again_and_what_is_done_stays(
    world: World, here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, carry_out = [], Conductor.carry_out

    def failing(conductor: Conductor, stage: Any) -> Any:
        if stage.name != "subset":
            return carry_out(conductor, stage)
        tries.append(stage.name)
        raise RuntimeError("the device fell off the bus")

    monkeypatch.setattr(Conductor, "carry_out", failing)
    with pytest.raises(RuntimeError, match="fell off the bus"):
        run_flow(world, tmp_path)
    assert tries == ["subset"]
    monkeypatch.setattr(Conductor, "carry_out", carry_out)
    found = run_flow(world, tmp_path)
    assert found["shards_measured"] == 0 and found["rows"] == 5


@pytest.mark.soak  # 60 s: a whole run more; a run that is stopped and goes on stands in test_run
def test_a_flow_that_is_stopped_is_recorded_so_and_goes_on_where_it_stopped(
    world: World, here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect cancels a flow by SIGTERM to its process; what was measured by then is kept."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters, sorting

    run = small.tamis("run", world.recipe, "--workspace", tmp_path, "--workers", 1, "--json")
    small.wait_for_event(run, tmp_path, event="end", stage="scores")
    run.send_signal(signal.SIGTERM)
    out, _ = run.communicate(timeout=120)
    if run.returncode == 0:
        pytest.fail(f"the run ended before it was stopped: {out}")
    assert run.returncode == 143
    with get_client(sync_client=True) as client:
        newest = sorting.FlowRunSort.START_TIME_DESC
        name = filters.FlowRunFilter(name=filters.FlowRunFilterName(any_=[str(world.recipe)]))
        stopped = client.read_flow_runs(flow_run_filter=name, sort=newest, limit=1)[0]
    assert stopped.state is not None and not stopped.state.is_completed()
    found = run_flow(world, tmp_path)
    assert found["shards_measured"] == 0 and found["rows"] == 5
