"""The history of Prefect's server in a workspace: trimmed by Prefect's own vacuum, then the file is made smaller."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

DATABASE = "prefect.db"


def trim(workspace: Path, days: int) -> str:
    """Delete flow runs, logs and events older than `days` from the database in the workspace; says what came of it.

    The server of others, at `PREFECT_API_URL`, has rules of its own and is left alone.
    """
    file = workspace / "prefect" / DATABASE
    if not file.is_file():
        return ""
    before = file.stat().st_size
    from prefect.settings import (
        PREFECT_API_DATABASE_CONNECTION_URL,
        PREFECT_SERVER_EVENTS_RETENTION_PERIOD,
        PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD,
        temporary_settings,
    )
    from sqlalchemy.exc import SQLAlchemyError

    age = timedelta(days=days)
    settings = {
        PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{file}",
        PREFECT_SERVER_EVENTS_RETENTION_PERIOD: age,
        PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD: age,
    }
    try:
        with temporary_settings(settings):
            asyncio.run(_vacuum())
        with closing(sqlite3.connect(file, timeout=10)) as database:
            database.execute("VACUUM")
    except (SQLAlchemyError, sqlite3.Error) as error:
        return f"the history of Prefect was not trimmed: {str(error).splitlines()[0]}"
    saved = before - file.stat().st_size
    return f"history of Prefect older than {days} days: {saved / 1e6:.1f} MB" if saved > 0 else ""


async def _vacuum() -> None:
    from prefect.server.database import provide_database_interface
    from prefect.server.services import db_vacuum

    database = provide_database_interface()
    for part in (
        db_vacuum.vacuum_old_flow_runs,
        db_vacuum.vacuum_orphaned_logs,
        db_vacuum.vacuum_orphaned_artifacts,
        db_vacuum.vacuum_stale_artifact_collections,
        db_vacuum.vacuum_old_events,
    ):
        await part(db=database)
