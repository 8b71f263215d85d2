"""A deployment for a work pool: a worker on any machine that sees the workspace runs the recipe on its schedule."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import digests
from tamis.errors import RecipeError
from tamis.flows.schedule import interval
from tamis.operations import logs

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

ENTRYPOINT = "tamis.flows.curate.curate"  # a module, not a file: the worker needs tamis and no checkout
GRACE_SECONDS = 300  # a run that a worker took and that has not started by then no longer counts
HANDED_ON = ("OMP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", logs.VARIABLE)


@dataclass(frozen=True)
class Plan:
    """What to deploy: a recipe with its overrides, on a workspace, to a work pool, on a schedule or on demand.

    `wait_hours`: how long a run waits for another one on the same workspace. `max_hours`: after which it stops, for the
    next one to go on. `options`: of the machine.
    """

    recipe: str
    workspace: Path
    pool: str
    name: str = ""
    overrides: tuple[str, ...] = ()
    cron: str | None = None
    every: str | None = None
    timezone: str = "UTC"
    wait_hours: float = 24.0
    max_hours: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name of the deployment: the one given, else the recipe's."""
        return self.name or f"tamis-{Path(self.recipe).stem}"

    @property
    def parameters(self) -> dict[str, Any]:
        """What the flow is called with."""
        path = Path(self.recipe)
        return {
            "recipe": str(path.resolve()) if path.is_file() else self.recipe,
            "workspace": str(self.workspace),
            "overrides": list(self.overrides),
            "options": dict(self.options),
            "wait_hours": self.wait_hours,
            "max_hours": self.max_hours,
        }

    @property
    def job_variables(self) -> dict[str, Any]:
        """Where the worker runs it, and what it inherits."""
        given = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        quiet = {"PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false", "PREFECT_LOGGING_EXTRA_LOGGERS": "tamis"}
        return {"working_dir": self.folder, "env": {**quiet, **given}}

    @property
    def folder(self) -> str:
        """Folder that names in the recipe are relative to: the one in which it is deployed."""
        return str(Path.cwd())

    @property
    def pull(self) -> list[dict[str, Any]]:
        """How a worker comes to the folder: it goes there. Without steps it would copy the folder, data and all."""
        return [{"prefect.deployments.steps.set_working_directory": {"directory": self.folder}}]

    @property
    def tags(self) -> list[str]:
        """Tags by which `tamis health` finds the deployments of a workspace."""
        return ["tamis", tag_of(self.workspace)]

    @property
    def schedule(self) -> dict[str, Any] | None:
        """As `prefect.yaml` writes it; None on demand."""
        if self.cron is not None:
            return {"cron": self.cron, "timezone": self.timezone}
        return {"interval": interval(self.every).total_seconds()} if self.every is not None else None


def tag_of(workspace: Path) -> str:
    """Tag of a workspace: a name that fits anywhere."""
    return f"tamis-workspace-{digests.of_json(str(workspace))[:8]}"


def deploy(plan: Plan, *, create_pool: bool = False) -> dict[str, Any]:
    """Create the deployment at `PREFECT_API_URL`, or bring it up to date; returns its name, id, URL and schedule.

    RecipeError where there is no server or no such process work pool (`create_pool` makes one).
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if not url:
        raise RecipeError(
            "tamis deploy needs a Prefect server: set PREFECT_API_URL, for example to http://127.0.0.1:4200/api after "
            "`prefect server start`; `tamis serve` needs none"
        )
    with get_client(sync_client=True) as client:
        made = _check_pool(client, plan.pool, create_pool, url)
        _check_cron(plan)
        known = _apply(plan)
        if plan.schedule is None:  # an update without schedules would leave the old ones
            for one in client.read_deployment_schedules(known):
                client.delete_deployment_schedule(known, one.id)
    return {
        "deployment": f"curate/{plan.title}",
        "id": str(known),
        "pool": plan.pool,
        "pool_made": made,
        "schedule": plan.schedule,
        "server": url,
        "parameters": plan.parameters,
    }


def _check_pool(client: SyncPrefectClient, pool: str, create: bool, url: str) -> bool:
    """Whether the pool was made now. RecipeError where it cannot be used."""
    import httpx
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    try:
        kind = client.read_work_pool(pool).type
    except ObjectNotFound:
        if not create:
            there = ", ".join(one.name for one in client.read_work_pools()) or "none"
            raise RecipeError(f"there is no work pool {pool!r} at {url} ({there}); --create-pool makes it") from None
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        return True
    except httpx.TransportError as error:
        raise RecipeError(f"no Prefect server answers at {url} ({error or type(error).__name__})") from error
    if kind != "process":
        raise RecipeError(f"work pool {pool!r} is of type {kind}; tamis deploys to pools of type process")
    return False


def _check_cron(plan: Plan) -> None:
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    if plan.cron is None:
        return
    try:
        CronSchedule(cron=plan.cron, timezone=plan.timezone)
    except ValidationError as error:
        said = "; ".join(str(one["msg"]) for one in error.errors())
        raise RecipeError(f"--cron {plan.cron!r} in {plan.timezone}: {said}") from None


def _apply(plan: Plan) -> Any:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.runner.storage import LocalStorage
    from prefect.schedules import Cron, Interval
    from prefect.types.entrypoint import EntrypointType

    from tamis.flows.curate import curate

    schedule = Cron(plan.cron, timezone=plan.timezone) if plan.cron is not None else None
    if plan.every is not None:
        schedule = Interval(interval(plan.every))
    deployment: Any = curate.to_deployment(
        name=plan.title,
        schedule=schedule,
        parameters=plan.parameters,
        description=f"tamis: {plan.recipe} on {plan.workspace}",
        tags=plan.tags,
        work_pool_name=plan.pool,
        job_variables=plan.job_variables,
        # a run that is due while the last one of the same recipe still runs is not started at all
        concurrency_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW, grace_period_seconds=GRACE_SECONDS
        ),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.storage = LocalStorage(path=plan.folder)
    return deployment.apply()


def as_file(plans: Sequence[Plan]) -> dict[str, Any]:
    """The same as a `prefect.yaml`, to be kept in git and applied by `prefect deploy --all`."""
    return {
        "name": "tamis",
        "deployments": [
            {
                "name": plan.title,
                "description": f"tamis: {plan.recipe} on {plan.workspace}",
                "entrypoint": ENTRYPOINT,
                "pull": plan.pull,
                "parameters": plan.parameters,
                "tags": plan.tags,
                "schedules": [plan.schedule] if plan.schedule is not None else [],
                "concurrency_limit": {
                    "limit": 1,
                    "collision_strategy": "CANCEL_NEW",
                    "grace_period_seconds": GRACE_SECONDS,
                },
                "work_pool": {"name": plan.pool, "job_variables": plan.job_variables},
            }
            for plan in plans
        ],
    }
