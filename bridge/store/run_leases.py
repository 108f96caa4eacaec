"""Leases of runs: acquire what is due, save what polls counted, release.

next_poll_at set, leased_by null    due at next_poll_at
leased_by set                       polled by that node, as long as the node's own lease is good
next_poll_at null                   settled
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bridge.domain.failure import LastError
from bridge.domain.run import Run
from bridge.store.nodes import check_may_lease
from bridge.store.prepared_statements import execute_many, fetch
from bridge.store.run_rows import encode_last_error, run_of
from bridge.store.tables import runs
from bridge.store.transaction import Tx

_IS_FREE = (
    runs.c.connection == sa.bindparam("of_connection"),
    runs.c.next_poll_at.is_not(None),
    runs.c.leased_by.is_(None),
)
NEXT_DUE = sa.select(sa.func.min(runs.c.next_poll_at, type_=runs.c.next_poll_at.type).label("due_at")).where(*_IS_FREE)
_DUE = (
    sa.select(runs.c.id)
    .where(*_IS_FREE, runs.c.next_poll_at <= sa.bindparam("until"))
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_COUNT_DUE = sa.select(sa.func.count()).select_from(_DUE.subquery())
_ACQUIRE_DUE = (
    sa.update(runs)
    .where(runs.c.id.in_(_DUE.order_by(runs.c.next_poll_at).with_for_update(skip_locked=True).scalar_subquery()))
    .values(leased_by=sa.bindparam("node"))
    .returning(runs)
)


def acquire_due(tx: Tx, *, node: str, connection: str, until: datetime, limit: int, sharers: int = 1) -> list[Run]:
    """Lease the runs of one connection that are due before `until`, most overdue first.

    Each of `sharers` nodes takes at most a fair part at a time. StoreUnavailable when this node was evicted.
    """
    check_may_lease(tx, node)
    due = {"of_connection": connection, "until": until}
    if sharers > 1:
        count = tx.connection.execute(_COUNT_DUE, {**due, "most": limit * sharers}).scalar_one()
        limit = min(limit, -(-count // sharers))
    return [run_of(row) for row in fetch(tx, _ACQUIRE_DUE, {**due, "most": limit, "node": node})]


def list_leased(tx: Tx, *, node: str, connection: str) -> set[str]:
    """The ids of the runs of one connection that `node` leases."""
    leased = sa.select(runs.c.id).where(runs.c.leased_by == node, runs.c.connection == connection)
    return set(tx.connection.execute(leased).scalars())


def next_due_at(tx: Tx, connection: str) -> datetime | None:
    """When the next run of this connection that no node leases is due."""
    found: datetime | None = fetch(tx, NEXT_DUE, {"of_connection": connection})[0].due_at
    return found


@dataclass(frozen=True, slots=True)
class PollRecord:
    """The record that polls which changed nothing leave in the row of a run."""

    run_id: str
    polls: int
    last_polled_at: datetime | None
    next_poll_at: datetime | None
    failure_streak: int
    not_found_count: int
    not_found_since: datetime | None
    last_error: LastError | None = None


_SAVE_POLLS = sa.update(runs).where(runs.c.id == sa.bindparam("run_id"), runs.c.leased_by == sa.bindparam("node"))


def save_polls(tx: Tx, *, node: str, records: Sequence[PollRecord], keep_lease: bool = False) -> None:
    """Save what polls counted and when each run is due; release the leases, unless `keep_lease`.

    A run that `node` no longer leases stays as it is.
    """
    rows: list[dict[str, Any]] = []
    more = {"node": node} if keep_lease else {"node": node, "leased_by": None}
    for record in records:
        row = {name: getattr(record, name) for name in PollRecord.__slots__}
        rows.append({**row, "last_error": encode_last_error(record.last_error), **more})
    execute_many(tx, _SAVE_POLLS, rows)


def release(tx: Tx, *, node: str, run_ids: Sequence[str]) -> None:
    """Release leases of runs with nothing to save."""
    tx.connection.execute(
        sa.update(runs).where(runs.c.id.in_(run_ids), runs.c.leased_by == node).values(leased_by=None)
    )


def request_poll(tx: Tx, run_id: str) -> None:
    """Make a run due at once."""
    statement = sa.update(runs).where(runs.c.id == run_id, runs.c.next_poll_at.is_not(None)).values(next_poll_at=tx.now)
    names = tx.connection.execute(statement.returning(runs.c.connection)).scalars().all()
    tx.signals.connections_due |= set(names)
    tx.signals.poll_requested_run_ids.add(run_id)


def clamp_due(tx: Tx, connection: str, latest: datetime) -> int:
    """Make due at once what is due only after `latest`, because a wrong clock wrote it. The answer is how many."""
    late = sa.update(runs).where(runs.c.next_poll_at > latest).values(next_poll_at=tx.now)
    free = late.where(runs.c.connection == connection, *_IS_FREE[1:])
    # An expression, or SQLite walks all runs of the connection; few are leased.
    leased = late.where(runs.c.leased_by > "", runs.c.connection + "" == connection)
    return sum(tx.connection.execute(statement).rowcount for statement in (free, leased))
