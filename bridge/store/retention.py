"""What is no longer kept: found in a read, deleted in small transactions, from the leaves up.

    settled run ─► its events ─► their deliveries ─► their attempts       (transitions, tags, one-run endpoints too)

Attempts go first and the run last, so that a break anywhere leaves nothing that hangs in the air. Never touched:
what is being watched, and what is still owed to an endpoint, switched off or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from bridge.domain.replay import ReplayState
from bridge.store.tables import (
    attempts,
    deliveries,
    endpoint_secrets,
    endpoints,
    events,
    idempotency_keys,
    replays,
    run_tags,
    runs,
    transitions,
)
from bridge.store.transaction import Tx

ROWS_MAX: Final = 200  # rows deleted in one transaction: some milliseconds at the write desk
_THINGS_MAX: Final = 50
ANSWERS_KEPT: Final = timedelta(hours=24)  # the answers of `Idempotency-Key`
ERASED_AFTER: Final = timedelta(hours=1)  # removed endpoints and rotated secrets; a POST under way still needs them

_PENDING: Final[sa.ColumnElement[str]] = sa.literal_column("'pending'")  # as the partial indexes spell it


@dataclass(frozen=True, slots=True)
class DeletionPlan:
    """Rows to delete, by id. `is_whole`: nothing of these runs lies beyond the lists, so that the runs may go too."""

    runs: Sequence[str] = ()
    events: Sequence[str] = ()
    deliveries: Sequence[str] = ()
    endpoints: Sequence[str] = ()
    secrets: Sequence[str] = ()
    replays: Sequence[str] = ()
    answers: Sequence[str] = ()
    is_whole: bool = True

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not any((self.runs, self.events, self.endpoints, self.secrets, self.replays, self.answers))


def plan_settled(tx: Tx, before: datetime) -> DeletionPlan:
    """The oldest runs that settled before `before` with all that belongs to them, and events of that age without a run."""
    found = tx.connection.execute(_settled_runs(before)).all()
    run_ids = [row.id for row in found]
    horizon = found[-1].status_since if len(found) == _THINGS_MAX else before
    of_runs = sa.select(events.c.id).where(events.c.run_id.in_(run_ids)).limit(ROWS_MAX)
    event_ids = [*_ids(tx, of_runs), *_ids(tx, _events_without_run(horizon))]
    of_events = sa.select(deliveries.c.id).where(deliveries.c.event_id.in_(event_ids)).limit(ROWS_MAX)
    delivery_ids = _ids(tx, of_events)
    is_whole = len(event_ids) < ROWS_MAX and len(delivery_ids) < ROWS_MAX
    return DeletionPlan(runs=run_ids, events=event_ids, deliveries=delivery_ids, is_whole=is_whole)


def _settled_runs(before: datetime) -> sa.Select[Any]:
    is_owed = sa.exists().where(deliveries.c.run_id == runs.c.id, deliveries.c.state == _PENDING)
    return (
        sa.select(runs.c.id, runs.c.status_since)
        .where(runs.c.next_poll_at.is_(None), runs.c.status_since < before, ~is_owed)
        .order_by(runs.c.status_since)
        .limit(_THINGS_MAX)
    )


def _events_without_run(before: datetime) -> sa.Select[Any]:
    """About connections and endpoints, pings, and those of runs that were deleted."""
    has_run = sa.exists().where(runs.c.id == events.c.run_id)
    states = sa.select(deliveries.c.state).where(deliveries.c.event_id == events.c.id)
    is_owed = _PENDING.in_(states)  # not `exists`: SQLite would look through all that is pending anywhere
    return (
        sa.select(events.c.id)
        .where(events.c.created_at < before, ~has_run, ~is_owed)
        .order_by(events.c.created_at)
        .limit(_THINGS_MAX)
    )


def plan_leftovers(tx: Tx, before: datetime) -> DeletionPlan:
    """Removed endpoints, rotated secrets, kept answers of yesterday; replays that ended before `before`."""
    erased_before = tx.now - ERASED_AFTER
    is_owed = sa.exists().where(
        deliveries.c.run_id == endpoints.c.run_id,
        deliveries.c.endpoint_id == endpoints.c.id,
        deliveries.c.state == _PENDING,
    )
    removed = sa.select(endpoints.c.id).where(endpoints.c.deleted_at < erased_before, ~is_owed)
    rotated = sa.select(endpoint_secrets.c.id).where(endpoint_secrets.c.expires_at < erased_before)
    answers = sa.select(idempotency_keys.c.key).where(idempotency_keys.c.created_at < tx.now - ANSWERS_KEPT)
    ended = sa.select(replays.c.id).where(replays.c.state != ReplayState.RUNNING.value, replays.c.finished_at < before)
    return DeletionPlan(
        endpoints=_ids(tx, removed.limit(_THINGS_MAX)),
        secrets=_ids(tx, rotated.limit(_THINGS_MAX)),
        answers=_ids(tx, answers.limit(_THINGS_MAX)),
        replays=_ids(tx, ended.limit(_THINGS_MAX)),
    )


def _ids(tx: Tx, query: sa.Select[Any]) -> list[str]:
    return list(tx.connection.execute(query).scalars())


@dataclass(slots=True)
class _Broom:
    """Deletes until ROWS_MAX rows are gone; what is left over comes next time."""

    tx: Tx
    rows: dict[str, int] = field(default_factory=dict)
    left: int = ROWS_MAX

    def sweep(self, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> bool:
        """Delete as far as the rest allows; False once it is used up."""
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
    """Delete at most ROWS_MAX of the planned rows; how many, by table. What is owed again meanwhile stays."""
    broom = _Broom(tx)
    if _sweep_events(broom, plan) and plan.is_whole:
        _sweep_runs(broom, plan.runs)
    if plan.endpoints:
        _sweep_endpoints(broom, endpoints.c.id.in_(plan.endpoints))
    for table, ids in ((endpoint_secrets, plan.secrets), (idempotency_keys, plan.answers), (replays, plan.replays)):
        if ids:
            broom.sweep(table, table.primary_key.columns[0].in_(ids))
    return broom.rows


def _sweep_events(broom: _Broom, plan: DeletionPlan) -> bool:
    is_told = sa.exists().where(deliveries.c.event_id == events.c.id)
    return (
        broom.sweep(attempts, attempts.c.delivery_id.in_(plan.deliveries))
        and broom.sweep(deliveries, deliveries.c.id.in_(plan.deliveries), deliveries.c.state != _PENDING)
        and broom.sweep(events, events.c.id.in_(plan.events), ~is_told)
    )


def _sweep_runs(broom: _Broom, run_ids: Sequence[str]) -> bool:
    has_events = sa.exists().where(events.c.run_id == runs.c.id)
    bare = sa.select(runs.c.id).where(runs.c.id.in_(run_ids), runs.c.next_poll_at.is_(None), ~has_events)
    gone = list(broom.tx.connection.execute(bare).scalars())
    return (
        broom.sweep(transitions, transitions.c.run_id.in_(gone))
        and broom.sweep(run_tags, run_tags.c.run_id.in_(gone))
        and _sweep_endpoints(broom, endpoints.c.run_id.in_(gone))
        and broom.sweep(runs, runs.c.id.in_(gone))
    )


def _sweep_endpoints(broom: _Broom, which: sa.ColumnElement[bool]) -> bool:
    secrets = endpoint_secrets.c.endpoint_id.in_(sa.select(endpoints.c.id).where(which))
    return broom.sweep(endpoint_secrets, secrets) and broom.sweep(endpoints, which)
