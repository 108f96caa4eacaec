"""Runs: register, find, record what happened to them. Leases and due times are in `run_leases`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final
from zlib import crc32

import sqlalchemy as sa

from bridge.domain.event import Event, run_event
from bridge.domain.frozen import frozen, replaced
from bridge.domain.ids import new_id
from bridge.domain.leased_delivery import DeliveryOffer
from bridge.domain.run import NO_OVERRIDES, CadenceOverrides, Json, Run, RunStatus
from bridge.domain.transition import Decision
from bridge.store.events import record_events
from bridge.store.metadata_entries import entries_of
from bridge.store.nodes import may_lease
from bridge.store.postgres import dialect as postgresql
from bridge.store.postgres.one_statement import Check
from bridge.store.prepared_statements import execute_each, execute_many, fetch
from bridge.store.run_rows import changed_row_of, defaults_of_new_run, new_row_of, run_of
from bridge.store.tables import TRANSITIONS_FROM, endpoints, nodes, run_metadata, run_tags, runs, transitions
from bridge.store.transaction import Tx

_PART: Final = 500  # ids in one statement

# -- register


@frozen
class NewRun:
    """A registration; `deadline_at` is already an instant."""

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
    trace_context: str | None = None


@frozen
class LeaseOffer:
    """A node that polls new runs of a connection at once: how many, and as one of how many nodes.

    It gets its part of the runs that are registered with it; the others are due, so that any node takes them.
    """

    node: str
    room: int
    sharers: int = 1

    def wants(self, run_id: str) -> bool:
        """Whether a run is in the node's part."""
        return self.sharers == 1 or crc32(run_id.encode()) % self.sharers == 0


_NEW_RUN = defaults_of_new_run()
_INSERT_RUNS, _INSERT_TAGS, _INSERT_ENTRIES = (
    sa.insert(runs).values(_NEW_RUN),
    sa.insert(run_tags),
    sa.insert(run_metadata),
)


def insert_runs(tx: Tx, new: Sequence[NewRun], offers: Mapping[str, LeaseOffer] = MappingProxyType({})) -> list[Run]:
    """Start to watch runs. The caller has checked that none of them is watched.

    The first are leased to the node that offers it for their connection, whose poller gets them with the commit; the
    others are due at once. On PostgreSQL another node may register one at the same time; the answer leaves it out.
    """
    if not new:
        return []
    room = {name: offer.room for name, offer in offers.items() if may_lease(tx, offer.node)}
    leased_by: dict[str, str] = {}
    for each in new:
        if room.get(each.connection, 0) > 0 and offers[each.connection].wants(each.id):
            room[each.connection] -= 1
            leased_by[each.id] = offers[each.connection].node
    made = _insert(tx, [_registered(each, tx.now) for each in new], leased_by)
    execute_many(tx, _INSERT_TAGS, [{"tag": tag, "run_id": run.id} for run in made for tag in sorted(set(run.tags))])
    entries = [{"entry": entry, "run_id": run.id} for run in made if run.metadata for entry in entries_of(run.metadata)]
    execute_many(tx, _INSERT_ENTRIES, entries)
    tx.signals.leased_runs += [run for run in made if run.id in leased_by]
    tx.signals.connections_due |= {run.connection for run in made if run.id not in leased_by}
    return made


def _insert(tx: Tx, wanted: Sequence[Run], leased_by: Mapping[str, str]) -> list[Run]:
    rows = [new_row_of(run, leased_by.get(run.id)) for run in wanted]
    if tx.statement is not None or not tx.is_postgresql:
        execute_many(tx, _INSERT_RUNS, rows)
        return list(wanted)
    insert = postgresql.insert(runs).values(_NEW_RUN).on_conflict_do_nothing().returning(runs.c.id)
    added = set(tx.connection.execute(insert, rows).scalars())
    return [run for run in wanted if run.id in added]


def _registered(new: NewRun, now: datetime) -> Run:
    """A run before its first poll."""
    return Run(
        id=new.id,
        connection=new.connection,
        provider=new.provider,
        provider_run_id=new.provider_run_id,
        provider_ref=new.provider_ref,
        registered_at=now,
        status_since=now,
        metadata=new.metadata,
        workflow_id=new.workflow_id,
        tags=new.tags,
        cadence=new.cadence or NO_OVERRIDES,
        deadline_at=new.deadline_at,
        deadline_is_fixed=new.deadline_is_fixed,
        next_poll_at=now,
        trace_context=new.trace_context,
    )


def supersede(tx: Tx, run_ids: Sequence[str]) -> None:
    """Free the providers' ids of these settled runs, so that they can be watched again; the runs stay readable."""
    tx.connection.execute(
        sa.update(runs)
        .where(runs.c.id.in_(run_ids), runs.c.former_provider_run_id.is_(None))
        .values(former_provider_run_id=runs.c.provider_run_id, provider_run_id=runs.c.id)
    )


def watch_again(tx: Tx, run: Run, deadline_s: float) -> None:
    """Watch a settled run that the provider has started again under its id: as a new run with its metadata and tags."""
    supersede(tx, [run.id])
    deadline_at = tx.now + timedelta(seconds=deadline_s)
    same = (run.connection, run.provider, run.provider_run_id, run.workflow_id, run.metadata, run.tags, run.cadence)
    insert_runs(
        tx, [NewRun(new_id("run"), *same, deadline_at, deadline_is_fixed=False, trace_context=run.trace_context)]
    )


def has_entry_of(tx: Tx, run_ids: Sequence[str]) -> sa.ColumnElement[bool]:
    """The rows of `run_metadata` of these runs, found by what they hold: there is no index by run."""
    found = tx.connection.execute(sa.select(runs.c.metadata).where(runs.c.id.in_(run_ids))).scalars()
    entries = {entry for metadata in found for entry in entries_of(metadata)}
    return sa.and_(run_metadata.c.entry.in_(sorted(entries)), run_metadata.c.run_id.in_(run_ids))


# -- find

WATCHED = sa.select(runs).where(
    runs.c.connection == sa.bindparam("of_connection"),
    runs.c.provider_run_id.in_(sa.bindparam("ids", expanding=True)),
    runs.c.former_provider_run_id.is_(None),
)

_NOT_WATCHED = Check(
    "SELECT {before} AND NOT EXISTS (SELECT FROM runs WHERE connection = {connection} AND provider_run_id = ANY ({ids}))",
    (("connection", "text"), ("ids", "text[]")),
)


def get_run(tx: Tx, run_id: str) -> Run | None:
    """One run, or None."""
    row = tx.connection.execute(sa.select(runs).where(runs.c.id == run_id)).first()
    return None if row is None else run_of(row)


def get_runs(tx: Tx, run_ids: Sequence[str]) -> dict[str, Run]:
    """Runs by id; ids of no run are left out."""
    found: dict[str, Run] = {}
    for start in range(0, len(run_ids), _PART):
        query = sa.select(runs).where(runs.c.id.in_(run_ids[start : start + _PART]))
        found |= {row.id: run_of(row) for row in tx.connection.execute(query)}
    return found


def find_watched(tx: Tx, connection: str, provider_run_ids: Sequence[str]) -> dict[str, Run]:
    """Runs of one connection by the provider's id."""
    found: dict[str, Run] = {}
    if tx.statement is not None:
        tx.statement.check(_NOT_WATCHED, connection, list(provider_run_ids))
        return found
    for start in range(0, len(provider_run_ids), _PART):
        part = list(provider_run_ids[start : start + _PART])
        rows = fetch(tx, WATCHED, {"of_connection": connection, "ids": part})
        found |= {row.provider_run_id: run_of(row) for row in rows}
    return found


_EXPIRED = (
    sa.select(runs)
    .where(
        runs.c.next_poll_at.is_not(None),
        runs.c.deadline_at < sa.bindparam("before"),
        sa.or_(runs.c.status != RunStatus.WAITING.value, runs.c.deadline_is_fixed),
    )
    .order_by(runs.c.deadline_at)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_EXPIRED_FREE = _EXPIRED.where(runs.c.leased_by.is_(None))
_EXPIRED_LEASED = _EXPIRED.where(runs.c.leased_by == sa.bindparam("node"))
_NODE_IDS = sa.select(nodes.c.id)


def list_expired(tx: Tx, before: datetime, limit: int) -> list[Run]:
    """Watched runs whose deadline passed before `before`, earliest deadline first."""
    wanted = {"before": before, "most": limit}
    rows = [*fetch(tx, _EXPIRED_FREE, wanted)]
    for node in tx.connection.execute(_NODE_IDS).scalars().all():  # by index: the leases of one node each
        rows += fetch(tx, _EXPIRED_LEASED, {**wanted, "node": node})
    found = [run_of(row) for row in rows]
    return sorted(found, key=lambda run: run.deadline_at or before)[:limit]


def count_active(tx: Tx) -> dict[tuple[str, str], int]:
    """Watched runs by connection and status."""
    query = (
        sa.select(runs.c.connection, runs.c.status, sa.func.count())
        .where(runs.c.next_poll_at.is_not(None))
        .group_by(runs.c.connection, runs.c.status)
    )
    found = Counter[tuple[str, str]]()
    for part in (runs.c.leased_by.is_(None), runs.c.leased_by.is_not(None)):  # an index each
        found.update({(row[0], row[1]): row[2] for row in tx.connection.execute(query.where(part))})
    return found


@dataclass(frozen=True, slots=True)
class TransitionRow:
    """One change of status, as `GET /v1/runs/{id}` shows it."""

    at: datetime
    from_status: str
    to_status: str
    provider_status: str | None


def list_transitions(tx: Tx, run_id: str) -> list[TransitionRow]:
    """The changes of status of one run, oldest first."""
    query = sa.select(transitions).where(transitions.c.run_id == run_id).order_by(transitions.c.id)
    rows = sorted(tx.connection.execute(query), key=lambda row: row.at)  # ids of former versions follow no order
    return [TransitionRow(row.at, row.from_status, row.to_status, row.provider_status) for row in rows]


# -- record what happened


@frozen
class RunChange:
    """A decision, and the run that it was made about."""

    before: Run
    decision: Decision


VERSIONS = sa.select(runs.c.id, runs.c.version, runs.c.leased_by).where(
    runs.c.id.in_(sa.bindparam("ids", expanding=True))
)
_UNCHANGED = Check(
    "SELECT count(*) = cardinality({ids}) FROM (SELECT r.id FROM unnest({ids}, {versions}) AS g(id, version) "
    "JOIN runs r ON r.id = g.id WHERE {before} AND r.version = g.version AND ({node} IS NULL OR r.leased_by = {node}) "
    "ORDER BY r.id FOR UPDATE OF r) AS locked",
    (("ids", "text[]"), ("versions", "integer[]"), ("node", "text")),
)
_UPDATE = sa.update(runs).where(runs.c.id == sa.bindparam("run_id"))
_UPDATE_IF_UNCHANGED = _UPDATE.where(runs.c.version == sa.bindparam("old_version"))
_UPDATE_IF_OURS = _UPDATE_IF_UNCHANGED.where(runs.c.leased_by == sa.bindparam("node"))
_INSERT_TRANSITIONS = sa.insert(transitions)


def record_decision(tx: Tx, before: Run, decision: Decision, *, node: str | None, keep_lease: bool) -> Run | None:
    """Record one decision; see `record_decisions`."""
    return record_decisions(tx, [RunChange(before, decision)], node=node, keep_lease=keep_lease)[0]


def record_decisions(
    tx: Tx,
    changes: Sequence[RunChange],
    *,
    node: str | None,
    keep_lease: bool,
    offer: DeliveryOffer | None = None,
) -> list[Run | None]:
    """Record decisions about different runs, with their transitions, events and deliveries.

    1. Compare and set: only a run that still has the version of `before`, and only under the lease of `node` if that
       is given. The rows are locked while they are compared (on SQLite the whole database is).
    2. Insert the transition, if the status changed.
    3. Insert the events with their final bytes, numbered on from the run's last, and a delivery per endpoint that
       wants each.
    `keep_lease`: keep the leases of runs that are not settled. `offer`: see `record_events`. The answer holds each run as it is now, or None where
    another writer was faster or the run is no longer watched.
    """
    made = {run.id: run for run in _replace_runs(tx, changes, node, keep_lease=keep_lease)}
    valid = [change for change in changes if change.before.id in made]
    moved = [change for change in valid if change.decision.status_changed]
    execute_many(tx, _INSERT_TRANSITIONS, [_transition(tx, c.before, made[c.before.id]) for c in moved])
    new = [event for change in valid for event in _events(tx, change, made[change.before.id])]
    record_events(tx, new, offer=offer)
    tx.signals.settled_run_ids |= {run.id for run in made.values() if run.settled}
    return [made.get(change.before.id) for change in changes]


def _replace_runs(tx: Tx, changes: Sequence[RunChange], node: str | None, *, keep_lease: bool) -> list[Run]:
    """Compare and set; the runs as they are now, without those that are not as they are taken to be."""
    if tx.driver is not None:
        return _replace_on_sqlite(tx, changes, node, keep_lease=keep_lease)
    present = _present(tx, changes, node)
    made = [_after(change) for change in changes if change.before.id in present]
    for kept in (True, False):
        chosen = [run for run in made if (keep_lease and not run.settled) is kept]
        execute_many(tx, _UPDATE, [changed_row_of(run, keep_lease=kept) for run in chosen])
    return made


def _replace_on_sqlite(tx: Tx, changes: Sequence[RunChange], node: str | None, *, keep_lease: bool) -> list[Run]:
    """`_replace_runs` in one statement for each, which compares and sets."""
    statement = _UPDATE_IF_UNCHANGED if node is None else _UPDATE_IF_OURS
    replaced_runs: list[Run] = []
    for change in changes:
        run = _after(change)
        row = changed_row_of(run, keep_lease=keep_lease and not run.settled)
        row |= {"old_version": change.before.version, "node": node}
        replaced_runs += [run] if all(execute_each(tx, statement, [row])) else []
    return replaced_runs


def _present(tx: Tx, changes: Sequence[RunChange], node: str | None) -> set[str]:
    """The ids of the runs that still have the expected version, and are leased by `node` if that is given."""
    expected = {change.before.id: change.before.version for change in changes}
    if tx.statement is not None:
        tx.statement.check(_UNCHANGED, list(expected), list(expected.values()), node)
        return set(expected)
    query = VERSIONS.with_for_update() if tx.is_postgresql else VERSIONS
    rows = fetch(tx, query, {"ids": sorted(expected)})
    return {row.id for row in rows if row.version == expected[row.id] and node in (None, row.leased_by)}


def _after(change: RunChange) -> Run:
    before, after = change.before, change.decision.run
    return replaced(
        after,
        version=before.version + 1,
        sequence=before.sequence + len(change.decision.events),
        next_poll_at=None if after.settled else after.next_poll_at,
    )


def _transition(tx: Tx, before: Run, after: Run) -> dict[str, object]:
    return {
        "run_id": after.id,
        "id": TRANSITIONS_FROM + after.version,
        "at": after.observed_at or tx.now,
        "from_status": before.status.value,
        "to_status": after.status.value,
        "provider_status": after.provider_status,
    }


def _events(tx: Tx, change: RunChange, after: Run) -> list[Event]:
    before = change.before
    return [
        run_event(
            new_id("evt"),
            event_type,
            after,
            sequence=before.sequence + number,
            previous_status=before.status,
            now=tx.now,
        )
        for number, event_type in enumerate(change.decision.events, start=1)
    ]


# -- remove, and move in time


def delete_run(tx: Tx, run_id: str) -> bool:
    """Stop watching and forget the run; its events and deliveries stay. False if there was none."""
    tx.connection.execute(sa.delete(run_metadata).where(has_entry_of(tx, [run_id])))
    gone = tx.connection.execute(sa.delete(runs).where(runs.c.id == run_id)).rowcount
    tx.connection.execute(sa.delete(run_tags).where(run_tags.c.run_id == run_id))
    tx.connection.execute(sa.delete(transitions).where(transitions.c.run_id == run_id))
    tx.connection.execute(
        sa.update(endpoints)
        .where(endpoints.c.run_id == run_id, endpoints.c.deleted_at.is_(None))
        .values(deleted_at=tx.now)
    )
    tx.signals.deleted_run_ids.add(run_id)
    return bool(gone)
