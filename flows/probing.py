"""What a monitor asks of Prefect: does the server answer, are there workers, how did the last scheduled runs end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.flows.deploy import tag_of

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

SILENT_SECONDS = 90  # a worker that has not been heard of for three of its heartbeats is taken for dead
SECONDS = 10  # for an answer of the server


def probe(workspace: Path, url: str) -> list[dict[str, Any]]:
    """Checks (`what`, `ok`, `found`, `optional`) of the server at a URL and of the deployments of a workspace there."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_API_URL,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )

    settings = {PREFECT_API_URL: url, PREFECT_API_REQUEST_TIMEOUT: SECONDS, PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        try:
            if (error := client.api_healthcheck()) is not None:
                return [_check("prefect", False, f"no server answers at {url} ({error or type(error).__name__})")]
            return [_check("prefect", True, f"the server at {url} answers"), *_deployments(client, workspace)]
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            return [_check("prefect", False, f"{url}: {error or type(error).__name__}")]


def _deployments(client: SyncPrefectClient, workspace: Path) -> Iterator[dict[str, Any]]:
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    wanted = DeploymentFilter(tags=DeploymentFilterTags(all_=[tag_of(workspace)]))
    found = client.read_deployments(deployment_filter=wanted)
    for one in found:
        last = _last_run(client, one.id)
        state = "no run has ended yet" if last is None else f"last run {last.state_name or 'unknown'}"
        ok = last is None or last.state_name not in ("Failed", "Crashed", "TimedOut")
        yield _check(f"deployment {one.name}", ok and not one.paused, f"{state}{', paused' if one.paused else ''}")
    for pool in sorted({one.work_pool_name for one in found if one.work_pool_name}):
        yield _pool(client, pool)


def _last_run(client: SyncPrefectClient, deployment: Any) -> Any:
    """The last run of a deployment that has ended, but for those that gave way to one that was still running."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    ended = filters.FlowRunFilterStateType(any_=[StateType.COMPLETED, StateType.FAILED, StateType.CRASHED])
    runs = client.read_flow_runs(
        deployment_filter=filters.DeploymentFilter(id=filters.DeploymentFilterId(any_=[deployment])),
        flow_run_filter=filters.FlowRunFilter(state=filters.FlowRunFilterState(type=ended)),
        sort=FlowRunSort.END_TIME_DESC,
        limit=1,
    )
    return runs[0] if runs else None


def _pool(client: SyncPrefectClient, name: str) -> dict[str, Any]:
    limit = datetime.now(UTC) - timedelta(seconds=SILENT_SECONDS)
    workers = client.read_workers_for_work_pool(name)
    alive = [one.name for one in workers if one.last_heartbeat_time is not None and one.last_heartbeat_time > limit]
    paused = ", the pool is paused" if client.read_work_pool(name).is_paused else ""
    found = f"{len(alive)} of {len(workers)} known workers alive{paused}"
    hint = "" if alive else f"; start one: prefect worker start --pool {name}"
    return _check(f"work pool {name}", bool(alive) and not paused, found + hint)


def _check(what: str, ok: bool, found: str) -> dict[str, Any]:
    return {"what": what, "ok": ok, "found": found, "optional": False}
