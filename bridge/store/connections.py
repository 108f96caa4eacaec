"""The health of connections, so that failing and recovered are each told once, restarts included."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

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
    present = list_health(tx).get(name)
    if (present.health if present else ConnectionHealth.OK) is health:
        return False
    if present is None:
        tx.connection.execute(
            sa.insert(connections).values(name=name, health=health.value, reason=reason, since=tx.now)
        )
    else:
        tx.connection.execute(
            sa.update(connections)
            .where(connections.c.name == name)
            .values(health=health.value, reason=reason, since=tx.now)
        )
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
