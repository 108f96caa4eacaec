"""Retention: find expired rows in a read, delete them in small transactions, from the leaves up.

    settled run ─► its events ─► their deliveries ─► their attempts       (transitions, tags, one-run endpoints too)

Attempts go first and the run last, so that an interruption leaves no row without its parent. Watched runs and pending
deliveries, also those of disabled endpoints, are never deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from bridge.domain.replay import ReplayState
from bridge.store.events import first_position
from bridge.store.ordering import PENDING, is_pending
from bridge.store.runs import has_entry_of
from bridge.store.tables import (
    attempts,
    deliveries,
    endpoint_secrets,
    endpoints,
    events,
    idempotency_keys,
    replays,
    run_metadata,
    run_tags,
    runs,
    transitions,
)
from bridge.store.transaction import Tx

ROWS_MAX: Final = 200  # rows deleted in one transaction: some milliseconds of the writer
PARENTS_MAX: Final = 50  # runs, events without a run, endpoints … in one plan
RESPONSES_KEPT: Final = timedelta(hours=24)  # those stored by `Idempotency-Key`
ERASED_AFTER: Final = timedelta(hours=1)  # removed endpoints and rotated secrets; a POST in flight still needs them


@dataclass(frozen=True, slots=True)
class DeletionPlan:
    """Rows to delete, by id. `is_whole`: the lists hold everything of these runs, so that the runs can be deleted too."""

    runs: Sequence[str] = ()
    events: Sequence[str] = ()
    deliveries: Sequence[str] = ()
    endpoints: Sequence[str] = ()
    secrets: Sequence[str] = ()
    replays: Sequence[str] = ()
    responses: Sequence[str] = ()
    is_whole: bool = True

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not any((self.runs, self.events, self.endpoints, self.secrets, self.replays, self.responses))


def plan_settled(tx: Tx, before: datetime, recorded_before: datetime | None = None) -> DeletionPlan:
    """The oldest runs that settled before `before` with their rows, and events of that age without a run.

    `recorded_before` is for those events, whose times stay as they are when the clock is set.
    """
    found = tx.connection.execute(_settled_runs(before)).all()
    run_ids = [row.id for row in found]
    horizon = found[-1].status_since if len(found) == PARENTS_MAX else before
    horizon = min(horizon, recorded_before or horizon)
    of_runs = sa.select(events.c.id).where(events.c.run_id.in_(run_ids)).limit(ROWS_MAX)
    event_ids = [*_ids(tx, of_runs), *_ids(tx, _events_without_run(first_position(tx, horizon), horizon))]
    of_events = sa.select(deliveries.c.id).where(deliveries.c.event_id.in_(event_ids)).limit(ROWS_MAX)
    delivery_ids = _ids(tx, of_events)
    is_whole = len(event_ids) < ROWS_MAX and len(delivery_ids) < ROWS_MAX
    return DeletionPlan(runs=run_ids, events=event_ids, deliveries=delivery_ids, is_whole=is_whole)


def _settled_runs(before: datetime) -> sa.Select[Any]:
    return (
        sa.select(runs.c.id, runs.c.status_since)
        .where(runs.c.next_poll_at.is_(None), runs.c.status_since < before, ~is_pending(runs.c.id))
        .order_by(runs.c.status_since)
        .limit(PARENTS_MAX)
    )


def _events_without_run(position: int, before: datetime) -> sa.Select[Any]:
    """Events before `position` about connections and endpoints, pings, and events of deleted runs."""
    has_run = sa.exists().where(runs.c.id == events.c.run_id)
    states = sa.select(deliveries.c.state).where(deliveries.c.event_id == events.c.id)
    is_owed = PENDING.in_(states)  # with `exists` SQLite would search all pending deliveries
    return (
        sa.select(events.c.id)
        .where(events.c.position < position, events.c.created_at < before, ~has_run, ~is_owed)
        .order_by(events.c.position)
        .limit(PARENTS_MAX)
    )


def plan_leftovers(tx: Tx, before: datetime) -> DeletionPlan:
    """Removed endpoints, rotated secrets, expired responses; replays that ended before `before`."""
    erased_before = tx.now - ERASED_AFTER
    is_owed = is_pending(endpoints.c.run_id, lambda delivery: [delivery.c.endpoint_id == endpoints.c.id])
    removed = sa.select(endpoints.c.id).where(endpoints.c.deleted_at < erased_before, ~is_owed)
    rotated = sa.select(endpoint_secrets.c.id).where(endpoint_secrets.c.expires_at < erased_before)
    responses = sa.select(idempotency_keys.c.key).where(idempotency_keys.c.created_at < tx.now - RESPONSES_KEPT)
    ended = sa.select(replays.c.id).where(replays.c.state != ReplayState.RUNNING.value, replays.c.finished_at < before)
    return DeletionPlan(
        endpoints=_ids(tx, removed.limit(PARENTS_MAX)),
        secrets=_ids(tx, rotated.limit(PARENTS_MAX)),
        responses=_ids(tx, responses.limit(PARENTS_MAX)),
        replays=_ids(tx, ended.limit(PARENTS_MAX)),
    )


def _ids(tx: Tx, query: sa.Select[Any]) -> list[str]:
    return list(tx.connection.execute(query).scalars())


@dataclass(slots=True)
class _Deleter:
    """Deletes up to `left` rows; the rest remains for the next transaction."""

    tx: Tx
    left: int
    rows: dict[str, int] = field(default_factory=dict)

    def delete(self, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> bool:
        """Delete matching rows within the limit. False once it is reached."""
        key = (
            sa.tuple_(*table.primary_key.columns)
            if len(table.primary_key.columns) > 1
            else table.primary_key.columns[0]
        )
        chosen = sa.select(*table.primary_key.columns).where(*conditions).limit(self.left)
        count = self.tx.connection.execute(sa.delete(table).where(key.in_(chosen))).rowcount if self.left else 0
        if count:
            self.rows[table.name] = self.rows.get(table.name, 0) + count
        self.left -= count
        return self.left > 0


def delete_planned(tx: Tx, plan: DeletionPlan) -> dict[str, int]:
    """Delete at most ROWS_MAX of the planned rows. How many, by table. A delivery that is pending again stays."""
    deleter = _Deleter(tx, ROWS_MAX)
    if _delete_events(deleter, plan) and plan.is_whole:
        _delete_runs(deleter, plan.runs)
    if plan.endpoints:
        _delete_endpoints(deleter, endpoints.c.id.in_(plan.endpoints))
    for table, ids in ((endpoint_secrets, plan.secrets), (idempotency_keys, plan.responses), (replays, plan.replays)):
        if ids:
            deleter.delete(table, table.primary_key.columns[0].in_(ids))
    return deleter.rows


def _delete_events(deleter: _Deleter, plan: DeletionPlan) -> bool:
    has_delivery = sa.exists().where(deliveries.c.event_id == events.c.id)
    return (
        deleter.delete(attempts, attempts.c.delivery_id.in_(plan.deliveries))
        and deleter.delete(deliveries, deliveries.c.id.in_(plan.deliveries), deliveries.c.state != PENDING)
        and deleter.delete(events, events.c.id.in_(plan.events), ~has_delivery)
    )


def _delete_runs(deleter: _Deleter, run_ids: Sequence[str]) -> bool:
    has_events = sa.exists().where(events.c.run_id == runs.c.id)
    bare = sa.select(runs.c.id).where(runs.c.id.in_(run_ids), runs.c.next_poll_at.is_(None), ~has_events)
    gone = list(deleter.tx.connection.execute(bare).scalars())
    return (
        deleter.delete(transitions, transitions.c.run_id.in_(gone))
        and deleter.delete(run_metadata, has_entry_of(deleter.tx, gone))
        and deleter.delete(run_tags, run_tags.c.run_id.in_(gone))
        and _delete_endpoints(deleter, endpoints.c.run_id.in_(gone))
        and deleter.delete(runs, runs.c.id.in_(gone))
    )


def _delete_endpoints(deleter: _Deleter, which: sa.ColumnElement[bool]) -> bool:
    secrets = endpoint_secrets.c.endpoint_id.in_(sa.select(endpoints.c.id).where(which))
    return deleter.delete(endpoint_secrets, secrets) and deleter.delete(endpoints, which)
