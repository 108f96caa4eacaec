"""A run as a row of `runs`, there and back."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from bridge.domain.run import CadenceOverrides, Progress, Run, RunError, RunStatus


def run_of(row: sa.Row[Any]) -> Run:
    """A row of `runs` as the domain knows it."""
    m = row._mapping  # noqa: SLF001 - the documented way to read a row by name
    return Run(
        id=m["id"],
        connection=m["connection"],
        provider=m["provider"],
        provider_run_id=m["provider_run_id"],
        workflow_id=m["workflow_id"],
        status=RunStatus(m["status"]),
        provider_status=m["provider_status"],
        progress=Progress(**m["progress"]) if m["progress"] else None,
        output=m["output"],
        output_truncated=m["output_truncated"],
        error=RunError(**m["error"]) if m["error"] else None,
        created_at=m["created_at"],
        started_at=m["started_at"],
        finished_at=m["finished_at"],
        registered_at=m["registered_at"],
        observed_at=m["observed_at"],
        status_since=m["status_since"],
        metadata=m["metadata"],
        tags=tuple(m["tags"]),
        cadence=CadenceOverrides(**m["cadence"]) if m["cadence"] else CadenceOverrides(),
        deadline_at=m["deadline_at"],
        deadline_is_fixed=m["deadline_is_fixed"],
        version=m["version"],
        sequence=m["sequence"],
        has_started=m["has_started"],
        is_paused=m["is_paused"],
        is_overdue=m["is_overdue"],
        polls=m["polls"],
        last_polled_at=m["last_polled_at"],
        next_poll_at=m["next_poll_at"],
        failure_streak=m["failure_streak"],
        not_found_count=m["not_found_count"],
        not_found_since=m["not_found_since"],
        provider_ref=m["provider_ref"],
    )


def values_of(run: Run) -> dict[str, Any]:
    """The columns that an observation may change."""
    progress, error = run.progress, run.error
    return {
        "workflow_id": run.workflow_id,
        "status": run.status.value,
        "provider_status": run.provider_status,
        "progress": progress and {"completed": progress.completed, "total": progress.total},
        "output": run.output,
        "output_truncated": run.output_truncated,
        "error": error and {"message": error.message, "code": error.code, "step": error.step},
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "observed_at": run.observed_at,
        "status_since": run.status_since,
        "deadline_at": run.deadline_at,
        "sequence": run.sequence,
        "has_started": run.has_started,
        "is_paused": run.is_paused,
        "is_overdue": run.is_overdue,
        "polls": run.polls,
        "last_polled_at": run.last_polled_at,
        "next_poll_at": run.next_poll_at,
        "failure_streak": run.failure_streak,
        "not_found_count": run.not_found_count,
        "not_found_since": run.not_found_since,
    }


CHANGING = (
    "workflow_id",
    "status",
    "provider_status",
    "progress",
    "output",
    "output_truncated",
    "error",
    "created_at",
    "started_at",
    "finished_at",
    "observed_at",
    "status_since",
    "deadline_at",
    "sequence",
    "has_started",
    "is_paused",
    "is_overdue",
    "polls",
    "last_polled_at",
    "next_poll_at",
    "failure_streak",
    "not_found_count",
    "not_found_since",
)
"""The columns of `values_of`."""


def row_of(run: Run) -> dict[str, Any]:
    """Every column of a run that nobody holds."""
    overrides = {
        name: value for name in CadenceOverrides.__slots__ if (value := getattr(run.cadence, name)) is not None
    }
    return {
        "id": run.id,
        "connection": run.connection,
        "provider": run.provider,
        "provider_run_id": run.provider_run_id,
        "provider_ref": run.provider_ref,
        "registered_at": run.registered_at,
        "metadata": run.metadata,
        "tags": list(run.tags),
        "cadence": overrides or None,
        "deadline_is_fixed": run.deadline_is_fixed,
        "version": run.version,
        **values_of(run),
    }
