"""Deliveries and their attempts: claim what is due, record what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bridge.domain.delivery import Answer, Attempt, Delivery, DeliveryState, Outcome
from bridge.domain.endpoint import Endpoint
from bridge.domain.ids import new_id
from bridge.domain.vault import Unreadable
from bridge.store.endpoints import LiveSecret, endpoint_of, live_secrets, release_next
from bridge.store.tables import attempts, deliveries, endpoints, events
from bridge.store.transaction import Tx


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery in our hands, with all that its POST needs."""

    delivery: Delivery
    endpoint: Endpoint
    body: bytes
    secrets: tuple[LiveSecret, ...]
    fault: str | None = None
    """Why it cannot be signed or addressed as it is stored."""


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """What to record of one attempt: the answer, and what becomes of the delivery."""

    delivery: Delivery
    at: datetime
    answer: Answer
    state: DeliveryState
    next_attempt_at: datetime | None
    is_ordered: bool = False


def delivery_of(row: sa.Row[Any]) -> Delivery:
    """A row of `deliveries` as the domain knows it."""
    m = row._mapping  # noqa: SLF001 - the documented way to read a row by name
    return Delivery(
        id=m["id"],
        event_id=m["event_id"],
        event_type=m["event_type"],
        endpoint_id=m["endpoint_id"],
        run_id=m["run_id"],
        state=DeliveryState(m["state"]),
        attempts=m["attempts"],
        failures=m["failures"],
        created_at=m["created_at"],
        next_attempt_at=m["next_attempt_at"],
        settled_at=m["settled_at"],
        last_outcome=m["last_outcome"] and Outcome(m["last_outcome"]),
        last_status=m["last_status"],
        is_manual=m["is_manual"],
    )


# The index on (endpoint_id, next_attempt_at) is walked endpoint by endpoint: two look-ups each, however
# long the backlog behind it.
_DUE_ENDPOINTS = sa.text("""
WITH RECURSIVE e(id) AS (
  SELECT min(endpoint_id) FROM deliveries WHERE next_attempt_at IS NOT NULL AND leased_by IS NULL
  UNION ALL
  SELECT (SELECT min(endpoint_id) FROM deliveries
          WHERE next_attempt_at IS NOT NULL AND leased_by IS NULL AND endpoint_id > e.id)
  FROM e WHERE e.id IS NOT NULL)
SELECT e.id AS id, (SELECT min(next_attempt_at) FROM deliveries d
                    WHERE d.next_attempt_at IS NOT NULL AND d.leased_by IS NULL AND d.endpoint_id = e.id) AS due_at
FROM e WHERE e.id IS NOT NULL
""").columns(id=sa.Text, due_at=deliveries.c.next_attempt_at.type)


def due_endpoints(tx: Tx) -> dict[str, datetime]:
    """The endpoints with something unclaimed, and when the earliest of it is due."""
    return {row.id: row.due_at for row in tx.connection.execute(_DUE_ENDPOINTS)}


def claim_due(tx: Tx, *, node: str, endpoint_id: str, limit: int) -> list[Claimed]:
    """Take up to `limit` due deliveries of one endpoint, longest due first."""
    due = (
        sa.select(deliveries.c.id)
        .where(
            deliveries.c.endpoint_id == endpoint_id,
            deliveries.c.next_attempt_at.is_not(None),
            deliveries.c.leased_by.is_(None),
            deliveries.c.next_attempt_at <= tx.now,
        )
        .order_by(deliveries.c.next_attempt_at, deliveries.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    claim = sa.update(deliveries).where(deliveries.c.id.in_(due.scalar_subquery())).values(leased_by=node)
    claimed = sorted((delivery_of(row) for row in tx.connection.execute(claim.returning(deliveries))), key=lambda d: d.id)
    if not claimed:
        return []
    row = tx.connection.execute(sa.select(endpoints).where(endpoints.c.id == endpoint_id)).one()
    endpoint = endpoint_of(tx, row)
    secrets, fault = _signing(tx, endpoint)
    wanted = sa.select(events.c.id, events.c.body).where(events.c.id.in_([d.event_id for d in claimed]))
    bodies = {event.id: event.body for event in tx.connection.execute(wanted)}
    return [Claimed(d, endpoint, bodies[d.event_id], secrets, fault) for d in claimed if d.event_id in bodies]


def _signing(tx: Tx, endpoint: Endpoint) -> tuple[tuple[LiveSecret, ...], str | None]:
    """What signs an endpoint's deliveries, or why nothing can."""
    try:
        return tuple(live_secrets(tx, [endpoint.id]).get(endpoint.id, ())), endpoint.fault
    except Unreadable as error:
        return (), f"its signing secret cannot be read: {error}; rotate it, or put the key back"


def record_attempts(tx: Tx, *, node: str, results: Sequence[AttemptResult]) -> None:
    """Record attempts and what becomes of their deliveries, under our claim."""
    for result in results:
        _record_attempt(tx, node, result)


def _record_attempt(tx: Tx, node: str, result: AttemptResult) -> None:
    delivery, answer = result.delivery, result.answer
    failed = answer.outcome is not Outcome.DELIVERED
    still_mine = tx.connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.id == delivery.id, deliveries.c.leased_by == node, deliveries.c.state == DeliveryState.PENDING.value)
        .values(
            leased_by=None,
            state=result.state.value,
            attempts=delivery.attempts + 1,
            failures=delivery.failures + (1 if failed else 0),
            next_attempt_at=result.next_attempt_at,
            settled_at=None if result.state is DeliveryState.PENDING else tx.now,
            last_outcome=answer.outcome.value,
            last_status=answer.status,
        )
    ).rowcount
    _insert_attempt(tx, result, result.next_attempt_at if still_mine else None)
    if still_mine and result.is_ordered and delivery.run_id and result.state is not DeliveryState.PENDING:
        release_next(tx, delivery.endpoint_id, delivery.run_id)


def _insert_attempt(tx: Tx, result: AttemptResult, next_attempt_at: datetime | None) -> None:
    answer = result.answer
    tx.connection.execute(
        sa.insert(attempts).values(
            id=new_id("att"),
            delivery_id=result.delivery.id,
            number=result.delivery.attempts + 1,
            at=result.at,
            outcome=answer.outcome.value,
            status=answer.status,
            duration_ms=answer.duration_ms,
            detail=answer.detail,
            head=answer.head,
            head_is_truncated=answer.head_is_truncated,
            peer=answer.peer,
            phases=answer.phases,
            is_manual=result.delivery.is_manual,
            next_attempt_at=next_attempt_at,
        )
    )


def give_back(tx: Tx, *, node: str, delivery_ids: Sequence[str]) -> None:
    """Give up claims without an attempt: an interrupted POST is not a failed one."""
    tx.connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.id.in_(delivery_ids), deliveries.c.leased_by == node)
        .values(leased_by=None)
    )
    tx.announcements.deliveries_due = True


def get_delivery(tx: Tx, delivery_id: str) -> Delivery | None:
    """One delivery, or None."""
    row = tx.connection.execute(sa.select(deliveries).where(deliveries.c.id == delivery_id)).first()
    return None if row is None else delivery_of(row)


def find_deliveries(tx: Tx, endpoint_id: str, event_ids: Sequence[str]) -> dict[str, Delivery]:
    """The deliveries of events to one endpoint, by event."""
    query = sa.select(deliveries).where(deliveries.c.endpoint_id == endpoint_id, deliveries.c.event_id.in_(event_ids))
    return {row.event_id: delivery_of(row) for row in tx.connection.execute(query)}


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """What `GET /v1/deliveries` can narrow down to; None means any."""

    endpoint_id: str | None = None
    event_id: str | None = None
    run_id: str | None = None
    state: str | None = None


def list_deliveries(tx: Tx, wanted: DeliveryFilter, *, limit: int, before: str | None) -> list[Delivery]:
    """Newest first, older than the delivery `before`."""
    query = sa.select(deliveries).order_by(deliveries.c.id.desc()).limit(limit)
    for column, value in (
        (deliveries.c.endpoint_id, wanted.endpoint_id),
        (deliveries.c.event_id, wanted.event_id),
        (deliveries.c.run_id, wanted.run_id),
        (deliveries.c.state, wanted.state),
    ):
        if value is not None:
            query = query.where(column == value)
    if before is not None:
        query = query.where(deliveries.c.id < before)
    return [delivery_of(row) for row in tx.connection.execute(query)]


def list_attempts(tx: Tx, delivery_ids: Sequence[str]) -> dict[str, list[Attempt]]:
    """The attempts of deliveries, oldest first."""
    query = (
        sa.select(attempts).where(attempts.c.delivery_id.in_(delivery_ids)).order_by(attempts.c.number, attempts.c.id)
    )
    found: dict[str, list[Attempt]] = {}
    for row in tx.connection.execute(query):
        found.setdefault(row.delivery_id, []).append(_attempt_of(row))
    return found


def _attempt_of(row: sa.Row[Any]) -> Attempt:
    answer = Answer(
        outcome=Outcome(row.outcome),
        duration_ms=row.duration_ms,
        status=row.status,
        detail=row.detail,
        head=row.head or b"",
        head_is_truncated=row.head_is_truncated,
        peer=row.peer,
        phases=row.phases or {},
    )
    return Attempt(row.id, row.delivery_id, row.number, row.at, answer, row.is_manual, row.next_attempt_at)


def retry_now(tx: Tx, delivery_ids: Sequence[str]) -> int:
    """Make deliveries due at once, whatever became of them; a person asked (a replay). Answers how many."""
    count = tx.connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.id.in_(delivery_ids), deliveries.c.leased_by.is_(None))
        .values(state=DeliveryState.PENDING.value, next_attempt_at=tx.now, settled_at=None, is_manual=True)
    ).rowcount
    tx.announcements.deliveries_due = True
    return count


def count_by_state(tx: Tx) -> dict[str, int]:
    """Deliveries by state."""
    query = sa.select(deliveries.c.state, sa.func.count()).group_by(deliveries.c.state)
    return {row[0]: row[1] for row in tx.connection.execute(query)}
