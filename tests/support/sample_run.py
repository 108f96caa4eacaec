"""A run without a database, for rules that need one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bridge.domain.run import Run

REGISTERED_AT = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)


def sample_run(**more: Any) -> Run:
    """A run before its first poll, except for what `more` says."""
    values: dict[str, Any] = {
        "id": "run_1",
        "connection": "dify-prod",
        "provider": "dify",
        "provider_run_id": "abc",
        "registered_at": REGISTERED_AT,
        "status_since": REGISTERED_AT,
        "metadata": {},
        "next_poll_at": REGISTERED_AT,
    }
    return Run(**(values | more))
