"""Moving the times in a SQLite database when the wall clock was set, so that every duration stays what it was."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from bridge.store.tables import deliveries, endpoint_secrets, endpoints, idempotency_keys, replays, runs, sessions
from bridge.store.transaction import Tx

# Due times, expiries, and the instants they count from. Times of facts (registered, recorded, delivered) stay.
_MOVED = (
    (runs, ("next_poll_at", "not_found_since"), runs.c.next_poll_at.is_not(None)),
    (runs, ("deadline_at",), sa.and_(runs.c.next_poll_at.is_not(None), ~runs.c.deadline_is_fixed)),
    (runs, ("status_since",), sa.true()),  # of settled runs too: retention counts from it
    (deliveries, ("next_attempt_at",), deliveries.c.next_attempt_at.is_not(None)),
    (endpoints, ("paused_until", "probe_at", "failing_since", "warned_at"), endpoints.c.deleted_at.is_(None)),
    (endpoint_secrets, ("expires_at",), endpoint_secrets.c.expires_at.is_not(None)),
    (replays, ("next_batch_at",), replays.c.finished_at.is_(None)),
    (idempotency_keys, ("created_at",), sa.true()),
    (sessions, ("created_at", "last_used_at", "expires_at"), sa.true()),
    (endpoints, ("deleted_at",), endpoints.c.deleted_at.is_not(None)),
)


def shift_times(tx: Tx, seconds: float) -> None:
    """Move them by `seconds`; a deadline that was given as an instant stays."""
    by = round(seconds * 1_000_000)
    for table, names, where in _MOVED:
        moved = {name: sa.cast(table.c[name], sa.BigInteger) + by for name in names}
        tx.connection.execute(sa.update(table).where(where).values(**moved))
    tx.cache.clear()


def clamp_deliveries(tx: Tx, latest: datetime) -> int:
    """Make due at once what is due or paused only until after `latest`: a wrong clock wrote it. Returns the deliveries."""
    for name in ("paused_until", "probe_at"):
        tx.connection.execute(sa.update(endpoints).where(endpoints.c[name] > latest).values(**{name: tx.now}))
    late = sa.update(deliveries).where(deliveries.c.next_attempt_at > latest).values(next_attempt_at=tx.now)
    free = late.where(deliveries.c.next_attempt_at.is_not(None), deliveries.c.leased_by.is_(None))
    leased = late.where(deliveries.c.leased_by > "")  # an index each
    return sum(tx.connection.execute(statement).rowcount for statement in (free, leased))


def server_time(tx: Tx) -> datetime:
    """The PostgreSQL server's wall clock."""
    at: datetime = tx.connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return at.astimezone(UTC)
