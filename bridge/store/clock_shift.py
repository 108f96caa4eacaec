"""Moving the times in a SQLite database when the wall clock was set, so that every duration stays what it was."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from bridge.domain.ids import made_at, new_id
from bridge.store.learned_state import PAUSE, LearnedRow, list_learned, save_learned
from bridge.store.tables import (
    deliveries,
    endpoint_secrets,
    endpoints,
    idempotency_keys,
    nodes,
    replays,
    runs,
    sessions,
    sojourns,
)
from bridge.store.transaction import Tx

_ID_LEAD = "id lead"  # of no connection
# Times of facts (registered, recorded, delivered) stay.
_DUE = (
    (runs, ("next_poll_at",), runs.c.next_poll_at.is_not(None)),
    (deliveries, ("next_attempt_at",), deliveries.c.next_attempt_at.is_not(None)),
    (endpoints, ("paused_until", "probe_at"), endpoints.c.deleted_at.is_(None)),
    (replays, ("next_batch_at",), replays.c.finished_at.is_(None)),
)
_COUNTED = (  # what expires, and the instants that durations count from
    (runs, ("not_found_since",), runs.c.next_poll_at.is_not(None)),
    (runs, ("deadline_at",), sa.and_(runs.c.next_poll_at.is_not(None), ~runs.c.deadline_is_fixed)),
    (runs, ("status_since",), sa.true()),  # of settled runs too: retention counts from it
    (endpoints, ("failing_since", "warned_at"), endpoints.c.deleted_at.is_(None)),
    (endpoint_secrets, ("expires_at",), endpoint_secrets.c.expires_at.is_not(None)),
    (idempotency_keys, ("created_at",), sa.true()),
    (sessions, ("created_at", "last_used_at", "expires_at"), sa.true()),
    (endpoints, ("deleted_at",), endpoints.c.deleted_at.is_not(None)),
    (nodes, ("clock_zero_at",), nodes.c.clock_zero_at.is_not(None)),
)


def shift_times(tx: Tx, seconds: float) -> None:
    """Move them by `seconds`; a deadline that was given as an instant stays."""
    _move(tx, (*_DUE, *_COUNTED), seconds)
    if seconds < 0:
        ahead_s = max((made_at(new_id("t")) - tx.now).total_seconds() - seconds, id_lead_s(tx))
        save_learned(tx, "", [LearnedRow(_ID_LEAD, "", "", str(ahead_s))])


def id_lead_s(tx: Tx) -> float:
    """The most by which ids in this database are ahead of their rows' times: ids never go back, clocks do."""
    return max((float(row.state) for row in list_learned(tx, "") if row.kind == _ID_LEAD), default=0.0)


def bring_forward(tx: Tx, seconds: float) -> None:
    """Make due earlier by `seconds` what waits; nothing expires by it."""
    _move(tx, _DUE, -seconds)


def _move(tx: Tx, what: Any, seconds: float) -> None:
    by = round(seconds * 1_000_000)
    for table, names, where in what:
        moved = {name: sa.cast(table.c[name], sa.BigInteger) + by for name in names}
        tx.connection.execute(sa.update(table).where(where).values(**moved))
    _move_pauses(tx, timedelta(seconds=seconds))
    tx.cache.clear()


def _move_pauses(tx: Tx, by: timedelta) -> None:
    """Move the pauses that providers asked for, which are kept as text."""
    for row in tx.connection.execute(sa.select(sojourns).where(sojourns.c.kind == PAUSE)).all():
        with contextlib.suppress(ValueError, OverflowError):  # it is not read as a pause either
            moved = (datetime.fromisoformat(row.state) + by).isoformat()
            mine = sa.and_(sojourns.c.connection == row.connection, sojourns.c.kind == PAUSE)
            tx.connection.execute(sa.update(sojourns).where(mine).values(state=moved))


def save_zero(tx: Tx, zero_at: datetime) -> None:
    """Save how the clock of this daemon stands to its monotonic one now."""
    tx.connection.execute(sa.update(nodes).where(nodes.c.clock_zero_at.is_not(None)).values(clock_zero_at=zero_at))


def last_zero_at(tx: Tx, boot: str) -> datetime | None:
    """`clock_zero_at` of the daemon before this one, if it was killed in this boot of the machine."""
    mine = nodes.c.process.startswith(boot, autoescape=True)
    query = sa.select(nodes.c.clock_zero_at).where(mine).order_by(nodes.c.started_at.desc()).limit(1)
    return tx.connection.execute(query).scalar_one_or_none() if boot else None


def server_time(tx: Tx) -> datetime:
    """The PostgreSQL server's wall clock."""
    at: datetime = tx.connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return at.astimezone(UTC)
