"""The cursors of alert channels, and the edges recorded after a cursor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from bridge.domain.delivery import DeliveryState
from bridge.domain.endpoint import EndpointSource
from bridge.domain.event import EventType
from bridge.domain.ids import first_id, new_id
from bridge.store.events import last_position, list_feed
from bridge.store.postgres import dialect as postgresql
from bridge.store.tables import alert_channels, attempts, deliveries, endpoints
from bridge.store.transaction import Tx

EVENTS_MAX: Final = 500
_VISIBLE_AFTER: Final = timedelta(seconds=5)  # an attempt that was recorded at an instant is committed some time later
_SLACK: Final = timedelta(minutes=1)  # an attempt's id is made when it is recorded, or on a node whose clock differs
_TYPES: Final = tuple(
    each.value
    for each in (
        EventType.CONNECTION_FAILING,
        EventType.CONNECTION_RECOVERED,
        EventType.ENDPOINT_FAILING,
        EventType.ENDPOINT_DISABLED,
    )
)


@dataclass(frozen=True, slots=True)
class AlertCursor:
    """Everything up to here was sent: events by position, exhausted deliveries by the time at which they settled.

    Since the clock was last set back, so were those up to `sent_at` whose last attempt has an id below `sent_below`.
    """

    position: int
    settled_at: datetime
    sent_at: datetime | None = None
    sent_below: str = ""

    def set_back(self) -> AlertCursor:
        """The cursor after the clock was set back, which is read from there on again."""
        return replace(self, sent_at=max(self.settled_at, self.sent_at or self.settled_at), sent_below=new_id("att"))


@dataclass(frozen=True, slots=True)
class Edges:
    """The events after a cursor that raise alerts, and the cursor behind them.

    `events`: type and the `data` of its body. `exhausted`: deliveries by endpoint, "" for webhooks of single runs.
    """

    events: list[tuple[EventType, dict[str, Any]]]
    exhausted: dict[str, int]
    cursor: AlertCursor


def read_cursors(tx: Tx, names: Sequence[str]) -> dict[str, AlertCursor]:
    """The saved cursors of these channels; a new channel has none."""
    rows = tx.connection.execute(sa.select(alert_channels).where(alert_channels.c.name.in_(names)))
    return {row.name: AlertCursor(row.position, row.settled_at) for row in rows}


def cursor_now(tx: Tx) -> AlertCursor:
    """The cursor of a new channel: it reports what is recorded from now on."""
    return AlertCursor(last_position(tx), tx.now)


def save_cursors(tx: Tx, cursors: Iterable[tuple[str, AlertCursor]]) -> None:
    """Save the cursors of these channels."""
    insert = postgresql.insert if tx.is_postgresql else sqlite.insert
    for name, cursor in cursors:
        values = {"position": cursor.position, "settled_at": cursor.settled_at}
        statement = insert(alert_channels).values(name=name, **values)
        tx.connection.execute(statement.on_conflict_do_update(index_elements=[alert_channels.c.name], set_=values))


def read_edges(tx: Tx, after: AlertCursor) -> Edges:
    """Up to EVENTS_MAX events after the cursor, and the deliveries exhausted since.

    A cursor ahead of the clock is from before the clock was set back; what came since then is read from two minutes ago.
    """
    since = after.settled_at if after.settled_at <= tx.now else tx.now - 2 * _SLACK
    last = last_position(tx)
    found = list_feed(tx, after=after.position, limit=EVENTS_MAX, types=_TYPES) if last > after.position else []
    newest = found[-1].position if len(found) == EVENTS_MAX else last
    until = max(since, tx.now - _VISIBLE_AFTER)
    events = [(event.type, json.loads(event.body)["data"]) for event in found]
    cursor = replace(after, position=max(newest or 0, after.position), settled_at=until)
    return Edges(events, _read_exhausted(tx, since, until, after), cursor)


def _read_exhausted(tx: Tx, after: datetime, until: datetime, cursor: AlertCursor) -> dict[str, int]:
    """Count newly exhausted deliveries by endpoint.

    They are found by their attempts: no index orders exhausted deliveries by time, and there may be many old ones."""
    is_of_run = endpoints.c.source == EndpointSource.RUN.value
    label = sa.case((is_of_run, ""), else_=deliveries.c.endpoint_id)
    is_new: sa.ColumnElement[bool] = sa.true()
    if cursor.sent_at is not None:
        is_new = sa.or_(attempts.c.id >= cursor.sent_below, deliveries.c.settled_at > cursor.sent_at)
    query = (
        sa.select(label, sa.func.count(sa.distinct(deliveries.c.id)))
        .join_from(attempts, deliveries, deliveries.c.id == attempts.c.delivery_id)
        .join(endpoints, endpoints.c.id == deliveries.c.endpoint_id)
        .where(
            attempts.c.id >= first_id("att", after - _SLACK),
            deliveries.c.state == DeliveryState.EXHAUSTED.value,
            deliveries.c.settled_at > after,
            deliveries.c.settled_at <= until,
            is_new,
        )
        .group_by(label)
    )
    return {row[0]: row[1] for row in tx.connection.execute(query)}
