"""A run that nobody had to register: for rules that need one and no database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bridge.domain.run import CadenceOverrides, Run, RunStatus

REGISTERED_AT = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)


def sample_run(**more: Any) -> Run:
    """A run as it stands before the first poll, but for what `more` says."""
    values: dict[str, Any] = {
        "id": "run_1",
        "connection": "dify-prod",
        "provider": "dify",
        "provider_run_id": "abc",
        "workflow_id": None,
        "status": RunStatus.QUEUED,
        "provider_status": None,
        "progress": None,
        "output": None,
        "output_truncated": False,
        "error": None,
        "created_at": None,
        "started_at": None,
        "finished_at": None,
        "registered_at": REGISTERED_AT,
        "observed_at": None,
        "status_since": REGISTERED_AT,
        "metadata": {},
        "tags": (),
        "cadence": CadenceOverrides(),
        "deadline_at": None,
        "deadline_is_fixed": False,
        "version": 1,
        "sequence": 0,
        "has_started": False,
        "is_paused": False,
        "is_overdue": False,
        "polls": 0,
        "last_polled_at": None,
        "next_poll_at": REGISTERED_AT,
        "failure_streak": 0,
        "not_found_count": 0,
        "not_found_since": None,
    }
    return Run(**(values | more))
