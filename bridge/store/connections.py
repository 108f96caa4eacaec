"""The health of connections, so that failing and recovered are each told once, restarts included."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from bridge.domain.connection import ConnectionHealth
from bridge.domain.event import EventType, other_event
from bridge.domain.ids import new_id
from bridge.store.events import record_events
from bridge.store.tables import connections
from bridge.store.transaction import Tx


@dataclass(frozen=True, slots=True)
class HealthRow:
    """How a connection stands since when."""

    name: str
    health: ConnectionHealth
    reason: str | None
    since: datetime


def list_health(tx: Tx) -> dict[str, HealthRow]:
    """The health of every connection that ever changed it."""
    rows = tx.connection.execute(sa.select(connections))
    return {r.name: HealthRow(r.name, ConnectionHealth(r.health), r.reason, r.since) for r in rows}


def change_health(tx: Tx, name: str, *, provider: str, health: ConnectionHealth, reason: str | None) -> bool:
    """Record a change of health and tell it once; False when it stood so already."""
    if not _turn(tx, name, health, reason):
        return False
    failing = health is ConnectionHealth.FAILING
    event_type = EventType.CONNECTION_FAILING if failing else EventType.CONNECTION_RECOVERED
    told = other_event(
        new_id("evt"),
        event_type,
        {"connection": {"name": name, "provider": provider, "health": health.value, "reason": reason}},
        now=tx.now,
    )
    record_events(tx, [told])
    return True


def _turn(tx: Tx, name: str, health: ConnectionHealth, reason: str | None) -> bool:
    """One statement, because another node may see the same at the same moment; False when it stood so already."""
    values = {"health": health.value, "reason": reason, "since": tx.now}
    if health is ConnectionHealth.OK:  # which is what a connection is that was never written down
        known = sa.update(connections).where(connections.c.name == name, connections.c.health != health.value)
        return bool(tx.connection.execute(known.values(values)).rowcount)
    insert = postgresql.insert if tx.is_postgresql else sqlite.insert
    turned = (
        insert(connections)
        .values(name=name, **values)
        .on_conflict_do_update(
            index_elements=[connections.c.name], set_=values, where=connections.c.health != health.value
        )
    )
    return bool(tx.connection.execute(turned).rowcount)
