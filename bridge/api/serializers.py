"""Domain values as the API shows them; unknown values are null, never absent. `answers` has the same as schemas."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from datetime import datetime

from bridge.api.ports import LivePoll
from bridge.domain.connection import CadenceSettings, Connection, ConnectionHealth
from bridge.domain.delivery import Attempt, Delivery
from bridge.domain.endpoint import Endpoint
from bridge.domain.errors import InvalidInput, Problem
from bridge.domain.event import Event, run_body
from bridge.domain.fields import MASK
from bridge.domain.replay import Replay
from bridge.domain.run import Json, Run
from bridge.domain.timestamps import format_duration, format_instant
from bridge.store.connections import HealthRow
from bridge.store.runs import TransitionRow

_ID = re.compile(r"[A-Za-z0-9_.~-]{1,150}", re.ASCII)


def shown_instant(instant: datetime | None) -> str | None:
    """RFC 3339, or null."""
    return None if instant is None else format_instant(instant)


def shown_run(run: Run, live: LivePoll | None) -> dict[str, Json]:
    """The run as in an event, and its polls: those held in memory are fresher than the database's."""
    polls = LivePoll(run.polls, run.last_polled_at, run.next_poll_at) if live is None or run.settled else live
    return {
        **run_body(run),
        "polls": polls.polls,
        "last_polled_at": shown_instant(polls.last_polled_at),
        "next_poll_at": shown_instant(polls.next_poll_at),
        "next_poll_reason": polls.reason,
        "deadline_at": shown_instant(run.deadline_at),
        "overdue": run.is_overdue,
    }


def shown_transition(row: TransitionRow) -> dict[str, Json]:
    """One change of status."""
    return {
        "at": format_instant(row.at),
        "from": row.from_status,
        "to": row.to_status,
        "provider_status": row.provider_status,
    }


def shown_event(event: Event) -> Json:
    """The body as JSON."""
    body: Json = json.loads(event.body)
    return body


def shown_endpoint(
    endpoint: Endpoint, public_keys: Sequence[str] = (), *, with_values: bool = False
) -> dict[str, Json]:
    """An endpoint without its secret; the values of its headers, which often hold one, are masked."""
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "source": endpoint.source.value,
        "events": None if endpoint.events is None else [name.value for name in endpoint.events],
        "filter": endpoint.filter,
        "description": endpoint.description,
        "headers": {name: value if with_values else MASK for name, value in endpoint.headers.items()},
        "ordered": endpoint.ordered,
        "payload": endpoint.payload,
        "format": endpoint.format,
        "rate_limit": endpoint.rate_limit,
        "signature": list(endpoint.signature),
        "public_keys": list(public_keys),
        "run_id": endpoint.run_id,
        "enabled": endpoint.enabled,
        "disabled_reason": endpoint.disabled_reason,
        "failing_since": shown_instant(endpoint.failing_since),
        "paused_until": shown_instant(endpoint.paused_until),
        "created_at": shown_instant(endpoint.created_at),
    }


def shown_delivery(delivery: Delivery, attempts: Sequence[Attempt], *, with_responses: bool) -> dict[str, Json]:
    """A delivery with every attempt; the receiver's answers only where one delivery is shown."""
    return {
        "id": delivery.id,
        "event_id": delivery.event_id,
        "event_type": delivery.event_type,
        "endpoint_id": delivery.endpoint_id,
        "run_id": delivery.run_id,
        "state": delivery.state.value,
        "attempt_count": delivery.attempts,
        "failure_count": delivery.failures,
        "created_at": format_instant(delivery.created_at),
        "next_attempt_at": shown_instant(delivery.next_attempt_at),
        "settled_at": shown_instant(delivery.settled_at),
        "last_outcome": delivery.last_outcome and delivery.last_outcome.value,
        "last_status": delivery.last_status,
        "manual": delivery.is_manual,
        "attempts": [_shown_attempt(attempt, with_response=with_responses) for attempt in attempts],
    }


def _shown_attempt(attempt: Attempt, *, with_response: bool) -> dict[str, Json]:
    given = attempt.answer
    return {
        "number": attempt.number,
        "at": format_instant(attempt.at),
        "outcome": given.outcome.value,
        "status": given.status,
        "duration_ms": given.duration_ms,
        "detail": given.detail,
        "peer": given.peer,
        "phases": dict(given.phases),
        "response": given.head.decode(errors="replace") if with_response else None,
        "truncated": given.head_is_truncated,
        "manual": attempt.is_manual,
        "next_attempt_at": shown_instant(attempt.next_attempt_at),
    }


def shown_replay(replay: Replay) -> dict[str, Json]:
    """A replay and how far it is."""
    wanted = replay.selection
    return {
        "id": replay.id,
        "endpoint_id": replay.endpoint_id,
        "state": replay.state.value,
        "count": replay.count,
        "replayed": replay.replayed,
        "rate": replay.rate,
        "since": format_instant(wanted.since),
        "until": shown_instant(wanted.until),
        "types": [name.value for name in wanted.types] or None,
        "status": wanted.status.value,
        "created_at": format_instant(replay.created_at),
        "finished_at": shown_instant(replay.finished_at),
    }


def shown_connection(connection: Connection, health: HealthRow | None, state: dict[str, Json]) -> dict[str, Json]:
    """A connection without its key; a limit of null is learned from the provider's answers."""
    return {
        "name": connection.name,
        "provider": connection.provider,
        "base_url": connection.base_url,
        "health": (health.health if health else ConnectionHealth.OK).value,
        "reason": health.reason if health else None,
        "since": shown_instant(health.since) if health else None,
        "limits": {
            "requests_per_second": connection.requests_per_second,
            "max_in_flight": connection.max_in_flight,
        },
        "cadence": _shown_cadence(connection.cadence),
        "state": state,
    }


def _shown_cadence(cadence: CadenceSettings) -> dict[str, Json]:
    return {
        "price": None if cadence.target_delay else format_duration(cadence.price_s),
        "target_delay": cadence.target_delay,
        "min_interval": format_duration(cadence.min_interval_s),
        "max_interval": format_duration(cadence.max_interval_s),
        "deadline": format_duration(cadence.deadline_s),
    }


def cursor_of(item_id: str) -> str:
    """An opaque cursor: go on behind this item."""
    return base64.urlsafe_b64encode(item_id.encode()).decode().rstrip("=")


def read_cursor(cursor: str | None) -> str | None:
    """The id in a cursor; InvalidInput for anything that was not a `next_cursor`."""
    if cursor is None:
        return None
    try:
        item_id = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        item_id = ""
    if not _ID.fullmatch(item_id):
        raise InvalidInput([Problem("cursor", "not a cursor of this list; give the next_cursor of the page before")])
    return item_id


def shown_page(shown: Sequence[dict[str, Json]], limit: int, key: str = "id") -> dict[str, Json]:
    """A list answer; `shown` holds one more than `limit` where there is a further page."""
    page = list(shown[:limit])
    more = len(shown) > limit
    return {"data": [*page], "next_cursor": cursor_of(str(page[-1][key])) if more else None}
