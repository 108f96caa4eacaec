"""Counts of everything for people: runs, deliveries, and what each minute of the last hour brought.

They read indexes from end to end, so they are for a reader that keeps them, never for every request. No index exists
for them alone: each would cost a page for every event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import sqlalchemy as sa

from bridge.domain.delivery import DeliveryState, Outcome
from bridge.domain.event import EventType
from bridge.domain.ids import first_id
from bridge.domain.run import RunStatus
from bridge.store.deliveries import count_by_state
from bridge.store.events import first_position
from bridge.store.ordering import PENDING
from bridge.store.tables import attempts, deliveries, endpoints, events, kept_counts, runs
from bridge.store.transaction import Tx

MINUTES: Final = 60
_MINUTE_US: Final = 60_000_000
_DELIVERED: Final[sa.ColumnElement[str]] = sa.literal_column("'delivered'")
_SUCCEEDED: Final[sa.ColumnElement[str]] = sa.literal_column("'succeeded'")  # as the partial indexes spell them


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers at one instant, by (connection, status) and by (endpoint, state).

    Webhooks of single runs count under the endpoint "".
    """

    at: datetime
    runs: Mapping[tuple[str, str], int]
    deliveries: Mapping[tuple[str, str], int]


def count_all(tx: Tx) -> Counts:
    """Count everything; what most rows have in common is the rest of a total, so that only indexes are read."""
    return Counts(tx.now, _count_runs(tx), _count_deliveries(tx))


def keep_counts(tx: Tx, counts: Counts) -> None:
    """Replace the counts that `kept` finds."""
    tx.connection.execute(sa.delete(kept_counts))
    parts = [[*key, count] for key, count in counts.runs.items()], [[*key, n] for key, n in counts.deliveries.items()]
    tx.connection.execute(sa.insert(kept_counts).values(id=1, counted_at=counts.at, counts=parts))


def kept(tx: Tx) -> Counts | None:
    """The counts that were kept last."""
    row = tx.connection.execute(sa.select(kept_counts)).first()
    if row is None:
        return None
    run_counts, delivery_counts = ({(one, other): count for one, other, count in part} for part in row.counts)
    return Counts(row.counted_at, run_counts, delivery_counts)


def _count_runs(tx: Tx) -> Counter[tuple[str, str]]:
    found = Counter[tuple[str, str]]()
    total = sa.select(runs.c.connection, sa.func.count()).group_by(runs.c.connection)
    name = runs.c.connection + ""  # an expression, or SQLite walks the index on it and looks up every row
    parts = sa.select(name, runs.c.status, sa.func.count()).group_by(name, runs.c.status)
    is_rare = runs.c.status != _SUCCEEDED
    for condition in (sa.and_(runs.c.leased_by.is_(None), is_rare), runs.c.leased_by.is_not(None)):
        for connection, status, count in tx.connection.execute(parts.where(condition)):
            found[connection, status] += count
    for connection, count in tx.connection.execute(total):
        rest = count - sum(n for (name, _), n in found.items() if name == connection)
        if rest:
            found[connection, RunStatus.SUCCEEDED] += rest
    return found


def _count_deliveries(tx: Tx) -> Counter[tuple[str, str]]:
    found = Counter[tuple[str, str]]()
    shared = set(tx.connection.scalars(sa.select(endpoints.c.id).where(_is_shared)))
    by_state = count_by_state(tx)
    endpoint_id, state = deliveries.c.endpoint_id, deliveries.c.state
    parts = sa.select(endpoint_id, state, sa.func.count()).group_by(endpoint_id, state)
    is_free = deliveries.c.leased_by.is_(None)
    settled = (DeliveryState.EXHAUSTED.value, DeliveryState.DISCARDED.value)
    for condition in (
        deliveries.c.leased_by > "",
        sa.and_(is_free, state == PENDING),
        sa.and_(is_free, state != _DELIVERED, state.in_(settled)),
    ):
        for name, one, count in tx.connection.execute(parts.where(condition)):
            if name in shared:
                found[name, one] += count
    totals = sa.select(endpoint_id, sa.func.count()).where(endpoint_id.in_(shared)).group_by(endpoint_id)
    for name, count in tx.connection.execute(totals):
        found[name, DeliveryState.DELIVERED] += count - sum(n for (one, _), n in found.items() if one == name)
    for one, count in by_state.items():
        found["", one] = count - sum(n for (_, other), n in found.items() if other == one)
    return Counter({key: count for key, count in found.items() if count})


_is_shared = sa.and_(endpoints.c.run_id.is_(None), endpoints.c.deleted_at.is_(None))


@dataclass(frozen=True, slots=True)
class Minute:
    """The counts of one minute, or of an hour; `delivered` and `failed` are attempts."""

    settled: int = 0
    delivered: int = 0
    failed: int = 0


def count_minutes(tx: Tx, since: datetime, until: datetime | None = None, *, size: int = 1) -> dict[datetime, Minute]:
    """The counts of each minute in a span of time, by its beginning; quiet minutes are absent.

    `size`: minutes that count as one, by the beginning of the first.
    """
    upper = (
        () if until is None else (events.c.position < first_position(tx, until + _SLACK), events.c.created_at < until)
    )
    minute = sa.type_coerce(events.c.created_at, sa.BigInteger) // (size * _MINUTE_US)
    settled = (
        sa.select(minute, sa.func.count())
        .where(
            events.c.position >= first_position(tx, since - _SLACK),
            events.c.created_at >= since,
            *upper,
            events.c.type == EventType.RUN_FINISHED.value,
        )
        .group_by(minute)
    )
    ended = Counter({row[0]: row[1] for row in tx.connection.execute(settled)})
    minute = sa.type_coerce(attempts.c.at, sa.BigInteger) // (size * _MINUTE_US)
    upper = () if until is None else (attempts.c.id < first_id("att", until + _SLACK), attempts.c.at < until)
    made = (
        sa.select(minute, attempts.c.outcome, sa.func.count())
        .where(attempts.c.id >= first_id("att", since - _SLACK), attempts.c.at >= since, *upper)
        .group_by(minute, attempts.c.outcome)
    )
    delivered, failed = Counter[int](), Counter[int]()
    for number, outcome, count in tx.connection.execute(made):
        if outcome != Outcome.INTERRUPTED:
            (delivered if outcome == Outcome.DELIVERED else failed)[number] += count
    return {
        datetime.fromtimestamp(number * size * 60, UTC): Minute(ended[number], delivered[number], failed[number])
        for number in ended.keys() | delivered.keys() | failed.keys()
    }


_SLACK: Final = timedelta(minutes=1)  # ids and positions follow the time of recording, or a node whose clock differs


@dataclass(frozen=True, slots=True)
class EndpointTrouble:
    """An endpoint that is off, or that accepts nothing."""

    id: str
    is_off: bool
    reason: str | None
    since: datetime | None


def list_endpoint_troubles(tx: Tx) -> list[EndpointTrouble]:
    """The shared endpoints that are off or accept nothing, by id."""
    e = endpoints.c
    query = sa.select(e.id, e.enabled, e.disabled_reason, e.disabled_at, e.failing_since).where(
        _is_shared, sa.or_(~e.enabled, e.failing_since.is_not(None))
    )
    rows = sorted(tx.connection.execute(query), key=lambda row: str(row.id))
    return [
        EndpointTrouble(
            row.id, not row.enabled, row.disabled_reason, row.failing_since if row.enabled else row.disabled_at
        )
        for row in rows
    ]
