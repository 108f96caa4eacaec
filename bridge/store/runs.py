"""Runs: register, find, claim, put back. What an observation changes is in `transitions`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from bridge.domain.frozen import frozen
from bridge.domain.run import CadenceOverrides, Json, Run, RunStatus
from bridge.store.nodes import check_may_claim
from bridge.store.prepared import execute_many, fetch
from bridge.store.run_row import row_of, run_of
from bridge.store.tables import endpoints, run_tags, runs, transitions
from bridge.store.transaction import Tx


@frozen
class NewRun:
    """What a registration says; `deadline_at` is already an instant."""

    id: str
    connection: str
    provider: str
    provider_run_id: str
    workflow_id: str | None
    metadata: dict[str, Json]
    tags: tuple[str, ...]
    cadence: CadenceOverrides | None
    deadline_at: datetime | None
    deadline_is_fixed: bool
    provider_ref: str | None = None


@dataclass(frozen=True, slots=True)
class PollRecord:
    """What polls without news leave behind when a run is put back."""

    run_id: str
    polls: int
    last_polled_at: datetime | None
    next_poll_at: datetime | None
    failure_streak: int
    not_found_count: int
    not_found_since: datetime | None


@dataclass(frozen=True, slots=True)
class TransitionRow:
    """One change of status, as `GET /v1/runs/{id}` shows it."""

    at: datetime
    from_status: str
    to_status: str
    provider_status: str | None


_WATCHED = sa.select(runs).where(
    runs.c.connection == sa.bindparam("of_connection"),
    runs.c.provider_run_id.in_(sa.bindparam("ids", expanding=True)),
)
_IS_FREE = (
    runs.c.connection == sa.bindparam("of_connection"),
    runs.c.next_poll_at.is_not(None),
    runs.c.leased_by.is_(None),
)
_NEXT_DUE = sa.select(sa.func.min(runs.c.next_poll_at, type_=runs.c.next_poll_at.type).label("due_at")).where(*_IS_FREE)
_DUE = (
    sa.select(runs.c.id)
    .where(*_IS_FREE, runs.c.next_poll_at <= sa.bindparam("until"))
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_COUNT_DUE = sa.select(sa.func.count()).select_from(_DUE.subquery())
_CLAIM = (
    sa.update(runs)
    .where(runs.c.id.in_(_DUE.order_by(runs.c.next_poll_at).with_for_update(skip_locked=True).scalar_subquery()))
    .values(leased_by=sa.bindparam("node"))
    .returning(runs)
)
_INSERT_RUNS, _INSERT_TAGS = sa.insert(runs), sa.insert(run_tags)


def insert_runs(tx: Tx, new: Sequence[NewRun]) -> list[Run]:
    """Start to watch; each is due at once. The caller has looked that none is watched already.

    On PostgreSQL another node may have registered one since; it is left out of the answer.
    """
    if not new:
        return []
    made = _insert(tx, [_begun(n, tx.now) for n in new])
    execute_many(tx, _INSERT_TAGS, [{"tag": tag, "run_id": run.id} for run in made for tag in sorted(set(run.tags))])
    tx.signals.runs_due |= {n.connection for n in new}
    return made


def _insert(tx: Tx, wanted: Sequence[Run]) -> list[Run]:
    rows = [row_of(run) for run in wanted]
    if not tx.is_postgresql:
        execute_many(tx, _INSERT_RUNS, rows)
        return list(wanted)
    added = set(tx.connection.execute(insert(runs).on_conflict_do_nothing().returning(runs.c.id), rows).scalars())
    return [run for run in wanted if run.id in added]


def _begun(new: NewRun, now: datetime) -> Run:
    """A run at which nobody has looked yet."""
    return Run(
        id=new.id,
        connection=new.connection,
        provider=new.provider,
        provider_run_id=new.provider_run_id,
        workflow_id=new.workflow_id,
        status=RunStatus.QUEUED,
        provider_status=None,
        progress=None,
        output=None,
        output_truncated=False,
        error=None,
        created_at=None,
        started_at=None,
        finished_at=None,
        registered_at=now,
        observed_at=None,
        status_since=now,
        metadata=new.metadata,
        tags=new.tags,
        cadence=new.cadence or CadenceOverrides(),
        deadline_at=new.deadline_at,
        deadline_is_fixed=new.deadline_is_fixed,
        version=1,
        sequence=0,
        has_started=False,
        is_paused=False,
        is_overdue=False,
        polls=0,
        last_polled_at=None,
        next_poll_at=now,
        failure_streak=0,
        not_found_count=0,
        not_found_since=None,
        provider_ref=new.provider_ref,
    )


def get_run(tx: Tx, run_id: str) -> Run | None:
    """One run, or None."""
    row = tx.connection.execute(sa.select(runs).where(runs.c.id == run_id)).first()
    return None if row is None else run_of(row)


def get_runs(tx: Tx, run_ids: Sequence[str]) -> dict[str, Run]:
    """Runs by id; those that are not there are left out."""
    found: dict[str, Run] = {}
    for start in range(0, len(run_ids), 500):
        part = run_ids[start : start + 500]
        found |= {row.id: run_of(row) for row in tx.connection.execute(sa.select(runs).where(runs.c.id.in_(part)))}
    return found


def find_watched(tx: Tx, connection: str, provider_run_ids: Sequence[str]) -> dict[str, Run]:
    """Runs of one connection by the provider's id."""
    found: dict[str, Run] = {}
    for start in range(0, len(provider_run_ids), 500):
        part = provider_run_ids[start : start + 500]
        rows = fetch(tx, _WATCHED, {"of_connection": connection, "ids": list(part)})
        found |= {row.provider_run_id: run_of(row) for row in rows}
    return found


@dataclass(frozen=True, slots=True)
class RunFilter:
    """What `GET /v1/runs` can narrow down to; None means any."""

    connection: str | None = None
    status: str | None = None
    tag: str | None = None
    workflow_id: str | None = None


def list_runs(tx: Tx, wanted: RunFilter, *, limit: int, before: str | None) -> list[Run]:
    """Newest first, older than the run `before`."""
    key = runs.c.id if wanted.tag is None else run_tags.c.run_id  # in the order of the index that is walked
    query = sa.select(runs).order_by(key.desc()).limit(limit)
    if wanted.tag is not None:
        query = query.join(run_tags, run_tags.c.run_id == runs.c.id).where(run_tags.c.tag == wanted.tag)
    for column, value in (
        (runs.c.connection, wanted.connection),
        (runs.c.status, wanted.status),
        (runs.c.workflow_id, wanted.workflow_id),
    ):
        if value is not None:
            query = query.where(column == value)
    if before is not None:
        query = query.where(key < before)
    return [run_of(row) for row in tx.connection.execute(query)]


def list_transitions(tx: Tx, run_id: str) -> list[TransitionRow]:
    """The changes of status of one run, oldest first."""
    query = sa.select(transitions).where(transitions.c.run_id == run_id).order_by(transitions.c.id)
    return [TransitionRow(r.at, r.from_status, r.to_status, r.provider_status) for r in tx.connection.execute(query)]


def delete_run(tx: Tx, run_id: str) -> bool:
    """Stop watching and forget the run; its events and deliveries stay. False if there was none."""
    gone = tx.connection.execute(sa.delete(runs).where(runs.c.id == run_id)).rowcount
    tx.connection.execute(sa.delete(run_tags).where(run_tags.c.run_id == run_id))
    tx.connection.execute(sa.delete(transitions).where(transitions.c.run_id == run_id))
    tx.connection.execute(
        sa.update(endpoints)
        .where(endpoints.c.run_id == run_id, endpoints.c.deleted_at.is_(None))
        .values(deleted_at=tx.now)
    )
    tx.signals.gone_run_ids.add(run_id)
    return bool(gone)


def claim_due(tx: Tx, *, node: str, connection: str, until: datetime, limit: int, sharers: int = 1) -> list[Run]:
    """Take the runs of one connection that are due before `until` and that nobody holds, most overdue first.

    Of `sharers` nodes each takes at most a fair part at a time. StoreUnavailable when this node was buried.
    """
    check_may_claim(tx, node)
    due = {"of_connection": connection, "until": until}
    if sharers > 1:
        count = tx.connection.execute(_COUNT_DUE, {**due, "most": limit * sharers}).scalar_one()
        limit = min(limit, -(-count // sharers))
    return [run_of(row) for row in fetch(tx, _CLAIM, {**due, "most": limit, "node": node})]


def list_held(tx: Tx, *, node: str, connection: str) -> set[str]:
    """The ids of the runs of one connection that this node has claimed."""
    held = sa.select(runs.c.id).where(runs.c.leased_by == node, runs.c.connection == connection)
    return set(tx.connection.execute(held).scalars())


def let_go(tx: Tx, *, node: str, run_ids: Sequence[str]) -> None:
    """Give up the claim on runs about which there is nothing to say."""
    tx.connection.execute(
        sa.update(runs).where(runs.c.id.in_(run_ids), runs.c.leased_by == node).values(leased_by=None)
    )


def _put_back(*, keeps: bool) -> sa.Update:
    named: dict[str, object] = {name: sa.bindparam(f"v_{name}") for name in PollRecord.__slots__ if name != "run_id"}
    mine = sa.and_(runs.c.id == sa.bindparam("of_run"), runs.c.leased_by == sa.bindparam("node"))
    return sa.update(runs).where(mine).values(named if keeps else {**named, "leased_by": None})


_PUT_BACK, _PUT_DOWN = _put_back(keeps=False), _put_back(keeps=True)


def put_back(tx: Tx, *, node: str, records: Sequence[PollRecord], keep: bool = False) -> None:
    """Give up the claim on runs whose polls brought no news; each is due again at its `next_poll_at`.

    `keep`: write down what the polls counted and when each is due, but hold on to the claim.
    """
    rows = [
        {"node": node, "of_run": r.run_id} | {f"v_{n}": getattr(r, n) for n in PollRecord.__slots__ if n != "run_id"}
        for r in records
    ]
    execute_many(tx, _PUT_DOWN if keep else _PUT_BACK, rows)


def next_due_at(tx: Tx, connection: str) -> datetime | None:
    """When the next unclaimed run of this connection is due."""
    found: datetime | None = fetch(tx, _NEXT_DUE, {"of_connection": connection})[0].due_at
    return found


def poll_now(tx: Tx, run_id: str) -> None:
    """Make a run due at once."""
    statement = sa.update(runs).where(runs.c.id == run_id, runs.c.next_poll_at.is_not(None)).values(next_poll_at=tx.now)
    names = tx.connection.execute(statement.returning(runs.c.connection)).scalars().all()
    tx.signals.runs_due |= set(names)
    tx.signals.polls_wanted.add(run_id)


def list_expired(tx: Tx, before: datetime, limit: int) -> list[Run]:
    """Runs whose deadline passed before `before` and that are still watched."""
    query = (
        sa.select(runs)
        .where(
            runs.c.next_poll_at.is_not(None),
            runs.c.deadline_at < before,
            sa.or_(runs.c.status != RunStatus.WAITING.value, runs.c.deadline_is_fixed),
        )
        .order_by(runs.c.deadline_at)
        .limit(limit)
    )
    return [run_of(row) for row in tx.connection.execute(query)]


def shift_times(tx: Tx, seconds: float) -> None:
    """The wall clock was set by so much: what is due, and since when, moves along; fixed deadlines stay."""
    by = round(seconds * 1_000_000)
    moved = {name: sa.cast(runs.c[name], sa.BigInteger) + by for name in ("next_poll_at", "status_since")}
    movable = sa.cast(runs.c.deadline_at, sa.BigInteger) + by
    deadline_at = sa.case((runs.c.deadline_is_fixed, sa.cast(runs.c.deadline_at, sa.BigInteger)), else_=movable)
    tx.connection.execute(
        sa.update(runs).where(runs.c.next_poll_at.is_not(None)).values(**moved, deadline_at=deadline_at)
    )


def clamp_due(tx: Tx, connection: str, latest: datetime) -> int:
    """Make due at once what would be due only after `latest`: the clock was wrong when it was written."""
    return tx.connection.execute(
        sa.update(runs).where(runs.c.connection == connection, runs.c.next_poll_at > latest).values(next_poll_at=tx.now)
    ).rowcount


def count_active(tx: Tx) -> dict[tuple[str, str], int]:
    """Runs that are being watched, by connection and status."""
    query = (
        sa.select(runs.c.connection, runs.c.status, sa.func.count())
        .where(runs.c.next_poll_at.is_not(None))
        .group_by(runs.c.connection, runs.c.status)
    )
    return {(r[0], r[1]): r[2] for r in tx.connection.execute(query)}
