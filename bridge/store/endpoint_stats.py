"""Endpoint statistics: what recent attempts of an endpoint brought, and what it has yet to receive.

Read for people, never while events are recorded or sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from bridge.domain.delivery import Lane, Outcome
from bridge.domain.ids import first_id
from bridge.store.ordering import PENDING
from bridge.store.tables import attempts, deliveries, endpoints
from bridge.store.transaction import Tx

NEWEST_ATTEMPTS: Final = 2_000  # of all endpoints together
NEWEST_DELIVERIES: Final = 2_000  # shared out evenly among the endpoints that are asked about
PENDING_MAX: Final = 20_000  # of all endpoints together
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class WindowStats:
    """Attempts since some instant. Interrupted ones do not count; the latency is that of all others."""

    delivered: int = 0
    failed: int = 0
    p50_ms: int | None = None
    p95_ms: int | None = None

    @property
    def success_rate(self) -> float | None:
        """Between 0 and 1; None without attempts."""
        total = self.delivered + self.failed
        return round(self.delivered / total, 4) if total else None


@dataclass(frozen=True, slots=True)
class LastAnswer:
    """The end of the newest attempt."""

    at: datetime
    outcome: Outcome
    status: int | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """`sampled_since`: the windows count only attempts since then, because there were too many to read."""

    hour: WindowStats = WindowStats()
    day: WindowStats = WindowStats()
    sampled_since: datetime | None = None
    pending: int = 0
    oldest_due_at: datetime | None = None
    last_answer: LastAnswer | None = None


NO_STATS: Final = EndpointStats()
FAILURES_MAX: Final = 50  # endpoints whose newest failure is read


def read_last_failures(tx: Tx) -> dict[str, LastAnswer]:
    """The newest failure of each endpoint with deliveries that wait to be tried again, those that accept nothing first.

    It is not known where each of these deliveries is leased, and of an endpoint that is off.
    """
    tried = sa.and_(deliveries.c.last_outcome != Outcome.DELIVERED, deliveries.c.last_outcome != Outcome.INTERRUPTED)
    latest = (
        sa.select(deliveries.c.id)
        .where(
            deliveries.c.endpoint_id == endpoints.c.id,
            deliveries.c.lane == Lane.AGAIN.value,
            deliveries.c.next_attempt_at.is_not(None),
            deliveries.c.leased_by.is_(None),
            tried,
        )
        .order_by(deliveries.c.next_attempt_at.desc(), deliveries.c.id.desc())
        .limit(1)
        .correlate(endpoints)
        .scalar_subquery()
    )
    shared = sa.and_(endpoints.c.run_id.is_(None), endpoints.c.deleted_at.is_(None), endpoints.c.enabled)
    rows = tx.connection.execute(
        sa.select(endpoints.c.id, attempts.c.at, attempts.c.outcome, attempts.c.status, attempts.c.detail)
        .join_from(endpoints, deliveries, deliveries.c.id == latest)
        .join(attempts, attempts.c.delivery_id == deliveries.c.id)
        .where(shared, attempts.c.number == deliveries.c.attempts)
        .order_by(endpoints.c.failing_since.is_(None), endpoints.c.id)
        .limit(FAILURES_MAX)
    )
    return {row.id: LastAnswer(row.at, Outcome(row.outcome), row.status, row.detail) for row in rows}


def read_stats(tx: Tx, endpoint_ids: Sequence[str]) -> dict[str, EndpointStats]:
    """Statistics of these endpoints, in three statements whose cost does not grow with the history.

    Attempts are a sample: the NEWEST_ATTEMPTS newest of all endpoints together, with those of NEWEST_DELIVERIES newest
    deliveries, an equal share of each endpoint. `pending` counts among the PENDING_MAX that have waited longest.
    """
    if not endpoint_ids:
        return {}
    day_ago = tx.now - DAY
    rows = tx.connection.execute(_attempts_query(day_ago, endpoint_ids)).all()
    newest = [row.at for row in rows if row.is_newest]
    newest_since = min(newest) if len(newest) == NEWEST_ATTEMPTS else day_ago
    found: dict[str, dict[str, Any]] = {endpoint_id: {} for endpoint_id in endpoint_ids}
    own: dict[str, dict[str, datetime]] = {endpoint_id: {} for endpoint_id in endpoint_ids}
    for row in rows:
        if row.endpoint_id not in found:
            continue
        if row.id is not None:
            found[row.endpoint_id][row.id] = row
        if not row.is_newest:
            own[row.endpoint_id][row.delivery_id] = row.created_at
    share = _share(endpoint_ids)
    since = {
        endpoint_id: min(newest_since, min(recent.values()) if len(recent) >= share else day_ago)
        for endpoint_id, recent in own.items()
    }
    pending = {row.endpoint_id: row.pending for row in tx.connection.execute(_pending_query(endpoint_ids))}
    due = {row.id: row for row in tx.connection.execute(_due_query(tx.now, endpoint_ids))}
    return {
        endpoint_id: EndpointStats(
            hour=_window(seen.values(), since=tx.now - HOUR),
            day=_window(seen.values(), since=day_ago),
            sampled_since=since[endpoint_id] if since[endpoint_id] > day_ago else None,
            pending=pending.get(endpoint_id, 0),
            oldest_due_at=_first_due(due.get(endpoint_id)),
            last_answer=_last_answer(seen.values()),
        )
        for endpoint_id, seen in found.items()
    }


def _attempts_query(day_ago: datetime, endpoint_ids: Sequence[str]) -> sa.CompoundSelect[Any]:
    """The newest attempts of all endpoints, and those of the newest deliveries of each; some come twice.

    The first part follows a busy endpoint, also one with a backlog; the second finds a quiet one beside it, and holds
    its deliveries without an attempt too.
    """
    wanted = ("id", "at", "outcome", "status", "duration_ms", "detail")
    newest = (
        sa.select(attempts.c.delivery_id, *(attempts.c[name] for name in wanted))
        .where(attempts.c.id >= first_id("att", day_ago))
        .order_by(attempts.c.id.desc())
        .limit(NEWEST_ATTEMPTS)
        .subquery("newest")
    )
    share = _share(endpoint_ids)
    parts = (
        sa.select(deliveries.c.id, deliveries.c.endpoint_id, deliveries.c.created_at)
        .where(deliveries.c.endpoint_id.between(endpoint_id, endpoint_id))  # only its index serves this order
        .order_by(deliveries.c.endpoint_id.desc(), deliveries.c.id.desc())
        .limit(share)
        .subquery()
        for endpoint_id in endpoint_ids
    )  # one by one, so that both planners see the limit of each
    own = sa.union_all(*(sa.select(part) for part in parts)).subquery("own")
    return sa.union_all(
        sa.select(
            sa.true().label("is_newest"),
            deliveries.c.id.label("delivery_id"),
            deliveries.c.endpoint_id,
            deliveries.c.created_at,
            *(newest.c[name] for name in wanted),
        ).join_from(newest, deliveries, deliveries.c.id == newest.c.delivery_id),
        sa.select(
            sa.false(), own.c.id, own.c.endpoint_id, own.c.created_at, *(attempts.c[name] for name in wanted)
        ).outerjoin_from(own, attempts, attempts.c.delivery_id == own.c.id),
    )


def _share(endpoint_ids: Sequence[str]) -> int:
    return max(1, NEWEST_DELIVERIES // len(endpoint_ids))


def _pending_query(endpoint_ids: Sequence[str]) -> sa.Select[Any]:
    pending = sa.select(deliveries.c.endpoint_id).where(deliveries.c.state == PENDING)
    free = pending.where(deliveries.c.leased_by.is_(None)).order_by(deliveries.c.id).limit(PENDING_MAX).subquery()
    leased = pending.where(deliveries.c.leased_by > "").limit(PENDING_MAX).subquery()
    waiting = sa.union_all(sa.select(free), sa.select(leased)).subquery("waiting")
    return (
        sa.select(waiting.c.endpoint_id, sa.func.count().label("pending"))
        .where(waiting.c.endpoint_id.in_(endpoint_ids))
        .group_by(waiting.c.endpoint_id)
    )


def _due_query(now: datetime, endpoint_ids: Sequence[str]) -> sa.Select[Any]:
    """Since when the first delivery of each lane is due, by the index of what is due."""
    due = (
        sa.select(sa.func.min(deliveries.c.next_attempt_at, type_=deliveries.c.next_attempt_at.type))
        .where(
            deliveries.c.endpoint_id == endpoints.c.id,
            deliveries.c.lane == lane.value,
            deliveries.c.next_attempt_at <= now,
            deliveries.c.next_attempt_at.is_not(None),
            deliveries.c.leased_by.is_(None),
        )
        .correlate(endpoints)
        .scalar_subquery()
        .label(f"lane_{lane.value}")
        for lane in Lane
    )
    return sa.select(endpoints.c.id, *due).where(endpoints.c.id.in_(endpoint_ids))


def _first_due(row: Any) -> datetime | None:
    return None if row is None else min((at for at in row[1:] if at is not None), default=None)


def _window(rows: Iterable[Any], *, since: datetime) -> WindowStats:
    counted = [row for row in rows if row.at >= since and row.outcome != Outcome.INTERRUPTED.value]
    delivered = sum(row.outcome == Outcome.DELIVERED.value for row in counted)
    took = sorted(row.duration_ms for row in counted)
    return WindowStats(delivered, len(counted) - delivered, _percentile(took, 0.5), _percentile(took, 0.95))


def _percentile(ordered: Sequence[int], share: float) -> int | None:
    """The nearest rank; None of nothing."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None


def _last_answer(rows: Iterable[Any]) -> LastAnswer | None:
    answered = (row for row in rows if row.outcome != Outcome.INTERRUPTED.value)
    row = max(answered, key=lambda row: (row.at, row.id), default=None)
    return None if row is None else LastAnswer(row.at, Outcome(row.outcome), row.status, row.detail)
