"""Events: recorded with a delivery for each endpoint that wants them, and read as the pull feed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any, Final

import sqlalchemy as sa

from bridge.domain.delivery import DeliveryState, Lane
from bridge.domain.endpoint import JSON, Endpoint, payload_for
from bridge.domain.event import Event, EventType, other_event
from bridge.domain.ids import new_id
from bridge.domain.leased_delivery import DeliveryOffer, LeasedDelivery
from bridge.domain.replay import ReplayState
from bridge.domain.run import Json, RunStatus
from bridge.store.deliveries import delivery_of
from bridge.store.endpoints import changes_seen, forget_listeners, run_listeners, shared_listeners, signing_secrets
from bridge.store.nodes import may_lease
from bridge.store.ordering import is_pending, lock_feed, lock_runs_to_add
from bridge.store.prepared_statements import execute_many, fetch
from bridge.store.tables import deliveries, events, replays
from bridge.store.transaction import Tx

Pair = tuple[Event, Endpoint]
_LEASED_MAX = 256  # new deliveries, by one transaction
COMMON = frozenset(("run.started", "run.finished"))
_IS_RARE = sa.and_(*(events.c.type != sa.literal_column(f"'{name}'") for name in sorted(COMMON, reverse=True)))
_NOT_SENT: Final = dict.fromkeys(("settled_at", "last_outcome", "last_status"))
_INSERT_EVENTS, _INSERT_DELIVERIES = sa.insert(events), sa.insert(deliveries)


def record_events(
    tx: Tx,
    new: Sequence[Event],
    *,
    only: Endpoint | None = None,
    about: Endpoint | None = None,
    lane: Lane = Lane.FRESH,
    offer: DeliveryOffer | None = None,
) -> None:
    """Insert events in this order, with a due delivery for each endpoint that wants one.

    `only`: this endpoint and no other (a ping). `about`: not this one. `offer`: lease new deliveries to this node as far
    as it has room; its deliverer gets them with the commit.
    """
    if not new:
        return
    pairs = [(event, only) for event in new] if only else _pairs(tx, new, about)
    tx.filters.check()
    ordered = _lock_runs(tx, pairs)
    if not lock_feed(tx, None if only else changes_seen(tx)):  # no other change can come before the commit
        forget_listeners(tx)
        pairs = _pairs(tx, new, about)
        tx.filters.check()
        ordered = _lock_runs(tx, pairs)
    execute_many(
        tx,
        _INSERT_EVENTS,
        [
            {
                "id": e.id,
                "type": e.type.value,
                "run_id": e.run_id,
                "sequence": e.sequence,
                "run_status": e.run_status and e.run_status.value,
                "created_at": e.created_at,
                "body": e.body,
            }
            for e in new
        ],
    )
    tx.signals.events_recorded = True
    _insert_deliveries(tx, pairs, ordered, lane=lane, offer=offer)


def _pairs(tx: Tx, new: Sequence[Event], about: Endpoint | None) -> list[Pair]:
    shared = [endpoint for endpoint in shared_listeners(tx) if about is None or endpoint.id != about.id]
    of_runs = run_listeners(tx, sorted({event.run_id for event in new if event.run_id is not None}))
    pairs = []
    for event in new:
        for endpoint in (*shared, *of_runs.get(event.run_id or "", ())):
            if wants_event(tx, endpoint, event):
                pairs.append((event, endpoint))
            elif endpoint.filter and endpoint.wants(event.type) and tx.filters.has_failed(endpoint.filter, event):
                tx.signals.filter_failures[endpoint.id, endpoint.filter] += 1
    return pairs


def _lock_runs(tx: Tx, pairs: Sequence[Pair]) -> set[str]:
    return lock_runs_to_add(tx, ((endpoint.id, event.run_id) for event, endpoint in pairs if endpoint.ordered))


def wants_event(tx: Tx, endpoint: Endpoint, event: Event) -> bool:
    """Whether the endpoint's event types and filter accept this event."""
    if not endpoint.wants(event.type):
        return False
    return endpoint.filter is None or tx.filters.accepts(endpoint.filter, event)


def insert_deliveries(tx: Tx, pairs: Sequence[Pair], *, is_manual: bool = False, lane: Lane = Lane.FRESH) -> list[str]:
    """Insert a due delivery for each pair, with a body of its own where the endpoint wants another one. Their ids."""
    return _insert_deliveries(tx, pairs, _lock_runs(tx, pairs), is_manual=is_manual, lane=lane)


def _insert_deliveries(
    tx: Tx,
    pairs: Sequence[Pair],
    ordered: Container[str],
    *,
    is_manual: bool = False,
    lane: Lane = Lane.FRESH,
    offer: DeliveryOffer | None = None,
) -> list[str]:
    if not pairs:
        return []
    lane = Lane.AGAIN if is_manual and lane is Lane.FRESH else lane
    rows = [_new_row(tx, event, endpoint, is_manual=is_manual, lane=lane) for event, endpoint in pairs]
    for row, (event, endpoint) in zip(rows, pairs, strict=True):
        if endpoint.id not in ordered:
            continue
        if _is_behind(tx, row, rows) or (not is_manual and _awaits_replay(tx, event, endpoint)):
            row["next_attempt_at"] = None
    if offer is not None:
        _lease(tx, rows, pairs, offer)
    execute_many(tx, _INSERT_DELIVERIES, rows)
    tx.signals.deliveries_due |= any(row["leased_by"] is None for row in rows)
    return [str(row["id"]) for row in rows]


def _new_row(tx: Tx, event: Event, endpoint: Endpoint, *, is_manual: bool, lane: Lane) -> dict[str, Any]:
    payload = payload_for(endpoint, event)
    return {
        "id": new_id("dlv"),
        "event_id": event.id,
        "event_type": event.type.value,
        "endpoint_id": endpoint.id,
        "run_id": event.run_id,
        "sequence": event.sequence,
        "state": DeliveryState.PENDING.value,
        "lane": lane.value,
        "body": payload and payload.body,
        "content_type": payload and payload.content_type,
        "attempts": 0,
        "failures": 0,
        "is_manual": is_manual,
        "created_at": tx.now,
        "next_attempt_at": tx.now,
        "leased_by": None,
    }


def _lease(tx: Tx, rows: Sequence[dict[str, Any]], pairs: Sequence[Pair], offer: DeliveryOffer) -> None:
    """Lease those of the new deliveries that may be sent at once to the node that offers it."""
    rooms: dict[str, int] = {}
    chosen: list[tuple[dict[str, Any], Pair]] = []
    for row, pair in zip(rows, pairs, strict=True):
        endpoint = pair[1]
        if row["next_attempt_at"] is None or not _is_open(endpoint, tx.now):
            continue
        if endpoint.id not in rooms:
            rooms[endpoint.id] = offer.room(endpoint)
        if rooms[endpoint.id] > 0 and len(chosen) < _LEASED_MAX:
            rooms[endpoint.id] -= 1
            chosen.append((row, pair))
    if not chosen or not may_lease(tx, offer.node):
        return
    signing = signing_secrets(tx, list({endpoint.id: endpoint for _, (_, endpoint) in chosen}.values()))
    for row, (event, endpoint) in chosen:
        row["leased_by"] = offer.node
        secrets, fault = signing[endpoint.id]
        body, content_type = row["body"] or event.body, row["content_type"] or JSON
        tx.signals.leased_deliveries.append(
            LeasedDelivery(
                delivery_of(SimpleNamespace(**row, **_NOT_SENT)),
                endpoint,
                body,
                secrets,
                fault,
                content_type,
                event.trace_context,
            )
        )


def _is_open(endpoint: Endpoint, now: datetime) -> bool:
    """Whether the endpoint accepts deliveries and has no rate limit; otherwise the deliverer must look closer."""
    is_paused = endpoint.paused_until is not None and endpoint.paused_until > now
    return endpoint.enabled and endpoint.failing_since is None and not is_paused and endpoint.rate_limit is None


def _is_behind(tx: Tx, row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether an earlier event of the same run is still pending at the same ordered endpoint."""
    if row["run_id"] is None:
        return False
    same = [r for r in rows if r["endpoint_id"] == row["endpoint_id"] and r["run_id"] == row["run_id"]]
    if any(r["sequence"] < row["sequence"] for r in same):
        return True
    is_behind = is_pending(
        row["run_id"],
        lambda earlier: (earlier.c.endpoint_id == row["endpoint_id"], earlier.c.sequence < row["sequence"]),
    )
    return bool(tx.connection.execute(sa.select(is_behind)).scalar_one())


_STILL_TO_REPLAY = (
    sa.select(events, replays.c.types)
    .select_from(
        replays.join(events, sa.and_(events.c.position > replays.c.position, events.c.created_at >= replays.c.since))
    )
    .where(
        replays.c.state == sa.literal_column(f"'{ReplayState.RUNNING.value}'"),  # the index's words
        replays.c.endpoint_id == sa.bindparam("endpoint"),
        events.c.run_id == sa.bindparam("run"),
        events.c.sequence < sa.bindparam("before"),
        sa.or_(replays.c.last_position.is_(None), events.c.position <= replays.c.last_position),
        sa.or_(replays.c.until.is_(None), events.c.created_at < replays.c.until),
        ~sa.exists().where(deliveries.c.event_id == events.c.id, deliveries.c.endpoint_id == replays.c.endpoint_id),
    )
)


def _awaits_replay(tx: Tx, event: Event, endpoint: Endpoint) -> bool:
    """Whether a running replay will still send an earlier event of the same run.

    When that event settles, this one is released; when the replay ends, all that still wait for it.
    """
    if event.run_id is None:
        return False
    which = {"endpoint": endpoint.id, "run": event.run_id, "before": event.sequence}
    rows = tx.connection.execute(_STILL_TO_REPLAY, which).all()
    return any((not row.types or row.type in row.types) and wants_event(tx, endpoint, event_of(row)) for row in rows)


def event_of(row: sa.Row[Any]) -> Event:
    """The event in a row of `events`."""
    return Event(
        id=row.id,
        type=EventType(row.type),
        created_at=row.created_at,
        body=row.body,
        run_id=row.run_id,
        sequence=row.sequence,
        run_status=row.run_status and RunStatus(row.run_status),
        position=row.position,
    )


def get_event(tx: Tx, event_id: str) -> Event | None:
    """One event, or None."""
    row = tx.connection.execute(sa.select(events).where(events.c.id == event_id)).first()
    return None if row is None else event_of(row)


def list_run_events(tx: Tx, run_id: str) -> list[Event]:
    """The events of one run in order."""
    query = sa.select(events).where(events.c.run_id == run_id).order_by(events.c.sequence)
    return [event_of(row) for row in tx.connection.execute(query)]


def list_feed(tx: Tx, *, after: int, limit: int, types: Sequence[str] = (), run_id: str | None = None) -> list[Event]:
    """Events in the order of recording, after position `after` (0: from the oldest kept)."""
    query = sa.select(events).where(events.c.position > after).order_by(events.c.position).limit(limit)
    return _select_types(tx, query, types, run_id)[:limit]


def list_newest(
    tx: Tx, *, before: int | None, limit: int, types: Sequence[str] = (), run_id: str | None = None
) -> list[Event]:
    """Events in the reverse order of recording, before position `before` (None: from the newest)."""
    query = sa.select(events).order_by(events.c.position.desc()).limit(limit)
    if before is not None:
        query = query.where(events.c.position < before)
    return _select_types(tx, query, types, run_id)[-limit:][::-1]


def _select_types(tx: Tx, query: sa.Select[Any], types: Sequence[str], run_id: str | None) -> list[Event]:
    """The events that `query` finds of these types (none: of all) and of this run, by position.

    For each rare type on its own, which ix_events_rare has in order.
    """
    if run_id is not None:
        queries = [query.where(events.c.run_id == run_id, *([events.c.type.in_(types)] if types else []))]
    elif types and not COMMON.intersection(types):
        queries = [query.where(_IS_RARE, events.c.type == one) for one in dict.fromkeys(types)]
    else:
        queries = [query.where(events.c.type.in_(types)) if types else query]
    found = [event_of(row) for each in queries for row in tx.connection.execute(each)]
    return sorted(found, key=lambda event: event.position or 0)


def first_position(tx: Tx, at: datetime) -> int:
    """The position of the first event that was recorded at this instant or later, or one above all.

    Found by bisection: positions follow time, but for what a clock that was set back recorded. An index would cost a
    page for every event.
    """
    lowest = tx.connection.execute(sa.select(sa.func.min(events.c.position))).scalar() or 1
    positions = range(lowest, last_position(tx) + 1)
    return lowest + bisect_left(positions, at, key=lambda least: fetch(tx, _NEXT, {"least": least})[0].created_at)


_NEXT = (
    sa.select(events.c.created_at)
    .where(events.c.position >= sa.bindparam("least"))
    .order_by(events.c.position)
    .limit(1)
)


def last_position(tx: Tx) -> int:
    """The position of the newest event, 0 when there is none."""
    return tx.connection.execute(sa.select(sa.func.max(events.c.position))).scalar() or 0


def finished_events(tx: Tx, run_ids: Sequence[str]) -> dict[str, Event]:
    """The `run.finished` of settled runs, by run."""
    query = sa.select(events).where(events.c.run_id.in_(run_ids), events.c.type == EventType.RUN_FINISHED.value)
    return {row.run_id: event_of(row) for row in tx.connection.execute(query)}


def record_endpoint_event(tx: Tx, event_type: EventType, endpoint: Endpoint, reason: str) -> None:
    """Record for the other endpoints that one fails or was disabled. Its URL may hold a token and is left out."""
    details: dict[str, Json] = {"id": endpoint.id, "description": endpoint.description, "reason": reason}
    event = other_event(new_id("evt"), event_type, {"endpoint": details}, now=tx.now)
    record_events(tx, [event], about=endpoint)
