"""Events: recorded facts, immutable, with their exact bytes.

A body is serialised once, then stored, signed and sent as these bytes on every attempt and replay.
"""

from __future__ import annotations

import json
from datetime import datetime
from enum import StrEnum

from pydantic_core import to_json

from bridge.domain.frozen import frozen
from bridge.domain.run import Json, Run, RunStatus
from bridge.domain.timestamps import format_instant

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
BODY_BYTES_MAX = 256 * 1024  # a limit that large webhook senders share; a larger body is sent without the output


class EventType(StrEnum):
    """The types of events."""

    RUN_STARTED = "run.started"
    RUN_PROGRESSED = "run.progressed"
    RUN_WAITING = "run.waiting"
    RUN_RESUMED = "run.resumed"
    RUN_OVERDUE = "run.overdue"
    RUN_FINISHED = "run.finished"
    CONNECTION_FAILING = "connection.failing"
    CONNECTION_RECOVERED = "connection.recovered"
    ENDPOINT_FAILING = "endpoint.failing"
    ENDPOINT_DISABLED = "endpoint.disabled"
    BRIDGE_PING = "bridge.ping"


@frozen
class Event:
    """A recorded fact. `position` orders the pull feed; `sequence` counts the events of its run from 1."""

    id: str
    type: EventType
    created_at: datetime
    body: bytes
    run_id: str | None = None
    sequence: int | None = None
    run_status: RunStatus | None = None
    position: int | None = None
    trace_context: str | None = None
    """That of its run; not stored with the event."""


def run_body(run: Run) -> dict[str, Json]:
    """The run as events and the API show it: every field of `data.run`; unknown values are null."""
    return {
        "id": run.id,
        "connection": run.connection,
        "provider": run.provider,
        "provider_run_id": run.provider_run_id,
        "workflow_id": run.workflow_id,
        "status": run.status.value,
        "provider_status": run.provider_status,
        "settled": run.settled,
        "progress": {"completed": run.progress.completed, "total": run.progress.total} if run.progress else None,
        "output": run.output,
        "output_truncated": run.output_truncated,
        "error": {"message": run.error.message, "code": run.error.code, "step": run.error.step} if run.error else None,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "registered_at": format_instant(run.registered_at),
        "observed_at": format_instant(run.observed_at) if run.observed_at else None,
        "metadata": run.metadata,
        "tags": list(run.tags),
    }


def encode(body: Json) -> bytes:
    """Compact UTF-8 JSON, as event bodies and responses are sent."""
    return _ENCODER.encode(body).encode()


def run_event(
    event_id: str, event_type: EventType, run: Run, *, sequence: int, previous_status: RunStatus, now: datetime
) -> Event:
    """An event about `run` as it is now.

    Over 256 KiB `output_url`, the path on our API that has the whole output, takes its place.
    """

    def body_of(shown: dict[str, Json]) -> bytes:
        data: dict[str, Json] = {"sequence": sequence, "previous_status": previous_status.value, "run": shown}
        body: Json = {"id": event_id, "type": event_type.value, "timestamp": format_instant(now), "data": data}
        return to_json(body)  # a quarter of the time of `encode`, which also refuses NaN; no run holds one

    shown = run_body(run)
    body = body_of(shown)
    if len(body) > BODY_BYTES_MAX:
        body = body_of({**shown, "output": None, "output_truncated": True, "output_url": f"/v1/runs/{run.id}"})
    return Event(
        event_id,
        event_type,
        now,
        body,
        run_id=run.id,
        sequence=sequence,
        run_status=run.status,
        trace_context=run.trace_context,
    )


def other_event(event_id: str, event_type: EventType, details: dict[str, Json], *, now: datetime) -> Event:
    """An event that is about no run; `details` holds `connection` or `endpoint` with the reason."""
    data: dict[str, Json] = {"sequence": None, "previous_status": None, "run": None, **details}
    body = encode({"id": event_id, "type": event_type.value, "timestamp": format_instant(now), "data": data})
    return Event(event_id, event_type, now, body)
