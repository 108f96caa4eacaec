"""A run as a row of `runs`, there and back."""

from __future__ import annotations

from typing import Any

from bridge.domain.run import CadenceOverrides, Progress, Run, RunError, RunStatus


def run_of(row: Any) -> Run:
    """A row of `runs` as the domain knows it."""
    return Run(
        id=row.id,
        connection=row.connection,
        provider=row.provider,
        provider_run_id=row.provider_run_id,
        workflow_id=row.workflow_id,
        status=RunStatus(row.status),
        provider_status=row.provider_status,
        progress=Progress(**row.progress) if row.progress else None,
        output=row.output,
        output_truncated=row.output_truncated,
        error=RunError(**row.error) if row.error else None,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        registered_at=row.registered_at,
        observed_at=row.observed_at,
        status_since=row.status_since,
        metadata=row.metadata,
        tags=tuple(row.tags),
        cadence=CadenceOverrides(**row.cadence) if row.cadence else CadenceOverrides(),
        deadline_at=row.deadline_at,
        deadline_is_fixed=row.deadline_is_fixed,
        version=row.version,
        sequence=row.sequence,
        has_started=row.has_started,
        is_paused=row.is_paused,
        is_overdue=row.is_overdue,
        polls=row.polls,
        last_polled_at=row.last_polled_at,
        next_poll_at=row.next_poll_at,
        failure_streak=row.failure_streak,
        not_found_count=row.not_found_count,
        not_found_since=row.not_found_since,
        provider_ref=row.provider_ref,
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
