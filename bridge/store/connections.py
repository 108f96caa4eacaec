"""The health of connections, so that failing and recovered are each recorded once, also across restarts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from bridge.domain.connection import ConnectionHealth
from bridge.domain.event import EventType, other_event
from bridge.domain.ids import new_id
from bridge.store.events import record_events
from bridge.store.postgres import dialect as postgresql
from bridge.store.tables import connections
from bridge.store.transaction import Tx


@dataclass(frozen=True, slots=True)
class HealthRow:
    """The health of a connection, and since when."""

    name: str
    health: ConnectionHealth
    reason: str | None
    since: datetime


def list_health(tx: Tx) -> dict[str, HealthRow]:
    """The health of every connection that has answered or failed."""
    rows = tx.connection.execute(sa.select(connections))
    return {r.name: HealthRow(r.name, ConnectionHealth(r.health), r.reason, r.since) for r in rows}


def change_health(tx: Tx, name: str, *, provider: str, health: ConnectionHealth, reason: str | None) -> bool:
    """Record a change of health, with its event where it begins or ends to fail. False without an event."""
    if not _set_health(tx, name, health, reason):
        return False
    failing = health is ConnectionHealth.FAILING
    event_type = EventType.CONNECTION_FAILING if failing else EventType.CONNECTION_RECOVERED
    event = other_event(
        new_id("evt"),
        event_type,
        {"connection": {"name": name, "provider": provider, "health": health.value, "reason": reason}},
        now=tx.now,
    )
    record_events(tx, [event])
    return True


def _set_health(tx: Tx, name: str, health: ConnectionHealth, reason: str | None) -> bool:
    """Set the health in one statement, because another node may do so at the same moment.

    False if it is the same, or the first one and good: only a connection that failed can recover.
    """
    values = {"health": health.value, "reason": reason, "since": tx.now}
    insert = postgresql.insert if tx.is_postgresql else sqlite.insert
    if health is ConnectionHealth.OK:
        existing = sa.update(connections).where(connections.c.name == name, connections.c.health != health.value)
        if tx.connection.execute(existing.values(values)).rowcount:
            return True
        tx.connection.execute(insert(connections).values(name=name, **values).on_conflict_do_nothing())
        return False
    upsert = (
        insert(connections)
        .values(name=name, **values)
        .on_conflict_do_update(
            index_elements=[connections.c.name], set_=values, where=connections.c.health != health.value
        )
    )
    return bool(tx.connection.execute(upsert).rowcount)
