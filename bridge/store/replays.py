"""Replays: a person has a selection of events sent to one endpoint again, same ids, same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from bridge.domain.delivery import Delivery, DeliveryState
from bridge.domain.endpoint import Endpoint
from bridge.domain.event import Event, EventType
from bridge.store.deliveries import find_deliveries, retry_now
from bridge.store.events import event_of, insert_deliveries, wants_event
from bridge.store.tables import events
from bridge.store.transaction import Tx

BATCH = 500  # events looked at in one transaction; keeps it within some tens of milliseconds


class ReplayStatus(StrEnum):
    """What became of an event at the endpoint. `missed`: it was never meant to be sent there at the time."""

    FAILED = "failed"
    DELIVERED = "delivered"
    MISSED = "missed"
    EXHAUSTED = "exhausted"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events: recorded from `since` on and before `until`, of these types (empty: all), that ended so.

    `last_position`: none behind it, so that a replay on a busy bridge comes to an end.
    """

    since: datetime
    until: datetime | None = None
    types: tuple[EventType, ...] = ()
    status: ReplayStatus | None = None
    last_position: int | None = None


@dataclass(frozen=True, slots=True)
class ReplayBatch:
    """How many were selected, and the position to go on behind; None at the end."""

    count: int
    next_position: int | None


def replay_batch(tx: Tx, endpoint: Endpoint, wanted: Selection, *, after: int, dry_run: bool) -> ReplayBatch:
    """Make the next events of the selection due for this endpoint; with `dry_run` only count them."""
    page = _page(tx, wanted, after)
    known = find_deliveries(tx, endpoint.id, [event.id for event in page])
    chosen = [e for e in page if _is_for(endpoint, e, known.get(e.id)) and _ended_so(wanted.status, known.get(e.id))]
    if chosen and not dry_run:
        send_again(tx, endpoint, chosen, known)
    return ReplayBatch(len(chosen), page[-1].position if len(page) == BATCH else None)


def send_again(tx: Tx, endpoint: Endpoint, chosen: list[Event], known: dict[str, Delivery]) -> list[str]:
    """Make events due at this endpoint, through the deliveries that are `known` or new ones; their ids."""
    present = [known[event.id].id for event in chosen if event.id in known]
    if present:
        retry_now(tx, present)
    new = [(event, endpoint) for event in chosen if event.id not in known]
    return present + insert_deliveries(tx, new, is_manual=True)


def _page(tx: Tx, wanted: Selection, after: int) -> list[Event]:
    query = (
        sa.select(events)
        .where(events.c.position > after, events.c.created_at >= wanted.since)
        .order_by(events.c.position)
        .limit(BATCH)
    )
    if wanted.until is not None:
        query = query.where(events.c.created_at < wanted.until)
    if wanted.last_position is not None:
        query = query.where(events.c.position <= wanted.last_position)
    if wanted.types:
        query = query.where(events.c.type.in_([t.value for t in wanted.types]))
    return [event_of(row) for row in tx.connection.execute(query)]


def _is_for(endpoint: Endpoint, event: Event, delivery: Delivery | None) -> bool:
    if delivery is not None:
        return True
    if event.type is EventType.BRIDGE_PING:  # a ping is for the endpoint that it was made for
        return False
    return endpoint.run_id in (None, event.run_id) and wants_event(endpoint, event)


def _ended_so(status: ReplayStatus | None, delivery: Delivery | None) -> bool:
    match status:
        case None:
            return True
        case ReplayStatus.MISSED:
            return delivery is None
        case ReplayStatus.FAILED:
            return delivery is not None and (
                delivery.state is DeliveryState.EXHAUSTED
                or (delivery.state is DeliveryState.PENDING and delivery.failures > 0)
            )
        case _:
            return delivery is not None and delivery.state.value == status.value
